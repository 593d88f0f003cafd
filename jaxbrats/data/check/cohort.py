"""A whole cohort checked: its cases in parallel, then what only shows between cases."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

from jaxbrats.data.check.between import between_cases
from jaxbrats.data.check.case import CaseReport, check_case
from jaxbrats.data.check.findings import Finding, warning
from jaxbrats.data.manifest import FAILED, KEPT, SKIPPED
from jaxbrats.data.names import natural_key, patient_of
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.alignment import cohort_frame
from jaxbrats.data.raw.cases import Cohort, find_cases
from jaxbrats.system import processes
from jaxbrats.system.errors import InputError

# `split.make_split` has none to validate on with fewer.
FEWEST_PATIENTS = 2


@dataclasses.dataclass(frozen=True)
class CohortReport:
    """What was found in a cohort.

    Attributes:
        folder: Where it is.
        settings: Of the preprocessing that was asked after.
        cases: A report for each, in natural order. Those of which no image was found hold nothing but findings.
        findings: What is wrong with the cohort and with each case, errors first.
    """

    folder: pathlib.Path
    settings: Preprocessing
    cases: list[CaseReport]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """What would stop a case or the training."""
        return [finding for finding in self.findings if finding.error]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: everything that was measured and found."""
        inside = {id(finding) for case in self.cases for finding in case.findings}
        return {
            "folder": str(self.folder),
            "settings": self.settings.to_dict(),
            "counts": {
                **{status: sum(case.status == status for case in self.cases) for status in (KEPT, SKIPPED, FAILED)},
                "errors": len(self.errors),
                "warnings": len(self.findings) - len(self.errors),
            },
            "findings": [finding.to_dict() for finding in self.findings if id(finding) not in inside],
            "cases": {case.name: case.to_dict() for case in self.cases},
        }


def check_cohort(
    raw_dir: str | pathlib.Path, settings: Preprocessing, workers: int | None = None, progress: bool = True
) -> CohortReport:
    """Reads all files of a cohort and says what is wrong with them.

    Args:
        raw_dir: Cohort of NIfTI files in any layout of `find_cases`.
        settings: Of the preprocessing that is asked after.
        workers: Processes; 0 and 1 work in this one, None takes one a CPU.
        progress: Whether to show a progress bar (only ever on a terminal).

    Returns:
        The report. Its errors are what `preprocess_cohort` would refuse, and having too few patients to train on.

    Raises:
        InputError: no case is found, or a worker process died.
    """
    folder = pathlib.Path(raw_dir)
    cohort = find_cases(folder)
    # As preprocessing does, of the cases that it would take.
    able = [case for case in cohort.cases if settings.refusal(case) is None]
    frame = cohort_frame(able, settings.spacing)
    results = processes.map_in_processes(
        functools.partial(check_case, settings, frame),
        cohort.cases,
        min(processes.available_cpus() if workers is None else workers, len(cohort.cases)),
        name=lambda case: case.name,
    )
    bar = tqdm.tqdm(results, total=len(cohort.cases), desc="check", unit="case", disable=None if progress else True)
    cases = [report for _, report in bar]
    cases += _cases_without_files(cohort, {case.name for case in cases})
    cases.sort(key=lambda case: natural_key(case.name))
    findings = [
        *_other_problems(cohort),
        *_too_few_patients(folder, cases),
        *(finding for case in cases for finding in case.findings),
        *between_cases(cases, settings, frame, cohort_frame(able, None)),
        *_strange_files(cohort),
    ]
    findings.sort(key=lambda finding: not finding.error)
    return CohortReport(folder, settings, cases, findings)


def _cases_without_files(cohort: Cohort, read: set[str]) -> Iterator[CaseReport]:
    """Cases whose files are not there, or there in a way that leaves open which to read."""
    by_case = {problem.case: problem for problem in cohort.problems if problem.case is not None}
    for name, problem in by_case.items():
        if name not in read:
            yield CaseReport(name, patient_of(name), "", FAILED, (), {}, {}, [Finding("files", True, problem)])


def _other_problems(cohort: Cohort) -> Iterator[Finding]:
    """Files and folders of no case; and a second folder, without files, of a case that is whole elsewhere."""
    read = {case.name for case in cohort.cases}
    for problem in cohort.problems:
        if problem.case is None or problem.case in read:
            yield Finding("files", problem.case is None, problem)


def _strange_files(cohort: Cohort) -> Iterator[Finding]:
    hint = "Rename it if it is a case's, as CASE-t1n.nii.gz or CASE_t1.nii.gz"
    for path in cohort.unrecognised:
        yield warning("unused", "belongs to no case by its name and is ignored", file=path, hint=hint)


def _too_few_patients(folder: pathlib.Path, cases: Iterable[CaseReport]) -> Iterator[Finding]:
    patients = {case.patient for case in cases if case.status == KEPT}
    if len(patients) < FEWEST_PATIENTS:
        problem = (
            f"expected {FEWEST_PATIENTS} patients at least, one to train on and one to validate on, found "
            f"{len(patients)} whose scans can be used"
        )
        hint = "Add patients, or mend the cases named here"
        yield Finding("patients", True, InputError(problem, file=folder, hint=hint))
