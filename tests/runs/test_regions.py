"""A whole run with the head 'regions': trained, evaluated, reported, predicted with, alone and as an ensemble."""

import json

import numpy as np
import pytest
from nifti_files import voxels

from jaxbrats import commands, main
from jaxbrats.data.arrays import read_labels
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.labels import LABEL_NAMES, REGIONS
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.inference.network import load_network
from jaxbrats.model.heads import RegionsHead
from jaxbrats.runs.record import read_record
from jaxbrats.train.logs import read_metrics


@pytest.fixture(scope="module")
def run(tiny_config, tiny_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("regions")
    options = {
        "data.dir": tiny_data,
        "num_epochs": 1,
        "model.head": "regions",
        "loss.terms": "dice:1,bce:1",
        "loss.region_weights": "balanced",
    }
    arguments = [f"--config.{name}={value}" for name, value in options.items()]
    assert main.run([f"--config={tiny_config}", f"--workdir={workdir}", *arguments]) == 0
    return workdir


def predict(run, case, output, *more):
    return commands.run(["predict", f"--workdir={run}", f"--input={case}", f"--output={output}", *more])


def test_it_trains_and_is_scored_by_label_and_region(run):
    train, val = (next(line for line in read_metrics(run) if line["split"] == split) for split in ("train", "val"))
    assert list(train["dice"]) == list(val["iou"]) == list(LABEL_NAMES)
    assert np.isfinite(train["loss"])
    assert val["mean_region_dice"] == pytest.approx(np.mean([val["region_dice"][name] for name in REGIONS]))
    record = read_record(run)
    network = load_network(run, record.settings, record.frame)
    assert network.head == RegionsHead()
    assert network.variables["params"]["head"]["kernel"].shape[-1] == 3
    rows = read_csv(run / "evaluation" / "cases.csv")
    assert {row["case"] for row in rows} == set(record.split.val)
    assert {row["region"] for row in rows} >= set(REGIONS)
    assert (run / "report.html").stat().st_size > 10_000


def test_balanced_weights_are_the_inverse_of_the_regions_sizes_and_in_the_record(run, tiny_data):
    record = read_record(run)
    masks = [read_labels(case) for case in read_dataset(tiny_data).select(record.split.train)]
    sizes = np.array([sum(np.isin(mask, region).sum() for mask in masks) for region in REGIONS.values()])
    assert record.settings.loss.region_weights == "balanced"
    start = json.loads((run / "starts.jsonl").read_text().splitlines()[-1])
    weights = np.array(start["settings"]["loss.region_weights"])
    np.testing.assert_allclose(weights * sizes, (weights * sizes)[0], rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_it_predicts_with_maps_and_other_thresholds(run, tiny_cohort, tmp_path):
    case = min(tiny_cohort.iterdir())
    maps = ("--probabilities", "--uncertainty")
    assert predict(run, case, tmp_path / "half", *maps) == 0
    assert predict(run, case, tmp_path / "other", "--thresholds=0.4,0.7,0.9", *maps) == 0
    assert predict(f"{run},{run}", case, tmp_path / "ensemble", *maps) == 0
    found = {
        name: [voxels(tmp_path / name / f"{case.name}{part}.nii.gz") for part in ("", "-probabilities", "-entropy")]
        for name in ("half", "other", "ensemble")
    }
    labels, probabilities, entropy = found["half"]
    assert probabilities.shape == (*labels.shape, 3)
    p = np.clip(probabilities.astype(np.float64), 1e-30, 1 - 1e-16)
    np.testing.assert_allclose(entropy, -(p * np.log(p) + (1 - p) * np.log1p(-p)).sum(-1), atol=1e-4)
    assert entropy.max() <= 3 * np.log(2) + 1e-6
    for name, thresholds in (("half", (0.5, 0.5, 0.5)), ("other", (0.4, 0.7, 0.9)), ("ensemble", (0.5, 0.5, 0.5))):
        wt, tc, et = np.moveaxis(found[name][1] > np.array(thresholds), -1, 0)
        np.testing.assert_array_equal(found[name][0], np.where(et, 3, np.where(tc, 1, np.where(wt, 2, 0))))
        np.testing.assert_allclose(found[name][1], probabilities, atol=1e-6)
    assert (found["half"][0] != found["other"][0]).any()
    record = json.loads((tmp_path / "other" / "predictions.json").read_text())
    assert record["options"]["thresholds"] == [0.4, 0.7, 0.9]


def test_what_does_not_go_together_is_refused_in_a_line(run, tiny_run, tiny_cohort, tmp_path, capsys):
    case = min(tiny_cohort.iterdir())
    for runs, options, message in (
        (f"{tiny_run},{run}", (), "an ensemble needs networks with one head: it is RegionsHead"),
        (tiny_run, ("--thresholds=0.4,0.4,0.4",), "config.model.thresholds are for model.head = regions"),
        (run, ("--thresholds=0.4,0.4",), "--thresholds must be 3 values, each of type float; it is '0.4,0.4'"),
        (run, ("--thresholds=0.4,0.4,1",), "config.model.thresholds lie from 0 to below 1"),
    ):
        assert predict(runs, case, tmp_path / "out", *options) == 1
        assert message in capsys.readouterr().err
