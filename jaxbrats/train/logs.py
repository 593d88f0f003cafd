"""What a run writes about itself while it trains: `metrics.jsonl`, which its trackers are told too.

One JSON object a line: step, epoch, split ('train' or 'val'), loss (null where it is not finite), dice, iou, accuracy
and, by split, lr, skipped, seconds, region_dice. A resumed run cuts off the lines after the step it goes on from, so
the file reads as if nothing had happened. Lines that are not such records are left out, and the resumed run says how
many they were; the last one, cut short by a kill, is no news.
"""

import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxbrats.system.errors import printable
from jaxbrats.system.files import RemovedError, write_text
from jaxbrats.train.tracking import Tracker


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The records of `workdir/metrics.jsonl`, in order: mappings with an integer step and epoch and a split, whose
    other values are numbers, null or mappings of these. Other lines are left out.

    Raises:
        OSError: the file cannot be read.
    """
    return [record for record in map(_parse, _lines(workdir / "metrics.jsonl")) if record is not None]


def _lines(path: pathlib.Path) -> list[bytes]:
    """The whole lines of a file, without their ends; none where there is no file."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, None where it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("split") not in ("train", "val"):
        return None
    if not all(type(record.get(name)) is int for name in ("step", "epoch")):
        return None
    return record if all(_is_number(value) for name, value in record.items() if name != "split") else None


def _is_number(value: Any) -> bool:
    """Whether a value is a number, null or a mapping of these."""
    if isinstance(value, dict):
        return all(map(_is_number, value.values()))
    return value is None or isinstance(value, int | float)


class MetricsLog:
    """Appends records to `workdir/metrics.jsonl`, then tells them to trackers.

    Args:
        workdir: The run's folder.
        resume_step: Step the run goes on from; later records, and lines that are none, are cut off first. 0 begins
            anew.
        writes: Whether to write at all: of several processes one does.
        trackers: None of which may raise.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(
        self, workdir: pathlib.Path, resume_step: int, writes: bool = True, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.workdir, self._trackers = workdir, trackers
        self._file = None
        if not writes:
            return
        self._path = workdir / "metrics.jsonl"
        records = [(line, _parse(line)) for line in _lines(self._path)] if resume_step else []
        kept = [line for line, record in records if record is not None and record["step"] <= resume_step]
        if unknown := sum(record is None for _, record in records):
            lines = f"{unknown} lines are" if unknown > 1 else "1 line is"
            print(printable(f"{self._path}: {lines} no record of this program, and left out"), file=sys.stderr)
        write_text(self._path, b"".join(line + b"\n" for line in kept).decode())
        # Unbuffered, so that the operating system has every line at once and keeps it even if the process is killed.
        self._file = self._path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record: all of its line, or nothing where the disk is full.

        Raises:
            OSError: naming the file, which may have been removed.
        """
        if self._file is None:
            return
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        if not self._path.exists():  # writing would succeed, and be lost
            raise RemovedError(self._path)
        try:
            if (written := self._file.write(line)) < len(line):
                self._file.write(line[written:])  # says why there was no room for it
        except OSError as error:
            self._file.truncate(before)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for tracker in self._trackers:
            tracker.scalars(record)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Tells the trackers pictures `(down, across, 3)` uint8 of the validation after a step, by their names."""
        for tracker in self._trackers:
            for name, picture in pictures.items():
                tracker.images(step, name, picture)

    def close(self) -> None:
        """Closes the file and the trackers."""
        if self._file:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()
