"""Cases without some of the modalities, in a run that is trained to do without: trained on, scored, predicted."""

import dataclasses
import json
import pathlib
import shutil

import nibabel as nib
import numpy as np
import pytest
from nifti_files import voxels

from jaxbrats import commands, main
from jaxbrats.data.preprocessing import preprocess_images
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.inference.network import load_network
from jaxbrats.inference.patient import read_patient
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs import job
from jaxbrats.runs.evaluate import evaluate_run
from jaxbrats.runs.record import read_record
from jaxbrats.runs.report import report_run
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json


@pytest.fixture(scope="module")
def incomplete_cohort(tiny_cohort, tiny_run, tmp_path_factory):
    """The cohort, of which a case on each side of the split lacks t2f, another to train on t1c. Not to be written to.

    Returns its folder, the case to validate on that lacks t2f, and a case that is whole.
    """
    split = read_record(tiny_run).split
    raw = pathlib.Path(shutil.copytree(tiny_cohort, tmp_path_factory.mktemp("incomplete") / "raw"))
    for name, modality in ((split.val[0], "t2f"), (split.train[0], "t2f"), (split.train[1], "t1c")):
        remove(raw, name, modality)
    return raw, split.val[0], split.val[1]


@pytest.fixture(scope="module")
def dropout_run(tiny_config, incomplete_cohort, tmp_path_factory):
    """A run trained with modality dropout, whose network also sees derived channels. Not to be written to."""
    folder = tmp_path_factory.mktemp("dropout") / "run"
    arguments = [f"--config={tiny_config}", f"--workdir={folder}", f"--config.data.raw_dir={incomplete_cohort[0]}"]
    arguments += ["--config.augment.modality_dropout=0.5", "--config.data.derived=brain,t2f-t1c,gradient_t1c"]
    arguments += ["--config.data.incomplete=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_write_results", lambda *_: [])  # nothing here looks at them
        assert main.run([*arguments, "--config.num_epochs=1"]) == 0
    return folder


@pytest.fixture
def network(dropout_run):
    record = read_record(dropout_run)
    return load_network(dropout_run, record.settings, record.frame)


@pytest.fixture
def raw(tiny_cohort, tmp_path):
    """Three cases that may be written to."""
    for name in sorted(path.name for path in tiny_cohort.iterdir())[:3]:
        shutil.copytree(tiny_cohort / name, tmp_path / "raw" / name)
    return tmp_path / "raw"


def remove(raw, case, *modalities):
    for modality in modalities:
        (raw / case / f"{case}-{modality}.nii.gz").unlink()


def predict(run, raw, out):
    return commands.run(["predict", f"--workdir={run}", f"--input={raw}", f"--output={out}"])


def recorded(out):
    return json.loads((out / "predictions.json").read_text())["cases"]


@pytest.mark.slow
def test_only_dropout_allows_missing_modalities(network, tiny_run):
    assert network.missing_allowed
    record = read_record(tiny_run)
    assert not load_network(tiny_run, record.settings, record.frame).missing_allowed


def test_a_network_with_derived_channels_is_loaded_as_it_was_trained(network):
    assert network.variables["params"]["encoder_0"]["conv_0"]["kernel"].shape[-2] == 5
    assert network.model.derived == ("brain", "t2f-t1c", "gradient_t1c")
    assert network.preprocessing.modalities == ("t2f", "t1c")


@pytest.mark.parametrize("missing", ["t2f", "t1c"])
def test_a_missing_modality_is_one_set_to_zero_after_normalisation(network, raw, missing):
    case = find_cases(raw).cases[0]
    whole, _ = read_patient(case, network.preprocessing, network.frame, "window")
    kept = np.array([name != missing for name in network.preprocessing.modalities], np.float32)
    predictor = Predictor([network], network.window)
    (zeroed,) = predict_cases([case], lambda image: predictor(image * kept), network, raw.parent)
    remove(raw, case.name, missing)
    (case,) = [one for one in find_cases(raw).cases if one.name == case.name]
    (without,) = predict_cases([case], predictor, network, None)
    patient, other = without.patient, zeroed.patient
    np.testing.assert_array_equal(patient.image, whole.image * kept)
    np.testing.assert_array_equal(without.file_labels, zeroed.file_labels)
    np.testing.assert_array_equal(patient.header.get_best_affine(), other.header.get_best_affine())
    assert (patient.missing, other.missing, whole.missing) == ((missing,), (), ())
    assert set(patient.sources) == {"t2f", "t1c"} - {missing}
    assert f"case {case.name}: has no {missing}, so it is segmented from the other" in str(patient.warnings[0])


def test_what_is_missing_is_zero_and_the_rest_as_ever(raw, network):
    case = find_cases(raw).cases[0]
    settings = network.preprocessing
    image, box, _ = preprocess_images(case, settings)
    lacking = dataclasses.replace(case, modalities={"t1c": case.modalities["t1c"]})
    without, other, header = preprocess_images(lacking, settings)
    np.testing.assert_array_equal(without, image * [0, 1])
    assert other == box
    np.testing.assert_array_equal(header.get_best_affine(), nib.load(case.modalities["t1c"].path).affine)


def test_each_case_is_recorded_with_what_it_lacked(dropout_run, network, raw, tmp_path, capsys):
    names = sorted(path.name for path in raw.iterdir())
    remove(raw, names[0], "t2f")
    remove(raw, names[1], "t2f", "t1c")
    out = tmp_path / "out"
    assert predict(dropout_run, raw, out) == 1
    shown = capsys.readouterr()
    assert "2 of 3 cases segmented" in shown.out
    assert f"warning: case {names[0]}: has no t2f" in shown.err
    assert "found no t2f and no t1c (t1n, t2w are there). The network can do without some of them" in shown.err
    cases = recorded(out)
    assert [cases[name]["status"] for name in names] == ["done", "failed", "done"]
    assert [cases[name].get("missing") for name in names] == [["t2f"], None, []]
    assert (out / f"{names[0]}.png").stat().st_size > 10_000
    # The same again does nothing for those that are done; what has come since makes a case another.
    kept, whole = voxels(out / f"{names[0]}.nii.gz"), voxels(out / f"{names[2]}.nii.gz")
    assert predict(dropout_run, raw, out) == 1
    assert "2 of 3 cases were segmented before" in capsys.readouterr().out
    shutil.copyfile(raw / names[2] / f"{names[2]}-t2f.nii.gz", raw / names[0] / f"{names[0]}-t2f.nii.gz")
    assert predict(dropout_run, raw, out) == 1
    assert "1 of 3 cases were segmented before" in capsys.readouterr().out
    assert recorded(out)[names[0]]["missing"] == []
    assert (voxels(out / f"{names[0]}.nii.gz") != kept).any()
    np.testing.assert_array_equal(voxels(out / f"{names[2]}.nii.gz"), whole)


def test_without_dropout_a_case_is_refused_and_the_others_go_on(tiny_run, dropout_run, raw, tmp_path, capsys):
    names = sorted(path.name for path in raw.iterdir())
    remove(raw, names[0], "t1c")
    assert predict(tiny_run, raw, tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "2 of 3 cases segmented" in shown.out
    assert f"case {names[0]}" in shown.err and "t1c" in shown.err
    cases = recorded(tmp_path / "out")
    assert [cases[name]["status"] for name in names] == ["failed", "done", "done"]
    assert "expected t2f, t1c, found no t1c" in cases[names[0]]["problem"]
    assert "The network was not trained with modality dropout" in cases[names[0]]["problem"]
    # All networks of an ensemble must do without.
    assert predict(f"{dropout_run},{tiny_run}", raw, tmp_path / "both") == 1
    assert recorded(tmp_path / "both")[names[0]]["status"] == "failed"


def test_reading_refuses_what_is_not_allowed(raw, network):
    case = find_cases(raw).cases[0]
    remove(raw, case.name, "t1c")
    case = find_cases(raw).cases[0]
    with pytest.raises(InputError, match=r"found no t1c .*\(augment\.modality_dropout\) and needs them all"):
        read_patient(case, network.preprocessing, None, "window")
    with pytest.raises(InputError, match="found no t1c"):
        preprocess_images(case, dataclasses.replace(network.preprocessing, incomplete=False))


def test_a_run_trained_on_incomplete_cases_scores_and_shows_them(dropout_run, incomplete_cohort):
    run = shutil.copytree(dropout_run, dropout_run.with_name("scored"))  # as near to the cohort
    _, lacking, whole = incomplete_cohort
    images = {path.stem: np.load(path) for path in (run / "data" / "images").iterdir()}
    assert len(images) == 8
    assert [image.any((0, 1, 2)).tolist() for image in (images[lacking], images[whole])] == [[False, True], [True] * 2]
    _, problems = evaluate_run(run)
    assert problems == []
    assert read_json(run / "evaluation" / "summary.json")["scored"] == "whole volumes"
    rows = read_csv(run / "evaluation" / "cases.csv")
    assert {row["case"] for row in rows} == {lacking, whole}
    assert len(list((run / "figures").glob("overlay_*.png"))) == 2
    # What it lacks is not among the images to choose from.
    assert report_run(run)[1] == []
    shown = [(run / "report" / f"{name}.html").read_text() for name in (lacking, whole)]
    assert [">FLAIR<" in page for page in shown] == [False, True]
    # So does a run that was trained on whole cases with dropout; one without it takes no such arrays.
    record = read_json(run / "config.json")
    record["settings"]["data"]["incomplete"] = False
    write_json(run / "config.json", record)
    assert evaluate_run(run, data_dir=run / "data")[1] == []
    record["settings"]["augment"]["modality_dropout"] = 0.0
    write_json(run / "config.json", record)
    with pytest.raises(InputError, match="incomplete = True, the run was trained without modality dropout"):
        evaluate_run(run, data_dir=run / "data")
