"""Patients that runs did not train on, on whole volumes, as predicted and post-processed: the figures of the README.

    python experiments/cross_validate.py --config=configs/brats_3mm.py:raw_dir=COHORT --workdir=CV --folds=4
    python experiments/real_patients.py --workdir=CV/fold_0,CV/fold_1,CV/fold_2,CV/fold_3 --step=latest

Each case is predicted once, by the run that did not train on it, and scored under every post-processing of
`tune_postprocess.py`. With several runs, the one that a case gets was chosen by lesion-wise Dice on the cases of the
other runs; with a single run it was chosen on the same cases, and the table says so.
Writes results/real_patients.md and .json.
"""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import benchmarking
import numpy as np
import tune_postprocess
from absl import flags

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.metrics import score_case
from jaxbrats.evaluation.statistics import describe
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.processes import available_cpus, map_in_processes
from jaxbrats.train.checkpoints import choose_step

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list("workdir", None, "RUN, or RUN,RUN.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_NAME = flags.DEFINE_string("name", "real_patients", "Name of the files in results/.", flag_values=FLAGS)

METRICS = ("dice", "lesion_dice")
WAYS = ("as predicted", "post-processed")


def measure(labels: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> list[list[float]]:
    """Each of `METRICS` for WT, TC and ET, `(metrics, regions)`."""
    scores = score_case(labels, truth, spacing)
    return [[scores[region][metric] for region in REGIONS] for metric in METRICS]


def main() -> int:
    """Predicts, scores, prints and writes; 1 if a case could not be used."""
    prepare_jax()
    runs = [pathlib.Path(run) for run in _WORKDIR.value]
    tune_postprocess.check_folds(runs)
    problems: list[InputError] = []
    tasks = itertools.chain.from_iterable(
        ((run, prediction) for prediction in tune_postprocess.predictions(run, _STEP.value, problems)) for run in runs
    )
    scored = map_in_processes(_score, tasks, available_cpus(), name=lambda task: task[1].case)
    cases = {
        prediction.case: {"run": run, "scores": scores, "enhancing": enhancing}
        for (run, prediction), (scores, enhancing) in scored
    }
    if not cases:
        raise problems[0] if problems else InputError("holds no validation case", file=runs[0])
    chosen = {run: _chosen_for(run, cases) for run in runs}
    network = run_network(read_record(runs[0]), _STEP.value)
    report = {
        "machine": benchmarking.machine(("jax",)),
        "step": _STEP.value,
        "steps": [choose_step(run, _STEP.value) for run in runs],
        "trained_on": [len(read_record(run).split.train) for run in runs],
        "frame": network.frame and network.frame.to_dict(),
        "inference": dataclasses.asdict(network.inference),
        "postprocessing": [dataclasses.asdict(tune_postprocess.GRID[chosen[run]]) for run in runs],
        "cases": [
            {
                "case": name,
                "run": runs.index(case["run"]),
                "enhancing_mm3": case["enhancing"],
                **{
                    way: dict(zip(METRICS, case["scores"][setting].tolist(), strict=True))
                    for way, setting in zip(WAYS, (0, chosen[case["run"]]), strict=True)
                },
            }
            for name, case in sorted(cases.items())
        ],
    }
    benchmarking.write(_NAME.value, report, as_markdown(report))
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _score(task: tuple[pathlib.Path, tune_postprocess.Predicted]) -> tuple[np.ndarray, list[float]]:
    """Scores under each post-processing, `(settings, metrics, regions)`; mm^3 of ET in the reference and predicted."""
    _, prediction = task
    voxel = float(np.prod(prediction.spacing_mm))
    enhancing = [float((labels == 3).sum() * voxel) for labels in (prediction.truth, prediction.labels)]
    return tune_postprocess.score(prediction, measure), enhancing


def _chosen_for(run: pathlib.Path, cases: dict[str, dict[str, Any]]) -> int:
    """The post-processing with the best lesion-wise Dice on the cases of the other runs, or of this if it is alone."""
    others = [case["scores"] for case in cases.values() if case["run"] != run]
    scores = np.mean(others or [case["scores"] for case in cases.values()], axis=0)
    return tune_postprocess.choose(scores[:, METRICS.index("lesion_dice")], least_gain=0.001)


def as_markdown(report: dict[str, Any]) -> str:
    """The tables."""
    cases, folds = report["cases"], len(report["trained_on"])
    trained = " or ".join(map(str, sorted(set(report["trained_on"]))))
    frame = report["frame"]
    voxels = f"voxels of {' x '.join(f'{size:g}' for size in frame['spacing_mm'])} mm" if frame else "the files' voxels"
    how = f"{folds}-fold cross-validation: each of {len(cases)} patients" if folds > 1 else f"{len(cases)} patients,"
    named = {"latest": "The last checkpoint", "best": "The checkpoint with the best Dice on these same patients"}
    steps = " or ".join(f"{step:,}" for step in sorted(set(report["steps"])))
    step = f"{named.get(report['step'], 'The checkpoint')} (step {steps})"
    on_whom = "the patients of the other folds" if folds > 1 else "these same patients"
    lines = [
        "# Real patients",
        "",
        f"{how} predicted by a network trained on {trained} others. Whole volumes on the files' own voxels; the "
        f"network sees {voxels}. {step}" + (", mirrored in eight ways." if report["inference"]["mirror"] else "."),
        "",
        f"Post-processing is chosen by lesion-wise Dice on {on_whom}: {_settings_text(report['postprocessing'])}. "
        "Means with bootstrap 95 % intervals, over patients.",
        "",
        f"| | {' | '.join(REGIONS)} | mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric, name in zip(METRICS, ("Dice", "lesion-wise Dice (BraTS 2023)"), strict=True):
        for way in WAYS:
            values = np.array([case[way][metric] for case in cases])
            columns = [*values.T, values.mean(axis=1)]
            cells = [benchmarking.interval(describe(column), 3) for column in columns]
            lines.append(f"| {name}, {way} | {' | '.join(cells)} |")
    lines += ["", f"| patient | {' | '.join(REGIONS)} | ET post-processed | ET in the reference, mm^3 | predicted |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for case in cases:
        dice = " | ".join(f"{value:.3f}" for value in case["as predicted"]["dice"])
        reference, found = case["enhancing_mm3"]
        after = case["post-processed"]["dice"][-1]
        lines.append(f"| {case['case']} | {dice} | {after:.3f} | {reference:,.0f} | {found:,.0f} |")
    command = f"`python experiments/real_patients.py --workdir=RUN,... --step={report['step']}`"
    return "\n".join([*lines, "", benchmarking.machine_line(report["machine"]), "", command, ""])


def _settings_text(settings: Sequence[dict[str, float]]) -> str:
    """What each fold's patients get, once where all get the same."""
    texts = [
        f"holes under {one['hole_mm3']:g}, tumours under {one['component_mm3']:g}, cores under {one['core_mm3']:g}, "
        f"enhancing tumour under {one['enhancing_mm3']:g} mm^3"
        for one in settings
    ]
    return texts[0] if len(set(texts)) == 1 else "; ".join(f"fold {fold}: {text}" for fold, text in enumerate(texts))


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "real_patients", sys.argv[1:]))
