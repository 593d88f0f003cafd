"""Which segmentation is scored against which: label files of two folders, paired by the name of the case."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping

from jaxbrats.data.names import nifti_stem
from jaxbrats.data.raw.cases import walk
from jaxbrats.data.raw.dataset_json import read_dataset_json
from jaxbrats.inference.output_folder import NAME
from jaxbrats.inference.predict import MAPS
from jaxbrats.system.errors import InputError

_SEGMENTATION = re.compile(r"(.+)[-_]seg", re.IGNORECASE)
# BraTS 2020 published the segmentation of BraTS20_Training_355 as W39_1998.09.19_Segm.nii, in the folder of the case.
_NAMED_BY_FOLDER = re.compile(r".+_segm", re.IGNORECASE)
_IMAGE_FOLDERS = {"imagesTr", "imagesTs"}


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """A segmentation on disk.

    Attributes:
        path: The file.
        label_map: Label in the file -> project label, where a dataset.json says so; None for the BraTS conventions.
    """

    path: pathlib.Path
    label_map: Mapping[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Pair:
    """A predicted and a reference segmentation of one case."""

    case: str
    pred: LabelFile
    ref: LabelFile


def find_pairs(pred_dir: str | pathlib.Path, ref_dir: str | pathlib.Path) -> tuple[list[Pair], list[InputError]]:
    """Pairs the label files of two folders by case.

    Each folder is searched with its subfolders. Files CASE-seg.nii.gz or CASE_seg.nii.gz are its segmentations; a
    folder without any of these has them as CASE.nii.gz. The .gz is optional. Of predictions that `jaxbrats predict`
    wrote, subfolders are not searched: there may be the cohort.

    Returns:
        The pairs, by name, and one error for each case that has no partner, appears twice or is its own reference.

    Raises:
        InputError: a folder is missing or holds no NIfTI file, or a dataset.json cannot be understood.
    """
    problems: list[InputError] = []
    pred = label_files(pathlib.Path(pred_dir), problems, predicted=True)
    ref = label_files(pathlib.Path(ref_dir), problems)
    spoiled = {problem.case for problem in problems}
    for case in sorted(pred.keys() - ref.keys() - spoiled):
        hint = f"Expected {case}-seg.nii.gz, {case}_seg.nii.gz or {case}.nii.gz there"
        problems.append(InputError(f"has no reference in {ref_dir}", case=case, file=pred[case].path, hint=hint))
    for case in sorted(ref.keys() - pred.keys() - spoiled):
        hint = f"Expected {case}.nii.gz there; predict it, or take its reference away"
        problems.append(InputError(f"has no prediction in {pred_dir}", case=case, file=ref[case].path, hint=hint))
    pairs = [Pair(case, pred[case], ref[case]) for case in sorted(pred.keys() & ref.keys())]
    same = [pair for pair in pairs if pair.pred.path.resolve() == pair.ref.path.resolve()]
    hint = "Give the folder that holds the predictions"
    problems += [InputError("is its own reference", case=one.case, file=one.pred.path, hint=hint) for one in same]
    return [pair for pair in pairs if pair not in same], problems


def label_files(folder: pathlib.Path, problems: list[InputError], predicted: bool = False) -> dict[str, LabelFile]:
    """The segmentations of a folder by case; a case found twice becomes a problem.

    `predicted` says that predictions are looked for, not references.
    """
    if not folder.is_dir():
        problem = "is a file, expected a folder" if folder.exists() else "there is no such folder"
        raise InputError(problem, file=folder, hint="Give the folder that holds the segmentations")
    volumes = list(nifti_files(folder))
    stems = {stem for _, stem in volumes}
    volumes = [(path, stem) for path, stem in volumes if not _is_map(stem, stems)]
    if predicted and (folder / NAME).exists():
        # They lie in the folder itself; what is deeper is a cohort beside them.
        volumes = [(path, stem) for path, stem in volumes if path.parent == folder]
    named = [(path, case) for path, stem in volumes if (case := _segmentation_of(path, stem))]
    found: dict[str, pathlib.Path] = {}
    spoiled = set()
    for path, case in named or volumes:
        if case in found:
            problem = f"appears twice, also as {found[case]}"
            problems.append(InputError(problem, case=case, file=path, hint="Keep one"))
            spoiled.add(case)
        found.setdefault(case, path)
    if not found:
        raise InputError("holds no .nii or .nii.gz file", file=folder, hint="Give the folder with the segmentations")
    maps = {parent: _label_map(parent) for parent in {path.parent for path in found.values()}}
    return {case: LabelFile(path, maps[path.parent]) for case, path in found.items() if case not in spoiled}


def nifti_files(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """NIfTI files below a folder, but no images of a data set, with their names without .nii or .nii.gz."""
    for path, names in walk(folder, problems=[]):  # what cannot be read has no partner, which is told
        if _IMAGE_FOLDERS.isdisjoint(path.relative_to(folder).parts):
            yield from ((path / name, stem) for name in names if (stem := nifti_stem(name)))


def _is_map(stem: str, stems: set[str]) -> bool:
    """Whether a file is a map that `jaxbrats predict` wrote beside the case's segmentation."""
    case, _, kind = stem.rpartition("-")
    return kind in MAPS and case in stems


def _segmentation_of(path: pathlib.Path, stem: str) -> str | None:
    if match := _SEGMENTATION.fullmatch(stem):
        return match[1]
    return path.parent.name if _NAMED_BY_FOLDER.fullmatch(stem) else None


def _label_map(folder: pathlib.Path) -> dict[int, int] | None:
    """What the labels in a folder mean, where a dataset.json speaks of them: a data set's, or nnU-Net's copy of it."""
    beside = folder.parent if folder.name in ("labelsTr", "labelsTs") else folder
    if not (beside / "dataset.json").is_file():
        return None
    description = read_dataset_json(beside / "dataset.json")
    if description.label_map is None:
        problem = f"expected labels that name edema, necrosis and enhancing tumour, found {description.names}"
        raise InputError(problem, file=beside / "dataset.json")
    return description.label_map
