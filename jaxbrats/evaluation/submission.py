"""What a BraTS challenge takes on Synapse: one zip of segmentations, by names, labels and voxels that it expects.

The rules are those of the organisers' own validation, which refuses unknown and doubled names and files that are not
.nii.gz, but scores whatever cases are there: Sage-Bionetworks-Challenges/brats-dream-challenge-infra (2021,
Docker/validate.py), brats2023 (evaluation/lesionwise/validate.py) and brats-infra (2024, .../validate2024.py).
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from jaxbrats.data.labels import BRATS_2023
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.nifti import Grid, check_geometry, write_labels
from jaxbrats.data.raw.voxels import read_header
from jaxbrats.evaluation.pairs import LabelFile, label_files, nifti_files
from jaxbrats.evaluation.tables import read_label_file
from jaxbrats.system.errors import InputError


@dataclasses.dataclass(frozen=True)
class Challenge:
    """What one year's challenge expects.

    Attributes:
        pattern: What the name of a case ends with; its group tells cases apart.
        example: A case.
        shape: Voxels (X, Y, Z) of its images.
        convention: How labels are written, '2021' or '2023'.
        four: Whether label 4 means something else than the enhancing tumour.
        note: What is to be known before a submission; empty for nothing.
    """

    pattern: str
    example: str
    shape: tuple[int, int, int]
    convention: str
    four: bool = False
    note: str = ""


CHALLENGES = {
    "brats2021": Challenge(r".*(\d{5})", "BraTS2021_00001", (240, 240, 155), "2021"),
    "brats2023": Challenge(r".*(\d{5}-\d{3})", "BraTS-GLI-00001-000", (240, 240, 155), "2023"),
    "brats2024": Challenge(
        r".*(\d{5}-\d{3})",
        "BraTS-GLI-00001-100",
        (182, 218, 182),
        "2023",
        four=True,
        note="BraTS 2024 is of treated gliomas and also scores the resection cavity, label 4. No network of jaxbrats "
        "predicts it, so all cavities count as missed; what it calls necrosis, edema and enhancing tumour goes as 1, 2 "
        "and 3",
    ),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A segmentation to submit, and the case it is of where the cohort is known."""

    case: str
    file: LabelFile
    of: Case | None


def find_entries(
    pred_dir: str | pathlib.Path, challenge: Challenge, cases: Sequence[Case] | None
) -> tuple[list[Entry], list[InputError]]:
    """Finds the segmentations of a folder by name, as `evaluation.pairs` does.

    Args:
        pred_dir: Folder of segmentations.
        challenge: Whose names they must have.
        cases: The cohort, of which all have to be there and no others; None for any.

    Returns:
        The segmentations in order of their names, and one error for each that is wrong, doubled, left out or missing.

    Raises:
        InputError: the folder is missing or holds no NIfTI file.
    """
    problems: list[InputError] = []
    found = label_files(pathlib.Path(pred_dir), problems, predicted=True)
    wanted = None if cases is None else {case.name: case for case in cases}
    entries, numbers = [], {}
    for case, file in sorted(found.items()):
        match = re.fullmatch(challenge.pattern, case)
        if match is None:
            hint = f"Expected a name such as {challenge.example}.nii.gz"
            problems.append(InputError("is not a case of this challenge", case=case, file=file.path, hint=hint))
        elif match[1] in numbers:
            problem = f"has the number {match[1]} of {numbers[match[1]]} too, by which the challenge tells cases apart"
            problems.append(InputError(problem, case=case, file=file.path, hint="Keep one"))
        elif wanted is not None and case not in wanted:
            hint = "The challenge refuses cases that it does not know. Take it away"
            problems.append(InputError("is not in the input cohort", case=case, file=file.path, hint=hint))
        else:
            entries.append(Entry(case, file, wanted[case] if wanted else None))
        if match is not None:
            numbers.setdefault(match[1], case)
    seen = found.keys() | {problem.case for problem in problems}
    for path, case in nifti_files(pathlib.Path(pred_dir)):
        if case not in seen and re.fullmatch(challenge.pattern, case):
            hint = "Name all segmentations alike"
            problems.append(InputError("is left out where others end with -seg", case=case, file=path, hint=hint))
            seen.add(case)
    for case in sorted((wanted or {}).keys() - seen):
        hint = f"Expected {case}.nii.gz there; predict it"
        problems.append(InputError(f"has no segmentation in {pred_dir}", case=case, hint=hint))
    return entries, problems


def prepare(entry: Entry, challenge: Challenge, folder: pathlib.Path) -> pathlib.Path:
    """Writes a segmentation as the challenge expects it.

    Args:
        entry: Which.
        challenge: Whose labels it is to have, and whose voxels where its case is not known.
        folder: Where to write CASE.nii.gz.

    Returns:
        The file.

    Raises:
        InputError: it cannot be read, lies on other voxels, or holds other labels.
    """
    file = entry.file
    if challenge.four and file.label_map is None:
        file = dataclasses.replace(file, label_map=BRATS_2023)
    labels, affine = read_label_file(file, entry.case)
    if entry.of is not None:
        image = next(iter(entry.of.modalities.values())).path
        like = read_header(image, entry.case)
        own = Grid(image, like.get_data_shape()[:3], like.get_best_affine())
        check_geometry(entry.case, own, Grid(file.path, labels.shape, affine))
    elif labels.shape != challenge.shape:
        sizes = ["x".join(map(str, shape)) for shape in (challenge.shape, labels.shape)]
        hint = "Predict from the challenge's own files, or name these with --input"
        raise InputError(f"expected {sizes[0]} voxels, found {sizes[1]}", case=entry.case, file=file.path, hint=hint)
    path = folder / f"{entry.case}.nii.gz"
    write_labels(path, labels, read_header(file.path, entry.case), challenge.convention)
    return path
