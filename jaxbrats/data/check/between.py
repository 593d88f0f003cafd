"""What only shows between the cases of a cohort: scans that lie otherwise than most, files that are there twice."""

import collections
import pathlib
from collections.abc import Iterator, Sequence

from jaxbrats.data.check.case import CaseReport
from jaxbrats.data.check.findings import Finding, warning
from jaxbrats.data.check.image import FileFacts
from jaxbrats.data.labels import BACKGROUND, MODALITIES
from jaxbrats.data.manifest import KEPT
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame, same_spacing

# The same number for both ends of an axis of the patient.
_AXES = {code: axis for axis, ends in enumerate(("RL", "AP", "SI")) for code in ends}


def between_cases(
    cases: Sequence[CaseReport], settings: Preprocessing, frame: Frame | None, common: Frame | None
) -> Iterator[Finding]:
    """Warnings about cases that differ from the others, or don't where they should.

    Args:
        cases: All of the cohort.
        settings: Of the preprocessing that is asked after.
        frame: Of the arrays.
        common: That of most cases.
    """
    yield from _absent_modalities(cases, settings)
    yield from _in_another_frame(cases, frame, common)
    yield from _duplicates(cases)


def _absent_modalities(cases: Sequence[CaseReport], settings: Preprocessing) -> Iterator[Finding]:
    """Cases that do without a modality that is asked for, or lack one that most have, though nothing asks for it."""
    readable = [case for case in cases if case.files]
    for modality in MODALITIES:
        without = [case for case in readable if modality not in case.parts]
        if modality in settings.modalities:
            kind, hint = "incomplete", "Add it, where there is any; else this channel of the case is 0"
            named = [case for case in without if case.status == KEPT]
        else:
            kind, hint = "unused", f"Add it before {modality} is asked for with --modalities"
            named = without if len(without) < len(readable) / 2 else []
        for case in named:
            problem = f"has no {modality}, which {len(readable) - len(without)} of {len(readable)} cases have"
            yield warning(kind, problem, case=case.name, file=_first(case).parent, hint=hint)


def _in_another_frame(cases: Sequence[CaseReport], frame: Frame | None, common: Frame | None) -> Iterator[Finding]:
    """Cases that lie otherwise than most, so that preprocessing turns or resamples them."""
    for case in cases:
        own = next(iter(case.files.values())).frame if case.files else None
        if own is None or frame is None or own.is_like(frame) or own.is_like(common):
            continue
        # Frames without an order of axes: a size for each of R-L, A-P and S-I.
        sizes, wanted = (
            [size for _, size in sorted(zip((_AXES[code] for code in one.orientation), one.spacing_mm, strict=True))]
            for one in (own, frame)
        )
        resampled = not same_spacing(sizes, wanted)
        done = ["turned"] * (own.orientation != frame.orientation) + ["resampled"] * resampled
        problem = f"is {own}, and will be {' and '.join(done)}: the arrays are {frame}"
        hint = "Is its header right? A wrong one would have it turned wrongly"
        yield warning("frame", problem, case=case.name, file=_first(case), hint=hint)


def _duplicates(cases: Sequence[CaseReport]) -> Iterator[Finding]:
    """Volumes that are there twice: copied in the place of another, or one scan under two names."""
    first: dict[str, tuple[CaseReport, str]] = {}
    shared: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    patients = {case.name: case.patient for case in cases}
    for case in cases:
        for part, facts in case.files.items():
            if part == "seg" and facts.maximum == BACKGROUND:
                continue  # without a tumour they are all the same
            other, other_part = first.setdefault(facts.content, (case, part))
            if other is case and other_part != part:
                problem = f"has the same voxels as the {other_part} of the case"
                hint = "One was copied in the place of the other: find the right file"
                yield warning("duplicate", problem, case=case.name, file=facts.path, hint=hint)
            elif other is not case:
                shared[case.name, other.name].append(part)
    by_name = {case.name: case for case in cases}
    for (name, other), parts in shared.items():
        problem = f"has the same {', '.join(parts)} as case {other}"
        hint = "Keep one: as two patients, one may be trained on and the other validated with"
        if patients[name] == patients[other]:
            hint = "Is it one scan under two names? Then keep one"
        facts: FileFacts = by_name[name].files[parts[0]]
        yield warning("duplicate", problem, case=name, file=facts.path, hint=hint)


def _first(case: CaseReport) -> pathlib.Path:
    return pathlib.Path(next(iter(case.files.values())).path)
