"""A run that ends because its score becomes no better, with an average of its weights, from command to report."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import faults
from jaxbrats import main
from jaxbrats.inference.network import load_network
from jaxbrats.runs import job
from jaxbrats.runs.record import read_record
from jaxbrats.train import checkpoints


def with_scores(monkeypatch, scores):
    """Validation gives these scores, one an epoch."""
    make = job.make_validation

    def make_validation(*arguments):
        validate = make(*arguments)
        epoch_of = {3: 0, 6: 1, 9: 2, 12: 3, 15: 4}
        return lambda state, stopped: {
            **validate(state, stopped),
            "mean_region_dice": scores[epoch_of[int(state.step)]],
        }

    monkeypatch.setattr(job, "make_validation", make_validation)


def epochs_since_best(workdir):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record["epochs_since_best"] for record in records if record["split"] == "val"]


@pytest.mark.slow
def test_a_run_ends_early_and_properly(tiny_config, tiny_data, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    arguments = [f"--config={tiny_config}", f"--config.data.dir={tiny_data}", "--config.num_epochs=5"]
    arguments += ["--config.ema=0.7", f"--workdir={workdir}"]
    with_scores(monkeypatch, [0.4, 0.6, 0.5, 0.6, 0.7])
    assert main.run([*arguments, "--config.early_stop=2"]) == 0
    printed = capsys.readouterr().out
    assert "ended early, after epoch 4: no better score for 2 epochs" in printed
    assert epochs_since_best(workdir) == [0, 0, 1, 2]
    assert json.loads((workdir / "evaluation" / "summary.json").read_text())["step"] == 12
    assert (workdir / "report.html").exists()
    ended = faults.trained(workdir)
    with ocp.StandardCheckpointer() as reader:
        model, training = (reader.restore(workdir / "checkpoints" / "12" / item) for item in ("model", "training"))

    assert main.run([*arguments, "--config.early_stop=2"]) == 0
    assert "this run is finished (4 epochs, 12 steps); nothing to do" in capsys.readouterr().out

    # Inference has the average, which is not what is trained.
    record = read_record(workdir)
    average = load_network(workdir, record.settings, None, "latest").variables["params"]
    jax.tree.map(np.testing.assert_array_equal, average, model["params"])
    assert not np.array_equal(average["head"]["bias"], training["trained"]["params"]["head"]["bias"])

    # Killed before the last checkpoint, it ends where it did.
    shutil.rmtree(workdir / "checkpoints" / "12")
    monkeypatch.setattr(job, "_write_results", lambda *_: [])
    assert main.run([*arguments, "--config.early_stop=2"]) == 0
    assert "resuming after step" in capsys.readouterr().out
    assert faults.trained(workdir) == ended

    assert main.run([*arguments, "--config.early_stop=3"]) == 0
    assert "resuming after step 12 of 15" in capsys.readouterr().out
    assert epochs_since_best(workdir) == [0, 0, 1, 2, 0]
    assert checkpoints.choose_step(workdir, "best") == 15
