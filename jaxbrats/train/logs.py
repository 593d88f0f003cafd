"""What a run writes about itself while it trains: `metrics.jsonl`, and TensorBoard events where tensorboardX is
installed.

One JSON object a line: step, epoch, split ('train' or 'val'), loss (null where it is not finite), dice, iou, accuracy
and, by split, lr, skipped, seconds, region_dice. A resumed run cuts off the lines after the step it goes on from, so
the file reads as if nothing had happened. Lines that are not such records are left out, and the resumed run says how
many they were; the last one, cut short by a kill, is no news.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from jaxbrats.system.errors import printable
from jaxbrats.system.files import RemovedError, write_text


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
    """Appends records to `workdir/metrics.jsonl` and, where it can, to TensorBoard events in `workdir/tensorboard`.

    Args:
        workdir: The run's folder.
        resume_step: Step the run goes on from; later records, and lines that are none, are cut off first. 0 begins
            anew.
        writes: Whether to write at all: of several processes one does.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int, writes: bool = True) -> None:
        self.workdir = workdir
        self._file = self._events = None
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
        self._events = _open_events(workdir / "tensorboard", resume_step + 1)

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
            if self._events:
                self._events.write(record)
        except OSError as error:
            self._file.truncate(before)
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Closes the files."""
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()


class _Events:
    """TensorBoard's file of events. Written in this thread: tensorboardX's own SummaryWriter waits for ever for its
    thread where that met a full disk.
    """

    def __init__(self, folder: pathlib.Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(exist_ok=True)
        self._event = Event
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        # Hides what an earlier start wrote of this step and later ones.
        self._writer.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, record: dict[str, Any]) -> None:
        from tensorboardX.summary import scalar

        for name, value in _scalars(record):
            summary = scalar(f"{record['split']}/{name}", value)
            self._writer.write_event(self._event(wall_time=time.time(), step=record["step"], summary=summary))
        if record["split"] == "val":
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # said already, by what could not be written before
            self._writer.close()


def _open_events(folder: pathlib.Path, first_step: int) -> _Events | None:
    return _Events(folder, first_step) if importlib.util.find_spec("tensorboardX") else None


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield prefix + name, value
