"""`predictions.json`: what made the segmentations in a folder, so that no folder ever mixes those of two runs.

    {"version", "runs": [{"workdir", "step", "parameters"}], "preprocessing", "frame", "options", "cases": {NAME: case}}

Runs are told apart by the checksum of their parameters, not by where they lie. A case has a `status`: 'pending' (its
files, where there are any, are not to be trusted), 'failed' with the `problem`, or 'done' with its `files`, the `input`
they were made from, the modalities that were `missing`, when they were `written`, by which `versions`, and the
`warnings` that were given.
"""

import contextlib
import datetime
import importlib.metadata
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.sources import is_same
from jaxbrats.inference.network import Network
from jaxbrats.inference.predict import Segmentation
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json
from jaxbrats.system.locks import locked

NAME, _VERSION = "predictions.json", 1
_PENDING, _FAILED, _DONE = "pending", "failed", "done"
_PACKAGES = ("jaxbrats", "jax", "jaxlib", "flax", "numpy", "nibabel")
_OTHER_FOLDER = "Choose another --output, or empty this folder"


def made_by(networks: Sequence[Network], options: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the numbers of a prediction, as JSON holds it.

    Args:
        networks: The ensemble.
        options: How they are applied and what is done to the result, JSON-able.
    """
    first = networks[0]
    values = {
        "runs": [
            {"workdir": str(network.workdir), "step": network.step, "parameters": network.checksum()}
            for network in networks
        ],
        "preprocessing": first.preprocessing.to_dict(),
        "frame": first.frame and first.frame.to_dict(),
        "options": dict(options),
    }
    return json.loads(json.dumps(values))  # tuples become lists, as in what is read


class OutputFolder:
    """The predictions in a folder. Made by `open_output`.

    Attributes:
        todo: Cases that are to be predicted.
        already: How many cases are there and of the same input.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        made: Mapping[str, Any],
        cases: Sequence[Case],
        files_of: Callable[[str], Sequence[str]],
    ) -> None:
        self._path = folder / NAME
        self._made, self._cases = made, {}
        present = {path.name for path in folder.iterdir()}
        if NAME in present:
            before = _read(self._path)
            _check_same(before, made, self._path)
            self._cases = before["cases"]
        files = {case.name: list(files_of(case.name)) for case in cases}
        _check_files(folder, files, self._cases, present)
        self.todo = [case for case in cases if not self._is_done(case, present)]
        for case in self.todo:
            _check_input(case, self._cases.get(case.name, {}), self._path)
        self.already = len(cases) - len(self.todo)
        if self.todo:
            # Before the first file is written, so that after a kill it is known whose files these are.
            self._cases |= {case.name: {"status": _PENDING} for case in self.todo}
            self.save()
            _remove_old(folder, {name for case in self.todo for name in files[case.name]}, present)

    def add(self, segmentation: Segmentation, files: Sequence[str]) -> None:
        """Takes a case that is done, and the names of its files."""
        patient = segmentation.patient
        self._cases[patient.case] = {
            "status": _DONE,
            "files": list(files),
            "input": patient.sources,
            "missing": list(patient.missing),
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "warnings": [str(warning) for warning in patient.warnings],
        }
        self._save_now_and_then()

    def add_problem(self, problem: InputError) -> None:
        """Takes a case that could not be predicted."""
        self._cases[problem.case] = {"status": _FAILED, "problem": str(problem)}
        self._save_now_and_then()

    def save(self) -> None:
        """Writes the record as it is now."""
        start = time.monotonic()
        write_json(self._path, {"version": _VERSION, **self._made, "cases": self._cases})
        # The record of thousands of cases takes a while to write: then it is written less often.
        now = time.monotonic()
        self._due = now + max(3.0, 20 * (now - start))

    def _save_now_and_then(self) -> None:
        if time.monotonic() >= self._due:
            self.save()

    def _is_done(self, case: Case, present: set[str]) -> bool:
        record = self._cases.get(case.name, {})
        if record.get("status") != _DONE or not present.issuperset(record["files"]):
            return False
        before = record["input"]
        # A modality that has come or gone since makes another input.
        come = not case.modalities.keys().isdisjoint(record.get("missing", ()))
        gone = not case.modalities.keys() >= before.keys()
        return not come and not gone and is_same(case, before, None, before, labels=False)


@contextlib.contextmanager
def open_output(
    folder: pathlib.Path, made: Mapping[str, Any], cases: Sequence[Case], files_of: Callable[[str], Sequence[str]]
) -> Iterator[OutputFolder]:
    """Holds a folder of predictions while cases are added to it, and keeps its record.

    Args:
        folder: Made if it is not there.
        made: From `made_by`.
        cases: What is to be in the folder at the end.
        files_of: Name of a case -> names of all files that may be written for it.

    Raises:
        InputError: the folder holds predictions that were made otherwise, or files of those names that no record tells
            of; another process is at work in it; or its record is damaged.
        OSError: the folder cannot be written.
    """
    with locked(folder, "predict", "a prediction"):
        output = OutputFolder(folder, made, cases, files_of)
        try:
            yield output
        finally:
            if output.todo:
                output.save()


def _read(path: pathlib.Path) -> dict[str, Any]:
    record = read_json(path, hint=_OTHER_FOLDER)
    cases = record.get("cases") if isinstance(record, dict) else None
    sound = (
        isinstance(cases, dict)
        and record.get("version") == _VERSION
        and {"runs", "preprocessing", "frame", "options"} <= record.keys()
        and isinstance(record["options"], dict)
        and all(map(_is_case, cases.values()))
    )
    try:
        [(run["workdir"], run["step"], run["parameters"]) for run in record["runs"]]
        Preprocessing.from_dict(record["preprocessing"])
    except (KeyError, TypeError, InputError):
        sound = False
    if not sound:
        raise InputError("is not as jaxbrats predict writes it", file=path, hint=_OTHER_FOLDER)
    return record


def _is_case(record: Any) -> bool:
    if not isinstance(record, dict) or record.get("status") != _DONE:
        return isinstance(record, dict) and record.get("status") in (_PENDING, _FAILED)
    sources, files, missing = record.get("input"), record.get("files"), record.get("missing", [])
    keys = {"path", "size", "mtime_ns", "checksum"}
    return (
        isinstance(files, list)
        and all(isinstance(name, str) for name in files)
        and isinstance(missing, list)
        and all(isinstance(name, str) for name in missing)
        and isinstance(sources, dict)
        and all(isinstance(source, dict) and source.keys() - {"channel"} == keys for source in sources.values())
    )


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], path: pathlib.Path) -> None:
    """Refuses to add to predictions that were made otherwise; the message names the first difference."""
    if [run["parameters"] for run in before["runs"]] != [run["parameters"] for run in now["runs"]]:
        there, here = (
            ", ".join(f"{run['workdir']} step {run['step']}" for run in record["runs"]) for record in (before, now)
        )
        raise InputError(f"holds predictions of {there}, not of {here}", file=path.parent, hint=_OTHER_FOLDER)
    flat = [
        record["options"]
        | {"preprocessing": Preprocessing.from_dict(record["preprocessing"]).of_images(), "frame": record["frame"]}
        for record in (before, now)
    ]
    for name in sorted(flat[0].keys() | flat[1].keys()):
        old, new = (record.get(name) for record in flat)
        if old != new:
            problem = f"holds predictions made with {name} = {json.dumps(old)}, not with {json.dumps(new)}"
            raise InputError(problem, file=path.parent, hint=_OTHER_FOLDER)


def _check_files(
    folder: pathlib.Path, files: Mapping[str, Sequence[str]], known: Mapping[str, Any], present: set[str]
) -> None:
    """Refuses to overwrite what no record tells of, and two cases that would write the same file."""
    owners: dict[str, str] = {}
    for case, names in files.items():
        for name in names:
            if name in owners:
                problem = f"would write the same file {name} as case {owners[name]}"
                raise InputError(problem, case=case, file=folder, hint="Rename one, or predict them into two folders")
            owners[name] = case
            if name in present and case not in known:
                problem = "is there already, and no predictions.json tells what made it"
                raise InputError(problem, file=folder / name, hint=_OTHER_FOLDER)


def _check_input(case: Case, before: Mapping[str, Any], path: pathlib.Path) -> None:
    """Refuses a case of a name that another patient's has in the folder: neither the same files nor the same places."""
    known = {name: source for name, source in before.get("input", {}).items() if name in case.modalities}
    places = {pathlib.Path(source["path"]).resolve().parent for source in known.values()}
    if not places.isdisjoint(file.path.resolve().parent for file in case.modalities.values()):
        return
    if known and not any(is_same(case, [name], None, {name: known[name]}, labels=False) for name in known):
        problem = f"was made from other files, in {min(places)}"
        raise InputError(problem, case=case.name, file=path, hint=_OTHER_FOLDER)


def _remove_old(folder: pathlib.Path, names: set[str], present: set[str]) -> None:
    """Removes what is left of cases that are done again: files of another input, and those half written at a kill."""
    for name in present:
        partial = re.fullmatch(r"\.partial-\d+-(.+)", name, re.DOTALL)
        if name in names or (partial and partial[1] in names):
            (folder / name).unlink(missing_ok=True)
