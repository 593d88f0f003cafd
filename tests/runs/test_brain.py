"""A whole run on arrays of the brain's box, of another size in each case: trained in patches, resumed, evaluated."""

import json
import shutil

import numpy as np
import pytest

from jaxbrats import commands, main
from jaxbrats.data.dataset import read_dataset
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.runs.evaluate import evaluate_run
from jaxbrats.runs.record import read_record
from jaxbrats.train.logs import read_metrics


def train(config, cohort, workdir, epochs):
    options = {"data.crop": "brain", "data.patch": "16,16,16", "inference.window": "16,24,16"}
    options |= {"data.raw_dir": cohort, "num_epochs": epochs}
    return main.run([f"--config={config}", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in options.items())])


@pytest.fixture(scope="module")
def run(tiny_config, tiny_cohort, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("brain")
    assert train(tiny_config, tiny_cohort, workdir, 1) == 0
    return workdir


def test_arrays_differ_in_size_and_all_tumour_is_in_them(run):
    dataset, record = read_dataset(run / "data"), read_record(run)
    shapes = {np.load(case.image, mmap_mode="r").shape for case in dataset.cases}
    assert len(shapes) > 1 and dataset.preprocessing.crop == record.settings.data.crop == "brain"
    assert sum(sum(case.record["label_voxels_outside"]) for case in dataset.cases) == 0
    assert all((image != 0).any((1, 2, 3)).all() for image in map(np.load, (case.image for case in dataset.cases)))


def test_validation_sees_what_evaluation_sees(run):
    (val,) = [line for line in read_metrics(run) if line["split"] == "val"]
    rows = read_csv(run / "evaluation" / "cases.csv")
    for region, dice in val["region_dice"].items():
        assert dice == pytest.approx(np.mean([row["dice"] for row in rows if row["region"] == region]), abs=2e-3)


def test_predict_and_score_give_what_evaluate_gives(run, tiny_cohort, tmp_path):
    (case, *_) = read_record(run).split.val
    shutil.copytree(tiny_cohort / case, tmp_path / "raw" / case)
    for mode in ("window", "crop"):
        out = f"--output={tmp_path / mode}"
        assert commands.run(["predict", f"--workdir={run}", f"--input={tmp_path / 'raw'}", out, f"--mode={mode}"]) == 0
        scores = [f"--pred={tmp_path / mode}", f"--ref={tmp_path / 'raw'}", f"--out={tmp_path / f'{mode}.csv'}"]
        assert commands.run(["score", *scores]) == 0
        mine = [row for row in read_csv(run / "evaluation" / "cases.csv") if row["case"] == case]
        assert read_csv(tmp_path / f"{mode}.csv") == mine


def test_the_arrays_alone_give_the_same_scores(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    manifest = json.loads((copy / "data" / "manifest.json").read_text())
    (copy / "data" / "manifest.json").write_text(json.dumps(manifest | {"raw": "nowhere"}))
    evaluate_run(copy)
    assert json.loads((copy / "evaluation" / "summary.json").read_text())["scored"] == "arrays"
    both = [read_csv(folder / "evaluation" / "cases.csv") for folder in (copy, run)]
    for row in (*both[0], *both[1]):
        del row["specificity"]  # there is less background around
    assert both[0] == both[1]


def test_it_goes_on_and_checks_the_cohort_with_the_same_box(
    run, tiny_config, tiny_cohort, tmp_path, training_alone, capsys
):
    shutil.copytree(run, tmp_path / "run")
    assert train(tiny_config, tiny_cohort, tmp_path / "run", 2) == 0
    assert len([line for line in read_metrics(tmp_path / "run") if line["split"] == "val"]) == 2
    capsys.readouterr()
    assert commands.run(["check", f"--raw={tiny_cohort}", "--crop=brain", "--min_tumour=0"]) == 0
    assert "8 cases, of which 8 would be trained on" in capsys.readouterr().out
    commands.run(["check", f"--raw={tiny_cohort}", "--crop=brain", "--min_tumour=1"])
    assert "tumour voxels in the crop, expected at least 100.000%" in capsys.readouterr().out
