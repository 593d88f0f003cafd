"""Leaving Python's garbage collector off where it only costs time."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Turns the collector off for the block, or function: for importing libraries and for tracing programs.

    Both make hundreds of thousands of objects that live on. The collector goes through them again and again, for a
    fifth of the time, and finds next to nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
