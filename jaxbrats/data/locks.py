"""Which runs of preprocessing may be at work in a folder at the same time: one, or several shards."""

import contextlib
import errno
import fcntl
import pathlib
from collections.abc import Iterator

from jaxbrats.data.shards import WHOLE, Shard
from jaxbrats.errors import InputError


@contextlib.contextmanager
def at_work(out: pathlib.Path, shard: Shard) -> Iterator[None]:
    """Holds a folder for this run: shards share it with other shards.

    Raises:
        InputError: another run holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        whole = fcntl.LOCK_EX if shard == WHOLE else fcntl.LOCK_SH
        locks.enter_context(_held(out / ".preprocess.lock", whole, "another preprocess run is at work in this folder"))
        if shard != WHOLE:
            path = out / f".preprocess-{shard.index}-of-{shard.count}.lock"
            refusal = f"another preprocess run is at work on shard {shard} of this folder"
            locks.enter_context(_held(path, fcntl.LOCK_EX, refusal))
        yield


@contextlib.contextmanager
def _held(path: pathlib.Path, operation: int = fcntl.LOCK_EX, refusal: str | None = None) -> Iterator[None]:
    """Holds a lock; the system lets go of it whatever way the process ends.

    Args:
        path: The file that is locked.
        operation: `LOCK_EX` or `LOCK_SH`.
        refusal: What to say where another process holds it; None waits for that.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, operation | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError as error:
            raise InputError(refusal, file=path.parent, cure="Wait for it") from error
        except OSError as error:
            # Some network file systems have no locks: then nothing but care keeps two runs apart.
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
        yield


def manifests_held(out: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Holds the manifests of a folder for the moment in which they are compared or made one; waits for others."""
    return _held(out / ".manifest.lock")
