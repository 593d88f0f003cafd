import csv
import math

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nifti_files import random_labels

from jaxbrats.data.labels import BRATS_2023
from jaxbrats.evaluation import metrics, tables
from jaxbrats.evaluation.pairs import LabelFile, Pair
from jaxbrats.system.errors import InputError

AFFINE = np.diag([-1.0, -1.5, 2.0, 1.0])


def save(path, labels, affine=AFFINE, dtype=np.uint8):
    nib.save(nib.Nifti1Image(labels.astype(dtype), affine), path)
    return LabelFile(path)


def test_a_pair_of_files_scores_as_its_arrays_at_the_spacing_of_the_affine(tmp_path):
    pred, ref = random_labels(0), random_labels(1)
    pair = Pair("A", save(tmp_path / "p.nii.gz", pred, dtype=np.float32), save(tmp_path / "r.nii.gz", ref))
    rows = tables.score_pair(pair, "MET", tolerance_mm=1.4)
    assert rows == tables.case_rows("A", metrics.score_case(pred, ref, (1.0, 1.5, 2.0), "MET", 1.4))
    assert [(row["case"], row["region"]) for row in rows] == [("A", name) for name in ("WT", "TC", "ET", "NCR", "ED")]


def test_label_4_is_enhancing_tumour_unless_3_is_there_too(tmp_path):
    labels = random_labels(0)
    old = np.where(labels == 3, 4, labels)
    read, affine = tables.read_label_file(save(tmp_path / "old.nii.gz", old), "A")
    np.testing.assert_array_equal(read, labels)
    np.testing.assert_array_equal(affine, AFFINE)
    old[3, 3, 3:5] = 3, 4
    with pytest.raises(InputError, match=r"case A: .*both.nii.gz: expected .* label 3 or as label 4, found both"):
        tables.read_label_file(save(tmp_path / "both.nii.gz", old), "A")
    # A data set that says what its labels mean is taken at its word.
    with pytest.raises(InputError, match="expected the labels 0, 1, 2, 3"):
        tables.read_label_file(LabelFile(tmp_path / "old.nii.gz", BRATS_2023), "A")


@pytest.mark.parametrize(
    ("pred", "affine", "message"),
    [
        (random_labels(0, (12, 11, 9)), AFFINE, r"p.nii.gz: has 12x11x9 voxels, but .*r.nii.gz has 12x11x10"),
        (random_labels(0), np.eye(4), r"p.nii.gz: has the affine \[1 0 0 0; .*r.nii.gz has \[-1 0 0 0; "),
        (random_labels(0) * 3, AFFINE, r"p.nii.gz: expected the labels 0, 1, 2, 3, 4, found 0, 3, 6, 9"),
        (
            random_labels(0) / 3,
            AFFINE,
            r"p.nii.gz: expected labels, found \d+ voxels whose values are not whole numbers",
        ),
        (np.zeros((12, 11, 10, 4)), AFFINE, r"p.nii.gz: expected a 3-D volume, found 4-D with 4 volumes"),
    ],
    ids=["shape", "affine", "labels", "probabilities", "probabilities of each class"],
)
def test_what_cannot_be_scored_names_the_file_and_both_values(tmp_path, pred, affine, message):
    pair = Pair(
        "A", save(tmp_path / "p.nii.gz", pred, affine, np.float32), save(tmp_path / "r.nii.gz", random_labels(1))
    )
    with pytest.raises(InputError, match=f"case A: .*{message}"):
        tables.score_pair(pair)


@pytest.mark.parametrize("workers", [1, 2])
def test_one_bad_case_does_not_stop_the_others(tmp_path, workers):
    ref = save(tmp_path / "r.nii.gz", random_labels(1))
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes((tmp_path / "r.nii.gz").read_bytes()[:60])
    pairs = [Pair(f"C{seed}", save(tmp_path / f"{seed}.nii.gz", random_labels(seed)), ref) for seed in range(3)]
    results = dict(tables.score_pairs([*pairs[:2], Pair("BAD", LabelFile(bad), ref), *pairs[2:]], workers=workers))
    assert {pair.case for pair in results} == {"C0", "C1", "C2", "BAD"}
    for pair, result in results.items():
        if pair.case == "BAD":
            assert isinstance(result, InputError) and result.case == "BAD" and result.file == bad
        else:
            assert result == tables.score_pair(pair)


def test_a_table_reads_back_as_written(tmp_path):
    rows = tables.case_rows('odd, "name"', metrics.score_case(random_labels(0), random_labels(1)))
    rows += tables.case_rows("B", metrics.score_case(random_labels(2), random_labels(3)))
    tables.write_csv(tmp_path / "new" / "scores.csv", rows)
    assert tables.read_csv(tmp_path / "new" / "scores.csv") == rows
    header = (tmp_path / "new" / "scores.csv").read_text().splitlines()[0]
    assert header == (
        "case,region,dice,iou,sensitivity,specificity,volume_ref_mm3,volume_pred_mm3,"
        "hd95_mm,asd_mm,surface_dice,lesion_dice,lesion_hd95_mm,lesions_tp,lesions_fp,lesions_fn"
    )
    assert not list((tmp_path / "new").glob(".partial*"))


def test_only_columns_that_were_computed_and_empty_cells_for_what_is_undefined(tmp_path):
    path = tmp_path / "scores.csv"
    rows = [
        {"case": "A", "region": "WT", "dice": np.float64(0.1) + 0.2},
        {"case": "A", "region": "ET", "dice": math.nan},
    ]
    tables.write_csv(path, rows)
    assert path.read_text() == "case,region,dice\nA,WT,0.30000000000000004\nA,ET,\n"
    first, second = tables.read_csv(path)
    assert first["dice"] == 0.1 + 0.2 and math.isnan(second["dice"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns case, region, dice, found none"),
        ("case,region\nA,WT\n", "expected the columns case, region, dice, found case, region"),
        ("case,region,dice\nA,WT,0.5\nA,TC,high\n", "line 3: expected a number for dice, found 'high'"),
        ("case,region,dice\nA,WT\n", "line 2: has fewer cells"),
        ("case,region,dice\nA,WT,1\nA,WT,0\n", "line 3: WT of case A appears twice"),
        ("x" * 200_000, "line 1: field larger than field limit"),
    ],
)
def test_what_is_no_score_table_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"scores.csv: {message}"):
        tables.read_csv(path)


def test_a_missing_table_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none.csv: cannot be read"):
        tables.read_csv(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\r=1", "\\u000d=1"),
        ("'=1", "''=1"),
        ("'quoted'", "'quoted'"),
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001-000"),
        ("caf\udce9", "caf\\udce9"),
        ("caf\\udce9", "caf\\\\udce9"),
        ("\\\udce9\udcff", "\\\\\\udce9\\udcff"),
        ("C:\\users", "C:\\users"),
        ("=\udce9", "'=\\udce9"),
    ],
)
def test_names_are_no_formulas_and_always_text(tmp_path, name, cell):
    """What a spreadsheet would run is text, and bytes that are not UTF-8 are printable; both read back as they were."""
    rows = [{"case": name, "region": "WT", "dice": -0.5}]
    tables.write_csv(tmp_path / "scores.csv", rows)
    _, line = (tmp_path / "scores.csv").read_bytes().decode("utf-8").splitlines()
    assert next(csv.reader([line])) == [cell, "WT", "-0.5"]
    assert tables.read_csv(tmp_path / "scores.csv") == rows


@given(st.text("=+-@'\t\r\\ud0ce9x\udce9\udc80,\"", max_size=12))
def test_any_name_reads_back(name):
    assert tables._unescape(tables._escape(name)) == name
    tables._escape(name).encode()
