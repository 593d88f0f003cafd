"""The loop by itself: each step in the log once, and a run that was interrupted ends as one that was not."""

import os
import signal

import pytest

from experiments import faults
from jaxbrats.config.settings import Checkpoint, Data, Model, Settings
from jaxbrats.data.arrays import identified
from jaxbrats.data.dataset import read_dataset
from jaxbrats.system.errors import InputError
from jaxbrats.system.signals import Interrupted
from jaxbrats.train import checkpoints, loop
from jaxbrats.train.logs import MetricsLog, read_metrics
from jaxbrats.train.mesh import make_mesh

# By the step that ends an epoch, of five cases, two a step; the first is the best.
SCORES = {3: 0.5, 5: 0.25, 8: 0.125}


def settings(num_epochs=3, every_steps=0):
    return Settings(
        seed=1,
        batch_size=2,
        num_epochs=num_epochs,
        learning_rate=3e-3,
        schedule="constant",  # of which more epochs change nothing before
        conv="direct",
        data=Data(modalities=("t2f", "t1c"), crop=(16, 16, 16), workers=0),
        model=Model(features=(4, 6), norm="instance", dropout=(0.1,)),
        checkpoint=Checkpoint(every_steps=every_steps),
    )


def validate(state, stopped):
    return {checkpoints.SCORE: SCORES[int(state.step)]}


@pytest.fixture(scope="module")
def cases(tiny_data):
    return identified(read_dataset(tiny_data).cases[:5])


@pytest.fixture(scope="module")
def train(cases):
    """Trains in a folder with some settings, validating as told."""

    def train(workdir, validate=validate, on_start=lambda step: None, **changes):
        return loop.train(settings(**changes), cases, make_mesh(1, 1, 2), validate, workdir, on_start)

    return train


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    assert train(workdir) == (8, 3, True)
    return faults.of_loop(workdir)


def signal_with_record(monkeypatch, step):
    """SIGTERM comes while the metrics of a step are written."""
    write = MetricsLog.write

    def write_and_signal(self, record):
        write(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricsLog, "write", write_and_signal)


def test_every_step_and_every_validation_is_reported_once(uninterrupted):
    assert [(record["split"], record["step"]) for record in uninterrupted["metrics"]] == [
        *(("train", step) for step in (1, 2, 3)),
        ("val", 3),
        *(("train", step) for step in (4, 5)),
        ("val", 5),
        *(("train", step) for step in (6, 7, 8)),
        ("val", 8),
    ]
    assert [record["epoch"] for record in uninterrupted["metrics"]] == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert len({record["loss"] for record in uninterrupted["metrics"] if record["split"] == "train"}) == 8


def test_a_step_is_dispatched_before_the_metrics_of_the_one_before_are_fetched(train, tmp_path, monkeypatch):
    events = []
    write, jit = MetricsLog.write, loop._compiled_step

    def compiled_step(*arguments):
        step = jit(*arguments)
        numbers = iter(range(1, 100))

        def dispatch(state, batch, key):
            events.append(f"step {next(numbers)}")
            return step(state, batch, key)

        return dispatch

    monkeypatch.setattr(loop, "_compiled_step", compiled_step)
    monkeypatch.setattr(
        MetricsLog,
        "write",
        lambda self, record: (events.append(f"{record['split']} {record['step']}"), write(self, record)),
    )
    train(tmp_path, num_epochs=1)
    assert events == ["step 1", "step 2", "train 1", "step 3", "train 2", "train 3", "val 3"]


@pytest.mark.parametrize("every_steps", [0, 2])
def test_a_signal_stops_after_the_step_which_is_saved(train, uninterrupted, tmp_path, monkeypatch, every_steps):
    with monkeypatch.context() as patch:
        signal_with_record(patch, step=1)  # written once the second step is under way
        with pytest.raises(Interrupted, match="stopped by SIGTERM after step 2, which is saved") as stopped:
            train(tmp_path, every_steps=every_steps)
    assert stopped.value.exit_code == 143
    assert checkpoints.choose_step(tmp_path, "latest") == 2
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    assert train(tmp_path, every_steps=every_steps) == (8, 3, True)
    assert faults.of_loop(tmp_path) == uninterrupted
    assert checkpoints.choose_step(tmp_path, "best") == 3


def test_a_signal_before_the_first_step(train, uninterrupted, tmp_path):
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM before the first step$"):
        train(tmp_path, on_start=lambda step: os.kill(os.getpid(), signal.SIGTERM))
    assert read_metrics(tmp_path) == []
    assert train(tmp_path, num_epochs=1) == (3, 1, True)
    assert faults.of_loop(tmp_path)["metrics"] == uninterrupted["metrics"][:4]


def test_a_signal_during_the_last_validation(train, uninterrupted, tmp_path):
    """All steps are done, but the last epoch has no scores yet: the run is not finished. Of an earlier validation, see
    tests/test_faults.py.
    """

    def interrupted_at_the_end(state, stopped):
        if int(state.step) < 8:
            return validate(state, stopped)
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped() == signal.SIGINT
        return None

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(Interrupted, match="stopped by SIGINT after step 8"):
            train(tmp_path, interrupted_at_the_end)
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_metrics(tmp_path)[-1]["split"] == "train"
    assert not checkpoints.has_scores(tmp_path, 8)
    assert train(tmp_path) == (8, 3, True)
    assert faults.of_loop(tmp_path) == uninterrupted
    assert checkpoints.has_scores(tmp_path, 8)


def test_a_checkpoint_between_epochs_is_one_to_go_on_from(train, uninterrupted, tmp_path, monkeypatch):
    """A run that dies, as by SIGKILL, goes on from its last checkpoint; what the log has beyond is cut off."""

    class Died(BaseException):
        pass

    write = MetricsLog.write

    def die(self, record):
        if record["step"] == 6:
            raise Died
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", die)
        with pytest.raises(Died):
            train(tmp_path, every_steps=2)
    assert checkpoints.choose_step(tmp_path, "latest") == 5
    started = []
    assert train(tmp_path, every_steps=2, on_start=started.append) == (8, 3, True)
    assert started == [5]
    assert faults.of_loop(tmp_path) == uninterrupted


def test_more_epochs_go_on_where_the_run_ended(train, uninterrupted, tmp_path):
    assert train(tmp_path, num_epochs=2) == (5, 2, True)
    assert train(tmp_path, num_epochs=2) == (5, 2, False)
    assert train(tmp_path) == (8, 3, True)
    assert faults.of_loop(tmp_path) == uninterrupted
    with pytest.raises(
        InputError, match=r"has done 8 steps; config\.num_epochs = 2 asks for 5\. Give config\.num_epochs 4 or"
    ):
        train(tmp_path, num_epochs=2)
