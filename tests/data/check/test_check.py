"""What a check says of a cohort: counted, measured, compared with preprocessing."""

import dataclasses
import gzip
import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import kinds

from jaxbrats.data.check import text
from jaxbrats.data.check.case import check_case
from jaxbrats.data.check.cohort import FEWEST_PATIENTS, check_cohort
from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.preprocessing import Preprocessing, preprocess_case
from jaxbrats.data.raw.cases import Case, VolumeFile, find_cases
from jaxbrats.data.split import make_split
from jaxbrats.system.errors import InputError

SETTINGS = Preprocessing(crop=(6, 6, 6), min_tumour=0.01)
NAMES = [f"BraTS-GLI-{patient:05d}-{scan:03d}" for patient, scan in ((1, 0), (2, 0), (2, 1), (10, 0))]


@pytest.fixture
def raw(tmp_path):
    for number, name in enumerate(NAMES):
        kinds.write_case(tmp_path / "raw", name, seed=10 * number)
    return tmp_path / "raw"


def file(raw, number, part):
    return raw / NAMES[number] / f"{NAMES[number]}-{part}.nii.gz"


def rewrite(path, change, affine=kinds.AFFINE):
    kinds.write(path, kinds.nifti(change(kinds.voxels_of(path)), affine))


def check(raw, preprocessing=SETTINGS, workers=1):
    return check_cohort(raw, preprocessing, workers, progress=False)


def found(report):
    """(kind, is an error, case, file name) of everything."""
    return [(f.kind, f.error, f.what.case, f.what.file and f.what.file.name) for f in report.findings]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sound_cohort_is_measured_and_nothing_is_wrong(raw, workers):
    report = check(raw, workers=workers)
    assert report.findings == []
    assert [case.name for case in report.cases] == NAMES
    assert {case.status for case in report.cases} == {"kept"}
    first = report.cases[0]
    assert (first.patient, first.layout) == ("BraTS-GLI-00001", "BraTS 2023")
    assert first.parts == tuple(first.files) == ("t1n", "t1c", "t2w", "t2f", "seg")
    array = kinds.voxels_of(file(raw, 0, "t1c"))
    t1c = first.files["t1c"]
    assert (t1c.shape, t1c.dtype, t1c.minimum, t1c.maximum) == (kinds.SHAPE, "int16", 0, array.max())
    assert t1c.frame.to_dict() == {"orientation": "LPS", "spacing_mm": [1, 1, 2]}
    counts = np.bincount(kinds.voxels_of(file(raw, 0, "seg")).ravel()).tolist()
    assert first.labels == dict(zip(("background", "NCR", "ED", "ET"), counts, strict=True))


def test_the_content_is_that_of_the_voxels_not_of_the_file(raw):
    before = check(raw).cases[0].files
    path = file(raw, 0, "t1n")
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    rewrite(file(raw, 0, "t1c"), lambda array: array + (array == array.max()).astype(np.int16))
    after = check(raw).cases[0].files
    assert after["t1n"].content == before["t1n"].content
    assert after["t1c"].content != before["t1c"].content


def test_every_fault_of_a_case_is_told_at_once(raw):
    file(raw, 0, "t2w").write_bytes(b"")
    file(raw, 0, "t2f").write_bytes(b"text")
    rewrite(file(raw, 0, "t1c"), lambda array: array, np.diag([-1.0, -1, 3, 1]))
    rewrite(file(raw, 0, "seg"), lambda array: array + np.uint8(9))
    file(raw, 1, "t1c").unlink()
    file(raw, 1, "t2f").write_bytes(b"")
    report = check(raw)
    assert sorted(found(report)) == [
        ("files", True, NAMES[1], NAMES[1]),
        ("image", True, NAMES[0], f"{NAMES[0]}-t2f.nii.gz"),
        ("image", True, NAMES[0], f"{NAMES[0]}-t2w.nii.gz"),
        ("image", True, NAMES[1], f"{NAMES[1]}-t2f.nii.gz"),
        # Of files that disagree, which are right is not known: the first of them in the order of reading is taken.
        ("segmentation", True, NAMES[0], f"{NAMES[0]}-seg.nii.gz"),
        ("voxels", False, NAMES[0], f"{NAMES[0]}-t1n.nii.gz"),
    ]
    assert [case.status for case in report.cases] == ["failed", "failed", "kept", "kept"]
    assert all(finding.what.hint for finding in report.findings)


def test_what_preprocessing_does_not_read_is_a_warning(raw):
    file(raw, 0, "t1n").write_bytes(b"")
    file(raw, 1, "seg").unlink()
    file(raw, 1, "t2f").write_bytes(b"")
    report = check(raw)
    assert report.errors == []
    assert [case.status for case in report.cases] == ["kept", "skipped", "kept", "kept"]
    assert {kind for kind, *_ in found(report)} == {"image", "skipped"}
    assert check(raw, Preprocessing(("t1n",), (6, 6, 6))).cases[0].status == "failed"


def test_a_damaged_channel_that_is_not_used_stops_nothing(tmp_path):
    channels = [kinds.image_voxels(seed) for seed in range(4)]
    channels[1][:] = 7  # t1n, read before the channels behind it if all were read at once
    kinds.write(tmp_path / "imagesTr/a.nii.gz", kinds.nifti(np.stack(channels, -1)))
    kinds.write(tmp_path / "labelsTr/a.nii.gz", kinds.nifti(kinds.label_voxels(0)))
    names = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    description = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "labels": names}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    report = check(tmp_path)
    (case,) = report.cases
    assert (case.status, sorted(case.files)) == ("kept", ["seg", "t1c", "t2f", "t2w"])
    assert found(report)[1:] == [("image", False, "a", "a.nii.gz")]
    assert "every voxel has the value 7" in str(report.findings[1].what)


def test_duplicates_are_told_once_for_each_pair_of_cases(raw):
    for part in (*kinds.MODALITIES, "seg"):
        shutil.copy(file(raw, 0, part), file(raw, 3, part))
    shutil.copy(file(raw, 1, "t1n"), file(raw, 2, "t1n"))
    shutil.copy(file(raw, 2, "t2f"), file(raw, 2, "t2w"))
    for number in (0, 3):
        rewrite(file(raw, number, "seg"), np.zeros_like)  # alike in every patient without a tumour
    report = check(raw)
    lines = [str(f.what) for f in report.findings if f.kind == "duplicate"]
    assert len(lines) == 3
    assert f"{NAMES[2]}-t2f.nii.gz: has the same voxels as the t2w of the case. One was copied" in lines[0]
    assert f"has the same t1n as case {NAMES[1]}. Is it one scan under two names?" in lines[1]
    assert f"has the same t1n, t1c, t2w, t2f as case {NAMES[0]}. Keep one: as two patients" in lines[2]


def test_cases_that_lie_unlike_most_are_told(raw):
    for part in (*kinds.MODALITIES, "seg"):
        path = file(raw, 1, part)
        rewrite(path, lambda array: array[::-1], kinds.AFFINE @ np.diag([-1, 1, 1, 1]))
        path = file(raw, 2, part)
        rewrite(path, lambda array: array, np.diag([-1.0, -1, 3, 1]))
    report = check(raw)
    assert [kind for kind, *_ in found(report)] == ["frame", "frame"]
    assert "is RPS, 1 x 1 x 2 mm, and will be turned: the arrays are LPS, 1 x 1 x 2 mm" in str(report.findings[0].what)
    assert "is LPS, 1 x 1 x 3 mm, and will be resampled: the" in str(report.findings[1].what)


def test_a_spacing_that_is_asked_for_hides_none_that_lies_unlike_most(raw):
    for part in (*kinds.MODALITIES, "seg"):
        rewrite(file(raw, 1, part), lambda array: array[::-1], kinds.AFFINE @ np.diag([-1, 1, 1, 1]))
    report = check(raw, dataclasses.replace(SETTINGS, spacing=(2.0, 2.0, 2.0)))
    (finding,) = (finding for finding in report.findings if finding.kind == "frame")
    assert finding.what.case == NAMES[1]
    assert "is RPS, 1 x 1 x 2 mm, and will be turned and resampled: the arrays are LPS, 2 x 2 x 2" in str(finding.what)


def test_files_that_nobody_reads_and_modalities_that_few_lack(raw):
    shutil.copy(file(raw, 0, "t1n"), raw / "atlas.nii.gz")
    file(raw, 3, "t1n").unlink()
    report = check(raw)
    assert sorted(found(report), key=str) == [
        ("unused", False, NAMES[3], NAMES[3]),
        ("unused", False, None, "atlas.nii.gz"),
    ]
    assert "has no t1n, which 3 of 4 cases have" in str(report.findings[0].what)
    assert report.errors == []


def test_too_few_patients_are_an_error_just_where_the_split_leaves_none_to_validate_on(raw):
    for patients in (1, 2):
        names = {f"case{number}": str(number) for number in range(patients)}
        split = make_split(names, dict.fromkeys(names, 1.0), 0.25, seed=0)
        assert bool(split.val) == (patients >= FEWEST_PATIENTS)
    for number in (0, 3):
        shutil.rmtree(raw / NAMES[number])
    (error,) = check(raw).errors  # two scans of one patient
    assert error.kind == "patients"
    assert "found 1 whose scans can be used" in str(error.what)


def test_a_report_of_a_case_holds_no_voxels(raw):
    (case, *_) = find_cases(raw).cases
    assert len(pickle.dumps(check_case(SETTINGS, None, case))) < 3000


@settings(max_examples=50, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=3),
    part=st.sampled_from(["t1c", "seg"]),
    normalization=st.sampled_from(["minmax", "zscore"]),
)
def test_whatever_the_damage_the_check_and_preprocessing_agree(tmp_path, changes, part, normalization):
    names = {name: tmp_path / f"{name}.nii" for name in ("t1c", "t2f", "seg")}
    for seed, (name, path) in enumerate(names.items()):
        make = kinds.label_voxels if name == "seg" else kinds.image_voxels
        content = bytearray(kinds.nifti(make(seed)))
        for position, value in changes if name == part else ():
            content[position] = value
        path.write_bytes(content)
    case = Case(
        "c", "c", {name: VolumeFile(names[name]) for name in ("t1c", "t2f")}, VolumeFile(names["seg"]), BRATS_2023
    )
    preprocessing = Preprocessing(("t2f", "t1c"), (6, 6, 6), normalization)
    try:
        status, reason = preprocess_case(case, preprocessing)[2]["status"], None
    except InputError as error:
        status, reason = "failed", str(error)
    report = check_case(preprocessing, None, case)
    assert report.status == status
    assert reason is None or reason in [str(finding.what) for finding in report.findings if finding.error]


class TestText:
    def test_a_sound_cohort(self, raw):
        lines = text.as_text(check(raw)).splitlines()
        assert lines[0] == f"{raw}: 4 cases, of which 4 would be trained on"
        assert "  voxels        9x8x7" in lines
        assert "  spacing (mm)  1 x 1 x 2" in lines
        assert "  files         t1n 4, t1c 4, t2w 4, t2f 4, seg 4" in lines
        assert "  labels        NCR in 4, ED in 4, ET in 4 of 4 segmentations" in lines
        assert "  patients      3, 1 with several scans: BraTS-GLI-00002 (2)" in lines
        assert lines[-1] == "Nothing is wrong with it."

    def test_the_table_counts_and_every_line_names_case_and_file(self, raw):
        file(raw, 0, "t1c").write_bytes(b"")
        file(raw, 0, "t2f").write_bytes(b"")
        file(raw, 1, "t1n").write_bytes(b"")
        lines = text.as_text(check(raw)).splitlines()
        assert lines[0].endswith("4 cases, of which 3 would be trained on, 1 would be refused")
        assert ["image", "that", "cannot", "be", "used", "2", "1", "2"] in [line.split() for line in lines]
        errors = lines[lines.index("errors: image that cannot be used") + 1 :][:2]
        assert errors == [
            f"  case {NAMES[0]}: {NAMES[0]}/{NAMES[0]}-{part}.nii.gz: is empty. Copy or download it again"
            for part in ("t1c", "t2f")
        ]

    def test_what_every_case_has_is_shown_in_part_and_counted_in_full(self, raw, monkeypatch):
        monkeypatch.setattr(text, "_MOST_LINES", 3)
        for number in range(4):
            rewrite(file(raw, number, "t2w"), lambda array: array + 1 + np.arange(9, dtype=np.int16)[:, None, None])
        report = check(raw)
        lines = text.as_text(report, "all.json").splitlines()
        assert lines[-1] == "  and 1 more, all in all.json"
        assert len([line for line in lines if "at its border are not 0" in line]) == 3
        row = "not skull-stripped: background is not 0"
        assert [line.split()[-3:] for line in lines if line.startswith(row)] == [["-", "4", "4"]]

    def test_names_are_printed_in_one_line(self, tmp_path):
        for scan in range(2):
            kinds.write_case(tmp_path, f"a\nb-1-{scan:03d}", seed=scan)
        printed = text.as_text(check(tmp_path))
        assert "with several scans: a\\nb-1 (2)" in printed
        assert "a\nb" not in printed
