import contextlib
import csv
import json

import numpy as np
import pytest

from experiments import cross_validate
from jaxbrats import commands, main
from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.evaluation.statistics import describe
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.runs import job
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train.loop import Outcome


def run(config, workdir):
    return commands.run_program(
        cross_validate, "cross_validate", [f"--config={config}", f"--workdir={workdir}", "--folds=2"]
    )


def write_scores(record, settings, dataset, outcome):
    """Made-up scores in the place of evaluation and report: a Dice that tells of which case."""
    (record.workdir / "checkpoints" / "0").mkdir(parents=True, exist_ok=True)
    rows = ["case,region,dice"]
    rows += [f"{name},{region},{dice_of(name, region)!r}" for name in record.split.val for region in SCORED]
    folder = record.workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "summary.json").write_text(json.dumps({"step": outcome.step}))
    return []


def dice_of(name, region):
    return 0.1 * list(SCORED).index(region) + 0.01 * int(name.split("-")[2])


@pytest.fixture
def untrained(monkeypatch):
    """Training that takes no step, and the folds that it was asked for."""
    asked = []

    def train(settings, *_, **__):
        asked.append(settings.data.fold)
        return Outcome(0, 0, trained=False)

    monkeypatch.setattr(job, "train", train)
    monkeypatch.setattr(job, "_write_results", write_scores)
    return asked


def test_every_patient_is_scored_once_by_the_fold_that_did_not_train_on_it(
    tiny_config, tiny_cohort, tmp_path, untrained, capsys
):
    workdir = tmp_path / "cv"
    assert run(f"{tiny_config}:raw_dir={tiny_cohort}", workdir) == 0
    assert untrained == [0, 1]
    names = sorted(path.name for path in tiny_cohort.iterdir() if path.is_dir())
    records = [json.loads((workdir / f"fold_{fold}" / "config.json").read_text()) for fold in (0, 1)]
    assert sorted(records[0]["data"]["val"] + records[1]["data"]["val"]) == names
    assert sorted(records[0]["data"]["train"]) == sorted(records[1]["data"]["val"])
    assert {record["data"]["dir"] for record in records} == {str(workdir / "data")}
    rows = read_csv(workdir / "cases.csv")
    assert sorted((row["case"], row["region"]) for row in rows) == sorted((n, r) for n in names for r in SCORED)
    patients = sorted({name.rpartition("-")[0] for name in names})
    assert len(names) == 8  # one of the seven patients was scanned twice
    expected = describe([dice_of(name, "WT") for name in patients])
    with (workdir / "summary.csv").open() as file:
        table = {(row["region"], row["metric"]): row for row in csv.DictReader(file)}
    found = table["WT", "dice"]
    assert int(found["n"]) == len(patients) == 7
    assert float(found["mean"]) == pytest.approx(expected["mean"])
    assert float(found["ci_low"]) < expected["mean"] < float(found["ci_high"])
    mean = np.mean([dice_of(name, region) for name in patients for region in REGIONS])
    assert float(table[cross_validate.MEAN, "dice"]["mean"]) == pytest.approx(mean)
    assert f"| fold_1 | {len(records[1]['data']['val'])} |" in (workdir / "summary.md").read_text()
    assert f"| WT | 7 | {expected['mean']:.4f} (" in capsys.readouterr().out


def test_folds_of_several_recipes_or_scored_otherwise_are_not_pooled(tiny_config, tiny_cohort, tmp_path, untrained):
    assert run(f"{tiny_config}:raw_dir={tiny_cohort}", tmp_path) == 0
    assert "optimistic" not in (tmp_path / "summary.md").read_text()
    (tmp_path / "fold_0" / "postprocess.json").write_text("{}")
    assert run(f"{tiny_config}:raw_dir={tiny_cohort}", tmp_path) == 0
    assert "chosen on validation cases of these folds" in (tmp_path / "summary.md").read_text()
    folds = [tmp_path / "fold_0", tmp_path / "fold_1"]
    (folds[1] / "evaluation" / "summary.json").write_text('{"step": 0, "scored": "arrays"}')
    with pytest.raises(InputError, match=r"evaluation has scored = arrays, .*fold_0 has None"):
        cross_validate.check_folds([read_record(fold) for fold in folds])
    (folds[1] / "evaluation" / "summary.json").write_text('{"step": 0}')
    record = json.loads((folds[1] / "config.json").read_text())
    for name, value, is_refused in (("num_epochs", 9, False), ("init_from", "x", False), ("learning_rate", 0.5, True)):
        record["settings"][name] = value
        (folds[1] / "config.json").write_text(json.dumps(record))
        refused = pytest.raises(InputError, match=r"config\.learning_rate = 0\.5, .*fold_0 with 0\.003\. Give the")
        with refused if is_refused else contextlib.nullcontext():
            cross_validate.check_folds([read_record(fold) for fold in folds])


def test_a_fold_that_is_stopped_or_refused_ends_it(tiny_config, tmp_path, monkeypatch, capsys):
    codes = iter([0, 143])
    configs = []
    monkeypatch.setattr(main, "parse", lambda arguments: arguments)
    monkeypatch.setattr(main, "train", lambda config, *_: configs.append(config) or next(codes))
    assert run(f"{tiny_config}:init_from=other/fold_{{fold}}", tmp_path) == 143
    assert configs == [f"--config={tiny_config}:init_from=other/fold_{fold}" for fold in (0, 1)]

    def refuse(*_):
        raise InputError("was started with other settings")

    monkeypatch.setattr(main, "train", refuse)
    assert run(tiny_config, tmp_path) == 1
    assert "cross_validate: was started with other settings" in capsys.readouterr().err
    assert not (tmp_path / "cases.csv").exists()


def test_several_scans_of_a_patient_count_as_one():
    rows = [
        {"case": case, "region": region, "dice": dice, "hd95_mm": distance}
        for case, dice, distance in (("p1-0", 0.2, 4.0), ("p1-1", 0.6, np.nan), ("p2-0", 1.0, np.nan))
        for region in SCORED
    ]
    numbers = cross_validate.by_patient(rows, {"p1-0": "p1", "p1-1": "p1", "p2-0": "p2"})
    assert numbers["WT"]["dice"] == pytest.approx([0.4, 1.0])
    np.testing.assert_equal(numbers["TC"]["hd95_mm"], [4.0, np.nan])
    summary = cross_validate.summarise(numbers)
    assert summary[cross_validate.MEAN]["dice"]["mean"] == pytest.approx(0.7)
    assert summary["ET"]["hd95_mm"]["n"] == 1
    assert "| ET | 2 | 0.7000 (0.4000 to 1.0000) | 4.00 |" in cross_validate.pooled_markdown(summary)
