"""What each setting of prediction gains: the ways that are compared, and a table of differences by case."""

import json

import jax
import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.config import from_config
from jaxbrats.config.inference import Postprocessing
from jaxbrats.evaluation.evaluate import Predicted
from jaxbrats.evaluation.metrics import score_case
from jaxbrats.model.heads import RegionsHead
from jaxbrats.train import checkpoints
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model


@pytest.fixture
def program():
    import prediction_settings

    return prediction_settings


def test_each_way_changes_one_setting(program, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "last_weights", lambda run, step: {"params": (run, step)})
    plain = program.ways(from_config({}), tmp_path, "best")
    assert list(plain) == [program.AS_SET, "mirrored in eight ways"]
    assert plain["mirrored in eight ways"]["inference"].mirror
    full = from_config(
        {
            "model": {"head": "regions", "thresholds": (0.5, 0.5, 0.3)},
            "loss": {"terms": {"dice": 1.0, "bce": 1.0}},
            "inference": {"mirror": True},
            "postprocessing": {"component_mm3": 100.0},
            "ema": 0.9,
        }
    )
    found = program.ways(full, tmp_path, "best")
    names = [program.AS_SET, "not mirrored", "thresholds of 0.5", "no post-processing", "weights not averaged"]
    assert list(found) == names and found[names[-1]]["variables"] == {"params": (tmp_path, "best")}
    assert not found["not mirrored"]["inference"].mirror
    assert found["thresholds of 0.5"]["head"] == RegionsHead((0.5, 0.5, 0.5))
    others = [found[name]["postprocessing"] for name in names if name != "no post-processing"]
    assert others == [full.postprocessing] * 4
    assert found["no post-processing"] == {"postprocessing": Postprocessing()}


def test_the_weights_that_a_checkpoint_has_beside_their_average(program, tmp_path):
    model = make_model(from_config({"model": {"features": (2,), "norm": "batch", "dropout": (0.0,)}}))
    state = init_state(model, make_optimizer(1e-2, "constant", 10), 0, 1, ema=0.9)  # the average is 0 yet
    with checkpoints.open_checkpoints(tmp_path) as manager:
        checkpoints.save(manager, state, {})
        manager.wait_until_finished()
    jax.tree.map(np.testing.assert_array_equal, program.last_weights(tmp_path, "latest"), state.trained)


def test_differences_are_of_the_same_case(program, tiny_run, monkeypatch, capsys):
    """Mirrored, as this test has it, case b comes first and is found whole; as set, half of each, and of c, which fails
    when mirrored.
    """
    truth = np.zeros((8, 8, 8), np.uint8)
    truth[2:6, 2:6, 2:6] = 3
    half = np.where(np.arange(8) < 4, truth, 0).astype(np.uint8)
    least = score_case(half, truth, (1.0, 1.0, 1.0))["WT"]["dice"]

    def predictions(run, step, problems, inference=None, **changed):
        cases = [("b", truth), ("a", half)] if inference else [("a", half), ("b", half), ("c", half)]
        return (Predicted(name, labels, truth, (1.0, 1.0, 1.0)) for name, labels in cases)

    written = {}
    monkeypatch.setattr(program.tune_postprocess, "predictions", predictions)
    monkeypatch.setattr(program, "available_cpus", lambda: 1)
    monkeypatch.setattr(
        program.benchmarking, "write", lambda name, report, text: written.update(report=report, text=text)
    )
    assert commands.run_program(program, "prediction_settings", [f"--workdir={tiny_run}"]) == 0
    report = json.loads(json.dumps(written["report"]))
    assert report["cases"] == ["a", "b"]
    dice = {way: [case[0] for case in cases] for way, cases in report["scores"].items()}
    assert dice == {program.AS_SET: [least, least], "mirrored in eight ways": [least, 1.0]}
    assert f"| mirrored in eight ways | +{(1 - least) / 2:.3f} (" in written["text"]
