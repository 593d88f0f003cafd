"""The report of a run, from what its folder holds."""

import pathlib

from jaxbrats.report.pages.write import write_report
from jaxbrats.runs.evaluate import scored_by
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import locked


def report_run(workdir: str | pathlib.Path, workers: int | None = None) -> tuple[pathlib.Path, list[InputError]]:
    """Writes RUN/report.html and a page for each case that was scored.

    Args:
        workdir: The run; one that is not evaluated yet gets its curves and settings.
        workers: Processes that make the cases' pages; None for as many as there are processors and work for them.

    Returns:
        The report's path, and what was wrong with each case that could not be shown.

    Raises:
        InputError: the folder is not a run, its tables are damaged, its arrays are gone, or an evaluation of it is at
            work.
        OSError: the report cannot be written.
    """
    record = read_record(workdir)
    # An evaluation at work would change what the pages are made from.
    with locked(record.workdir, "evaluate", "an evaluation"):
        cases, problems = scored_by(record)
        path, unshown = write_report(record.workdir, record.content, cases, workers)
        return path, [*problems, *unshown]
