"""What a run writes about itself while it trains: `metrics.jsonl`, and TensorBoard events where tensorboardX is
installed.

One JSON object a line, as design has it: step, epoch, split, loss, dice, iou, accuracy and, by split, lr, seconds,
region_dice. A resumed run cuts off the lines after the step it goes on from, so the file reads as if nothing had
happened.
"""

import json
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from jaxbrats.files import write_text


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The records of `workdir/metrics.jsonl`, in order; a line cut short by a kill is left out."""
    return list(_whole_lines(workdir / "metrics.jsonl"))


def _whole_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


class MetricsLog:
    """Appends records to `workdir/metrics.jsonl` and, where it can, to TensorBoard events in `workdir/tensorboard`.

    Args:
        workdir: The run's folder.
        resume_step: Step the run goes on from; later records are cut off first. 0 begins anew.
        writes: Whether to write at all: of several processes one does.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int, writes: bool = True) -> None:
        self._file = self._events = None
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        kept = [record for record in _whole_lines(path) if record["step"] <= resume_step] if resume_step else []
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")
        tensorboard = _tensorboard()
        self._events = (
            tensorboard.SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1) if tensorboard else None
        )

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record and hands it to the operating system, which keeps it even if the process is killed."""
        if self._file is None:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._events:
            for name, value in _scalars(record):
                self._events.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def close(self) -> None:
        """Closes the files."""
        if self._file:
            self._file.close()
        if self._events:
            self._events.close()


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield prefix + name, value


def _tensorboard() -> ModuleType | None:
    try:
        import tensorboardX
    except ImportError:
        return None
    return tensorboardX
