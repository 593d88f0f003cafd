import numpy as np
import pytest
from nifti_files import random_labels, save

from jaxbrats import commands
from jaxbrats.evaluation import metrics, tables


@pytest.fixture
def folders(tmp_path):
    for number, case in enumerate("BA"):
        save(tmp_path / "pred" / f"{case}.nii.gz", random_labels(number))
        save(tmp_path / "ref" / case / f"{case}-seg.nii.gz", random_labels(10 + number))
        save(tmp_path / "ref" / case / f"{case}-t1c.nii.gz", random_labels(20 + number))
    return tmp_path


def run(folder, *more):
    return commands.run(
        ["score", f"--pred={folder}/pred", f"--ref={folder}/ref", f"--out={folder}/scores.csv", "--workers=1", *more]
    )


def test_scores_a_folder_and_prints_the_summary(folders, capsys):
    assert run(folders) == 0
    expected = []
    for number, case in ((1, "A"), (0, "B")):
        expected += tables.case_rows(case, metrics.score_case(random_labels(number), random_labels(10 + number)))
    assert tables.read_csv(folders / "scores.csv") == expected
    printed = capsys.readouterr().out
    mean = np.mean([row["dice"] for row in expected if row["region"] == "WT"])
    assert f"WT           2{mean:8.4f}" in printed
    assert "2 cases scored" in printed


def test_flags_reach_the_scores(folders):
    assert run(folders, "--challenge=MET", "--tolerance_mm=0") == 0
    expected = metrics.score_case(random_labels(1), random_labels(11), challenge="MET", tolerance_mm=0)
    assert tables.read_csv(folders / "scores.csv")[:5] == tables.case_rows("A", expected)


def test_bad_cases_are_named_the_others_scored_and_the_exit_code_is_1(folders, capsys):
    save(folders / "pred" / "C.nii.gz", random_labels(3))
    save(folders / "ref" / "D-seg.nii.gz", random_labels(3))
    save(folders / "pred" / "E.nii.gz", random_labels(3, (12, 11, 9)))
    save(folders / "ref" / "E-seg.nii.gz", random_labels(3))
    save(folders / "pred" / "F.nii.gz", (random_labels(3) / 3).astype(np.float32))
    save(folders / "ref" / "F-seg.nii.gz", random_labels(3))
    assert run(folders) == 1
    assert {row["case"] for row in tables.read_csv(folders / "scores.csv")} == {"A", "B"}
    errors = capsys.readouterr().err
    for line in (
        "4 could not be scored",
        f"case C: {folders}/pred/C.nii.gz: has no reference",
        f"case D: {folders}/ref/D-seg.nii.gz: has no prediction",
        f"case E: {folders}/pred/E.nii.gz: has 12x11x9 voxels, but {folders}/ref/E-seg.nii.gz has 12x11x10",
        f"case F: {folders}/pred/F.nii.gz: expected labels",
    ):
        assert line in errors


def test_nothing_scored_writes_no_table(folders):
    for case in "AB":
        save(folders / "pred" / f"{case}.nii.gz", random_labels(0), affine=np.eye(4))
    assert run(folders) == 1
    assert not (folders / "scores.csv").exists()


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--pred=nowhere", 1, "nowhere: there is no such folder"),
        ("--out=.", 1, "is a folder, expected the name of a table"),
        ("--challenge=GLIOMA", 2, "GLI"),
        ("--workers=0", 2, "workers"),
    ],
)
def test_wrong_flags(folders, capsys, flag, code, message):
    assert run(folders, flag) == code
    assert message in capsys.readouterr().err
    assert not (folders / "scores.csv").exists()
