"""Scores a run's checkpoint on its validation cases.

    jaxbrats evaluate --workdir=runs/unet3d
    jaxbrats evaluate --workdir=runs/unet3d --step=latest --data=other_arrays

Prints a table of each region and label, and writes evaluation/cases.csv, evaluation/summary.json, predictions and
overlays into the run, in the place of those of its last evaluation. To keep these, score other data by `jaxbrats
predict` and `jaxbrats score`.
"""

import pathlib
import sys

from absl import flags

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.evaluation.statistics import summary_table
from jaxbrats.report.pages import REPORT
from jaxbrats.runs.evaluate import evaluate_run

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Preprocessed arrays; by default the run's own. Of a folder without the run's validation cases, all cases but "
    "those of patients that the run was trained on.",
    flag_values=FLAGS,
)


def main() -> int:
    """Evaluates and prints the summary; 1 if a case could not be scored."""
    prepare_jax()
    report = pathlib.Path(_WORKDIR.value) / REPORT
    was_there = report.exists()
    summary, problems = evaluate_run(_WORKDIR.value, _STEP.value, _DATA.value)
    print(summary_table(summary))
    if was_there:
        again = f"jaxbrats report --workdir={_WORKDIR.value}"
        print(f"{report} was of the scores before, so it is gone; to make it anew: {again}")
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0
