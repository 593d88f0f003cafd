"""The split: by patient, stratified by tumour volume, reproducible, and checked when it is read; whose word counts."""

import collections
import dataclasses
import json
import os
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import record_of

from jaxbrats.config.data import Data
from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.dataset import Dataset, read_dataset
from jaxbrats.data.split import Split, choose_split, make_folds, make_split, read_split
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


@settings(max_examples=100, deadline=None)
@given(
    scans=st.lists(st.integers(1, 3), min_size=2, max_size=30),
    folds=st.integers(2, 7),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_every_patient_validates_in_exactly_one_fold(scans, folds, seed, data):
    patients = cohort(scans)
    sizes = st.integers(0, 1000)
    volumes = {case: data.draw(sizes) for case in patients}
    if folds > len(scans):
        with pytest.raises(InputError, match=f"{folds} folds need as many patients, there are {len(scans)}"):
            make_folds(patients, volumes, folds, 0, seed)
        return
    splits = [make_folds(patients, volumes, folds, fold, seed) for fold in range(folds)]
    validated = [case for split in splits for case in split.val]
    assert sorted(validated) == sorted(patients)
    for split in splits:
        assert sorted(split.train + split.val) == sorted(patients)
        assert not {patients[case] for case in split.train} & {patients[case] for case in split.val}
    counts = [len({patients[case] for case in split.val}) for split in splits]
    assert max(counts) - min(counts) <= 1
    # Of each stratum of neighbours by size, a fold has one patient, of the last one at most.
    totals = collections.Counter()
    for case, patient in patients.items():
        totals[patient] += volumes[case]
    ranked = sorted(totals, key=lambda patient: (totals[patient], int(patient[1:])))
    for split in splits:
        strata = sorted(ranked.index(patient) // folds for patient in {patients[case] for case in split.val})
        assert strata in (list(range(len(ranked) // folds)), list(range(-(-len(ranked) // folds))))


def test_folds_follow_the_seed_and_not_the_order_of_the_input():
    patients = cohort([1, 2] * 10)
    volumes = {case: len(case) for case in patients}
    backwards = dict(reversed(patients.items()))
    assert make_folds(patients, volumes, 5, 2, 7) == make_folds(backwards, volumes, 5, 2, 7)
    assert len({make_folds(patients, volumes, 5, 2, seed) for seed in range(5)}) > 1


def some_cases(folder: pathlib.Path, names: list[str], tumours: dict[str, int] | None = None) -> Dataset:
    """Cases with masks of 2 x 2 x 5 voxels; the patient is the name without the scan."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    cases = []
    for name in names:
        labels = np.zeros(20, np.uint8)
        labels[: (tumours or {}).get(name, 1)] = 3
        path = folder / "masks" / f"{name}.npy"
        np.save(path, labels.reshape(2, 2, 5))
        cases.append(ArrayCase(name, name[:-4], folder / "images" / f"{name}.npy", path))
    return Dataset(folder, tuple(cases))


EIGHT = [f"{letter}-000" for letter in "abcdefgh"]
PATIENTS = {name: name[:-4] for name in EIGHT}
VOLUMES = {name: 2 * rank for rank, name in enumerate(EIGHT)}


def splitfolders(folder: pathlib.Path) -> Dataset:
    for side, numbers in (("train", [4, 0, 10]), ("val", [2])):
        for number in numbers:
            for kind, name in (("images", "image"), ("masks", "mask")):
                (folder / side / kind).mkdir(parents=True, exist_ok=True)
                np.save(folder / side / kind / f"{name}_{number}.npy", np.zeros((1, 1, 1), np.uint8))
    return read_dataset(folder)


class TestChoice:
    """A file that is named, a draw that is asked for, the folder's own sides, its proposal, a new proposal."""

    def test_a_new_one_becomes_the_proposal_for_the_next(self, tmp_path):
        dataset = some_cases(tmp_path, EIGHT, VOLUMES)
        split, origin = choose_split(dataset, Data())
        assert split == make_split(PATIENTS, VOLUMES, 0.25, 0)
        assert origin == "drawn, 0.25 of the patients for validation, seed 0"
        assert json.loads((tmp_path / "split.json").read_text()) == {"train": list(split.train), "val": list(split.val)}
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["split.json"]
        assert choose_split(dataset, Data()) == (split, str(tmp_path / "split.json"))

    def test_a_split_written_by_hand_is_taken(self, tmp_path):
        dataset = some_cases(tmp_path, EIGHT)
        (tmp_path / "split.json").write_text(json.dumps({"train": EIGHT[2:], "val": EIGHT[:2]}))
        expected = Split(tuple(EIGHT[2:]), tuple(EIGHT[:2]))
        assert choose_split(dataset, Data()) == (expected, str(tmp_path / "split.json"))

    @pytest.mark.parametrize(
        ("asked", "expected", "origin"),
        [
            (
                {"val_fraction": 0.5},
                make_split(PATIENTS, VOLUMES, 0.5, 0),
                "drawn, 0.5 of the patients for val.*seed 0",
            ),
            ({"val_fraction": 0.25}, make_split(PATIENTS, VOLUMES, 0.25, 0), "drawn, 0.25 of .*seed 0"),
            ({"split_seed": 3}, make_split(PATIENTS, VOLUMES, 0.25, 3), "drawn, 0.25 of .*seed 3"),
            ({"split_seed": 0}, make_split(PATIENTS, VOLUMES, 0.25, 0), "drawn, 0.25 of .*seed 0"),
            ({"fold": 0, "folds": 4}, make_folds(PATIENTS, VOLUMES, 4, 0, 0), "fold 0 of 4, drawn with seed 0"),
            ({"fold": 1, "split_seed": 2}, make_folds(PATIENTS, VOLUMES, 5, 1, 2), "fold 1 of 5, drawn with seed 2"),
        ],
    )
    def test_a_draw_that_is_asked_for_is_made_and_proposed_to_nobody(self, tmp_path, asked, expected, origin):
        dataset = some_cases(tmp_path, EIGHT, VOLUMES)
        proposal = json.dumps({"train": EIGHT[2:], "val": EIGHT[:2]})
        for there in (False, True):
            if there:
                (tmp_path / "split.json").write_text(proposal)
            split, words = choose_split(dataset, Data(**asked))
            assert split == expected
            assert re.fullmatch(origin, words)
            assert (tmp_path / "split.json").exists() == there
        assert (tmp_path / "split.json").read_text() == proposal

    def test_a_file_that_is_named_comes_first(self, tmp_path):
        dataset = some_cases(tmp_path / "data", EIGHT)
        (tmp_path / "data" / "split.json").write_text(json.dumps({"train": EIGHT[2:], "val": EIGHT[:2]}))
        mine = tmp_path / "mine.json"
        mine.write_text(json.dumps({"train": EIGHT[:7], "val": EIGHT[7:]}))
        expected = Split(tuple(EIGHT[:7]), tuple(EIGHT[7:]))
        assert choose_split(dataset, Data(split=str(mine))) == (expected, str(mine))
        mine.write_text(json.dumps({"settings": {}, "data": {"train": EIGHT[:7], "val": EIGHT[7:]}}))
        assert choose_split(dataset, Data(split=str(mine))) == (expected, str(mine))

    def test_splitfolders_gives_the_split_unless_another_is_asked_for(self, tmp_path):
        dataset = splitfolders(tmp_path)
        (tmp_path / "split.json").write_text("nobody reads this")
        expected = Split(("image_0", "image_4", "image_10"), ("image_2",))
        assert choose_split(dataset, Data()) == (expected, "the folder's train/ and val/")
        drawn, _ = choose_split(dataset, Data(val_fraction=0.5))
        assert (len(drawn.train), len(drawn.val)) == (2, 2)

    def test_volume_comes_from_the_manifest(self, tmp_path):
        dataset = some_cases(tmp_path, EIGHT)
        for case in dataset.cases:
            case.mask.unlink()
        cases = [
            dataclasses.replace(case, record=record_of(case.name, label_voxels=[9, rank, 0, rank]))
            for rank, case in enumerate(dataset.cases)
        ]
        split, _ = choose_split(dataclasses.replace(dataset, cases=tuple(cases)), Data(split_seed=3))
        assert split == make_split(PATIENTS, VOLUMES, 0.25, 3)

    def test_a_read_only_folder(self, tmp_path):
        dataset = some_cases(tmp_path, EIGHT, VOLUMES)
        tmp_path.chmod(0o555)
        user = os.getresuid()
        if user[0] == 0:  # who may write anywhere
            os.setresuid(65534, 0, 0)
        try:
            split, _ = choose_split(dataset, Data())
        finally:
            os.setresuid(*user)
            tmp_path.chmod(0o755)
        assert split == make_split(PATIENTS, VOLUMES, 0.25, 0)
        assert not (tmp_path / "split.json").exists()


FIVE = {name: name[:-4] for name in ("a-000", "a-001", "b-000", "c-000", "d-000")}


class TestFile:
    def test_cases_it_does_not_name_are_left_out_with_a_warning(self, tmp_path, caplog):
        (tmp_path / "split.json").write_text('{"train": ["c-000", "b-000"], "val": ["a-001"]}')
        assert read_split(tmp_path / "split.json", FIVE) == Split(("c-000", "b-000"), ("a-001",))
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
        (tmp_path / "split.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message) as caught:
            read_split(tmp_path / "split.json", FIVE)
        assert "delete" in str(caught.value)
        assert str(tmp_path / "split.json") in str(caught.value)

    def test_damaged_json(self, tmp_path):
        (tmp_path / "split.json").write_text('{"train": [')
        with pytest.raises(InputError, match="not valid JSON"):
            read_split(tmp_path / "split.json", FIVE)
