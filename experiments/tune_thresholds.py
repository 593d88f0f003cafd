"""From which probability on a voxel belongs to WT, TC and ET: chosen on patients that runs did not train on.

    python experiments/cross_validate.py --config=configs/brats_3mm.py:raw_dir=COHORT --workdir=CV --folds=4
    python experiments/tune_thresholds.py --workdir=CV/fold_0,CV/fold_1,CV/fold_2,CV/fold_3 --step=latest

Each case is predicted once, by the run that did not train on it, and decoded with every combination of `THRESHOLDS`;
then comes the post-processing of --config. The best has the highest mean of Dice and lesion-wise Dice over WT, TC and
ET. With several runs, a case is scored with what was best on the cases of the other runs: that is what the choice is
worth to new patients. The best on all is for a config, `model.thresholds`, or `jaxbrats predict --thresholds`.
Writes results/thresholds.md and .json.
"""

import dataclasses
import itertools
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import benchmarking
import numpy as np
import tune_postprocess
from absl import flags

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config import from_config, load_config
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import REGIONS, region_mask
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.evaluation.evaluate import Predicted
from jaxbrats.evaluation.lesions import CHALLENGES, match_lesions
from jaxbrats.evaluation.metrics import dice
from jaxbrats.evaluation.statistics import describe
from jaxbrats.inference.postprocess import postprocess
from jaxbrats.model.heads import RegionsHead
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list("workdir", None, "RUN, or RUN,RUN.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_CONFIG = flags.DEFINE_string(
    "config", "configs/brats_3mm.py", "Whose post-processing follows; its thresholds are compared.", flag_values=FLAGS
)
_NAME = flags.DEFINE_string("name", "thresholds", "Name of the files in results/.", flag_values=FLAGS)

# Of each region, from harsh to gentle.
THRESHOLDS = {"WT": (0.5,), "TC": (0.5,), "ET": (0.5, 0.4, 0.3, 0.2, 0.1)}
CHOICES = tuple(itertools.product(*THRESHOLDS.values()))
HALF = (0.5, 0.5, 0.5)
METRICS = ("Dice", "lesion-wise Dice (BraTS 2023)")


class Graded(RegionsHead):
    """In the place of labels it gives how many thresholds of each region a probability is above, as one number."""

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities `(..., 3)` to numbers `(...)` uint8, which `decode` makes labels."""
        code = np.uint8(0)
        for channel, thresholds in enumerate(THRESHOLDS.values()):
            above = sum((probabilities[..., channel] > one).astype(np.uint8) for one in thresholds)
            code = code * np.uint8(len(thresholds) + 1) + above
        return code


def decode(code: np.ndarray, choice: Sequence[float]) -> np.ndarray:
    """The labels `(...)` that `RegionsHead` gives with these thresholds."""
    sizes = [len(thresholds) + 1 for thresholds in THRESHOLDS.values()]
    codes = np.arange(math.prod(sizes))
    inside = [
        above >= len(thresholds) - thresholds.index(one)
        for above, thresholds, one in zip(np.unravel_index(codes, sizes), THRESHOLDS.values(), choice, strict=True)
    ]
    return RegionsHead().labels(np.stack(inside, axis=-1).astype(np.float32))[code]


def score(prediction: Predicted, postprocessing: Postprocessing) -> np.ndarray:
    """Each of `METRICS` for each of `CHOICES`, `(choices, metrics, regions)`; `labels` are numbers of `Graded`."""
    voxel_mm3 = float(np.prod(prediction.spacing_mm))
    box = bounding_box((prediction.labels > 0) | (prediction.truth > 0))
    code, truth = prediction.labels[box], prediction.truth[box]
    seen: dict[tuple[str, bytes], tuple[float, float]] = {}
    scores = []
    for choice in CHOICES:
        labels = postprocess(decode(code, choice), prediction.spacing_mm, postprocessing)
        for region in REGIONS:
            found = region_mask(labels, region)
            key = region, found.tobytes()
            if key not in seen:
                seen[key] = _measure(found, region_mask(truth, region), voxel_mm3)
            scores.append(seen[key])
    return np.array(scores).reshape(len(CHOICES), len(REGIONS), len(METRICS)).swapaxes(1, 2)


def _measure(found: np.ndarray, truth: np.ndarray, voxel_mm3: float) -> tuple[float, float]:
    challenge = CHALLENGES["GLI"]
    match = match_lesions(found, truth, challenge)
    return dice(found, truth), match.dice(match.scored(voxel_mm3, challenge))


def best(scores: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The choice with the highest mean over cases, metrics and regions, of equals the harshest."""
    return CHOICES[int(np.argmax(np.round(np.mean(scores, axis=(0, 2, 3)), 9)))]


def main() -> int:
    """Predicts, scores, prints and writes; 1 if a case could not be used."""
    prepare_jax()
    runs = [pathlib.Path(run) for run in _WORKDIR.value]
    tune_postprocess.check_folds(runs)
    trained_as = [read_record(run).settings for run in runs]
    for run, of_run in zip(runs, trained_as, strict=True):
        if of_run.model.head != "regions":
            hint = "Only with model.head = regions is there a threshold for each"
            raise InputError("was trained on labels, not on regions", file=run, hint=hint)
    settings = from_config(load_config(_CONFIG.value))
    problems: list[InputError] = []
    scores = [
        {
            prediction.case: score(prediction, settings.postprocessing)
            for prediction in tune_postprocess.predictions(run, _STEP.value, problems, head=Graded())
        }
        for run in runs
    ]
    if not any(scores):
        raise problems[0] if problems else InputError("holds no validation case", file=runs[0])
    others = [[case for other in scores if other is not one for case in other.values()] for one in scores]
    chosen = [best(rest or list(one.values())) for one, rest in zip(scores, others, strict=True)]
    everyone = [case for one in scores for case in one.values()]
    ways = {
        "half": [case[CHOICES.index(HALF)] for case in everyone],
        "chosen": [case[CHOICES.index(at)] for one, at in zip(scores, chosen, strict=True) for case in one.values()],
    }
    if (given := settings.model.thresholds) in CHOICES:
        ways["config"] = [case[CHOICES.index(given)] for case in everyone]
    report = {
        "machine": benchmarking.machine(("jax",)),
        "window": trained_as[0].window,
        "step": _STEP.value,
        "config": _CONFIG.value,
        "thresholds": given,
        "postprocessing": dataclasses.asdict(settings.postprocessing),
        "chosen": chosen,
        "best": best(everyone),
        "cases": [list(one) for one in scores],
        "scores": {way: np.array(values).tolist() for way, values in ways.items()},
    }
    benchmarking.write(_NAME.value, report, as_markdown(report))
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0


def as_markdown(report: Mapping[str, Any]) -> str:
    """The table: means over the cases."""
    folds, count = len(report["chosen"]), sum(map(len, report["cases"]))
    on_whom = "the cases of the other runs" if folds > 1 else "these same cases"
    rows = {
        "half": "0.5 for all",
        "chosen": f"chosen on {on_whom}",
        "config": f"{_text(report['thresholds'])}, those of {report['config']}",
    }
    lines = [
        "# Thresholds of the regions",
        "",
        f"{count} cases, each predicted by the one of {folds} runs that did not train on it, on whole volumes in "
        f"windows of {'x'.join(map(str, report['window']))} voxels; the checkpoint is {report['step']}, "
        f"post-processing that of {report['config']}. Chosen run by run: "
        f"{'; '.join(map(_text, report['chosen']))}; the best on all {count} is {_text(report['best'])}. Means with "
        "bootstrap 95 % intervals, over cases.",
        "",
        f"| | WT, TC, ET from | {' | '.join(REGIONS)} | mean |",
        "| --- |" + " --- |" * (len(REGIONS) + 2),
    ]
    for number, metric in enumerate(METRICS):
        for way, scores in report["scores"].items():
            values = np.array(scores)[:, number]
            cells = [benchmarking.interval(describe(of), 3) for of in (*values.T, values.mean(axis=1))]
            lines.append(f"| {metric} | {rows[way]} | {' | '.join(cells)} |")
    lines += ["", benchmarking.machine_line(report["machine"]), ""]
    options = f"--workdir=RUN,... --step={report['step']} --config={report['config']}"
    lines.append(f"`python experiments/tune_thresholds.py {options}`")
    return "\n".join(lines)


def _text(choice: Sequence[float]) -> str:
    return ", ".join(f"{one:g}" for one in choice)


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "tune_thresholds", sys.argv[1:]))
