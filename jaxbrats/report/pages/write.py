"""Writes the report of a run: the cases' pages in RUN/report, then RUN/report.html that links to them.

Everything is read from what the run left (config.json, metrics.jsonl, evaluation/, predictions/ and its arrays), so the
report is quick and its pictures are those that were scored.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from jaxbrats.evaluation import tables
from jaxbrats.evaluation.volumes import ScoredCase
from jaxbrats.report.pages.case_page import CasePage, CaseTask, page_path, prediction_path, write_case_page
from jaxbrats.report.pages.overview import Run, overview
from jaxbrats.report.pages.wording import CaseScores, by_case
from jaxbrats.system import files, processes
from jaxbrats.system.errors import InputError
from jaxbrats.train.logs import read_metrics

# A worker process takes as long to start as so many pages take.
_CASES_A_WORKER = 8


def write_report(
    workdir: pathlib.Path, config: Mapping[str, Any], cases: Sequence[ScoredCase], workers: int | None
) -> tuple[pathlib.Path, list[InputError]]:
    """Writes RUN/report.html and RUN/report/CASE.html."""
    run = _read_run(workdir, config)
    tasks, problems = _tasks(run, cases, tuple(config["settings"]["data"]["modalities"]))
    _remove_others(workdir, {task.case.name for task in tasks})
    workers = workers or min(processes.available_cpus(), 1 + len(tasks) // _CASES_A_WORKER)
    results = processes.map_in_processes(write_case_page, tasks, workers, name=lambda task: task.case.name)
    pages: dict[str, CasePage] = {}
    try:
        for _, result in tqdm(results, desc="report", total=len(tasks), unit="case", dynamic_ncols=True):
            if isinstance(result, InputError):
                problems.append(result)
            else:
                pages[result.case] = result
    except InputError as died:
        problems.append(died)
    path = workdir / "report.html"
    files.write_text(path, overview(run, pages, [str(problem) for problem in problems]))
    return path, problems


def _read_run(workdir: pathlib.Path, config: Mapping[str, Any]) -> Run:
    table, summary = workdir / "evaluation" / "cases.csv", workdir / "evaluation" / "summary.json"
    evaluation = files.read_json(summary) if summary.exists() else {}
    if not isinstance(evaluation, dict):
        raise InputError("is not as jaxbrats evaluate writes it", file=summary, hint="Run jaxbrats evaluate again")
    return Run(
        workdir=workdir,
        config=config,
        metrics=read_metrics(workdir),
        cases=by_case(tables.read_csv(table)) if table.exists() else [],
        evaluation=evaluation,
    )


def _tasks(
    run: Run, cases: Sequence[ScoredCase], modalities: tuple[str, ...]
) -> tuple[list[CaseTask], list[InputError]]:
    """What to make a page of, and what stands in the way of the others."""
    arrays = {case.name: case.case for case in cases}
    records = {case.name: case.record for case in cases}
    names: list[str] = []
    problems = []
    for name in (case.name for case in run.cases):
        prediction = prediction_path(run.workdir, name)
        if name in arrays and prediction.exists():
            names.append(name)
            continue
        missing, what = prediction, "is not there"
        problems.append(InputError(what, case=name, file=missing, hint="Run jaxbrats evaluate again"))
    by_name: dict[str, CaseScores] = {case.name: case for case in run.cases}
    tasks = [
        CaseTask(
            workdir=run.workdir,
            case=arrays[name],
            record=records.get(name),
            modalities=modalities,
            scores=by_name[name],
            place=number + 1,
            total=len(names),
            neighbours=(names[number - 1] if number else None, names[number + 1] if number + 1 < len(names) else None),
        )
        for number, name in enumerate(names)
    ]
    return tasks, problems


def _remove_others(workdir: pathlib.Path, names: set[str]) -> None:
    """Pages of an earlier evaluation's cases."""
    kept = {page_path(workdir, name) for name in names}
    for page in (workdir / "report").glob("*.html"):
        if page not in kept:
            page.unlink()
