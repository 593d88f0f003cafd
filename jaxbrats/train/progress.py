"""What a run tells while it trains: the log's records, the progress bar, and where an update was not finite."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.labels import LABEL_NAMES
from jaxbrats.system.errors import InputError
from jaxbrats.train.clock import Clock
from jaxbrats.train.logs import MetricsLog, read_metrics
from jaxbrats.train.plan import Plan
from jaxbrats.train.step import StepMetrics

# Where the result of a validation has its pictures `(down, across, 3)` uint8, by the case's name.
PICTURES = "pictures"


class Progress:
    """Log and progress bar of a run, one step behind: the metrics of a step are fetched once the next is under way.

    Args:
        plan: Steps and epochs.
        cases: Training cases, to name those of an update that is not finite.
        learning_rates: Learning rate of each update.
        log: Where the records go.
        start: Step the run goes on from.
        skip_nonfinite: Whether an update that is not finite was dropped, instead of ending the run.
        shows: Whether to show the bar: of several processes one does.
    """

    def __init__(
        self,
        plan: Plan,
        cases: Sequence[ArrayCase],
        learning_rates: np.ndarray,
        log: MetricsLog,
        start: int,
        skip_nonfinite: bool,
        shows: bool,
    ) -> None:
        self._plan, self._cases, self._learning_rates = plan, cases, learning_rates
        self._log, self._skip_nonfinite = log, skip_nonfinite
        self._clock = Clock(read_metrics(log.workdir))
        self._pending: tuple[int, StepMetrics, np.ndarray] | None = None
        self._scores: dict[str, str] = {}
        self._bar = tqdm(
            total=plan.total_steps, initial=start, desc="training", unit="step", dynamic_ncols=True, disable=not shows
        )

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Passes batches on, counting the time until each came."""
        return self._clock.timed(batches)

    def step(self, step: int, metrics: StepMetrics, index: np.ndarray) -> None:
        """Takes the metrics of a step and the places of its cases; reports those of the step before.

        Raises:
            InputError: the update before is not finite.
        """
        before, self._pending = self._pending, (step, metrics, index)
        if before:
            self._report(*before)

    def flush(self) -> None:
        """Reports the last step.

        Raises:
            InputError: its update is not finite.
        """
        before, self._pending = self._pending, None
        if before:
            self._report(*before)

    def validation(self, step: int, result: Mapping[str, Any]) -> None:
        """Reports the validation at the end of an epoch: its scores, and its pictures to trackers alone."""
        result = dict(result)
        self._log.pictures(step, {f"val/{name}": picture for name, picture in result.pop(PICTURES, {}).items()})
        epoch = self._plan.epochs_completed(step)
        waited = {"data_wait": self._clock.share_waited(), "seconds": self._clock.seconds()}
        self._log.write({"step": step, "epoch": epoch, "split": "val", **result, **waited})
        self._scores["val_dice"] = f"{result['mean_region_dice']:.3f}"
        self._bar.set_description(f"epoch {epoch}/{self._plan.num_epochs}")

    def close(self) -> None:
        """Closes bar and log."""
        self._bar.close()
        self._log.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _report(self, step: int, metrics: StepMetrics, index: np.ndarray) -> None:
        metrics = jax.device_get(metrics)
        skipped = int(metrics.skipped)
        if not metrics.finite:
            names = ", ".join(self._cases[case].name for case in index)
            where = f"step {step}, whose loss is {metrics.loss:.6g} (cases {names})"
            if not self._skip_nonfinite:
                raise InputError(
                    f"the update of {where}, is not finite; the last good checkpoint is kept",
                    hint="Look at these cases, lower config.learning_rate, train in float32 or set "
                    "config.skip_nonfinite",
                )
            self._bar.write(f"not finite and dropped: the update of {where}; {skipped} so far", file=sys.stderr)
        # The schedule counts the updates made.
        update = step - 1 - skipped + (not metrics.finite)
        self._log.write(
            {
                "step": step,
                "epoch": self._plan.epochs_completed(step - 1) + 1,
                "split": "train",
                **scores_by_name(metrics.loss, metrics.dice, metrics.iou, metrics.accuracy),
                "lr": float(self._learning_rates[update]),
                "skipped": skipped,
                "seconds": self._clock.seconds(),
            }
        )
        self._bar.update()
        self._bar.set_postfix({**self._scores, "loss": f"{metrics.loss:.4f}"}, refresh=False)


def scores_by_name(loss: Any, dice: Any, iou: Any, accuracy: Any) -> dict[str, Any]:
    """The entries that the records of training and validation share; Dice and IoU are `(C,)`, one for each label."""
    return {
        "loss": float(loss) if np.isfinite(loss) else None,
        "dice": dict(zip(LABEL_NAMES, map(float, dice), strict=True)),
        "iou": dict(zip(LABEL_NAMES, map(float, iou), strict=True)),
        "accuracy": float(accuracy),
    }
