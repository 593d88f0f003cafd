"""Evaluates a run's checkpoint: predictions, scores as CSV, a summary, overlays.

RUN/predictions/CASE.nii.gz    what was predicted, on the voxels of the case's source files
RUN/evaluation/cases.csv       a row for each case and region
RUN/evaluation/summary.json    mean, sd, median, ... of each region and metric; of which checkpoint and which cases
RUN/figures/overlay_*.png      image, truth and prediction, from the worst case to the best

All of these are of one evaluation: they take the place of an earlier one's when it is done, the summary last, and the
report of that one is deleted. Until then predictions are in RUN/.unfinished-predictions, from which an evaluation that
was stopped goes on.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.arrays import ArrayCase, identified, identify
from jaxbrats.data.dataset import Dataset, read_dataset
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.sources import case_of, is_gone
from jaxbrats.evaluation import statistics, tables
from jaxbrats.evaluation.evaluate import (
    CaseScores,
    Predicted,
    predict_arrays,
    predict_files,
    region_dice,
    score,
)
from jaxbrats.evaluation.volumes import ScoredArrays, ScoredCase, ScoredFiles
from jaxbrats.inference import output_folder
from jaxbrats.inference.network import Network
from jaxbrats.inference.postprocess import read_postprocessing
from jaxbrats.report.pages import REPORT
from jaxbrats.report.ranked import draw_overlays
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import RunRecord, check_data, patients_trained_on, portable, read_record
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import locked


def evaluate_run(
    workdir: str | pathlib.Path,
    step: str = "best",
    data_dir: str | pathlib.Path | None = None,
    wait: bool = False,
) -> tuple[statistics.Summary, list[InputError]]:
    """Scores a checkpoint and writes predictions, tables and overlays into the run.

    Args:
        workdir: The run.
        step: 'best', 'latest' or a step's number.
        data_dir: Folder of arrays; None for the run's own. Where it holds the run's validation cases, the same by
            content, these are scored; of any other folder all cases but those of patients, or with arrays, that the
            run was trained on.
        wait: Whether to wait for another evaluation of the run.

    Returns:
        The summary, and what was wrong with each case that could not be scored.

    Raises:
        InputError: no run, checkpoint or arrays there, arrays preprocessed otherwise than the run's, no case that can
            be scored, or another evaluation of the run at work.
    """
    record = read_record(workdir)  # before a lock is left in a folder that is not a run
    with locked(record.workdir, "evaluate", "an evaluation", wait=wait):
        dataset = dataset_to_score(record, data_dir)
        own = dataset.folder.resolve() == record.data_dir.resolve() or _holds_own(record, dataset)
        return _evaluate(record, step, dataset, own)


def is_evaluated(record: RunRecord, step: int, dataset: Dataset | None = None) -> bool:
    """Whether the run's summary is of this checkpoint and post-processing, on all its validation cases, without a
    problem and, where `dataset` has the files that the arrays were made from, on these.
    """
    summary = tables.read_summary(record.workdir)
    if not (record.workdir / "evaluation" / "cases.csv").exists():
        return False
    own = files.fingerprint(record.cases[name] for name in record.split.val)
    asked = read_postprocessing(record.workdir, record.settings.postprocessing)
    # A summary that does not say is of a time when evaluation did none.
    done = summary.get("postprocessing", dataclasses.asdict(Postprocessing()))
    found = (summary.get("step"), summary.get("fingerprint"), summary.get("problems"), done)
    if found != (step, own, [], dataclasses.asdict(asked)):
        return False
    return dataset is None or summary.get("scored") != "arrays" or not _can_be_scored_whole(record, dataset)


def dataset_to_score(record: RunRecord, data_dir: str | pathlib.Path | None) -> Dataset:
    """The arrays at `data_dir`, by default the run's own.

    Raises:
        InputError: no arrays there, or arrays preprocessed otherwise than the run's, or of cases that lack modalities
            which the network cannot do without, or arrays in another frame than the run's whose files are not there.
    """
    dataset = read_dataset(record.data_dir if data_dir is None else data_dir)
    trained_with = Preprocessing.of(record.settings.data).of_images()
    found = dataset.preprocessing.of_images() if dataset.preprocessing else trained_with
    if dataset.preprocessing and dataset.preprocessing.incomplete and not record.settings.augment.modality_dropout:
        raise InputError(
            "holds arrays made with incomplete = True, the run was trained without modality dropout",
            file=dataset.folder,
            hint="Preprocess again with --incomplete=false",
        )
    for name, value in trained_with.items():
        if found[name] != value:
            raise InputError(
                f"holds arrays made with {name} = {found[name]}, the run was trained with {value}",
                file=dataset.folder,
                hint=f"Preprocess again with --{name} as the run's",
            )
    if record.frame and dataset.frame and not record.frame.is_like(dataset.frame) and not _has_files(dataset):
        raise InputError(
            f"holds arrays that are {dataset.frame}, the run was trained on {record.frame}, and the files they were "
            f"made from are not at {dataset.raw_dir}",
            file=dataset.folder,
            hint="Bring the files back there: the network's predictions are then brought to them",
        )
    return dataset


def _holds_own(record: RunRecord, dataset: Dataset) -> bool:
    """Whether a folder holds the run's validation cases as they were."""
    try:
        check_data(record, identified(dataset.select(record.split.val)))
    except InputError:
        return False
    return True


def _evaluate(record: RunRecord, step: str, dataset: Dataset, own: bool) -> tuple[statistics.Summary, list[InputError]]:
    if other := next((record.workdir / "predictions").rglob(output_folder.NAME), None):
        hint = "Move the folder elsewhere: an evaluation leaves its own predictions there"
        raise InputError("holds what jaxbrats predict wrote", file=other.parent, hint=hint)
    network = run_network(record, step)
    problems: list[InputError] = []
    cases = cases_to_score(record, dataset, own, problems)
    files_of = raw_cases(dataset, cases, problems)
    cases = [case for case in cases if files_of is None or case.name in files_of]
    if files_of is None:
        print(f"{dataset.folder}: scored on the arrays, because the files they were made from are not known here")
    options = {
        "whole volumes": files_of is not None,
        "inference": dataclasses.asdict(network.inference),
        "postprocessing": dataclasses.asdict(network.postprocessing),
        "cases": {case.name: files.fingerprint([case.content]) for case in cases},
    }
    made_from = output_folder.made_by([network], options)
    scored: list[CaseScores] = []
    with files.replacing_folder(record.workdir / "predictions", made_from) as predictions:
        results = score(predicted(network, cases, files_of, predictions))
        for result in tqdm(results, desc="evaluating", total=len(cases), unit="case", dynamic_ncols=True):
            (problems if isinstance(result, InputError) else scored).append(result)
        if not scored:
            raise problems[0]
        rows = [row for result in scored for row in result.rows]
        summary = statistics.summarise(rows)
        # The last evaluation ends with its predictions; this one counts when its summary is there.
        for name in ("evaluation/summary.json", "evaluation/cases.csv", REPORT):
            (record.workdir / name).unlink(missing_ok=True)
    tables.write_csv(record.workdir / "evaluation" / "cases.csv", rows)
    names = {result.case for result in scored}
    cases = [case for case in cases if case.name in names]
    problems += draw_overlays(
        record.workdir / "figures",
        scored_cases(record, dataset, cases, files_of),
        region_dice(rows),
        record.settings.data.modalities,
    )
    files.write_json(
        record.workdir / "evaluation" / "summary.json",
        {
            "step": network.step,
            "data": portable(dataset.folder, record.workdir),
            "fingerprint": files.fingerprint(case.content for case in cases),
            "scored": "arrays" if files_of is None else "whole volumes",
            "inference": dataclasses.asdict(network.inference),
            "postprocessing": dataclasses.asdict(network.postprocessing),
            "cases": len(scored),
            "problems": [str(problem) for problem in problems],
            "regions": summary,
        },
    )
    return summary, problems


def cases_to_score(record: RunRecord, dataset: Dataset, own: bool, problems: list[InputError]) -> list[ArrayCase]:
    """The cases to score, identified; what is wrong with others that should be is added to `problems`.

    Raises:
        InputError: there is none.
    """
    if own:
        candidates = dataset.select(record.split.val)
    else:
        patients = patients_trained_on(record)
        candidates = [case for case in dataset.cases if case.patient not in patients]
        if trained := len(dataset.cases) - len(candidates):
            print(f"{dataset.folder}: {trained} cases are left out, because the run was trained on them")
    if not candidates:
        raise InputError("holds no case that the run was not trained on", file=dataset.folder)
    trained_on = {record.cases[name].image for name in record.split.train}
    cases = []
    for case in candidates:
        try:
            case = identify(case)
            if own:
                check_data(record, [case])
            elif case.content.image in trained_on:
                raise InputError("is an image that the run was trained on", case=case.name, file=case.image)
        except InputError as problem:
            problems.append(problem)
        else:
            cases.append(case)
    if not cases:
        raise problems[0]
    return cases


def raw_cases(dataset: Dataset, cases: Sequence[ArrayCase], problems: list[InputError]) -> dict[str, Case] | None:
    """The files that arrays were made from; None where they are not known. Changed ones go to `problems`."""
    if not _has_files(dataset):
        return None
    found = {}
    for case in cases:
        try:
            found[case.name] = case_of(case.name, case.record, dataset.raw_dir, dataset.preprocessing)
        except InputError as problem:
            problems.append(problem)
    return found


def _has_files(dataset: Dataset) -> bool:
    return dataset.raw_dir is not None and dataset.raw_dir.is_dir() and not is_gone(dataset.raw_dir)


def _can_be_scored_whole(record: RunRecord, dataset: Dataset) -> bool:
    """Whether all files that the run's validation cases were made from are there, the same as they were."""
    problems: list[InputError] = []
    return raw_cases(dataset, dataset.select(record.split.val), problems) is not None and not problems


def predicted(
    network: Network, cases: Sequence[ArrayCase], files_of: Mapping[str, Case] | None, folder: pathlib.Path | None
) -> Iterator[Predicted | InputError]:
    """Predicts cases on their own files or, where these are not known, on their arrays.

    Args:
        network: What predicts.
        cases: The cases, identified.
        files_of: From `raw_cases`.
        folder: Where the predictions are left; None for nowhere.
    """
    if files_of is None:
        return predict_arrays(cases, network, folder)
    return predict_files([files_of[case.name] for case in cases if case.name in files_of], network, folder)


def scored_cases(
    record: RunRecord, dataset: Dataset, cases: Sequence[ArrayCase], files_of: Mapping[str, Case] | None
) -> list[ScoredCase]:
    """The cases together with the predictions that the evaluation left."""
    folder = record.workdir / "predictions"
    if files_of is None:
        return [ScoredArrays(case, folder / f"{case.name}.nii.gz") for case in cases]
    return [
        ScoredFiles(files_of[case.name], dataset.preprocessing, folder / f"{case.name}.nii.gz")
        for case in cases
        if case.name in files_of
    ]


def scored_by(record: RunRecord) -> tuple[list[ScoredCase], list[InputError]]:
    """The cases of the run's last evaluation, to be read again, and those whose files have changed since.

    Raises:
        InputError: the arrays that were scored are gone, or the evaluation's files are damaged.
    """
    table, summary = record.workdir / "evaluation" / "cases.csv", tables.read_summary(record.workdir)
    if not table.exists() or not summary:
        return [], []
    dataset = read_dataset(record.workdir / summary.get("data", record.data_dir))
    cases = dataset.select(dict.fromkeys(str(row["case"]) for row in tables.read_csv(table)))
    problems: list[InputError] = []
    files_of = raw_cases(dataset, cases, problems) if summary.get("scored") == "whole volumes" else None
    return scored_cases(record, dataset, cases, files_of), problems
