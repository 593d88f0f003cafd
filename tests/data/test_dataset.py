"""Finding preprocessed cases: both layouts, what they have in common, and what is missing."""

import json
import pathlib

import numpy as np
import pytest
from manifests import manifest_of, record_of

from jaxbrats.data.arrays import ArrayCase, CaseContent, read_image, read_labels
from jaxbrats.data.dataset import array_shape, read_dataset
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import fingerprint

SHAPE = (3, 4, 5)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((*SHAPE, 2), np.float32)
LABELS = RANDOM.integers(0, 4, SHAPE, np.uint8)
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]


def save(path: pathlib.Path, array: np.ndarray) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def write_own(folder: pathlib.Path, statuses: dict[str, str], finished: bool = True) -> None:
    """As `jaxbrats preprocess` writes."""
    settings = Preprocessing(crop=SHAPE, modalities=("t2f", "t1c"))
    manifest = manifest_of(settings, {name: record_of(name, status) for name, status in statuses.items()}, finished)
    for name, status in statuses.items():
        if status == "kept":
            save(folder / "images" / f"{name}.npy", IMAGE)
            save(folder / "masks" / f"{name}.npy", LABELS)
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_keras(folder: pathlib.Path, numbers: list[int]) -> None:
    """As the Keras notebook wrote."""
    for number in numbers:
        save(folder / f"images/image_{number}.npy", IMAGE.astype(np.float64))
        save(folder / f"masks/mask_{number}.npy", ONE_HOT)


def a_case(folder: pathlib.Path, image=IMAGE, mask=LABELS) -> ArrayCase:
    return ArrayCase("BraTS-1", "BraTS-1", save(folder / "image.npy", image), save(folder / "mask.npy", mask))


class TestFinding:
    def test_kept_cases_in_natural_order(self, tmp_path):
        write_own(tmp_path, {"p10-000": "kept", "p2-000": "kept", "p2-001": "kept", "p3-000": "skipped", "x": "failed"})
        cases = read_dataset(tmp_path).cases
        assert [case.name for case in cases] == ["p2-000", "p2-001", "p10-000"]
        assert [case.patient for case in cases] == ["p2", "p2", "p10"]
        assert cases[0].image == tmp_path / "images/p2-000.npy"
        assert cases[0].mask == tmp_path / "masks/p2-000.npy"
        assert {case.side for case in cases} == {None}

    def test_unfinished_preprocessing_is_refused(self, tmp_path):
        write_own(tmp_path, {"p1-000": "kept"}, finished=False)
        with pytest.raises(InputError, match=r"not finished.*Run jaxbrats preprocess again"):
            read_dataset(tmp_path)

    def test_no_kept_case(self, tmp_path):
        write_own(tmp_path, {"p1-000": "skipped", "p2-000": "skipped", "p3-000": "failed"})
        with pytest.raises(InputError, match=r"2 skipped, 1 failed"):
            read_dataset(tmp_path)

    @pytest.mark.parametrize("missing", ["images", "masks"])
    def test_missing_file_of_a_kept_case(self, tmp_path, missing):
        write_own(tmp_path, {"p1-000": "kept", "p2-000": "kept"})
        (tmp_path / missing / "p2-000.npy").unlink()
        with pytest.raises(InputError, match=rf"case p2-000: .*{missing}/p2-000.npy: is missing"):
            read_dataset(tmp_path)

    def test_keras_layout(self, tmp_path):
        write_keras(tmp_path, [10, 2])
        (tmp_path / "images/.partial-image_3.npy").write_bytes(b"")
        (tmp_path / "images/notes.txt").write_text("")
        cases = read_dataset(tmp_path).cases
        assert [(case.name, case.patient, case.side) for case in cases] == [
            ("image_2", "image_2", None),
            ("image_10", "image_10", None),
        ]
        np.testing.assert_array_equal(read_image(cases[0]), IMAGE)
        np.testing.assert_array_equal(read_labels(cases[0]), LABELS)

    def test_splitfolders_layout(self, tmp_path):
        write_keras(tmp_path / "train", [0, 11, 3])
        write_keras(tmp_path / "val", [7])
        assert [(case.name, case.side) for case in read_dataset(tmp_path).cases] == [
            ("image_0", "train"),
            ("image_3", "train"),
            ("image_7", "val"),
            ("image_11", "train"),
        ]

    def test_splitfolders_sides_may_not_overlap_or_be_empty(self, tmp_path):
        write_keras(tmp_path / "train", [0, 1])
        with pytest.raises(InputError, match=r"/val: holds neither"):
            read_dataset(tmp_path)
        write_keras(tmp_path / "val", [1])
        with pytest.raises(InputError, match=r"case image_1: .*both train/ and val/"):
            read_dataset(tmp_path)
        write_keras(tmp_path, [5])
        with pytest.raises(InputError, match="unclear"):
            read_dataset(tmp_path)

    @pytest.mark.parametrize(
        ("gone", "left", "partner"),
        [
            ("images/image_3.npy", "masks/mask_3.npy", "images/image_3.npy"),
            ("masks/mask_3.npy", "images/image_3.npy", "masks/mask_3.npy"),
        ],
    )
    def test_keras_partner_missing(self, tmp_path, gone, left, partner):
        write_keras(tmp_path, [3, 4])
        (tmp_path / gone).unlink()
        with pytest.raises(InputError, match=rf"{left}: has no partner {partner}"):
            read_dataset(tmp_path)

    def test_no_folder_or_an_empty_one(self, tmp_path):
        with pytest.raises(InputError, match="is not a folder"):
            read_dataset(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"holds neither a manifest.json nor images/image_N.npy"):
            read_dataset(tmp_path)

    def test_what_the_manifest_tells_is_handed_down(self, tmp_path):
        write_own(tmp_path / "data", {"p1-000": "kept", "p2-000": "failed"})
        manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
        manifest["cases"]["p2-000"]["reason"] = "cannot be read"
        (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
        dataset = read_dataset(tmp_path / "data")
        assert dataset.preprocessing == Preprocessing(crop=SHAPE, modalities=("t2f", "t1c"))
        assert dataset.raw_dir.resolve() == (tmp_path / "raw").resolve()
        assert dataset.failures == ("cannot be read",)
        assert dataset.cases[0].record == manifest["cases"]["p1-000"]

    def test_the_keras_layout_tells_nothing_of_how_it_was_made(self, tmp_path):
        write_keras(tmp_path, [1])
        dataset = read_dataset(tmp_path)
        assert (dataset.preprocessing, dataset.frame, dataset.raw_dir, dataset.failures) == (None, None, None, ())

    def test_cases_by_name(self, tmp_path):
        write_keras(tmp_path, [1, 2, 3])
        dataset = read_dataset(tmp_path)
        assert [case.name for case in dataset.select(["image_3", "image_1"])] == ["image_3", "image_1"]
        with pytest.raises(InputError, match=r"does not hold the case image_7, nor 1 more\. Restore"):
            dataset.select(["image_7", "image_1", "image_8"])

    def test_fingerprint_follows_all_that_identifies_cases_and_their_order(self):
        one, two = CaseContent("a", "p", "crc32:1", "crc32:2"), CaseContent("b", "p", "crc32:1", "crc32:2")
        others = [one._replace(**{name: "x"}) for name in CaseContent._fields]
        prints = {fingerprint(cases) for cases in ([one, two], [two, one], [one], [two], *([case] for case in others))}
        assert len(prints) == 8
        assert all(len(value) == 64 for value in prints)
        assert fingerprint([one, two]) == fingerprint([CaseContent(*one), CaseContent(*two)])


class TestShape:
    def test_odd_one_out_is_named(self, tmp_path):
        cases = []
        for name in ("a", "b", "c", "d"):
            (tmp_path / name).mkdir()
            case = a_case(tmp_path / name, image=IMAGE[..., :1] if name == "c" else IMAGE)
            cases.append(ArrayCase(name, name, case.image, case.mask))
        with pytest.raises(InputError, match=r"case c: .*has shape \(3, 4, 5, 1\), but most cases have \(3, 4, 5, 2\)"):
            array_shape(cases)
        assert array_shape([cases[0], cases[1], cases[3]]) == (3, 4, 5, 2)

    def test_mask_must_cover_the_image(self, tmp_path):
        with pytest.raises(InputError, match=r"mask.npy: covers \(3, 4, 4\) voxels, but the image .* \(3, 4, 5\)"):
            array_shape([a_case(tmp_path, mask=LABELS[..., :4])])

    def test_reads_headers_only(self, tmp_path):
        assert array_shape([a_case(tmp_path, image=np.full_like(IMAGE, np.nan), mask=ONE_HOT)]) == (3, 4, 5, 2)

    def test_no_cases(self):
        with pytest.raises(InputError, match="no cases"):
            array_shape([])
