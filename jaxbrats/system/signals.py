"""Ending in good order when told to: SIGTERM (a batch system's warning) and SIGINT (Ctrl-C).

Most commands stop where they are: the signal is raised as an exception, temporary files are removed and worker
processes ended on the way out. Training finishes its step and saves first: it only looks at a flag.
"""

import contextlib
import signal
import types
from collections.abc import Callable, Iterator


class Terminated(BaseException):
    """SIGTERM came. Not an `Exception`, as KeyboardInterrupt is none: nothing but the end of a program catches it."""


def signal_of(error: BaseException) -> signal.Signals | None:
    """The signal that ends a program with this exception; None for any other."""
    if isinstance(error, Terminated):
        return signal.SIGTERM
    return signal.SIGINT if isinstance(error, KeyboardInterrupt) else None


class Interrupted(Exception):  # noqa: N818 - no error: the run did what it was told
    """The run stopped on a signal after saving.

    Args:
        number: The signal's.
        step: Step that was saved, 0 for none.
    """

    def __init__(self, number: int, step: int) -> None:
        where = f"after step {step}, which is saved" if step else "before the first step"
        super().__init__(f"stopped by {signal.Signals(number).name} {where}")
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
        self.number = self.number or number


@contextlib.contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catches SIGTERM and SIGINT while the block runs. Outside the main thread, where Python allows no handlers, it
    does nothing.
    """
    flag = StopFlag()
    with _handling(flag.handle, signal.SIGTERM, signal.SIGINT):
        yield flag


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated` while the block runs, as SIGINT raises KeyboardInterrupt."""
    with _handling(_raise_terminated, signal.SIGTERM):
        yield


def _raise_terminated(number: int, frame: types.FrameType | None) -> None:
    raise Terminated


@contextlib.contextmanager
def _handling(handler: Callable[[int, types.FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    previous = {}
    try:
        for number in numbers:
            with contextlib.suppress(ValueError):
                previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
