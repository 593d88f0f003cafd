"""What a run's folder holds, and changing it, for tests of what a run and its data have to do with each other."""

import csv
import json
import pathlib
import shutil
from typing import Any

import numpy as np


def record_of(run: pathlib.Path) -> dict:
    return json.loads((run / "config.json").read_text())


def starts_of(run: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]


def without_last_step(run: pathlib.Path) -> int:
    """Takes the latest checkpoint away, so that there is something to train; returns the step before."""
    *_, before, last = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    shutil.rmtree(run / "checkpoints" / str(last))
    return before


def invert(path: pathlib.Path) -> None:
    """Other values of the same size and type in an array."""
    array = np.load(path)
    np.save(path, (1 - array) if array.dtype.kind == "f" else (3 - array))


def files_of(run: pathlib.Path, *but: str) -> dict[str, bytes]:
    """The content of every file of a run but in some of its folders."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.relative_to(run).parts[0] not in but and not path.name.endswith(".lock")
    }


def scored(run: pathlib.Path) -> set[str]:
    """The cases that were scored, all of which must have a prediction and no other case one."""
    with (run / "evaluation" / "cases.csv").open() as file:
        cases = {row["case"] for row in csv.DictReader(file)}
    assert {path.name for path in (run / "predictions").iterdir()} == {f"{case}.nii.gz" for case in cases}
    return cases


def rewrite(path: pathlib.Path, change: Any) -> None:
    """Changes what a JSON file holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
