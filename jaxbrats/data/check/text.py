"""The report of a check, to be read in a terminal."""

import collections
from collections.abc import Hashable, Iterable, Iterator

from jaxbrats.data.check.case import CaseReport
from jaxbrats.data.check.cohort import CohortReport
from jaxbrats.data.check.findings import ERRORS, WARNINGS, Finding
from jaxbrats.data.labels import LABEL_NAMES, MODALITIES
from jaxbrats.data.manifest import FAILED, KEPT, SKIPPED
from jaxbrats.system.errors import printable

# A fault of every case of a large cohort would bury the rest.
_MOST_LINES = 20
_MOST_VALUES = 4
_KINDS = ERRORS | WARNINGS


def as_text(report: CohortReport, everything_in: str | None = None) -> str:
    """The report as lines: what the cohort holds, a table of what is wrong with it, and each thing that is.

    Args:
        report: What was found.
        everything_in: Name of the JSON file, to be pointed at where the lines leave something out.
    """
    lines = [f"{printable(str(report.folder))}: {_verdict(report)}", "", *_columns(_summary(report.cases)), ""]
    if not report.findings:
        return "\n".join([*lines, "Nothing is wrong with it."])
    lines += [*_table(report.findings), ""]
    for is_error, heading in ((True, "errors"), (False, "warnings")):
        for kind, name in _KINDS.items():
            found = [finding for finding in report.findings if finding.kind == kind and finding.error == is_error]
            if found:
                stopped = "" if is_error or kind not in ERRORS else ", where preprocessing does not read or need it"
                lines += [f"{heading}: {name}{stopped}", *_some(found, report, everything_in), ""]
    return "\n".join(lines).rstrip()


def _verdict(report: CohortReport) -> str:
    counts = collections.Counter(case.status for case in report.cases)
    names = {KEPT: "would be trained on", SKIPPED: "would be skipped", FAILED: "would be refused"}
    parts = [f"{counts[status]} {name}" for status, name in names.items() if counts[status] or status == KEPT]
    total = len(report.cases)
    return f"{total} case{'s' * (total != 1)}, of which {', '.join(parts)}"


def _summary(cases: list[CaseReport]) -> Iterator[tuple[str, str]]:
    images = [(part, facts) for case in cases for part, facts in case.files.items() if part != "seg"]
    first = [next(iter(case.files.values())) for case in cases if case.files]
    yield "named as", _tally(case.layout for case in cases if case.layout)
    parts = collections.Counter(part for case in cases for part in case.parts)
    yield "files", ", ".join(f"{part} {parts[part]}" for part in (*MODALITIES, "seg") if parts[part]) or "none"
    yield "voxels", _tally("x".join(map(str, facts.shape)) for facts in first)
    yield "spacing (mm)", _tally(" x ".join(f"{size:.4g}" for size in facts.frame.spacing_mm) for facts in first)
    yield "orientation", _tally(facts.frame.orientation for facts in first)
    yield "number type", _tally(facts.dtype for _, facts in images)
    for modality in MODALITIES:
        found = [facts for part, facts in images if part == modality]
        if found:
            lowest, highest = min(facts.minimum for facts in found), max(facts.maximum for facts in found)
            usual = sorted(facts.maximum for facts in found)[len(found) // 2]
            yield f"{modality} values", f"{lowest:g} to {highest:g}, median of the maxima {usual:g}"
    segmented = [case for case in cases if case.labels]
    shown = [f"{name} in {sum(case.labels[name] > 0 for case in segmented)}" for name in LABEL_NAMES[1:]]
    yield "labels", f"{', '.join(shown)} of {len(segmented)} segmentations"
    yield "patients", _patients(cases)


def _patients(cases: Iterable[CaseReport]) -> str:
    scans = collections.Counter(case.patient for case in cases)
    several = [f"{printable(patient)} ({count})" for patient, count in scans.items() if count > 1]
    if not several:
        return f"{len(scans)}, one scan each"
    shown = ", ".join(several[:_MOST_VALUES]) + (", ..." if len(several) > _MOST_VALUES else "")
    return f"{len(scans)}, {len(several)} with several scans: {shown}"


def _tally(values: Iterable[Hashable]) -> str:
    counts = collections.Counter(values).most_common()
    if len(counts) == 1:
        return f"{counts[0][0]}"
    shown = [f"{value} ({count})" for value, count in counts[:_MOST_VALUES]]
    left = counts[_MOST_VALUES:]
    return ", ".join(shown) + (f", {len(left)} others ({sum(n for _, n in left)})" if left else "") or "none"


def _table(findings: list[Finding]) -> list[str]:
    rows = [("", "errors", "warnings", "cases")]
    for kind, name in _KINDS.items():
        found = [finding for finding in findings if finding.kind == kind]
        errors = sum(finding.error for finding in found)
        cases = len({finding.what.case for finding in found} - {None})
        if found:
            rows.append((name, *(str(count) if count else "-" for count in (errors, len(found) - errors, cases))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *rest = widths
    lines = [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, rest, strict=True))])
        for name, *cells in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _some(findings: list[Finding], report: CohortReport, everything_in: str | None) -> Iterator[str]:
    prefix = f"{printable(str(report.folder))}/"
    for finding in findings[:_MOST_LINES]:
        yield f"  {str(finding.what).replace(prefix, '')}"
    if len(findings) > _MOST_LINES:
        where = printable(everything_in) if everything_in else "the file that --json=FILE writes"
        yield f"  and {len(findings) - _MOST_LINES} more, all in {where}"


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {value}" for name, value in rows]
