import json

import pytest
from malformed import kinds

from jaxbrats import commands

CROP = "--crop=6,6,6"


@pytest.fixture
def raw(tmp_path):
    kinds.write_cohort(tmp_path / "raw")
    return tmp_path / "raw"


def run(raw, *flags):
    return commands.run(["check", f"--raw={raw}", "--workers=1", *flags])


def test_a_sound_cohort_ends_with_0_and_writes_nothing(raw, capsys):
    before = sorted(raw.parent.rglob("*"))
    assert run(raw, CROP) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == f"{raw}: 2 cases, of which 2 would be trained on"
    assert printed.out.splitlines()[-1] == "Nothing is wrong with it."
    assert printed.err == ""
    assert sorted(raw.parent.rglob("*")) == before


def test_json_holds_what_was_measured_and_found(raw, capsys):
    file = raw / kinds.ODD / f"{kinds.ODD}-t1c.nii.gz"
    file.write_bytes(b"")
    path = raw.parent / "new" / "check.json"
    assert run(raw, CROP, f"--json={path}") == 1
    found = json.loads(path.read_text())
    assert found["folder"] == str(raw)
    assert found["settings"]["crop"] == [6, 6, 6]
    assert found["counts"] == {"kept": 1, "skipped": 0, "failed": 1, "errors": 2, "warnings": 0}
    assert [finding["kind"] for finding in found["findings"]] == ["patients"]
    good, odd = found["cases"][kinds.GOOD], found["cases"][kinds.ODD]
    assert (good["status"], good["findings"]) == ("kept", [])
    assert good["files"]["t2f"]["shape"] == list(kinds.SHAPE)
    assert good["files"]["t2f"]["frame"] == {"orientation": "LPS", "spacing_mm": [1, 1, 2]}
    assert (odd["status"], sorted(odd["files"])) == ("failed", ["seg", "t1n", "t2f", "t2w"])
    assert odd["findings"] == [
        {
            "severity": "error",
            "kind": "image",
            "case": kinds.ODD,
            "file": str(file),
            "problem": "is empty",
            "hint": "Copy or download it again",
        }
    ]


def test_it_asks_what_preprocess_is_asked_with_the_same_flags(raw, capsys):
    (raw / kinds.ODD / f"{kinds.ODD}-t1n.nii.gz").unlink()
    assert run(raw, CROP) == 0
    assert run(raw, CROP, "--modalities=t1n") == 1
    assert "expected t1n, found no t1n" in capsys.readouterr().out
    # 27 of 128^3 voxels are tumour.
    assert run(raw) == 1
    assert "0.001% tumour voxels in the crop, expected at least 1.000%" in capsys.readouterr().out
    assert run(raw, "--min_tumour=0") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--raw=/nowhere"], "/nowhere: there is no such folder"),
        (["--raw=/etc/hostname"], "is a file, expected a folder"),
        (["--json=/etc"], "/etc: is a folder, expected a file to write"),
        (["--crop=big"], "--crop must be 3 values, each of type int, or brain; it is 'big'"),
    ],
)
def test_what_cannot_be_checked_is_one_line(raw, capsys, flags, message):
    assert run(raw, *flags) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
