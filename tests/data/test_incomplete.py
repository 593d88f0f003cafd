"""Cohorts of which some cases lack a modality: their arrays, what is said of them, and what has come or gone since."""

import shutil

import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.data.check.cohort import check_cohort
from jaxbrats.data.manifest import read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.sources import differences

FLAGS = ("--modalities=t2f,t1c", "--crop=brain", "--normalization=zscore", "--min_tumour=0", "--incomplete=true")
SETTINGS = Preprocessing(("t2f", "t1c"), "brain", "zscore", 0.0, incomplete=True)


@pytest.fixture
def raw(tiny_cohort, tmp_path):
    """Four cases: one whole, one without t2f, one without t1c, one without both."""
    for name in sorted(path.name for path in tiny_cohort.iterdir())[:4]:
        shutil.copytree(tiny_cohort / name, tmp_path / "raw" / name)
    for number, modality in ((1, "t2f"), (2, "t1c"), (3, "t2f"), (3, "t1c")):
        file(tmp_path / "raw", number, modality).unlink()
    return tmp_path / "raw"


def file(raw, number, part):
    case = sorted(path.name for path in raw.iterdir())[number]
    return raw / case / f"{case}-{part}.nii.gz"


def preprocess(raw, out, *flags):
    return commands.run(["preprocess", f"--raw={raw}", f"--out={out}", "--workers=1", *FLAGS, *flags])


def arrays(out):
    return {path.stem: np.load(path) for path in sorted((out / "images").iterdir())}


def test_channels_of_what_is_missing_are_zero_and_the_others_as_ever(raw, tiny_cohort, tmp_path, capsys):
    assert preprocess(raw, tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "4 cases: 3 kept, 0 skipped, 1 failed; 1 kept without t2f; 1 kept without t1c. Arrays" in shown.out
    assert "found no t2f and no t1c (t1n, t2w are there). Add it, or choose other --modalities\n" in shown.err
    assert preprocess(tiny_cohort, tmp_path / "whole") == 0
    capsys.readouterr()
    found, whole = arrays(tmp_path / "out"), arrays(tmp_path / "whole")
    names = list(found)
    assert names == list(whole)[:3]
    for name, there in zip(names, ([1, 1], [0, 1], [1, 0]), strict=True):
        np.testing.assert_array_equal(found[name], whole[name] * np.array(there, np.float32))
    records = read_manifest(tmp_path / "out")["cases"]
    assert [sorted(records[name]["normalization"]) for name in names] == [["t1c", "t2f"], ["t1c"], ["t2f"]]


def test_a_modality_that_comes_or_goes_makes_another_case(raw, tiny_cohort, tmp_path, capsys):
    out = tmp_path / "out"
    preprocess(raw, out)
    assert differences(raw, out, SETTINGS) == []
    before = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    shutil.copyfile(file(tiny_cohort, 1, "t2f"), file(raw, 1, "t2f"))
    file(raw, 0, "t1c").unlink()
    assert [(each.name[-7:], each.what) for each in differences(raw, out, SETTINGS)] == [
        ("000-000", "changed"),
        ("001-000", "changed"),
    ]
    preprocess(raw, out)
    changed = [path.stem[-7:] for path, time in sorted(before.items()) if path.stat().st_mtime_ns != time]
    assert changed == ["000-000", "001-000"]
    assert [image.any((0, 1, 2)).tolist() for image in arrays(out).values()] == [[1, 0], [1, 1], [1, 0]]
    assert "2 kept without t1c. Arrays" in capsys.readouterr().out


def test_a_check_tells_of_each_and_refuses_those_without_any(raw):
    report = check_cohort(raw, SETTINGS, workers=1)
    found = [(finding.kind, finding.error, finding.what.case[-7:]) for finding in report.findings]
    assert [each for each in found if each[1]] == [("files", True, "003-000")]
    lacking = [finding.what for finding in report.findings if finding.kind == "incomplete"]
    assert [(what.case[-7:], what.problem) for what in lacking] == [
        ("002-000", "has no t1c, which 2 of 4 cases have"),
        ("001-000", "has no t2f, which 2 of 4 cases have"),
    ]
    assert [case.status for case in report.cases] == ["kept", "kept", "kept", "failed"]
