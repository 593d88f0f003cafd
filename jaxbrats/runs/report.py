"""The report of a run's folder: what `report` is given of it."""

import pathlib

from jaxbrats.data.arrays import find_arrays
from jaxbrats.data.manifest import has_manifest, read_manifest
from jaxbrats.evaluation.volumes import ScoredCase
from jaxbrats.report.pages.write import write_report
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json
from jaxbrats.system.locks import locked


def report_run(workdir: str | pathlib.Path, workers: int | None = None) -> tuple[pathlib.Path, list[InputError]]:
    """Writes the report of a run, of the arrays that it was evaluated on last; see `write_report`.

    Raises:
        InputError: the folder is no run, or its arrays are not there; nothing is changed then.
    """
    workdir = pathlib.Path(workdir)
    record = read_record(workdir)
    # An evaluation at work would change what the pages are made from.
    with locked(workdir, "evaluate", "an evaluation"):
        cases = []
        summary = workdir / "evaluation" / "summary.json"
        if summary.exists():
            evaluation = read_json(summary)
            if not isinstance(evaluation, dict):
                raise InputError(
                    "is not as jaxbrats evaluate writes it", file=summary, hint="Run jaxbrats evaluate again"
                )
            data_dir = pathlib.Path(evaluation.get("data", record.data_dir))
            records = read_manifest(data_dir)["cases"] if has_manifest(data_dir) else {}
            cases = [
                ScoredCase(case, records.get(case.name), workdir / "predictions" / f"{case.name}.nii.gz")
                for case in find_arrays(data_dir)
            ]
        return write_report(workdir, read_json(workdir / "config.json"), cases, workers)
