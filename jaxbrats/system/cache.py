"""The user's cache folder: what can be made again at any time, compiled programs above all.

Compiled code from it is run, so nobody else may be able to put any there.
"""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator


def cache_folder(name: str) -> pathlib.Path:
    """A folder of the user's own in `XDG_CACHE_HOME/jaxbrats` or `~/.cache/jaxbrats`, made if it is not there.

    Without a home that can be written it lies in the system's folder for temporary files. A folder of the user's that
    others may write to is closed to them.

    Args:
        name: Folder in it.

    Raises:
        OSError: no place can be written, or what is there belongs to another user.
    """
    problem: OSError | None = None
    for root in _roots():
        try:
            return _private(_private(root) / name)
        except OSError as error:
            problem = problem or error
    raise problem


def is_private(path: pathlib.Path) -> bool:
    """Whether a file or folder, and the link that may lead to it, are the user's own and nobody else may write it."""
    state = path.stat()
    return {state.st_uid, path.lstat().st_uid} == {os.getuid()} and not state.st_mode & 0o022


def _roots() -> Iterator[pathlib.Path]:
    with contextlib.suppress(RuntimeError):  # no HOME, and no such user
        yield pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxbrats"
    yield pathlib.Path(tempfile.gettempdir()) / f"jaxbrats-{os.getuid()}"


def _private(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        folder.chmod(0o700)  # refused where the folder is another user's
        if not is_private(folder):  # root may change it all the same
            raise PermissionError(errno.EPERM, "belongs to another user", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder
