"""One process at a time in a folder: locks that the system itself lets go of, however the process ends.

`flock` holds between the processes of a machine and, on Linux, over NFS (4, or 3 with its lock daemon), where a client
that crashed loses its locks when its lease runs out. Some network file systems have no locks (Lustre mounted without
`flock`): then a warning is all there is. Windows has no `flock`, so what needs a lock does not work there.
"""

import contextlib
import errno
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from jaxbrats.system.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None


@contextlib.contextmanager
def locked(
    folder: str | pathlib.Path, name: str, what: str, shared: bool = False, wait: bool = False
) -> Iterator[None]:
    """Holds a folder while the block runs.

    Args:
        folder: Made if it is not there.
        name: Of the lock, a file `.NAME.lock` in it: those who do the same there take the same name. It says who holds
            the lock and stays when that ends; it is the system's lock on it that counts.
        what: What holds it, for the message of another one that comes.
        shared: Whether others that share it may hold it at the same time.
        wait: Whether to wait for another that holds it, which a line says.

    Raises:
        InputError: another process holds the folder, and it is not to wait; the message tells which. Or the system has
            no locks.
        OSError: the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("a+b", buffering=0) as lock:
        try:
            _flock(lock.fileno(), folder, shared=shared, wait=False)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read(1000).decode("utf-8", "replace").strip() or "another process"
            problem = f"{what} is at work in this folder already: {holder}"
            if not wait:
                raise InputError(problem, file=folder, hint="Wait for it, or choose another folder") from error
            print(f"{folder}: {problem}; waiting for it", flush=True)
            _flock(lock.fileno(), folder, shared=shared, wait=True)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


@contextlib.contextmanager
def held_briefly(folder: pathlib.Path, name: str) -> Iterator[None]:
    """Waits until no other process holds the lock `.NAME.lock` of a folder, and holds it while the block runs."""
    with (folder / f".{name}.lock").open("ab") as lock:
        _flock(lock.fileno(), folder, shared=False, wait=True)
        yield


def _flock(file: int, folder: pathlib.Path, *, shared: bool, wait: bool) -> None:
    if fcntl is None:
        raise InputError(
            "this system cannot lock files, so two runs could spoil each other's work",
            file=folder,
            hint="Use Linux or macOS; on Windows, the Windows Subsystem for Linux",
        )
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        logging.getLogger(__name__).warning("%s: this file system has no locks; use it for one run only", folder)
