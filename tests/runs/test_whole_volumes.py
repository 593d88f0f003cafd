"""`evaluate` gives what `predict` and `score` give: whole volumes on the voxels of the files, where these are known."""

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.labels import SCORED
from jaxbrats.evaluation.evaluate import predict_arrays
from jaxbrats.evaluation.tables import read_csv, read_summary
from jaxbrats.inference.postprocess import write_postprocessing
from jaxbrats.inference.predictions import read_prediction
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs import evaluate
from jaxbrats.runs.evaluate import dataset_to_score, evaluate_run, is_evaluated, scored_by
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train.checkpoints import choose_step


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the run, to write to; its data is where it was."""
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "run" / "data").symlink_to(tiny_run / "data")
    return tmp_path / "run"


def rows_of(run):
    return {(row["case"], row["region"]): row for row in read_csv(run / "evaluation" / "cases.csv")}


def test_tumour_outside_the_crop_counts(tiny_run, tiny_cohort):
    rows = rows_of(tiny_run)
    manifest = json.loads((tiny_run / "data" / "manifest.json").read_text())
    assert read_summary(tiny_run)["scored"] == "whole volumes"
    outside = 0
    for case, record in manifest["cases"].items():
        truth = np.asarray(nib.load(tiny_cohort / case / f"{case}-seg.nii.gz").dataobj)
        voxel = np.prod(nib.load(tiny_cohort / case / f"{case}-seg.nii.gz").header.get_zooms())
        for region, labels in SCORED.items() if (case, "WT") in rows else ():
            assert rows[case, region]["volume_ref_mm3"] == pytest.approx(np.isin(truth, labels).sum() * voxel)
        assert (truth > 0).sum() == sum(record["label_voxels"][1:]) + sum(record["label_voxels_outside"])
        outside += sum(record["label_voxels_outside"])
    assert outside > 0


def test_the_same_as_predict_and_score(tiny_run, tiny_cohort, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for case in read_record(tiny_run).split.val:
        shutil.copytree(tiny_cohort / case, raw / case)
    assert commands.run(["predict", f"--workdir={tiny_run}", f"--input={raw}", f"--output={out}"]) == 0
    assert commands.run(["score", f"--pred={out}", f"--ref={raw}", f"--out={tmp_path / 'scores.csv'}"]) == 0
    assert {(row["case"], row["region"]): row for row in read_csv(tmp_path / "scores.csv")} == rows_of(tiny_run)
    for case in read_record(tiny_run).split.val:
        mine, predicted = (nib.load(folder / f"{case}.nii.gz") for folder in (tiny_run / "predictions", out))
        np.testing.assert_array_equal(np.asarray(mine.dataobj), np.asarray(predicted.dataobj))


def test_the_settings_say_how_both_predict(run, tiny_cohort, tmp_path):
    def predicted(name, **settings):
        record = json.loads((run / "config.json").read_text())
        record["settings"] |= settings
        (run / "config.json").write_text(json.dumps(record))
        evaluate_run(run)
        case = read_record(run).split.val[0]
        out = tmp_path / name
        assert commands.run(["predict", f"--workdir={run}", f"--input={tiny_cohort / case}", f"--output={out}"]) == 0
        mine, predicted = (
            np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj) for folder in (run / "predictions", out)
        )
        np.testing.assert_array_equal(mine, predicted)
        return mine, json.loads((out / "predictions.json").read_text())["options"]

    mirrored, options = predicted(
        "mirrored",
        inference={"window": (16, 24, 16), "overlap": 0.25, "mirror": True},
        postprocessing={"hole_mm3": 7.0},
    )
    assert mirrored.any() and options["postprocess"]["hole_mm3"] == 7
    assert (options["window"], options["mirror"], options["overlap"]) == ([16, 24, 16], True, 0.25)


def test_a_run_that_was_tuned_is_evaluated_anew_as_it_predicts(run):
    step = read_summary(run)["step"]
    assert is_evaluated(read_record(run), step)
    write_postprocessing(run, Postprocessing(component_mm3=1e9), {})
    assert not is_evaluated(read_record(run), step)
    evaluate_run(run)
    assert is_evaluated(read_record(run), step)
    summary = read_summary(run)
    assert summary["postprocessing"]["component_mm3"] == 1e9 and summary["inference"]["mirror"] is False
    assert not any(row["volume_pred_mm3"] for row in rows_of(run).values())


def test_what_was_scored_is_read_again(run, tiny_cohort):
    record = read_record(run)
    cases, problems = scored_by(record)
    assert problems == [] and [case.name for case in cases] == list(record.split.val)
    volumes = cases[0].read()
    truth = np.asarray(nib.load(tiny_cohort / cases[0].name / f"{cases[0].name}-seg.nii.gz").dataobj)
    assert (volumes.truth > 0).sum() == (truth > 0).sum()
    assert volumes.image.shape == (*volumes.truth.shape, 2) == (*volumes.prediction.shape, 2)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), cases[0].prediction)
    with pytest.raises(InputError, match=r"has 4x5x6 voxels, but .*-seg\.nii\.gz has .*Run jaxbrats evaluate again"):
        cases[0].read()


def test_without_the_files_the_arrays_are_scored_and_it_is_said(run, tiny_run, capsys):
    (run / "data").unlink()
    shutil.copytree(tiny_run / "data", run / "data")  # elsewhere the cohort is not beside it
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    (run / "data" / "manifest.json").write_text(json.dumps(manifest | {"raw": "nowhere"}))
    evaluate_run(run)
    assert "scored on the arrays" in capsys.readouterr().out
    assert read_summary(run)["scored"] == "arrays"
    case = read_record(run).split.val[0]
    inside = sum(manifest["cases"][case]["label_voxels"][1:])
    voxel = abs(np.linalg.det(np.array(manifest["cases"][case]["affine"])[:3, :3]))
    assert rows_of(run)[case, "WT"]["volume_ref_mm3"] == pytest.approx(inside * voxel)


def test_a_case_whose_files_changed_is_named_and_the_others_go_on(run, tiny_cohort, tiny_run, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(tiny_cohort, raw)
    (run / "data").unlink()
    shutil.copytree(tiny_run / "data", run / "data")
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    (run / "data" / "manifest.json").write_text(json.dumps(manifest | {"raw": str(raw)}))
    first, *others = read_record(run).split.val
    path = raw / first / f"{first}-seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    _, problems = evaluate_run(run)
    assert [problem.case for problem in problems] == [first]
    assert "hold something else than it was made from" in str(problems[0])
    assert {case for case, _ in rows_of(run)} == set(others)


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_an_evaluation_of_arrays_is_made_again_where_the_files_are_back(run, tiny_run, tmp_path, there):
    (run / "data").unlink()
    shutil.copytree(tiny_run / "data", run / "data")
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    mounted = tmp_path / "mounted"
    (run / "data" / "manifest.json").write_text(json.dumps(manifest | {"raw": str(mounted)}))
    if there == "an empty folder":
        mounted.mkdir()
    evaluate_run(run)
    record, step = read_record(run), read_summary(run)["step"]
    assert read_summary(run)["scored"] == "arrays"
    assert is_evaluated(record, step, read_dataset(run / "data"))
    if mounted.exists():
        mounted.rmdir()
    mounted.symlink_to(tiny_run.parent / "raw")
    assert not is_evaluated(record, step, read_dataset(run / "data"))
    evaluate_run(run)
    assert read_summary(run)["scored"] == "whole volumes"
    assert is_evaluated(record, step, read_dataset(run / "data"))


def test_arrays_in_another_frame_are_scored_by_their_files_alone(run, tiny_run, tiny_cohort, tmp_path):
    data = tmp_path / "turned"
    shutil.copytree(tiny_run / "data", data)
    manifest = json.loads((data / "manifest.json").read_text())
    turned = manifest["frame"] | {"orientation": "PSR"}
    for raw in (tmp_path / "nowhere", tiny_cohort):
        (data / "manifest.json").write_text(json.dumps(manifest | {"frame": turned, "raw": str(raw)}))
        if raw == tiny_cohort:
            assert dataset_to_score(read_record(run), data).folder == data
        else:
            with pytest.raises(InputError, match=r"arrays that are PSR, .*the run was trained on LPS, .* not at"):
                dataset_to_score(read_record(run), data)


def test_an_evaluation_takes_nothing_of_a_prediction_away_and_no_old_report_stands(run, tiny_cohort, capsys):
    (run / "report.html").touch()
    evaluate_run(run)
    assert not (run / "report.html").exists()
    flags = [f"--workdir={run}", f"--input={tiny_cohort}"]
    assert commands.run(["predict", *flags, f"--output={run / 'predictions'}"]) == 1
    assert "is where jaxbrats evaluate leaves what it predicts" in capsys.readouterr().err
    assert commands.run(["predict", *flags, f"--output={run / 'predictions' / 'all'}"]) == 1
    assert "is where jaxbrats evaluate leaves what it predicts" in capsys.readouterr().err
    before = read_summary(run)
    (run / "predictions" / "all").mkdir()
    (run / "predictions" / "all" / "predictions.json").write_text("{}")
    with pytest.raises(InputError, match=r"predictions/all: holds what jaxbrats predict wrote\. Move the folder"):
        evaluate_run(run)
    (run / "predictions" / "all" / "predictions.json").rename(run / "predictions" / "predictions.json")
    with pytest.raises(InputError, match=r"predictions: holds what jaxbrats predict wrote\. Move the folder"):
        evaluate_run(run)
    assert read_summary(run) == before


def test_scores_of_arrays_finer_than_their_files_are_of_what_is_written(tiny_run, tmp_path):
    record, network = read_record(tiny_run), run_network(read_record(tiny_run), "best")
    case = read_dataset(record.data_dir).select(record.split.val)[0]
    size, affine = np.array(case.record["shape"]), np.array(case.record["affine"])
    file = {"shape": (size // 2).tolist(), "affine": (affine @ np.diag([2, 2, 2, 1])).tolist()}
    finer = dataclasses.replace(case, record=case.record | {"file": file})
    (scored,), (before,) = list(predict_arrays([finer], network, tmp_path)), list(predict_arrays([case], network, None))
    assert (before.labels != scored.labels).any()
    list(predict_arrays([finer], network, tmp_path))
    written = read_prediction(tmp_path / f"{case.name}.nii.gz", case.name, scored.labels.shape, finer.record)
    np.testing.assert_array_equal(scored.labels, written)


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_an_evaluation_that_is_stopped_goes_on_with_the_cases_it_has_done(run, kind, monkeypatch):
    if kind == "arrays":
        monkeypatch.setattr(evaluate, "raw_cases", lambda *_: None)
    evaluate_run(run)
    before = (run / "evaluation" / "cases.csv").read_bytes()
    predictions = {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    score, labels, predicted = evaluate.score, Predictor.__call__, []

    def stop_after_one(results):
        yield next(score(results))
        raise KeyboardInterrupt

    def count(self, image):
        predicted.append(image.shape)
        return labels(self, image)

    def stop(**step):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(evaluate, "score", stop_after_one)
            evaluate_run(run, **step)

    monkeypatch.setattr(Predictor, "__call__", count)
    stop()
    assert (run / "evaluation" / "cases.csv").read_bytes() == before  # the last one stands
    unfinished = run / ".unfinished-predictions"
    made_from = json.loads((unfinished / ".made_from.json").read_text())
    assert made_from["options"]["cases"].keys() == set(read_record(run).split.val)
    evaluate_run(run)
    assert len(predicted) == 2
    assert (run / "evaluation" / "cases.csv").read_bytes() == before
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == predictions
    # Of another step nothing is taken over.
    stop()
    predicted.clear()
    evaluate_run(run, step="latest")
    assert len(predicted) == 2
    assert not list(run.glob(".unfinished*"))
    record = read_record(run)
    assert is_evaluated(record, choose_step(run, "latest"))
    (run / "evaluation" / "cases.csv").unlink()
    assert not is_evaluated(record, choose_step(run, "latest"))
