"""`jaxbrats export` and what predicts with its file: the same labels as the run, anywhere, and refusals."""

import contextlib
import inspect
import json
import pathlib
import shutil
import sys

import jax
import nibabel as nib
import numpy as np
import onnxruntime
import pytest

import jaxbrats
from jaxbrats import commands
from jaxbrats.config.inference import Postprocessing
from jaxbrats.inference import exported_programs
from jaxbrats.inference.exported import read_model
from jaxbrats.inference.postprocess import write_postprocessing
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs.networks import find_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    run = folder / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    write_postprocessing(run, Postprocessing(component_mm3=2.5), {})
    assert commands.run(["export", f"--workdir={run}", f"--out={folder / 'model.npz'}"]) == 0
    return folder / "model.npz"


def test_it_is_the_run_in_half_precision(exported, tiny_run):
    model, network = find_network(exported), find_network(exported.with_name("run"))
    assert (model.step, model.window, model.frame, model.head) == (
        network.step,
        network.window,
        network.frame,
        network.head,
    )
    assert model.preprocessing == network.preprocessing and model.inference == network.inference
    assert model.postprocessing == network.postprocessing == Postprocessing(component_mm3=2.5)
    kernel, half = (one.variables["params"]["encoder_0"]["conv_0"]["kernel"] for one in (network, model))
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, np.asarray(kernel).astype(np.float16))
    with np.load(exported) as file:
        about = json.loads(file["about"].tobytes())
        assert {file[name].dtype for name in file.files if name != "about"} == {np.dtype(np.float16)}
    assert about["training_cases"] == len(read_record(tiny_run).split.train)
    # Neither a path nor a name of a case goes along.
    assert str(tiny_run.parent) not in json.dumps(about)
    assert not [case for case in read_record(tiny_run).cases if case in json.dumps(about)]


def test_it_predicts_as_the_run(exported, tiny_cohort, tmp_path):
    case = min(tiny_cohort.iterdir())
    for name, source in (("run", f"--workdir={exported.with_name('run')}"), ("model", f"--model={exported}")):
        assert commands.run(["predict", source, f"--input={case}", f"--output={tmp_path / name}"]) == 0
    run, model = (np.asarray(nib.load(tmp_path / name / f"{case.name}.nii.gz").dataobj) for name in ("run", "model"))
    assert (run == model).mean() > 0.999 and run.any()
    made = json.loads((tmp_path / "model" / "predictions.json").read_text())
    assert made["options"]["postprocess"]["component_mm3"] == 2.5
    assert made["runs"][0]["parameters"] == read_model(exported).checksum()


def test_programs_run_without_the_package(exported, tmp_path, capsys):
    network, arguments = read_model(exported), ["export", f"--model={exported}"]
    assert commands.run([*arguments, f"--out={tmp_path / 'model.onnx'}"]) == 0
    assert "its probabilities differ from jaxbrats' by at most" in capsys.readouterr().out
    assert commands.run([*arguments, "--format=stablehlo", f"--out={tmp_path / 'model.bin'}"]) == 0
    images = np.random.default_rng(0).random((3, *network.window, 2), np.float32)
    expected = Predictor.of(network).apply(images)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"image": images})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    program = jax.export.deserialize(bytearray((tmp_path / "model.bin").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    np.testing.assert_allclose(program.call(images), expected, rtol=0, atol=1e-5)

    described = json.loads((tmp_path / "model.bin.json").read_text())
    strings = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(text) for name, text in strings.items()} == described
    assert described["modalities"] == ["t2f", "t1c"] and described["window"] == [16, 16, 16]
    assert described["missing_modalities"] == "None may be missing."
    assert (described["orientation"], described["spacing_mm"]) == ("LPS", list(network.frame.spacing_mm))
    assert described["normalization"] == "minmax" and "at least 16 x 16 x 16 voxels" in described["preparation"]
    assert described["head"] == "labels" and described["labels"]["3"] == "enhancing tumour (ET)"
    assert described["postprocessing"]["component_mm3"] == 2.5 and described["training_cases"] == 6
    assert str(exported.parent) not in json.dumps(described)


def test_other_probabilities_are_refused(exported, tmp_path, monkeypatch):
    network = read_model(exported)
    monkeypatch.setattr(exported_programs, "_TOLERANCE", 0)
    with pytest.raises(InputError, match="onnxruntime gives other probabilities than the network, by up to"):
        exported_programs.write_onnx(tmp_path / "model.onnx", network, {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime, which is missing. pip install '.\[export\]'"):
        exported_programs.write_onnx(tmp_path / "model.onnx", network, {})
    assert not (tmp_path / "model.onnx").exists()


def changed(path, folder, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= {name: value for name, value in changes.items() if name != "about"}
    about = json.loads(arrays["about"].tobytes()) | changes.get("about", {})
    np.savez(folder / "changed.npz", **arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    return folder / "changed.npz"


def test_what_is_no_model_is_refused(exported, tmp_path):
    with pytest.raises(InputError, match=r"no such folder or model nemo; with the package come: demo"):
        find_network("nemo")
    with pytest.raises(InputError, match=r"gone.npz: cannot be read \(No such file"):
        find_network(tmp_path / "gone.npz")
    (tmp_path / "half.npz").write_bytes(exported.read_bytes()[:5000])
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    for name in ("half", "text", "other"):
        with pytest.raises(InputError, match=rf"{name}.npz: is not a model, or damaged"):
            find_network(tmp_path / f"{name}.npz")
    content = exported.read_bytes()
    for place in range(0, len(content), len(content) // 60):
        (tmp_path / "flipped.npz").write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with contextlib.suppress(InputError):  # or it is in what nothing reads
            find_network(tmp_path / "flipped.npz")
    with pytest.raises(InputError, match="is of format 2, expected 1"):
        find_network(changed(exported, tmp_path, about={"format": 2}))
    wrong = changed(exported, tmp_path, **{"params/head/bias": np.zeros(5, np.float16)})
    with pytest.raises(InputError, match=r"params/head/bias has shape \(5,\), expected \(4,\)"):
        find_network(wrong)
    large = find_network(exported)
    large.variables["params"]["head"]["bias"] += 1e5
    from jaxbrats.inference.exported import write_model

    record = read_record(exported.with_name("run"))
    with pytest.raises(InputError, match=r"params/head/bias does not fit in half precision: it has values up to 1"):
        write_model(tmp_path / "large.npz", large, record.settings, {})
    assert not (tmp_path / "large.npz").exists()


def test_mistakes_are_one_line(exported, tiny_run, tiny_cohort, tmp_path, capsys):
    for source, out, hint in (
        (f"--workdir={tiny_run}", "model.pb", "Let it end with .npz, .onnx or .stablehlo, or give --format"),
        (f"--workdir={tiny_run}", "model.onnx --format=npz", "Give a file that ends with .npz"),
        (f"--model={exported}", "model.npz", "--model is such a file already"),
        (f"--model={exported}", "model.onnx --step=3", "--step is of a run"),
    ):
        assert commands.run(["export", source, *f"--out={tmp_path}/{out}".split()]) == 1
        assert hint in capsys.readouterr().err
    both = [f"--workdir={tiny_run}", f"--model={exported}"]
    for sources in (both, []):
        arguments = ["predict", *sources, f"--input={tiny_cohort}", f"--output={tmp_path / 'out'}"]
        assert commands.run(arguments) == 2
        assert "workdir, model" in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_that_comes_with_the_package(tiny_cohort, tmp_path):
    """What it finds in a phantom means nothing, but lies on the phantom's voxels."""
    model = find_network("demo")
    assert model.preprocessing.modalities == ("t2f", "t1c", "t2w", "t1n") and model.frame.spacing_mm == (2, 2, 2)
    folder = pathlib.Path(jaxbrats.__file__).parent / "weights"
    assert (folder / "demo.npz").stat().st_size < 8e6
    card = (folder / "demo.md").read_text()
    for said in ("CC BY 3.0", "Bakas", "Not a medical device", "## How good it is"):
        assert said in card
    assert inspect.signature(jaxbrats.segment).parameters["run"].default == "demo"
    # A head of 6 cm, in one window and not mirrored, for the time that it takes.
    case = min(path for path in tiny_cohort.iterdir() if path.is_dir())
    (tmp_path / case.name).mkdir()
    for path in case.iterdir():
        voxels = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(voxels, np.diag([-3.0, -3.0, 3.0, 1.0])), tmp_path / case.name / path.name)
    quick = [f"--input={tmp_path / case.name}", f"--output={tmp_path / 'out'}", "--window=32,48,32", "--nomirror"]
    assert commands.run(["predict", "--model=demo", *quick]) == 0
    file = nib.load(tmp_path / case.name / f"{case.name}-t1c.nii.gz")
    found = nib.load(tmp_path / "out" / f"{case.name}.nii.gz")
    assert found.shape == file.shape and set(np.unique(found.dataobj)) <= {0, 1, 2, 3}
    np.testing.assert_allclose(found.affine, file.affine, atol=1e-4)
