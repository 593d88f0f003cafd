import nibabel as nib
import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.data.manifest import read_manifest


def write_case(raw, name, label=2):
    rng = np.random.default_rng(0)
    for modality in ("t1n", "t1c", "t2w", "t2f", "seg"):
        array = rng.integers(0, 999, (9, 8, 7)).astype(np.int16)
        if modality == "seg":
            array = np.full((9, 8, 7), label, np.uint8)
        nib.save(nib.Nifti1Image(array, np.eye(4)), raw / f"{name}-{modality}.nii.gz")


@pytest.fixture
def folders(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_case(raw, "BraTS-GLI-00001-000")
    write_case(raw, "BraTS-GLI-00002-000", label=0)
    return raw, tmp_path / "out"


def run(folders, *flags):
    raw, out = folders
    return commands.run(["preprocess", f"--raw={raw}", f"--out={out}", "--workers=1", *flags])


def test_settings_reach_the_arrays_and_the_summary_lists_what_is_skipped(folders, capsys):
    flags = ("--modalities=t1n,t2f", "--crop=6,5,4", "--normalization=zscore", "--min_tumour=0.5", "--spacing=1,1,2")
    assert run(folders, *flags) == 0
    settings = {"modalities": ["t1n", "t2f"], "crop": [6, 5, 4], "normalization": "zscore", "min_tumour": 0.5} | {
        "spacing": [1, 1, 2],
        "incomplete": False,
        "soft_labels": False,
    }
    assert read_manifest(folders[1])["settings"] == settings
    assert np.load(folders[1] / "images" / "BraTS-GLI-00001-000.npy").shape == (6, 5, 4, 2)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "skipped BraTS-GLI-00002-000: 0.000% tumour voxels in the crop, expected at least 50.000%",
        f"2 cases: 1 kept, 1 skipped, 0 failed. Arrays in {folders[1]}",
    ]
    assert printed.err == ""


def test_defaults_are_the_notebooks(folders):
    assert run(folders) == 0
    settings = read_manifest(folders[1])["settings"]
    expected = {"modalities": ["t2f", "t1c", "t2w"], "crop": [128] * 3, "normalization": "minmax", "min_tumour": 0.01}
    expected |= {"spacing": None, "incomplete": False, "soft_labels": False}
    assert settings == expected


def test_a_config_says_it_all_and_other_flags_change_it(folders, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from jaxbrats.config import default\n\ndef get_config():\n    settings = default()\n"
        "    settings.data.crop = 'brain'\n    settings.data.patch = (4, 4, 4)\n    settings.data.min_tumour = 0.0\n"
        "    settings.model.features = (4, 8)\n    settings.model.dropout = (0.0,)\n    return settings\n"
    )
    assert run(folders, f"--config={config}:normalization=zscore", "--modalities=t1n") == 0
    settings = read_manifest(folders[1])["settings"]
    expected = {"modalities": ["t1n"], "crop": "brain", "normalization": "zscore", "min_tumour": 0.0}
    expected |= {"spacing": None, "incomplete": False, "soft_labels": False}
    assert settings == expected


def test_a_failed_case_is_one_line_and_a_code(folders, capsys):
    file = folders[0] / "BraTS-GLI-00001-000-t2f.nii.gz"
    file.write_bytes(b"")
    assert run(folders, "--crop=4,4,4") == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"failed case BraTS-GLI-00001-000: {file}: is empty. Copy or download it again"]
    assert printed.out.splitlines()[-1].startswith("2 cases: 0 kept, 1 skipped, 1 failed.")


@pytest.mark.parametrize(
    ("flag", "code", "message"),
    [
        ("--crop=big", 1, "--crop must be 3 values, each of type int, or brain; it is 'big'"),
        ("--crop=64,64", 1, "--crop must be 3 values, each of type int, or brain; it is '64,64'"),
        ("--modalities=t1", 1, "--modalities must be values, each one of t1n, t1c, t2w, t2f; it is 't1'"),
        ("--normalization=max", 1, "--normalization must be one of minmax, zscore; it is 'max'"),
        ("--workers=-1", 2, "workers"),
        ("--config=nowhere.py", 1, "nowhere.py: is not there. Give --config a file"),
        ("--raw=/nowhere", 1, "/nowhere: there is no such folder"),
    ],
)
def test_wrong_flags_are_one_message(folders, capsys, flag, code, message):
    assert run(folders, flag) == code
    assert message in capsys.readouterr().err
    assert not folders[1].exists()


def test_both_folders_are_required(capsys):
    assert commands.run(["preprocess", "--raw=x"]) == 2
    assert "--out" in capsys.readouterr().err
