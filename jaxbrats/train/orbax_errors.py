"""What Orbax and tensorstore say when something is wrong, as one line instead of pages."""

import contextlib
import logging
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from jaxbrats.system.errors import InputError
from jaxbrats.system.files import RemovedError, disk_error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps from the user, while the block runs, what Orbax and tensorstore say besides the error that they raise."""

    def unraisable(event: Any) -> None:
        # Where one write failed, others of tensorstore's find Orbax's event loop closed.
        if str(event.exc_value) != "Event loop is closed":
            hook_before(event)

    def absl_filter(record: logging.LogRecord) -> bool:
        # Orbax warns of what is meant here, checkpoints without scores, and logs as errors what it raises as well.
        return "orbax" not in record.pathname

    def asyncio_filter(record: logging.LogRecord) -> bool:
        # Where several arrays cannot be written, the first is raised and asyncio tells of the others.
        return "exception was never retrieved" not in record.getMessage()

    hook_before = sys.unraisablehook
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine 'async_serialize.* was never awaited", RuntimeWarning)
        logging.getLogger("absl").addFilter(absl_filter)
        logging.getLogger("asyncio").addFilter(asyncio_filter)
        sys.unraisablehook = unraisable
        try:
            yield
        finally:
            sys.unraisablehook = hook_before
            logging.getLogger("asyncio").removeFilter(asyncio_filter)
            logging.getLogger("absl").removeFilter(absl_filter)


@contextlib.contextmanager
def readable(folder: Any) -> Iterator[None]:
    """Turns what is raised while a checkpoint, whose files are as they were written, is read into an `InputError`."""
    try:
        with quiet():
            yield
    except Exception as error:  # Orbax, tensorstore and the file system each raise their own
        raise InputError(
            f"the checkpoint cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})",
            file=folder,
            hint="Its files are as they were written: see that there is memory enough, and that Orbax has the version "
            "that the run's config.json names",
        ) from error


@contextlib.contextmanager
def disk_errors(folder: Any) -> Iterator[None]:
    """Turns what Orbax's threads and tensorstore raise for a full or read-only disk, or where somebody removed the
    folder, into an `OSError` that names it.
    """
    try:
        yield
    except Exception as error:
        trouble = disk_error(error, folder) or (None if pathlib.Path(folder).exists() else RemovedError(folder))
        if trouble is None or isinstance(error, InputError):
            raise
        raise trouble from error
