"""The split: by patient, stratified by tumour volume, reproducible, and checked when it is read back."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest_of, record_of

from jaxbrats.data.arrays import ArrayCase, find_arrays
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.split import Split, load_or_make_split, make_split
from jaxbrats.system.errors import InputError


def cohort(scans_by_patient: list[int]) -> dict[str, str]:
    return {f"p{p}-{scan:03d}": f"p{p}" for p, scans in enumerate(scans_by_patient) for scan in range(scans)}


@settings(max_examples=100, deadline=None)
@given(
    scans=st.lists(st.integers(1, 3), min_size=2, max_size=30),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_every_case_once_and_no_patient_on_both_sides(scans, fraction, seed, data):
    patients = cohort(scans)
    sizes = st.integers(0, 1000)
    volumes = {case: data.draw(sizes) for case in patients}
    split = make_split(patients, volumes, fraction, seed)
    assert sorted(split.train + split.val) == sorted(patients)
    train, val = ({patients[case] for case in side} for side in (split.train, split.val))
    assert not train & val
    assert len(val) == min(max(int(fraction * len(scans) + 0.5), 1), len(scans) - 1)


@pytest.mark.parametrize(("count", "fraction", "expected"), [(4, 0.25, 1), (10, 0.25, 3), (2, 0.01, 1), (2, 0.99, 1)])
def test_number_of_validation_patients(count, fraction, expected):
    patients = cohort([1] * count)
    split = make_split(patients, dict.fromkeys(patients, 1), fraction, seed=0)
    assert (len(split.train), len(split.val)) == (count - expected, expected)


def test_a_single_patient_is_for_training():
    assert make_split({"a-1": "a", "a-0": "a"}, {"a-0": 1, "a-1": 1}, 0.25, seed=0) == Split(("a-0", "a-1"), ())


def test_one_validation_patient_of_each_stratum():
    patients = cohort([1] * 100)
    volumes = {case: 10 * int(patient[1:]) for case, patient in patients.items()}
    for fraction, side in ((0.25, "val"), (0.75, "train")):
        for seed in range(20):
            chosen = sorted(
                volumes[case] // 10 for case in getattr(make_split(patients, volumes, fraction, seed), side)
            )
            # 25 strata of four patients whose sizes follow each other.
            assert [rank // 4 for rank in chosen] == list(range(25))


def test_sides_keep_the_tumour_volume():
    random = np.random.default_rng(0)
    patients = cohort([1] * 200)
    volumes = {case: float(size) for case, size in zip(patients, random.lognormal(10, 1, 200), strict=True)}
    stratified, at_random = [], []
    for seed in range(30):
        split = make_split(patients, volumes, 0.25, seed)
        mean = np.mean(list(volumes.values()))
        stratified.append(abs(np.mean([volumes[case] for case in split.val]) / mean - 1))
        at_random.append(abs(np.mean(random.choice(list(volumes.values()), 50, replace=False)) / mean - 1))
    assert np.mean(stratified) < 0.5 * np.mean(at_random)


def test_seed_and_order_of_the_input():
    patients = cohort([1, 2] * 10)
    volumes = {case: len(case) for case in patients}
    backwards = dict(reversed(patients.items()))
    assert make_split(patients, volumes, 0.25, 7) == make_split(backwards, volumes, 0.25, 7)
    assert len({make_split(patients, volumes, 0.25, seed) for seed in range(5)}) > 1
    train = make_split(patients, volumes, 0.25, 7).train
    assert list(train) == sorted(train, key=lambda case: (int(case[1:-4]), case))


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        make_split({"a": "a", "b": "b"}, {"a": 1, "b": 1}, fraction, seed=0)


def test_no_cases_or_a_negative_seed():
    with pytest.raises(InputError, match="no cases"):
        make_split({}, {}, 0.25, seed=0)
    with pytest.raises(InputError, match="seed"):
        make_split({"a": "a"}, {"a": 1}, 0.25, seed=-1)


def some_cases(folder: pathlib.Path, names: list[str], tumours: dict[str, int] | None = None) -> list[ArrayCase]:
    """Cases with masks of 2 x 2 x 5 voxels; the patient is the name without the scan."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    cases = []
    for name in names:
        labels = np.zeros(20, np.uint8)
        labels[: (tumours or {}).get(name, 1)] = 3
        path = folder / "masks" / f"{name}.npy"
        np.save(path, labels.reshape(2, 2, 5))
        cases.append(ArrayCase(name, name[:-4], folder / "images" / f"{name}.npy", path))
    return cases


class TestFile:
    NAMES = ("a-000", "a-001", "b-000", "c-000", "d-000")

    def test_written_and_reused(self, tmp_path):
        cases = some_cases(tmp_path, self.NAMES)
        split = load_or_make_split(tmp_path, cases, 0.25, seed=1)
        written = json.loads((tmp_path / "split.json").read_text())
        assert written == {"train": list(split.train), "val": list(split.val)}
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["split.json"]
        # Neither another seed nor another fraction changes what is written.
        assert load_or_make_split(tmp_path, cases, 0.5, seed=2) == split

    def test_volume_is_counted_from_masks(self, tmp_path):
        names = [f"{letter}-000" for letter in "abcdefgh"]
        cases = some_cases(tmp_path, names, {name: 2 * rank for rank, name in enumerate(names)})
        split = load_or_make_split(tmp_path, cases, 0.25, seed=3)
        assert split == make_split({n: n[:-4] for n in names}, {n: 2 * i for i, n in enumerate(names)}, 0.25, 3)

    def test_volume_comes_from_the_manifest(self, tmp_path):
        names = [f"{letter}-000" for letter in "abcdefgh"]
        cases = some_cases(tmp_path, names)
        for case in cases:
            case.mask.unlink()
        records = {n: record_of(n, label_voxels=[9, i, 0, i]) for i, n in enumerate(names)}
        manifest = manifest_of(Preprocessing(), records)
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        split = load_or_make_split(tmp_path, cases, 0.25, seed=3)
        assert split == make_split({n: n[:-4] for n in names}, {n: 2 * i for i, n in enumerate(names)}, 0.25, 3)

    def test_cases_it_does_not_name_are_left_out_with_a_warning(self, tmp_path, caplog):
        cases = some_cases(tmp_path, self.NAMES)
        (tmp_path / "split.json").write_text('{"train": ["c-000", "b-000"], "val": ["a-001"]}')
        assert load_or_make_split(tmp_path, cases, 0.25, seed=0) == Split(("c-000", "b-000"), ("a-001",))
        assert "2 cases, which are left out: a-000, d-000" in caplog.text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                {"train": ["a-000", "b-000"], "val": ["a-001"]},
                "case a-001: .*but a-000 of the same patient is for training",
            ),
            ({"train": ["b-000", "b-000"], "val": ["c-000"]}, "case b-000: .*is named 2 times"),
            ({"train": ["b-000"], "val": ["b-000"]}, "case b-000: .*is named 2 times"),
            ({"train": ["b-000"], "val": ["z-000"]}, "case z-000: .*there is no such case"),
            ({"train": [], "val": ["b-000"]}, "no case to train on"),
            ({"train": ["b-000"]}, "expected {"),
            ({"train": "b-000", "val": []}, "expected {"),
            ({"train": [1], "val": []}, "expected {"),
            (["b-000"], "expected {"),
        ],
    )
    def test_bad_split_is_refused(self, tmp_path, content, message):
        cases = some_cases(tmp_path, self.NAMES)
        (tmp_path / "split.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message) as caught:
            load_or_make_split(tmp_path, cases, 0.25, seed=0)
        assert "delete" in str(caught.value)
        assert str(tmp_path / "split.json") in str(caught.value)

    def test_damaged_json(self, tmp_path):
        (tmp_path / "split.json").write_text('{"train": [')
        with pytest.raises(InputError, match="not valid JSON"):
            load_or_make_split(tmp_path, some_cases(tmp_path, self.NAMES), 0.25, seed=0)

    def test_splitfolders_gives_the_split(self, tmp_path):
        for side, numbers in (("train", [4, 0, 10]), ("val", [2])):
            for number in numbers:
                for kind, name in (("images", "image"), ("masks", "mask")):
                    (tmp_path / side / kind).mkdir(parents=True, exist_ok=True)
                    np.save(tmp_path / side / kind / f"{name}_{number}.npy", np.zeros(1))
        split = load_or_make_split(tmp_path, find_arrays(tmp_path), 0.5, seed=0)
        assert split == Split(("image_0", "image_4", "image_10"), ("image_2",))
        assert not (tmp_path / "split.json").exists()
