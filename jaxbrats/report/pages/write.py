"""Writes the report of a run: the cases' pages in RUN/report, then RUN/report.html that links to them.

Scores and curves are read from what the run left, and the cases' volumes are those that were scored, so the report is
quick and its pictures and numbers belong together.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from jaxbrats.evaluation import tables
from jaxbrats.evaluation.volumes import ScoredCase
from jaxbrats.report.pages import REPORT
from jaxbrats.report.pages.case_page import CasePage, CaseTask, page_path, write_case_page
from jaxbrats.report.pages.overview import Run, overview
from jaxbrats.report.pages.score_table import by_case
from jaxbrats.system import files, processes
from jaxbrats.system.errors import InputError
from jaxbrats.train.logs import read_metrics

# A worker process takes as long to start as so many pages take.
_CASES_A_WORKER = 8


def write_report(
    workdir: str | pathlib.Path, config: Mapping[str, Any], cases: Sequence[ScoredCase], workers: int | None = None
) -> tuple[pathlib.Path, list[InputError]]:
    """Writes RUN/report.html and RUN/report/CASE.html; a run that is not evaluated yet gets its curves and settings.

    Args:
        workdir: The run's folder.
        config: What its config.json holds.
        cases: Where the volumes of the cases that were scored are read.
        workers: Processes that make the cases' pages; None for as many as there are processors and work for them.

    Returns:
        The report's path, and what was wrong with each case that could not be shown.

    Raises:
        InputError: the run's tables are damaged.
        OSError: the report cannot be written.
    """
    workdir = pathlib.Path(workdir)
    run = _read_run(workdir, config)
    pages, problems = _write_case_pages(run, cases, workers)
    path = workdir / REPORT
    files.write_text(path, overview(run, pages, [str(problem) for problem in problems]))
    _remove_pages_of_other_evaluations(run)
    return path, problems


def _read_run(workdir: pathlib.Path, config: Mapping[str, Any]) -> Run:
    table = workdir / "evaluation" / "cases.csv"
    return Run(
        workdir=workdir,
        config=config,
        metrics=read_metrics(workdir),
        cases=by_case(tables.read_csv(table)) if table.exists() else [],
        evaluation=tables.read_summary(workdir),
    )


def _write_case_pages(
    run: Run, cases: Sequence[ScoredCase], workers: int | None
) -> tuple[dict[str, CasePage], list[InputError]]:
    by_name = {case.name: case for case in cases}
    scored = [scores for scores in run.cases if scores.name in by_name]
    names = [None, *(scores.name for scores in scored), None]
    modalities = run.config.get("settings", {}).get("data", {}).get("modalities", ())
    tasks = [
        CaseTask(
            workdir=run.workdir,
            case=by_name[scores.name],
            modalities=tuple(modalities),
            scores=scores,
            rank=number + 1,
            total=len(scored),
            neighbours=(names[number], names[number + 2]),
        )
        for number, scores in enumerate(scored)
    ]
    problems = [
        InputError("was scored, but is not there any more", case=scores.name, hint="Run jaxbrats evaluate again")
        for scores in run.cases
        if scores.name not in by_name
    ]
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
    return pages, problems


def _remove_pages_of_other_evaluations(run: Run) -> None:
    """Removes pages of cases that are no longer in the score table; a case that cannot be read keeps its page."""
    kept = {page_path(run.workdir, scores.name) for scores in run.cases}
    for page in (run.workdir / "report").glob("*.html"):
        if page not in kept:
            page.unlink()
