import json
import os
import shutil

import jax
import nibabel as nib
import numpy as np
import pytest
from nifti_files import voxels

from jaxbrats import commands
from jaxbrats.commands import predict as command
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.arrays import read_image
from jaxbrats.data.boxes import CropBox, paste
from jaxbrats.data.dataset import read_dataset
from jaxbrats.inference.network import load_network
from jaxbrats.inference.output_folder import OutputFolder
from jaxbrats.inference.postprocess import write_postprocessing
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs.record import read_record
from jaxbrats.system.locks import locked


def predict(run, source, output, *more):
    return commands.run(["predict", f"--workdir={run}", f"--input={source}", f"--output={output}", *more])


def predictor(run, **options):
    record = read_record(run)
    return Predictor([load_network(run, record.settings, record.frame)], (16, 16, 16), **options)


@pytest.fixture
def three(tiny_cohort, tmp_path):
    """Three cases that may be written to, and their names."""
    names = sorted(path.name for path in tiny_cohort.iterdir())[:3]
    for name in names:
        shutil.copytree(tiny_cohort / name, tmp_path / "raw" / name)
    return tmp_path / "raw", names


def test_a_cohort_by_its_centre_crops(tiny_run, tiny_data, three, tmp_path, capsys):
    raw, names = three
    assert predict(tiny_run, raw, tmp_path, "--mode=crop") == 0
    assert "3 of 3 cases segmented" in capsys.readouterr().out
    network_labels = predictor(tiny_run).labels
    for case in read_dataset(tiny_data).select(names):
        written = nib.load(tmp_path / f"{case.name}.nii.gz")
        source = nib.load(raw / case.name / f"{case.name}-t2f.nii.gz")
        assert written.shape == source.shape
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(written.affine, source.affine)
        assert nib.aff2axcodes(written.affine) == nib.aff2axcodes(source.affine)
        assert written.header["qform_code"] == source.header["qform_code"]
        # What the network says of the training array, put back where the crop was taken.
        box = CropBox.about_centre(source.shape, (16, 16, 16))
        expected = paste(network_labels(read_image(case)), box)
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
        assert (tmp_path / f"{case.name}.png").stat().st_size > 10_000


def one_case(cohort, folder):
    name = min(path.name for path in cohort.iterdir())
    shutil.copytree(cohort / name, folder / name)
    return folder / name


def brain_of(case):
    """The brain's box of a case and the image in it as the network has it."""
    sources = [voxels(case / f"{case.name}-{name}.nii.gz") for name in ("t2f", "t1c")]
    brain = (sources[0] != 0) | (sources[1] != 0)
    # The head is wider than a window along every axis, so that the box is that of its voxels.
    box = tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(brain))
    assert all(side.stop - side.start >= 16 for side in box)
    image = np.stack([(one - one.min()) / np.ptp(one).astype(np.float32) for one in sources], axis=-1)[box]
    return box, image.astype(np.float32)


@pytest.mark.slow
def test_windows_go_over_the_brain(tiny_run, tiny_cohort, tmp_path):
    case = one_case(tiny_cohort, tmp_path)
    options = ("--overlap=0.25", "--batch=3", "--mirror", "--probabilities", "--uncertainty")
    assert predict(tiny_run, case, tmp_path / "out", *options) == 0
    box, image = brain_of(case)
    expected = predictor(tiny_run, overlap=0.25, mirror=True)(image)
    probabilities = voxels(tmp_path / "out" / f"{case.name}-probabilities.nii.gz")
    np.testing.assert_allclose(probabilities[box], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=0, atol=1e-5)
    labels = voxels(tmp_path / "out" / f"{case.name}.nii.gz")
    np.testing.assert_array_equal(labels, np.argmax(probabilities, axis=-1))
    uncertainty = voxels(tmp_path / "out" / f"{case.name}-entropy.nii.gz")
    np.testing.assert_allclose(uncertainty[box], -(expected * np.log(expected)).sum(-1), rtol=0, atol=1e-4)


def test_a_larger_window_sees_the_brain_at_once(tiny_run, tiny_cohort, tmp_path, capsys):
    case = one_case(tiny_cohort, tmp_path)
    assert predict(tiny_run, case, tmp_path / "out", "--window=20,24,20", "--probabilities") == 0
    box, image = brain_of(case)
    missing = [(size - length) for size, length in zip((20, 24, 20), image.shape, strict=False)]
    around = [(size // 2, size - size // 2) for size in missing]
    (network,) = predictor(tiny_run).networks
    logits = network.model.apply(network.variables, np.pad(image, [*around, (0, 0)])[None])[0]
    at = tuple(slice(low, low + length) for (low, _), length in zip(around, image.shape, strict=False))
    found = voxels(tmp_path / "out" / f"{case.name}-probabilities.nii.gz")[box]
    np.testing.assert_allclose(found, jax.nn.softmax(logits)[at], rtol=0, atol=1e-5)
    assert predict(tiny_run, case, tmp_path / "other", "--window=20,24,21") == 1
    assert "cannot be given windows of (20, 24, 21) voxels, needs multiples of (2, 2, 2)" in capsys.readouterr().err
    assert predict(tiny_run, case, tmp_path / "other", "--window=none") == 1
    assert "--window must be 3 values, each of type int" in capsys.readouterr().err


def test_what_the_run_was_tuned_for_is_done(tiny_run, tiny_cohort, tmp_path, capsys):
    case = one_case(tiny_cohort, tmp_path)
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    write_postprocessing(run, Postprocessing(component_mm3=1e9), {})
    assert predict(run, case, tmp_path / "tuned") == 0
    assert predict(run, case, tmp_path / "plain", "--nopostprocess") == 0
    assert not voxels(tmp_path / "tuned" / f"{case.name}.nii.gz").any()
    assert voxels(tmp_path / "plain" / f"{case.name}.nii.gz").any()
    assert predict(f"{run},{tiny_run}", case, tmp_path / "both") == 1
    assert "an ensemble needs networks with one postprocessing" in capsys.readouterr().err


def test_one_case_without_segmentation_and_the_2021_numbers(tiny_run, tiny_cohort, tmp_path):
    name = one_case(tiny_cohort, tmp_path).name
    (tmp_path / name / f"{name}-seg.nii.gz").unlink()
    assert predict(tiny_run, tmp_path / name, tmp_path / "new") == 0
    assert predict(f"{tiny_run},{tiny_run}", tmp_path / name, tmp_path / "old", "--labels=2021") == 0
    new, old = (voxels(tmp_path / side / f"{name}.nii.gz") for side in ("new", "old"))
    np.testing.assert_array_equal(np.where(new == 3, 4, new), old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--workdir": "/nowhere"}, "/nowhere: holds no config.json"),
        ({"--input": "/nowhere"}, "/nowhere"),
        ({"--step": "12345"}, "there is no checkpoint '12345'"),
    ],
)
def test_mistakes(tiny_run, tiny_cohort, tmp_path, capsys, change, message):
    flags = {"--workdir": tiny_run, "--input": tiny_cohort, "--output": tmp_path, "--step": "best"} | change
    assert commands.run(["predict", *(f"{name}={value}" for name, value in flags.items())]) == 1
    assert message in capsys.readouterr().err


def record_of(out):
    return json.loads((out / "predictions.json").read_text())


def times(out):
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.[np]*") if path.suffix in (".gz", ".png")}


def test_the_same_again_does_only_what_changed(tiny_run, three, tmp_path, capsys):
    raw, names = three
    out = tmp_path / "out"
    assert predict(tiny_run, raw, out) == 0
    before = times(out)
    record = record_of(out)
    assert record["options"]["overlap"] == 0.5
    assert record["runs"][0]["workdir"] == str(tiny_run)
    assert {case["status"] for case in record["cases"].values()} == {"done"}
    assert record["cases"][names[0]]["files"] == [f"{names[0]}.nii.gz", f"{names[0]}.png"]
    assert predict(tiny_run, raw, out) == 0
    assert "3 of 3 cases were segmented before" in capsys.readouterr().out
    assert (times(out), record_of(out)) == (before, record)
    # As it was written before a file of one volume had no channel, and by a version without these settings.
    del record["preprocessing"]["soft_labels"], record["preprocessing"]["incomplete"]
    for case in record["cases"].values():
        case["input"] = {modality: source | {"channel": None} for modality, source in case["input"].items()}
    (out / "predictions.json").write_text(json.dumps(record))
    assert predict(tiny_run, raw, out) == 0
    assert "3 of 3 cases were segmented before" in capsys.readouterr().out
    assert (times(out), record_of(out)) == (before, record)
    # A later time alone is no change, other voxels are.
    os.utime(raw / names[0] / f"{names[0]}-t2f.nii.gz")
    changed = raw / names[1] / f"{names[1]}-t1c.nii.gz"
    image = nib.load(changed)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) // 2, None, image.header), changed)
    (out / f"{names[2]}.png").unlink()
    assert predict(tiny_run, raw, out) == 0
    assert "1 of 3 cases were segmented before" in capsys.readouterr().out
    after = times(out)
    assert {name for name in before if before[name] != after[name]} == set(before) - {
        f"{names[0]}.nii.gz",
        f"{names[0]}.png",
    }


def test_other_runs_and_options_are_refused(tiny_run, three, tmp_path, capsys):
    raw, _ = three
    out = tmp_path / "out"
    assert predict(tiny_run, raw, out) == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.name != ".predict.lock"}
    capsys.readouterr()
    for options, message in (
        ("--overlap=0.25", "holds predictions made with overlap = 0.5, not with 0.25"),
        ("--mirror", "made with mirror = false, not with true"),
        ("--probabilities", 'made with maps = [], not with ["probabilities"]'),
    ):
        assert predict(tiny_run, raw, out, options) == 1
        assert message in capsys.readouterr().err
    assert predict(f"{tiny_run},{tiny_run}", raw, out) == 1
    assert "Choose another --output, or empty this folder" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.iterdir() if path.name != ".predict.lock"}
    # The same run at another place is the same run.
    shutil.copytree(tiny_run, tmp_path / "moved", ignore=shutil.ignore_patterns("data"))
    assert predict(tmp_path / "moved", raw, out) == 0


def test_two_at_the_same_time_are_kept_apart(tiny_run, three, tmp_path, capsys):
    with locked(tmp_path / "out", "predict", "a prediction"):
        assert predict(tiny_run, three[0], tmp_path / "out") == 1
    assert "a prediction is at work in this folder already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".predict.lock"]


def test_what_no_record_tells_of_is_not_overwritten(tiny_run, three, tmp_path, capsys):
    raw, names = three
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{names[1]}.nii.gz").write_bytes(b"somebody's")
    assert predict(tiny_run, raw, out) == 1
    assert f"{names[1]}.nii.gz: is there already, and no predictions.json tells" in capsys.readouterr().err
    assert (out / f"{names[1]}.nii.gz").read_bytes() == b"somebody's"
    assert not (out / "predictions.json").exists()


_ODD_SETTINGS = '{"version": 1, "runs": [], "preprocessing": {"crop": 3}, "frame": 0, "options": {}, "cases": {}}'


@pytest.mark.parametrize("text", ["{", "5", "[1]", "{}", _ODD_SETTINGS, '{"version": 1, "cases": {"a": 3}}', "\u00e9"])
def test_a_damaged_record_is_one_line(tiny_run, three, tmp_path, capsys, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text(text, encoding="latin-1")
    assert predict(tiny_run, three[0], tmp_path / "out") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "predictions.json" in line]
    assert "Choose another --output" in line


def test_a_picture_that_fails_is_a_problem_not_the_end(tiny_run, three, tmp_path, capsys, monkeypatch):
    raw, names = three
    write = command.write_png

    def fails(figure, path):
        if path.stem == names[0]:
            raise ValueError("no slices")
        return write(figure, path)

    monkeypatch.setattr(command, "write_png", fails)
    assert predict(tiny_run, raw, tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "3 of 3 cases segmented" in shown.out
    assert f"without a picture: case {names[0]}" in shown.err
    assert record_of(tmp_path / "out")["cases"][names[0]]["files"] == [f"{names[0]}.nii.gz"]


def test_killed_in_the_middle_and_again(tiny_run, three, tmp_path, capsys, monkeypatch):
    """As SIGKILL leaves it: no record after the first, a whole file that it does not know as done, and half a file."""
    raw, names = three
    out = tmp_path / "out"
    assert predict(tiny_run, raw, tmp_path / "undisturbed") == 0
    save, saved = OutputFolder.save, []

    def save_once(self):
        if not saved:
            save(self)
        saved.append(self)

    def killed(figure, path):
        if path.stem == names[1]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(OutputFolder, "save", save_once)
        patched.setattr(command, "write_png", killed)
        assert predict(tiny_run, raw, out) == 130
    assert (out / f"{names[1]}.nii.gz").exists()
    assert {case["status"] for case in record_of(out)["cases"].values()} == {"pending"}
    (out / f".partial-1-{names[1]}.nii.gz").write_bytes(b"half")
    capsys.readouterr()
    assert predict(tiny_run, raw, out) == 0
    assert "3 of 3 cases segmented" in capsys.readouterr().out
    assert not list(out.glob(".partial-*"))
    for name in names:
        np.testing.assert_array_equal(
            voxels(out / f"{name}.nii.gz"), voxels(tmp_path / "undisturbed" / f"{name}.nii.gz")
        )


def test_a_case_that_failed_is_named_and_recorded_and_tried_again(tiny_run, three, tmp_path, capsys):
    raw, names = three
    broken = raw / names[0] / f"{names[0]}-t2f.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    assert predict(tiny_run, raw, tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "2 of 3 cases segmented" in shown.out
    assert f"case {names[0]}" in shown.err and str(broken) in shown.err
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names[1:]}
    assert record_of(tmp_path / "out")["cases"][names[0]]["status"] == "failed"
    broken.write_bytes(whole)
    assert predict(tiny_run, raw, tmp_path / "out") == 0
    assert "2 of 3 cases were segmented before" in capsys.readouterr().out


def test_a_doubtful_image_is_warned_of_and_recorded(tiny_run, three, tmp_path, capsys):
    raw, names = three
    path = raw / names[0] / f"{names[0]}-t2f.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.int16(100), None, image.header), path)
    assert predict(tiny_run, raw, tmp_path / "out") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert f"{path.name}: " in line and "do not trust this segmentation" in line
    cases = record_of(tmp_path / "out")["cases"]
    assert [len(cases[name]["warnings"]) for name in names] == [1, 0, 0]
    assert cases[names[0]]["warnings"][0] in line


def test_another_cohort_of_the_same_names_is_refused(tiny_run, three, tmp_path, capsys):
    raw, names = three
    for name in names[1:]:
        shutil.rmtree(raw / name)
    assert predict(tiny_run, raw, tmp_path / "out", "--mode=crop") == 0
    before = (tmp_path / "out" / f"{names[0]}.nii.gz").read_bytes()
    other = tmp_path / "site" / names[0]
    shutil.copytree(raw / names[0], other)
    for first in other.iterdir():
        nib.save(nib.Nifti1Image(voxels(first) * 2, nib.load(first).affine), first)
    assert predict(tiny_run, other, tmp_path / "out", "--mode=crop") == 1
    assert f"case {names[0]}: {tmp_path}/out/predictions.json: was made from other files, in {raw}/{names[0]}." in (
        capsys.readouterr().err
    )
    assert (tmp_path / "out" / f"{names[0]}.nii.gz").read_bytes() == before
