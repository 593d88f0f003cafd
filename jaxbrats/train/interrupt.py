"""Ending a run in good order when it is told to: SIGTERM (SLURM's preemption) and SIGINT (Ctrl-C)."""

import contextlib
import signal
import types
from collections.abc import Iterator


class Interrupted(Exception):  # noqa: N818 - no error: the run did what it was told
    """The run stopped on a signal after saving.

    Args:
        number: The signal's.
        step: Step that was saved.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}, which is saved")
        self.exit_code = 128 + number


class StopFlag:
    """Remembers the first signal; a second Ctrl-C raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def handle(self, number: int, frame: types.FrameType | None) -> None:
        """The signal handler."""
        del frame
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number


@contextlib.contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catches SIGTERM and SIGINT while the block runs. Outside the main thread, where Python allows no handlers, it
    does nothing.
    """
    flag = StopFlag()
    previous = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                previous[number] = signal.signal(number, flag.handle)
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
