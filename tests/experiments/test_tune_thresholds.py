"""Thresholds from patients that runs did not train on: what is kept of the probabilities, scores, choice."""

import json
import types

import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.config import from_config
from jaxbrats.config.inference import Postprocessing
from jaxbrats.evaluation.evaluate import Predicted
from jaxbrats.evaluation.metrics import score_case
from jaxbrats.inference.postprocess import postprocess
from jaxbrats.model.heads import RegionsHead


@pytest.fixture
def tune(monkeypatch):
    import tune_thresholds

    thresholds = {"WT": (0.5, 0.4), "TC": (0.5, 0.3), "ET": (0.5, 0.4, 0.2)}
    monkeypatch.setattr(tune_thresholds, "THRESHOLDS", thresholds)
    choices = [(wt, tc, et) for wt in (0.5, 0.4) for tc in (0.5, 0.3) for et in (0.5, 0.4, 0.2)]
    monkeypatch.setattr(tune_thresholds, "CHOICES", tuple(choices))
    return tune_thresholds


def test_what_is_kept_gives_the_labels_of_every_choice(tune):
    probabilities = np.random.default_rng(0).choice([0, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55], (500, 3))
    code = tune.Graded().labels(probabilities)
    assert code.dtype == np.uint8
    for choice in tune.CHOICES:
        np.testing.assert_array_equal(tune.decode(code, choice), RegionsHead(choice).labels(probabilities))


def test_scores_are_those_of_evaluation(tune):
    rng = np.random.default_rng(1)
    probabilities = np.repeat(np.repeat(rng.random((6, 5, 4, 3)), 3, 0), 3, 1)
    truth = np.repeat(np.repeat(rng.integers(0, 4, (6, 5, 4)), 3, 0), 3, 1).astype(np.uint8)
    settings, spacing = Postprocessing(component_mm3=30, core_mm3=60), (1.0, 2.0, 1.5)
    scores = tune.score(Predicted("case", tune.Graded().labels(probabilities), truth, spacing), settings)
    for choice, of_choice in zip(tune.CHOICES, scores, strict=True):
        labels = postprocess(RegionsHead(choice).labels(probabilities), spacing, settings)
        rows = score_case(labels, truth, spacing)
        for metric, values in zip(("dice", "lesion_dice"), of_choice, strict=True):
            np.testing.assert_allclose(values, [rows[region][metric] for region in ("WT", "TC", "ET")], rtol=1e-12)
    one = np.zeros_like(scores)
    one[7] = 1e-3
    assert tune.best([one, one]) == tune.CHOICES[7] and tune.best([one * 0]) == tune.CHOICES[0]


def test_each_run_gets_what_was_best_for_the_others(tune, tiny_run, tiny_config, tmp_path, monkeypatch, capsys):
    assert commands.run_program(tune, "tune_thresholds", [f"--workdir={tiny_run}"]) == 1
    assert "was trained on labels, not on regions" in capsys.readouterr().err
    regions = from_config({"model": {"head": "regions"}})
    monkeypatch.setattr(tune, "read_record", lambda _: types.SimpleNamespace(settings=regions))
    assert commands.run_program(tune, "tune_thresholds", [f"--workdir={tiny_run},{tiny_run}"]) == 1
    assert f"validates on the same patient as {tiny_run}. Give the folds" in capsys.readouterr().err
    monkeypatch.setattr(tune.tune_postprocess, "check_folds", lambda runs: None)
    scores = iter(np.eye(12)[[3, 3, 5, 5]][..., None, None] * np.ones((2, 3)))
    monkeypatch.setattr(tune, "score", lambda *_: next(scores))
    monkeypatch.setattr(
        tune.tune_postprocess,
        "predictions",
        lambda run, *_, **__: [Predicted(f"{run.name}{number}", *[None] * 3) for number in range(2)],
    )
    write = tune.benchmarking.write
    monkeypatch.setattr(tune.benchmarking, "write", lambda *of: write(*of, folder=tmp_path))
    assert commands.run_program(tune, "tune_thresholds", ["--workdir=a,b", f"--config={tiny_config}"]) == 0
    report = json.loads((tmp_path / "thresholds.json").read_text())
    assert report["chosen"] == [list(tune.CHOICES[5]), list(tune.CHOICES[3])]
    assert np.max(report["scores"]["chosen"]) == 0 and report["best"] == list(tune.CHOICES[3])
    assert "| Dice | 0.5 for all | 0.000 " in capsys.readouterr().out
