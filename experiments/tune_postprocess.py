"""Chooses a run's post-processing on its validation cases, and writes it where `jaxbrats predict` finds it.

    python experiments/tune_postprocess.py --workdir=runs/unet3d
    python experiments/tune_postprocess.py --workdir=runs/fold0,runs/fold1

Every case is predicted by the run that did not train on it, and scored under every combination of the volumes below, of
holes, tumours, cores and enhancing tumour. The one with the best mean over cases and over WT, TC and ET is chosen,
where it gains at least --least_gain, of equals the gentlest; else none. Of several runs (the folds of an ensemble) the
cases are taken together and all get the same. Writes RUN/postprocess.json and prints what it gains. Like `jaxbrats
evaluate`, it looks at whole volumes, and at the arrays where the files they were made from are not known.
"""

import dataclasses
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import REGIONS, region_mask
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.evaluation.evaluate import Predicted
from jaxbrats.evaluation.lesions import CHALLENGES
from jaxbrats.evaluation.metrics import dice, score_case
from jaxbrats.inference.network import load_network
from jaxbrats.inference.postprocess import STEPS, write_postprocessing
from jaxbrats.runs.evaluate import cases_to_score, dataset_to_score, predicted, raw_cases
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError, printable
from jaxbrats.system.processes import available_cpus, map_in_processes

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list("workdir", None, "RUN, or RUN,RUN.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_METRIC = flags.DEFINE_enum(
    "metric", "lesion_dice", ["lesion_dice", "dice"], "What is to become best.", flag_values=FLAGS
)
_CHALLENGE = flags.DEFINE_enum("challenge", "GLI", list(CHALLENGES), "Rules of lesion_dice.", flag_values=FLAGS)
_LEAST_GAIN = flags.DEFINE_float("least_gain", 0.001, "Less than this is not worth it.", 0, flag_values=FLAGS)
_WORKERS = flags.DEFINE_integer("workers", 0, "Processes that score; 0 for one a processor.", 0, flag_values=FLAGS)

# mm^3, from gentle to harsh.
HOLES = (0, 100, 1000)
COMPONENTS = (0, 50, 100, 200, 500, 1000, 2000)
CORES = (0, 20, 50, 100, 200, 500)
ENHANCING = (0, 20, 50, 100, 200, 500, 1000)
VOLUMES = (HOLES, COMPONENTS, CORES, ENHANCING)
GRID = [Postprocessing(*volumes) for volumes in itertools.product(*VOLUMES)]


def check_folds(runs: Sequence[pathlib.Path]) -> None:
    """Refuses runs that validate on the same patient: they are no folds of one cross-validation."""
    validated: dict[str, int] = {}
    for number, run in enumerate(runs):
        record = read_record(run)
        for name in record.split.val:
            patient = record.cases[name].patient
            if validated.setdefault(patient, number) != number:
                problem = f"validates on the same patient as {runs[validated[patient]]}"
                hint = "Give the folds of one cross-validation, each once"
                raise InputError(problem, case=name, file=run, hint=hint)


def predictions(workdir: pathlib.Path, step: str, problems: list[InputError], **changed: Any) -> Iterator[Predicted]:
    """Predicts a run's validation cases one at a time; what cannot be read is added to `problems`.

    Args:
        workdir: The run.
        step: Its checkpoint.
        problems: Grows.
        **changed: Attributes of its `Network` to replace. Post-processing is left out where none is given.
    """
    record = read_record(workdir)
    network = load_network(workdir, record.settings, record.frame, step)
    network = dataclasses.replace(network, **{"postprocessing": Postprocessing(), **changed})
    dataset = dataset_to_score(record, None)
    cases = cases_to_score(record, dataset, own=True, problems=problems)
    results = predicted(network, cases, raw_cases(dataset, cases, problems), folder=None)
    title = f"tuning {printable(workdir.name)}"
    for result in tqdm(results, desc=title, total=len(cases), unit="case", dynamic_ncols=True):
        if isinstance(result, InputError):
            problems.append(result)
        else:
            yield result


Measure = Callable[[np.ndarray, np.ndarray, Sequence[float]], Sequence]


def measure(
    labels: np.ndarray, truth: np.ndarray, spacing: Sequence[float], metric: str, challenge: str
) -> list[float]:
    """A metric of WT, TC and ET."""
    if metric == "dice":
        return [dice(region_mask(labels, region), region_mask(truth, region)) for region in REGIONS]
    scores = score_case(labels, truth, spacing, challenge)
    return [scores[region][metric] for region in REGIONS]


def score(prediction: Predicted, measure: Measure) -> np.ndarray:
    """What `measure` gives for a case under every setting of `GRID`: `(settings, ...)`."""
    # Neither the scores nor the post-processing depend on the background around all labels.
    box = bounding_box((prediction.labels != 0) | (prediction.truth != 0))
    labels, truth, spacing = prediction.labels[box], prediction.truth[box], prediction.spacing_mm
    seen: dict[bytes, Sequence] = {}
    scores = []
    for processed in _processed(labels, spacing, tuple(zip(STEPS, VOLUMES, strict=True))):
        # Most settings do the same to a case.
        key = processed.tobytes()
        if key not in seen:
            seen[key] = measure(processed, truth, spacing)
        scores.append(seen[key])
    return np.array(scores)


def _processed(labels: np.ndarray, spacing: Sequence[float], steps: Sequence[tuple]) -> Iterator[np.ndarray]:
    """The labels under each setting of `GRID`, in its order; what settings begin with alike is done once."""
    if not steps:
        yield labels
        return
    step, volumes = steps[0]
    for volume in volumes:
        yield from _processed(step(labels, spacing, volume), spacing, steps[1:])


def choose(scores: np.ndarray, least_gain: float) -> int:
    """Index in `GRID` of the best setting; 0, which is none, where none gains enough.

    Args:
        scores: Means over the cases, `(settings, regions)`.
        least_gain: Of the mean over the regions, beside doing nothing.
    """
    means = scores.mean(axis=1)
    # The grid goes from gentle to harsh, and argmax takes the first of equals; rounding makes equals of sums.
    best = int(np.argmax(np.round(means, 9)))
    return best if means[best] - means[0] >= least_gain else 0


def as_markdown(settings: Postprocessing, before: Sequence[float], after: Sequence[float], metric: str) -> str:
    """What was chosen and what it gains."""
    chosen = ", ".join(f"{name} = {value:g}" for name, value in dataclasses.asdict(settings).items())
    rows = [
        f"| {region} | {old:.4f} | {new:.4f} | {new - old:+.4f} |"
        for region, old, new in zip(REGIONS, before, after, strict=True)
    ]
    return "\n".join([f"Chosen: {chosen}", "", f"| {metric} | without | with | gain |", "|---|---:|---:|---:|", *rows])


def main() -> int:
    """Tunes, prints and writes; 1 if a case could not be read."""
    prepare_jax()
    workdirs = [pathlib.Path(workdir) for workdir in _WORKDIR.value]
    problems: list[InputError] = []
    tasks = itertools.chain.from_iterable(predictions(workdir, _STEP.value, problems) for workdir in workdirs)
    by = functools.partial(measure, metric=_METRIC.value, challenge=_CHALLENGE.value)
    work = functools.partial(score, measure=by)
    workers = _WORKERS.value or available_cpus()
    total, names = np.zeros((len(GRID), len(REGIONS))), []
    for prediction, scores in map_in_processes(work, tasks, workers, name=lambda prediction: prediction.case):
        total += scores
        names.append(prediction.case)
    if not names:
        raise problems[0] if problems else InputError("holds no validation case", file=workdirs[0])
    means = total / len(names)
    index = choose(means, _LEAST_GAIN.value)
    before, after = means[0].tolist(), means[index].tolist()
    chosen_by = {
        "metric": _METRIC.value,
        "step": _STEP.value,
        "runs": [str(workdir) for workdir in workdirs],
        "cases": sorted(names),
        "without": dict(zip(REGIONS, before, strict=True)),
        "with": dict(zip(REGIONS, after, strict=True)),
    }
    for workdir in workdirs:
        write_postprocessing(workdir, GRID[index], chosen_by)
    print(as_markdown(GRID[index], before, after, _METRIC.value))
    for problem in problems:
        print(f"not used: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "tune_postprocess", sys.argv[1:]))
