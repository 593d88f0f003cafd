import json

import pytest

from jaxbrats.train.early_stopping import EarlyStopping
from jaxbrats.train.plan import Plan

PLAN = Plan(num_cases=6, batch_size=2, num_epochs=10)  # three steps an epoch


def write_log(workdir, scores):
    lines = [
        {"step": PLAN.end_of_epoch(epoch), "epoch": epoch, "split": "val", "mean_region_dice": score}
        for epoch, score in enumerate(scores, 1)
    ]
    lines.insert(1, {"step": 4, "epoch": 2, "split": "train", "loss": 1.0})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("patience", "scores", "due"),
    [
        (2, [0.5, 0.6, 0.59, 0.6], True),  # an equal score is no better one
        (3, [0.5, 0.6, 0.59, 0.6], False),
        (2, [0.5, 0.4, 0.6, 0.59], False),
        (1, [0.0], False),
        (1, [0.0, 0.0], True),
        (0, [0.5, 0.4, 0.3, 0.2], False),
        (1, [], False),
    ],
)
def test_it_follows_from_the_scores_whether_seen_or_logged(tmp_path, patience, scores, due):
    seen = EarlyStopping(patience, PLAN, tmp_path, 0)
    for epoch, score in enumerate(scores, 1):
        assert not seen.due
        noted = seen.add(PLAN.end_of_epoch(epoch), score)
        assert noted == ({"epochs_since_best": seen.epochs_since_best} if patience else {})
        if seen.due:
            break
    assert seen.due == due
    write_log(tmp_path, scores)
    assert EarlyStopping(patience, PLAN, tmp_path, PLAN.end_of_epoch(len(scores))).due == due


def test_scores_after_the_checkpoint_do_not_count(tmp_path):
    write_log(tmp_path, [0.5, 0.4, 0.3])
    assert EarlyStopping(2, PLAN, tmp_path, 9).due
    assert not EarlyStopping(2, PLAN, tmp_path, 8).due
    assert EarlyStopping(2, PLAN, tmp_path, 8).epochs_since_best == 1
