"""Trackers: programs that show a run while it trains, as TensorBoard, Weights & Biases and MLflow do.

They are told what `metrics.jsonl`, which stays the source, is told. Each works in a thread of its own, so that one that
waits for its server does not hold up training, and one that fails ends alone.

A run goes on in a tracker where it was: `RUN/tracking/NAME` keeps the id that it has there. Steps after the checkpoint
that a resumed run begins with come twice; with all trackers the curves are drawn over the step, so the later ones lie
on the earlier ones.
"""

import importlib.util
import os
import pathlib
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from flax.traverse_util import flatten_dict

from jaxbrats.config.settings import Settings
from jaxbrats.system.errors import InputError, printable
from jaxbrats.system.files import write_text

# Calls that may wait for a tracker, and seconds that the end of training waits for it.
_WAITING, _PATIENCE = 10_000, 30


class Tracker(Protocol):
    """What a tracker is told; an exception ends it. Made of the run's folder, its settings and the first step."""

    def scalars(self, record: dict[str, Any]) -> None:
        """A record of `metrics.jsonl`."""

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture `(down, across, 3)` uint8 of the validation after a step."""

    def close(self) -> None:
        """The run has ended, or was interrupted."""


class _TensorBoard:
    """Events in `RUN/tensorboard`."""

    def __init__(self, workdir: pathlib.Path, settings: Settings, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._event = Event
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        # Hides what an earlier start wrote of this step and later ones.
        self._writer.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, record: dict[str, Any]) -> None:
        from tensorboardX.summary import scalar

        for name, value in scalars_of(record).items():
            self._write(record["step"], scalar(name, value))
        if record["split"] == "val":
            self._writer.flush()

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        from tensorboardX.summary import image as picture

        self._write(step, picture(name, image, dataformats="HWC"))

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, summary: Any) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))


class _WandB:
    """A run of the project WANDB_PROJECT or 'jaxbrats'; its files are in `RUN/wandb`."""

    def __init__(self, workdir: pathlib.Path, settings: Settings, first_step: int) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jaxbrats"),
            name=workdir.name,
            id=_kept_id(workdir, "wandb") or _keep_id(workdir, "wandb", uuid.uuid4().hex),
            resume="allow",
            dir=workdir,
            config=settings.to_dict(),
            settings=wandb.Settings(console="off"),  # else it takes the place of sys.stdout and sys.stderr
        )
        # Its own count of steps refuses those that come again.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, record: dict[str, Any]) -> None:
        self._run.log({"step": record["step"], **scalars_of(record)})

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({"step": step, name: self._image(image)})

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME or 'jaxbrats' at MLFLOW_TRACKING_URI."""

    def __init__(self, workdir: pathlib.Path, settings: Settings, first_step: int) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxbrats"))
        kept = _kept_id(workdir, "mlflow")
        run = mlflow.start_run(run_id=kept, run_name=workdir.name)
        if kept is None:
            _keep_id(workdir, "mlflow", run.info.run_id)
            mlflow.log_params(flatten_dict(settings.to_dict(), sep="."))

    def scalars(self, record: dict[str, Any]) -> None:
        self._mlflow.log_metrics(scalars_of(record), step=record["step"])

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        self._mlflow.log_image(image, key=name, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


# Name in `config.tracking` -> the package it needs, and the tracker.
TRACKERS: dict[str, tuple[str, Callable[[pathlib.Path, Settings, int], Tracker]]] = {
    "tensorboard": ("tensorboardX", _TensorBoard),
    "wandb": ("wandb", _WandB),
    "mlflow": ("mlflow", _MLflow),
}


def tracker_names(settings: Settings) -> tuple[str, ...]:
    """The trackers that the settings ask for; 'auto' is TensorBoard where its package is installed.

    Raises:
        InputError: the package of one is not installed.
    """
    if settings.tracking == "auto":
        return ("tensorboard",) if importlib.util.find_spec("tensorboardX") else ()
    for name in settings.tracking:
        if importlib.util.find_spec(TRACKERS[name][0]) is None:
            problem = f"config.tracking = {name} needs the package {TRACKERS[name][0]}, which is not installed"
            raise InputError(problem, hint=f"pip install '.[{name}]' in the clone, or leave it out")
    return tuple(dict.fromkeys(settings.tracking))


def open_trackers(workdir: pathlib.Path, settings: Settings, first_step: int) -> "list[InBackground]":
    """The trackers of a run that begins or goes on with a step; raises as `tracker_names`."""
    return [
        InBackground(name, lambda make=TRACKERS[name][1]: make(workdir, settings, first_step))
        for name in tracker_names(settings)
    ]


class InBackground:
    """A tracker in a thread of its own, which nothing waits for but, a while, `close`.

    Args:
        name: To tell of an exception, which ends it.
        make: Opens the tracker, in its thread.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self._name, self._ended = name, False
        self._calls: queue.Queue[tuple[str, Sequence[Any]]] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, args=(make,), name=name, daemon=True)
        self._thread.start()

    def scalars(self, record: dict[str, Any]) -> None:
        """As `Tracker.scalars`, later."""
        self._call("scalars", record)

    def images(self, step: int, name: str, image: np.ndarray) -> None:
        """As `Tracker.images`, later."""
        self._call("images", step, name, image)

    def close(self) -> None:
        """Waits until all is told, but not for ever."""
        self._call("close")
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._end(f"it is not done {_PATIENCE} seconds after training")

    def _call(self, method: str, *arguments: Any) -> None:
        if not self._ended:
            try:
                self._calls.put_nowait((method, arguments))
            except queue.Full:
                self._end("it is too slow")

    def _work(self, make: Callable[[], Tracker]) -> None:
        try:
            tracker, method = make(), ""
            while method != "close" and not self._ended:
                method, arguments = self._calls.get()
                getattr(tracker, method)(*arguments)
        except Exception as error:  # whatever a package of others raises, training goes on
            self._end(f"{type(error).__name__}: {error}")

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            print(printable(f"tracking by {self._name} ends: {reason}"), file=sys.stderr, flush=True)


def scalars_of(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by names such as 'val/dice/ET', without counts."""
    flat = flatten_dict(record, sep="/")
    return {f"{record['split']}/{name}": value for name, value in flat.items() if isinstance(value, float)}


def _kept_id(workdir: pathlib.Path, name: str) -> str | None:
    path = workdir / "tracking" / name
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def _keep_id(workdir: pathlib.Path, name: str, identity: str) -> str:
    (workdir / "tracking").mkdir(exist_ok=True)
    write_text(workdir / "tracking" / name, identity)
    return identity
