"""The log one step behind the devices: each step once, with the learning rate that its update was made with."""

import contextlib

import numpy as np
import pytest

from jaxbrats.data.arrays import ArrayCase
from jaxbrats.system.errors import InputError
from jaxbrats.train.logs import MetricsLog, read_metrics
from jaxbrats.train.plan import Plan
from jaxbrats.train.progress import Progress
from jaxbrats.train.step import StepMetrics

RATES = np.linspace(0.1, 0.8, 8, dtype=np.float32)


def metrics(finite=True, skipped=0):
    loss = 0.5 if finite else np.nan
    return StepMetrics(np.float32(loss), np.ones(4), np.full(4, 0.5), np.float32(0.25), finite, np.int32(skipped))


@contextlib.contextmanager
def progress(workdir, skip_nonfinite=False):
    cases = [ArrayCase(f"case_{number}", "", workdir, workdir) for number in range(5)]
    log = MetricsLog(workdir, 0)
    with Progress(Plan(5, 2, 3), cases, RATES, log, 0, skip_nonfinite, shows=False) as shown:
        yield shown


def steps(workdir):
    return [record["step"] for record in read_metrics(workdir)]


def test_a_step_is_reported_when_the_next_is_under_way_and_never_again(tmp_path):
    with progress(tmp_path) as shown:
        shown.step(1, metrics(), np.array([0, 1]))
        assert steps(tmp_path) == []
        shown.step(2, metrics(), np.array([2, 3]))
        assert steps(tmp_path) == [1]
        shown.flush()
        assert steps(tmp_path) == [1, 2]
        shown.flush()
        shown.step(3, metrics(), np.array([4, 0]))
        assert steps(tmp_path) == [1, 2]
        shown.flush()
    record = read_metrics(tmp_path)[-1]
    assert (record["step"], record["epoch"], record["split"], record["loss"]) == (3, 1, "train", 0.5)
    assert record["iou"] == {"background": 0.5, "NCR": 0.5, "ED": 0.5, "ET": 0.5}


def test_the_learning_rate_is_that_of_the_update_not_of_the_step(tmp_path, capsys):
    """A dropped update leaves the schedule where it was, so that the next one takes the same learning rate."""
    with progress(tmp_path, skip_nonfinite=True) as shown:
        for step, (finite, skipped) in enumerate([(True, 0), (False, 1), (False, 2), (True, 2), (True, 2)], 1):
            shown.step(step, metrics(finite, skipped), np.array([0, 4]))
        shown.flush()
    records = read_metrics(tmp_path)
    assert [record["lr"] for record in records] == [float(RATES[update]) for update in (0, 1, 1, 1, 2)]
    assert [record["skipped"] for record in records] == [0, 1, 2, 2, 2]
    assert [record["loss"] for record in records] == [0.5, None, None, 0.5, 0.5]
    assert "the update of step 3, whose loss is nan (cases case_0, case_4); 2 so far" in capsys.readouterr().err


def test_an_update_that_is_not_finite_ends_the_run(tmp_path):
    with progress(tmp_path) as shown:
        shown.step(1, metrics(), np.array([0, 1]))
        shown.step(2, metrics(finite=False), np.array([2, 3]))
        with pytest.raises(InputError, match=r"step 2, whose loss is nan \(cases case_2, case_3\), is not finite"):
            shown.step(3, metrics(finite=False), np.array([4, 0]))
    assert steps(tmp_path) == [1]
