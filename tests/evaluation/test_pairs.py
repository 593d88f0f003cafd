import json

import pytest

from jaxbrats.evaluation.pairs import find_pairs, label_files
from jaxbrats.system.errors import InputError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def paired(pred, ref):
    pairs, problems = find_pairs(pred, ref)
    assert not problems
    return [(pair.case, pair.pred.path.name, pair.ref.path.name) for pair in pairs]


@pytest.mark.parametrize(
    "ref",
    [
        "A-1.nii.gz",
        "A-1.nii",
        "A-1-seg.nii.gz",
        "A-1_seg.nii.gz",
        "A-1/A-1-seg.nii.gz",
        "year/site/A-1/A-1_SEG.NII.GZ",
        "A-1/W39_1998.09.19_Segm.nii",
    ],
)
def test_references_are_found_by_name_wherever_they_lie(tmp_path, ref):
    pred, refs = touch(tmp_path / "pred", "A-1.nii.gz"), touch(tmp_path / "ref", ref)
    assert paired(pred, refs) == [("A-1", "A-1.nii.gz", ref.split("/")[-1])]


def test_images_beside_segmentations_are_no_references(tmp_path):
    pred = touch(tmp_path / "pred", "A.nii.gz", "B.nii.gz", "notes.txt", ".partial-1-C.nii.gz")
    ref = touch(tmp_path / "ref", *(f"{case}/{case}-{part}.nii.gz" for case in "AB" for part in ("t1n", "t2f", "seg")))
    assert [case for case, *_ in paired(pred, ref)] == ["A", "B"]


def test_missing_partners_are_named_on_both_sides_and_the_others_paired(tmp_path):
    pred = touch(tmp_path / "pred", "A.nii.gz", "B.nii.gz")
    ref = touch(tmp_path / "ref", "B-seg.nii.gz", "C-seg.nii.gz")
    pairs, problems = find_pairs(pred, ref)
    assert [pair.case for pair in pairs] == ["B"]
    assert [(problem.case, problem.file) for problem in problems] == [
        ("A", pred / "A.nii.gz"),
        ("C", ref / "C-seg.nii.gz"),
    ]
    assert f"has no reference in {ref}" in str(problems[0])
    assert f"has no prediction in {pred}" in str(problems[1])


def test_a_case_found_twice_is_said_once_and_not_scored(tmp_path):
    pred = touch(tmp_path / "pred", "A.nii.gz", "B.nii.gz")
    ref = touch(tmp_path / "ref", "x/A-seg.nii.gz", "y/A-seg.nii.gz", "B-seg.nii.gz")
    pairs, problems = find_pairs(pred, ref)
    assert [pair.case for pair in pairs] == ["B"]
    (problem,) = problems
    assert (
        problem.case == "A"
        and str(ref / "x/A-seg.nii.gz") in str(problem)
        and str(problem.file).endswith("y/A-seg.nii.gz")
    )


def decathlon(folder):
    touch(folder, "imagesTr/A.nii.gz", "labelsTr/A.nii.gz")
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "FLAIR"}, "labels": labels}))
    return folder


@pytest.mark.parametrize("inside", ["", "labelsTr"])
def test_a_data_set_says_what_its_labels_mean(tmp_path, inside):
    pred = touch(tmp_path / "pred", "A.nii.gz")
    ((pair,), problems) = find_pairs(pred, decathlon(tmp_path / "ref") / inside)
    assert not problems
    assert pair.ref.path.parent.name == "labelsTr"
    assert pair.ref.label_map == {0: 0, 1: 2, 2: 1, 3: 3}
    assert pair.pred.label_map is None


def test_labels_whose_names_are_not_understood_are_refused(tmp_path):
    ref = decathlon(tmp_path / "ref")
    (ref / "dataset.json").write_text(
        json.dumps({"modality": {"0": "FLAIR"}, "labels": {"0": "background", "1": "liver"}})
    )
    with pytest.raises(InputError, match=r"dataset.json: expected labels that name edema.*liver"):
        find_pairs(touch(tmp_path / "pred", "A.nii.gz"), ref)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "no such folder"), ("file.txt", "is a file, expected a folder"), ("empty", "holds no .nii")],
)
def test_folders_that_cannot_be_used(tmp_path, name, message):
    touch(tmp_path, "file.txt", "good/A.nii.gz")
    (tmp_path / "empty").mkdir()
    for folders in ((tmp_path / name, tmp_path / "good"), (tmp_path / "good", tmp_path / name)):
        with pytest.raises(InputError, match=message):
            find_pairs(*folders)


def test_maps_beside_a_prediction_are_no_cases_of_their_own(tmp_path):
    for name in ("a", "a-probabilities", "a-entropy", "b-entropy"):
        (tmp_path / "pred").mkdir(exist_ok=True)
        (tmp_path / "pred" / f"{name}.nii.gz").touch()
    (tmp_path / "ref").mkdir()
    for name in ("a", "b-entropy"):
        (tmp_path / "ref" / f"{name}.nii.gz").touch()
    found, problems = find_pairs(tmp_path / "pred", tmp_path / "ref")
    assert [pair.case for pair in found] == ["a", "b-entropy"]
    assert problems == []


def test_a_case_is_not_scored_against_its_own_reference(tmp_path):
    folder = touch(tmp_path / "cohort", "A/A-seg.nii.gz", "B/B-seg.nii.gz")
    pairs, problems = find_pairs(folder, folder)
    assert pairs == []
    assert [problem.problem for problem in problems] == ["is its own reference"] * 2
    # A link to nothing is for the reader of the file to tell.
    (touch(tmp_path / "pred", "A.nii.gz"), (tmp_path / "gone").mkdir())
    (tmp_path / "gone" / "A-seg.nii.gz").symlink_to(tmp_path / "nowhere")
    assert [pair.case for pair in find_pairs(tmp_path / "pred", tmp_path / "gone")[0]] == ["A"]


def test_of_a_folder_of_predictions_these_are_taken(tmp_path):
    """Also where they were written beside the cases, whose references are named as segmentations are."""
    folder = touch(tmp_path / "cohort", "A/A-seg.nii.gz", "A/A-t1n.nii.gz", "B/B-seg.nii.gz", "A.nii.gz")
    assert label_files(folder, [])["A"].path == folder / "A/A-seg.nii.gz"
    (folder / "predictions.json").write_text("{}")
    assert list(label_files(folder, [], predicted=True)) == ["A"]
    # As references the cohort's own segmentations are taken.
    assert paired(touch(tmp_path / "other", "A.nii.gz", "B.nii.gz"), folder) == [
        ("A", "A.nii.gz", "A-seg.nii.gz"),
        ("B", "B.nii.gz", "B-seg.nii.gz"),
    ]
    references = touch(tmp_path / "references", "A-seg.nii.gz")
    assert paired(folder, references) == [("A", "A.nii.gz", "A-seg.nii.gz")]
