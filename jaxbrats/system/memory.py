"""Keeping freed memory, so that every step does not fault it in again, and giving back what no step needs.

XLA's CPU backend takes the buffers of each step from malloc. glibc gives large blocks straight back to the kernel,
which hands them out again one zeroed 4 KiB page at a time: a few hundred thousand page faults a step. Told to keep
them, it reuses the same pages.
"""

import ctypes
import sys

# malloc.h: https://sourceware.org/git/?p=glibc.git;a=blob;f=malloc/malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed, for the rest of the process; call it before the work begins.

    Returns:
        Whether the C library is one that can (glibc); others are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One arena on the process's own heap (others are limited to 64 MiB blocks), never trimmed, nothing mapped apart.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))
    accepted = [mallopt(option, value) for option, value in settings]
    return all(accepted)


def release_freed_memory() -> None:
    """Gives the kernel back all memory that is free at this moment; does nothing without glibc.

    A step's memory is one large block. A small one that begins to live inside it while it is free makes the next step
    take a block of its own, and the process is twice as large for good. Called between steps, now and then, this frees
    the one that is not used again; it costs a step the faults for its memory.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
