"""Steps, epochs and checkpoints of a run, counted by hand."""

import pytest

from jaxbrats.train.plan import Plan


def steps_that(holds, plan):
    return [step for step in range(1, plan.total_steps + 1) if holds(step)]


@pytest.mark.parametrize(
    ("plan", "ends", "completed"),
    [
        (Plan(6, 2, 2), [3, 6], [0, 0, 0, 1, 1, 1, 2]),
        (Plan(5, 2, 3), [3, 5, 8], [0, 0, 0, 1, 1, 2, 2, 2, 3]),  # step 3 begins the second epoch with its last case
        (Plan(2, 5, 4), [1, 2], [0, 2, 5]),  # a batch holds every case more than once
        (Plan(1, 1, 3), [1, 2, 3], [0, 1, 2, 3]),
    ],
)
def test_epochs(plan, ends, completed):
    assert plan.total_steps == ends[-1] == plan.end_of_epoch(plan.num_epochs)
    assert steps_that(plan.validates, plan) == ends
    assert [plan.epochs_completed(step) for step in range(plan.total_steps + 1)] == completed


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (Plan(6, 2, 7, validate_every=3), [9, 18, 21]),  # after epochs 3 and 6, and the last
        (Plan(5, 2, 4, validate_every=2), [5, 10]),
        (Plan(2, 5, 4, validate_every=3), [2]),  # a batch goes from 2 epochs to 5
        (Plan(6, 2, 2, validate_every=9), [6]),
    ],
)
def test_validation_comes_every_so_many_epochs_and_at_the_end(plan, steps):
    assert steps_that(plan.validates, plan) == steps_that(plan.saves, plan) == steps


def test_checkpoints_are_due_at_every_epoch_and_between():
    assert steps_that(Plan(5, 2, 3).saves, Plan(5, 2, 3)) == [3, 5, 8]
    between = Plan(5, 2, 3, every_steps=2)
    assert steps_that(between.saves, between) == [2, 3, 4, 5, 6, 8]
