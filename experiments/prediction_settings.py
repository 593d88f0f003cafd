"""What each part of prediction gains on patients that runs did not train on, each changed by itself: mirroring,
thresholds, post-processing and the average of the weights.

    python experiments/prediction_settings.py --workdir=CV/fold_0,CV/fold_1,CV/fold_2,CV/fold_3 --step=latest

Each case is predicted by the run that did not train on it, once as the run's settings say and once with each of
`ways`, on whole volumes where the cohort's files are there. Settings that were chosen on the same cases, as thresholds
and sizes may have been, look better here than they are to others. Writes results/prediction_settings.md and .json.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import benchmarking
import numpy as np
import orbax.checkpoint as ocp
import tune_postprocess
from absl import flags

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config.inference import Postprocessing
from jaxbrats.config.settings import Settings
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.evaluate import Predicted
from jaxbrats.evaluation.metrics import score_case
from jaxbrats.evaluation.statistics import describe
from jaxbrats.model.heads import RegionsHead
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.processes import available_cpus, map_in_processes
from jaxbrats.train.checkpoints import choose_step

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list("workdir", None, "RUN, or RUN,RUN.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_NAME = flags.DEFINE_string("name", "prediction_settings", "Name of the files in results/.", flag_values=FLAGS)

AS_SET = "as the settings say"
# Settings that decide what is compared.
OF_PREDICTION = ("model", "inference", "postprocessing", "ema")
METRICS = {"dice": "Dice", "lesion_dice": "lesion-wise Dice", "hd95_mm": "HD95, mm"}


def ways(settings: Settings, run: pathlib.Path, step: str) -> dict[str, dict[str, Any]]:
    """What to replace of a run's network, by what that is called. What a run does without cannot be left out."""
    as_set, inference = {"postprocessing": settings.postprocessing}, settings.inference
    mirroring = "not mirrored" if inference.mirror else "mirrored in eight ways"
    found = {
        AS_SET: as_set,
        mirroring: as_set | {"inference": dataclasses.replace(inference, mirror=not inference.mirror)},
    }
    if settings.model.head == "regions" and set(settings.model.thresholds) != {0.5}:
        found["thresholds of 0.5"] = as_set | {"head": RegionsHead((0.5, 0.5, 0.5))}
    if settings.postprocessing != Postprocessing():
        found["no post-processing"] = {"postprocessing": Postprocessing()}
    if settings.ema:
        found["weights not averaged"] = as_set | {"variables": last_weights(run, step)}
    return found


def last_weights(run: pathlib.Path, step: str) -> dict[str, Any]:
    """The parameters and batch statistics after a step, where the checkpoint has their average beside them."""
    folder = run.resolve() / "checkpoints" / str(choose_step(run, step)) / "training"
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(folder)["trained"]


def score(prediction: Predicted) -> list[float]:
    """Each of `METRICS`, its mean over WT, TC and ET."""
    scores = score_case(prediction.labels, prediction.truth, prediction.spacing_mm)
    return [float(np.mean([scores[region][metric] for region in REGIONS])) for metric in METRICS]


def main() -> int:
    """Predicts, scores, prints and writes; 1 if a case could not be used.

    Raises:
        InputError: the runs are no folds of one cross-validation, or predict in different ways.
    """
    prepare_jax()
    runs = [pathlib.Path(run) for run in _WORKDIR.value]
    tune_postprocess.check_folds(runs)
    settings = [read_record(run).settings for run in runs]
    for run, one in zip(runs, settings, strict=True):
        if any(getattr(one, part) != getattr(settings[0], part) for part in OF_PREDICTION):
            raise InputError(f"predicts in another way than {runs[0]}", file=run, hint="Give folds of one recipe")
    changed = [ways(one, run, _STEP.value) for run, one in zip(runs, settings, strict=True)]
    problems: list[InputError] = []
    scores: dict[str, dict[str, list[float]]] = {}
    for way in changed[0]:
        tasks = itertools.chain.from_iterable(
            tune_postprocess.predictions(run, _STEP.value, problems, **of_run[way])
            for run, of_run in zip(runs, changed, strict=True)
        )
        scored = map_in_processes(score, tasks, available_cpus(), name=lambda prediction: prediction.case)
        scores[way] = {prediction.case: values for prediction, values in scored}
    cases = sorted(set.intersection(*map(set, scores.values())))
    if not cases:
        raise problems[0] if problems else InputError("holds no validation case", file=runs[0])
    report = {
        "machine": benchmarking.machine(("jax",)),
        "runs": len(runs),
        "step": _STEP.value,
        "inference": dataclasses.asdict(settings[0].inference),
        "thresholds": settings[0].model.thresholds,
        "postprocessing": dataclasses.asdict(settings[0].postprocessing),
        "spacing_mm": settings[0].data.spacing,
        "cases": cases,
        "scores": {way: [of_way[case] for case in cases] for way, of_way in scores.items()},
    }
    benchmarking.write(_NAME.value, report, as_markdown(report))
    for problem in dict.fromkeys(map(str, problems)):
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0


def as_markdown(report: Mapping[str, Any]) -> str:
    """The table: means over the cases, and what each way changes, case by case."""
    sizes = report["spacing_mm"]
    voxels = f"voxels of {' x '.join(f'{size:g}' for size in sizes)} mm" if sizes else "the cohort's voxels"
    lines = [
        "# Settings of prediction",
        "",
        f"{len(report['cases'])} cases, each predicted by the one of {report['runs']} runs that did not train on it; "
        f"the network sees {voxels}, its checkpoint is {report['step']}. Means over WT, TC and ET with bootstrap 95 % "
        "intervals over cases; below the first line what changes from it, case by case.",
        "",
        f"| | {' | '.join(METRICS.values())} |",
        "| --- |" + " --- |" * len(METRICS),
        f"| {AS_SET} | {_cells(report['scores'][AS_SET])} |",
    ]
    for way, scores in report["scores"].items():
        if way != AS_SET:
            lines.append(f"| {way} | {_cells(np.subtract(scores, report['scores'][AS_SET]), '+')} |")
    settings = ", ".join(f"{name} = {value:g}" for name, value in report["postprocessing"].items())
    thresholds = ", ".join(f"{value:g}" for value in report["thresholds"])
    mirrored = "mirrored in eight ways" if report["inference"]["mirror"] else "not mirrored"
    lines += ["", f"The settings: {mirrored}; thresholds {thresholds}; {settings}.", ""]
    lines += [benchmarking.machine_line(report["machine"]), ""]
    lines.append(f"`python experiments/prediction_settings.py --workdir=RUN,... --step={report['step']}`")
    return "\n".join([*lines, ""])


def _cells(scores: Sequence[Sequence[float]], sign: str = "") -> str:
    digits = [1 if metric.endswith("_mm") else 3 for metric in METRICS]
    columns = np.array(scores).T
    return " | ".join(benchmarking.interval(describe(of), n, sign) for of, n in zip(columns, digits, strict=True))


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "prediction_settings", sys.argv[1:]))
