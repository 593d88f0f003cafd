"""Another method on the same patients, folds and cores as ours: what compare_nnunet.py and compare_monai.py share.

Our scores are those of real_patients.py after 1,253 steps (num_epochs=167), not computed again. Fold k of a peer trains
on all patients but those that our fold k predicts, and predicts these on their files' own voxels; both sides are scored
by the same function. A peer gets

    --equal=steps   as many training steps as ours, or
    --equal=time    as many as take the time of ours, by the ratio of the times of a step, loader included, of which
                    the two take turns. A machine that others load slows PyTorch's threads, which wait for one another,
                    several times more than ours: measure on a quiet one (delete step_times.json to measure again).

The same command again goes on where it was stopped; the tables are of the folds that are finished.

    DIR/PEER/step_times.json                the rounds and their ratio, measured once
    DIR/PEER/EQUAL/fold_K/                  what the peer leaves: checkpoints, predictions
    DIR/PEER/EQUAL/fold_K/scores.json       the scores of its patients, when it is finished
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import benchmarking
import numpy as np
import peers_table
from absl import flags
from peers_steps import OURS, measure_steps
from real_patients import METRICS, measure

from jaxbrats.data.labels import MODALITIES
from jaxbrats.data.raw.cases import Case, find_cases
from jaxbrats.data.raw.geometry import frame_of
from jaxbrats.data.raw.nifti import read_labels
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json

SPACING_MM = (3.0, 3.0, 3.0)
EQUAL = ("time", "steps")


@dataclasses.dataclass(frozen=True)
class Patients:
    """The cohort in folds.

    Attributes:
        cases: By name.
        folds: Names of the cases that each fold predicts.
    """

    cases: Mapping[str, Case]
    folds: tuple[tuple[str, ...], ...]

    def splits(self) -> list[dict[str, list[str]]]:
        """Of each fold the cases that train and those that are predicted."""
        everyone = sorted(self.cases)
        return [{"train": [n for n in everyone if n not in fold], "val": list(fold)} for fold in self.folds]


class Peer(Protocol):
    """Another method. `train` and `predict` are given a folder for the fold alone."""

    name: str

    def prepare(self, patients: Patients) -> None:
        """Makes what its folds have in common, where it is not there."""

    def step_seconds(self, steps: int) -> float:
        """Seconds of a training step, the mean of so many; called in a process of its own."""

    def train(self, fold: int, steps: int, folder: pathlib.Path) -> int:
        """Trains, or goes on; returns the number of steps, which may be a few less than asked for."""

    def predict(self, fold: int, folder: pathlib.Path) -> Iterable[tuple[str, np.ndarray]]:
        """Each case of the fold with its labels on the file's voxels."""

    def facts(self) -> dict[str, str]:
        """What the table says of it: network, patch and batch, training, prediction, parameters."""


def define_flags() -> flags.FlagValues:
    """The command line of a comparison."""
    values = flags.FlagValues()
    flags.DEFINE_string("raw", None, "The cohort.", required=True, flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the peers' folds.", required=True, flag_values=values)
    flags.DEFINE_enum("equal", "time", EQUAL, "What both sides have alike.", flag_values=values)
    ours = str(benchmarking.RESULTS / "real_patients_1253_soft.json")
    flags.DEFINE_string("ours", ours, "Our scores, as real_patients.py writes them.", flag_values=values)
    flags.DEFINE_integer("steps", 1253, "Steps that ours were trained for.", 1, flag_values=values)
    flags.DEFINE_list("folds_run", None, "Folds to train; all if not given, none if empty.", flag_values=values)
    flags.DEFINE_string("results", str(benchmarking.RESULTS), "Folder of the tables.", flag_values=values)
    return values


def compare(name: str, peers: Sequence[Peer], packages: Sequence[str], values: flags.FlagValues) -> int:
    """Trains and scores what is not done, and writes NAME.md and NAME.json of all that is."""
    workdir, ours = pathlib.Path(values.workdir), read_json(values.ours)
    patients = patients_of(values.raw, ours)
    folds = folds_of(values.folds_run, len(patients.folds))
    comparisons = []
    for peer in peers:
        peer.prepare(patients)
        times_file = workdir / peer.name / "step_times.json"
        if not times_file.exists():
            write_json(times_file, measure_steps(peer.name, peer.step_seconds, values.raw, workdir / OURS))
        times = read_json(times_file)
        steps = steps_for(values.equal, values.steps, times["ratio"]["median"])
        for fold in folds:
            folder = workdir / peer.name / values.equal / f"fold_{fold}"
            if not (folder / "scores.json").exists():
                print(f"== {peer.name}, equal {values.equal}: fold {fold}, {steps} steps", flush=True)
                done = peer.train(fold, steps, folder)
                scores = {case: score(patients.cases[case], labels) for case, labels in peer.predict(fold, folder)}
                write_json(folder / "scores.json", {"steps": done, "cases": scores})
        for equal in EQUAL:
            if scored := finished(workdir / peer.name / equal, len(patients.folds)):
                of_peer = peers_table.comparison(peer.name, ours, scored, peer.facts(), times)
                made = {"equal": equal, "our_steps": values.steps, "ours": pathlib.Path(values.ours).name}
                comparisons.append(of_peer | made | {"spacing_mm": SPACING_MM})
    if comparisons:
        report = {"machine": benchmarking.machine(packages), "comparisons": comparisons}
        benchmarking.write(name, report, peers_table.as_markdown(name, report), pathlib.Path(values.results))
    return 0


def patients_of(raw: str, ours: Mapping[str, Any]) -> Patients:
    """The cases that ours were measured on, in their folds.

    Raises:
        InputError: the cohort lacks one, or a case that ours were measured on has no segmentation in it.
    """
    cases = {case.name: case for case in find_cases(raw, MODALITIES).cases if case.labels is not None}
    fold_of = {one["case"]: one["run"] for one in ours["cases"]}
    if missing := sorted(fold_of.keys() - cases.keys()):
        problem = f"lacks {', '.join(missing)} of --ours, or their segmentations"
        raise InputError(problem, file=raw, hint="Give the cohort that --ours was measured on")
    numbers = range(len(ours["trained_on"]))
    folds = tuple(tuple(sorted(case for case, fold in fold_of.items() if fold == number)) for number in numbers)
    return Patients({name: cases[name] for name in fold_of}, folds)


def folds_of(given: Sequence[str] | None, count: int) -> list[int]:
    """The folds of --folds_run.

    Raises:
        InputError: one that is not there.
    """
    known = {str(fold): fold for fold in range(count)}
    wanted = known if given is None else given
    if wrong := [fold for fold in wanted if fold not in known]:
        raise InputError(f"--folds_run: expected some of {', '.join(known)}, found {', '.join(wrong)}")
    return [known[fold] for fold in wanted]


def steps_for(equal: str, ours: int, ratio: float) -> int:
    """Steps of a peer; a step of ours takes `ratio` times the time of one of its."""
    return ours if equal == "steps" else max(1, round(ours * ratio))


def score(case: Case, labels: np.ndarray) -> dict[str, list[float]]:
    """Each of `METRICS` for WT, TC and ET, on the file's voxels."""
    truth, affine = read_labels(case.labels, case.name, case.label_map)
    return dict(zip(METRICS, measure(labels, truth, frame_of(affine).spacing_mm), strict=True))


def finished(folder: pathlib.Path, folds: int) -> dict[int, dict[str, Any]]:
    """Finished fold -> its scores.json."""
    files = {fold: folder / f"fold_{fold}" / "scores.json" for fold in range(folds)}
    return {fold: read_json(file) for fold, file in files.items() if file.exists()}
