"""Evaluates a run's checkpoint: predictions, scores as CSV, a summary, overlays.

RUN/predictions/CASE.nii.gz    what was predicted, on the voxels of the case's source files
RUN/evaluation/cases.csv       a row for each case and region
RUN/evaluation/summary.json    mean, sd, median, ... of each region and metric; of which checkpoint and which cases
RUN/figures/overlay_*.png      image, truth and prediction, from the worst case to the best

All of these are of one evaluation: they take the place of an earlier one's when it is done, the summary last.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from jaxbrats.data.arrays import ArrayCase, identified
from jaxbrats.data.dataset import Dataset, fingerprint, read_dataset
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.evaluation import statistics, tables
from jaxbrats.evaluation.evaluate import CaseScores, region_dice, score_cases
from jaxbrats.evaluation.volumes import ScoredCase
from jaxbrats.inference.network import load_network
from jaxbrats.inference.predictions import write_prediction
from jaxbrats.inference.predictor import Predictor
from jaxbrats.report.ranked import draw_overlays
from jaxbrats.runs.record import RunRecord, check_data, portable, read_record
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import locked


def evaluate_run(
    workdir: str | pathlib.Path, step: str = "best", data_dir: str | pathlib.Path | None = None
) -> tuple[statistics.Summary, list[InputError]]:
    """Scores a checkpoint and writes predictions, tables and overlays into the run.

    Args:
        workdir: The run.
        step: 'best', 'latest' or a step's number.
        data_dir: Folder of arrays; None for the run's own. Where it holds the run's validation cases, the same by
            content, these are scored; of any other folder all cases but those of patients, or with arrays, that the
            run was trained on.

    Returns:
        The summary, and what was wrong with each case that could not be scored.

    Raises:
        InputError: no run, checkpoint or arrays there, arrays preprocessed otherwise than the run's, no case that can
            be scored, or another evaluation of the run at work.
    """
    record = read_record(workdir)  # before a lock is left in a folder that is no run
    with locked(record.workdir, "evaluate", "an evaluation"):
        dataset = dataset_to_score(record, data_dir)
        own = dataset.folder.resolve() == record.data_dir.resolve() or _holds_own(record, dataset)
        return _evaluate(record, step, dataset, own)


def is_evaluated(record: RunRecord, step: int) -> bool:
    """Whether the run's summary is of this checkpoint, on all its validation cases and without a problem."""
    summary = read_summary(record.workdir)
    own = fingerprint(record.cases[name] for name in record.split.val)
    return (summary.get("step"), summary.get("fingerprint"), summary.get("problems")) == (step, own, [])


def read_summary(workdir: pathlib.Path) -> dict[str, Any]:
    """`evaluation/summary.json`; empty where the run was not evaluated.

    Raises:
        InputError: it is damaged.
    """
    path = workdir / "evaluation" / "summary.json"
    summary = files.read_json(path) if path.exists() else {}
    if not isinstance(summary, dict):
        raise InputError("is not as jaxbrats evaluate writes it", file=path, hint="Run jaxbrats evaluate again")
    return summary


def dataset_to_score(record: RunRecord, data_dir: str | pathlib.Path | None) -> Dataset:
    """The arrays at `data_dir`, by default the run's own.

    Raises:
        InputError: no arrays there, or arrays preprocessed otherwise than the run's.
    """
    dataset = read_dataset(record.data_dir if data_dir is None else data_dir)
    trained_with = Preprocessing.of(record.settings.data).to_dict()
    found = dataset.preprocessing.to_dict() if dataset.preprocessing else trained_with
    for name, value in trained_with.items():
        # Which cases were good enough to train on has no bearing on how they were made.
        if name != "min_tumour" and found[name] != value:
            raise InputError(
                f"holds arrays made with {name} = {found[name]}, the run was trained with {value}",
                file=dataset.folder,
                hint=f"Preprocess again with --{name} as the run's",
            )
    return dataset


def validation_cases(record: RunRecord, dataset: Dataset) -> list[ArrayCase]:
    """The run's own validation cases; `check_data` tells whether each is still what it was."""
    return dataset.select(record.split.val)


def _holds_own(record: RunRecord, dataset: Dataset) -> bool:
    """Whether a folder holds the run's validation cases as they were."""
    try:
        check_data(record, identified(validation_cases(record, dataset)))
    except InputError:
        return False
    return True


def cases_not_trained_on(record: RunRecord, dataset: Dataset) -> list[ArrayCase]:
    """The cases of a folder without those of patients that the run was trained on."""
    patients = {record.cases[name].patient for name in record.split.train}
    return [case for case in dataset.cases if case.patient not in patients]


def _evaluate(record: RunRecord, step: str, dataset: Dataset, own: bool) -> tuple[statistics.Summary, list[InputError]]:
    network = load_network(record.workdir, record.settings, record.frame, step)
    cases = validation_cases(record, dataset) if own else cases_not_trained_on(record, dataset)
    if len(cases) < len(dataset.cases) and not own:
        print(
            f"{dataset.folder}: {len(dataset.cases) - len(cases)} cases left out, because the run was trained on them"
        )
    if not cases:
        raise InputError("holds no case that the run was not trained on", file=dataset.folder)
    trained_on = {record.cases[name].image for name in record.split.train}

    def check(case: ArrayCase) -> None:
        if own:
            check_data(record, [case])
        elif case.content.image in trained_on:
            raise InputError("is an image that the run was trained on", case=case.name, file=case.image)

    predict = Predictor([network], network.preprocessing.crop).labels
    scored: list[CaseScores] = []
    problems: list[InputError] = []
    with files.replacing_folder(record.workdir / "predictions") as predictions:
        results = score_cases(cases, predict, check)
        for result in tqdm(results, desc="evaluating", total=len(cases), unit="case", dynamic_ncols=True):
            if isinstance(result, InputError):
                problems.append(result)
                continue
            write_prediction(predictions / f"{result.case.name}.nii.gz", result.labels, result.case.record)
            scored.append(result._replace(labels=None))
        if not scored:
            raise problems[0]
        rows = [row for result in scored for row in result.rows]
        summary = statistics.summarise(rows)
        # The last evaluation ends with its predictions; this one counts when its summary is there.
        for name in ("summary.json", "cases.csv"):
            (record.workdir / "evaluation" / name).unlink(missing_ok=True)
    tables.write_csv(record.workdir / "evaluation" / "cases.csv", rows)
    problems += draw_overlays(
        record.workdir / "figures",
        scored_cases(record.workdir, [result.case for result in scored]),
        region_dice(rows),
        record.settings.data.modalities[0],
    )
    files.write_json(
        record.workdir / "evaluation" / "summary.json",
        {
            "step": network.step,
            "data": portable(dataset.folder, record.workdir),
            "fingerprint": fingerprint(result.case.content for result in scored),
            "cases": len(scored),
            "problems": [str(problem) for problem in problems],
            "regions": summary,
        },
    )
    return summary, problems


def scored_cases(workdir: pathlib.Path, cases: Sequence[ArrayCase]) -> list[ScoredCase]:
    """The cases together with the predictions that the evaluation left."""
    return [ScoredCase(case, case.record, workdir / "predictions" / f"{case.name}.nii.gz") for case in cases]
