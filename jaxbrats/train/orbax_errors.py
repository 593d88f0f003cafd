"""What Orbax and tensorstore say when something is wrong, as one line instead of pages."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from jaxbrats.system.errors import InputError
from jaxbrats.system.files import disk_error


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Orbax warns of what is meant here, checkpoints without scores, and logs as errors what it raises as well."""
    return "orbax" not in record.pathname


def _is_not_the_rest(record: logging.LogRecord) -> bool:
    """Where several arrays cannot be written, the first is raised and asyncio tells of the others."""
    return "exception was never retrieved" not in record.getMessage()


def _without_late_answers(report: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Keeps from the user that, where one write failed, others of tensorstore's find Orbax's event loop closed."""

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    return hook


logging.getLogger("absl").addFilter(_is_worth_telling)
logging.getLogger("asyncio").addFilter(_is_not_the_rest)
warnings.filterwarnings("ignore", "coroutine 'async_serialize.* was never awaited", RuntimeWarning)
sys.unraisablehook = _without_late_answers(sys.unraisablehook)


@contextlib.contextmanager
def readable(folder: Any) -> Iterator[None]:
    """Turns what is raised while a checkpoint is read into an `InputError` that names its folder."""
    try:
        yield
    except Exception as error:  # Orbax, tensorstore and the file system each raise their own
        raise InputError(
            f"the checkpoint cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})",
            file=folder,
            hint="Name another one with --step, or delete this folder to go on from the one before it",
        ) from error


@contextlib.contextmanager
def disk_errors(folder: Any) -> Iterator[None]:
    """Turns what Orbax's threads and tensorstore raise for a full or read-only disk into an `OSError` that names it."""
    try:
        yield
    except Exception as error:
        trouble = disk_error(error, folder)
        if trouble is None or isinstance(error, InputError):
            raise
        raise trouble from error
