"""`jaxbrats submit`: names, labels and voxels as the challenges validate them, or a line for each mistake."""

import re
import zipfile

import nibabel as nib
import numpy as np
import pytest
from nifti_files import LPS, save

from jaxbrats import commands
from jaxbrats.evaluation.submission import CHALLENGES

LABELS = np.arange(60, dtype=np.uint8).reshape(5, 4, 3) % 4
# What the organisers look for in each file name.
VALIDATED = {"brats2021": r"\d{5}\.nii\.gz$", "brats2023": r"(\d{5}-\d{3})\.nii\.gz$"}


def cohort_of(folder, cases, ending):
    for case in cases:
        save(folder / case / f"{case}{ending}.nii.gz", LABELS.astype(np.int16) * 100)
    return folder


@pytest.fixture
def folders(tmp_path):
    cases = [f"BraTS-GLI-0000{number}-000" for number in (1, 2)]
    cohort_of(tmp_path / "raw", cases, "-t1c")
    for case in cases:
        save(tmp_path / "pred" / f"{case}.nii.gz", LABELS)
        save(tmp_path / "pred" / f"{case}-entropy.nii.gz", LABELS.astype(np.float32))
    (tmp_path / "pred" / "predictions.json").write_text("{}")
    return tmp_path


def run(folder, challenge, *more):
    arguments = [f"--pred={folder / 'pred'}", f"--challenge={challenge}", f"--out={folder / 'out.zip'}", *more]
    return commands.run(["submit", *arguments])


def contents(path, folder):
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        return {name: nib.load(folder / name) for name in archive.namelist()}


@pytest.mark.parametrize("written", [3, 4])
@pytest.mark.parametrize("challenge", VALIDATED)
def test_names_and_labels_are_the_challenges(tmp_path, challenge, written, capsys):
    cases = [CHALLENGES[challenge].example, CHALLENGES[challenge].example.replace("1", "2")[:-1] + "7"]
    cohort_of(tmp_path / "raw", cases, "_t1ce" if challenge == "brats2021" else "-t1c")
    voxels = np.where(LABELS == 3, written, LABELS).astype(np.uint8)
    save(tmp_path / "pred" / f"{cases[0]}.nii.gz", voxels)
    save(tmp_path / "pred" / f"{cases[1]}.nii", voxels)
    assert run(tmp_path, challenge, f"--input={tmp_path / 'raw'}") == 0
    assert "out.zip: 2 cases" in capsys.readouterr().out
    files = contents(tmp_path / "out.zip", tmp_path / "unpacked")
    assert files.keys() == {f"{case}.nii.gz" for case in cases}
    for name, file in files.items():
        assert re.search(VALIDATED[challenge], name)
        expected = np.where(LABELS == 3, 4 if challenge == "brats2021" else 3, LABELS)
        np.testing.assert_array_equal(file.dataobj, expected)
        np.testing.assert_array_equal(file.affine, LPS)
        assert file.get_data_dtype() == np.uint8


def test_what_2024_scores_and_nobody_here_predicts_is_said(folders, capsys):
    assert run(folders, "brats2024", f"--input={folders / 'raw'}") == 0
    assert "No network of jaxbrats predicts it, so all cavities count as missed" in capsys.readouterr().err
    assert len(contents(folders / "out.zip", folders)) == 2
    save(folders / "pred" / "BraTS-GLI-00002-000.nii.gz", np.where(LABELS == 3, 4, LABELS).astype(np.uint8))
    assert run(folders, "brats2024", f"--input={folders / 'raw'}") == 1
    assert "expected the labels 0, 1, 2, 3, found 0, 1, 2, 4" in capsys.readouterr().err


def test_mistakes_are_named_and_nothing_is_written(folders, capsys):
    pred, two = folders / "pred", "BraTS-GLI-00002-000"
    save(pred / f"{two}.nii.gz", LABELS, np.eye(4))
    save(pred / "BraTS-GLI-00003-000.nii.gz", LABELS)
    save(pred / "BraTS-SSA-00001-000.nii.gz", LABELS)
    save(pred / "mine.nii.gz", LABELS)
    cohort_of(folders / "raw", ["BraTS-GLI-00004-000", "BraTS-GLI-00005-000"], "-t1c")
    save(pred / "BraTS-GLI-00005-000.nii.gz", np.uint8(LABELS + 2))
    assert run(folders, "brats2023", f"--input={folders / 'raw'}") == 1
    errors = capsys.readouterr().err
    for message in (
        f"case {two}: {pred / two}.nii.gz: has the affine",
        "case BraTS-GLI-00003-000: " + f"{pred}/BraTS-GLI-00003-000.nii.gz: is not in the input cohort",
        "has the number 00001-000 of BraTS-GLI-00001-000 too",
        "is not a case of this challenge. Expected a name such as BraTS-GLI-00001-000.nii.gz",
        f"case BraTS-GLI-00004-000: has no segmentation in {pred}",
        "case BraTS-GLI-00005-000: " + f"{pred}/BraTS-GLI-00005-000.nii.gz: expected the labels",
    ):
        assert message in errors
    assert errors.count("cannot be submitted") == 6
    assert not (folders / "out.zip").exists()


def test_without_the_cohort_the_challenge_tells_the_size(folders, capsys):
    assert run(folders, "brats2023") == 1
    assert "expected 240x240x155 voxels, found 5x4x3" in capsys.readouterr().err
    for path in (folders / "pred").glob("*000.nii.gz"):
        save(path, np.zeros((240, 240, 155), np.uint8))
    assert run(folders, "brats2023") == 0


def test_names_of_two_kinds_leave_none_out(folders, capsys):
    path = folders / "pred" / "BraTS-GLI-00001-000.nii.gz"
    path.rename(path.with_name("BraTS-GLI-00001-000-seg.nii.gz"))
    left_out = "BraTS-GLI-00002-000.nii.gz: is left out where others end with -seg. Name all segmentations alike"
    for cohort in ([], [f"--input={folders / 'raw'}"]):
        assert run(folders, "brats2023", *cohort) == 1
        errors = capsys.readouterr().err
        assert left_out in errors and "has no segmentation" not in errors
    assert not (folders / "out.zip").exists()


def test_wrong_flags(folders, capsys):
    assert commands.run(["submit", f"--pred={folders}", "--challenge=brats2021", "--out=out.tar"]) == 1
    assert "Give a file that ends with .zip" in capsys.readouterr().err
    assert run(folders, "brats2022") == 2
    assert run(folders, "brats2021", f"--pred={folders / 'none'}") == 1
