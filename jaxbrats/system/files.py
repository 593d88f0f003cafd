"""Writing files so that nothing is lost: a temporary name in the same folder, renamed when whole."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from isal import isal_zlib

from jaxbrats.system.errors import CHECK_ACCESS, InputError, printable, unreadable

_BLOCK = 1 << 20
_LONGEST_NAME = 255  # bytes, on nearly every file system
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What is wrong with the disk or the folder, not with the program: said in a line instead of a traceback.
_DISK_ERRORS = (
    *_FULL,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)


class RemovedError(FileNotFoundError):
    """A file or folder that this program made and still writes to was removed or moved meanwhile."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; on leaving without an error it becomes `path` in one rename.

    The temporary name keeps the suffixes of `path`, because NumPy and nibabel choose the format by them. What was at
    `path` stays until the rename, and the temporary file is removed when the block raises.

    Raises:
        OSError: the folder cannot be made or written (full disk, read-only, permissions), or was removed meanwhile.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path.name))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if not path.parent.is_dir():
            raise RemovedError(path.parent) from error
        # A failing write does not tell of which file, and nobody knows the temporary one.
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | pathlib.Path, made_from: Any = None) -> Iterator[pathlib.Path]:
    """Yields a folder beside `path`; on leaving without an error it takes the place of `path` and what that held.

    Args:
        path: Its place at the end. One process at a time works at it.
        made_from: All that what is in the folder follows from, JSON-able: then a block that was stopped, or killed,
            leaves the folder to the next one that makes it from the same. None for a new folder each time.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path = pathlib.Path(path)
    for left in path.parent.glob(f".partial-*-{path.name}"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    note, text = unfinished / ".made_from.json", json.dumps(made_from)
    if made_from is None or not note.exists() or note.read_text() != text:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        write_text(note, text)
    try:
        yield unfinished
        if path.exists():
            old = path.with_name(_temporary_name(f"old-{path.name}"))
            path.rename(old)
            unfinished.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            unfinished.rename(path)
        (path / note.name).unlink()
    finally:
        if made_from is None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _temporary_name(name: str) -> str:
    """Of nobody else, with the same suffixes; names may be as long as a file system takes, and no longer."""
    prefix = f".partial-{os.getpid()}{secrets.randbits(32):010d}-"  # containers have processes of the same number
    if len(os.fsencode(prefix + name)) <= _LONGEST_NAME:
        return prefix + name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return prefix + digest + "".join(pathlib.PurePath(name).suffixes[-2:])


def checksum(path: str | pathlib.Path) -> str:
    """CRC-32 of a file's bytes, as 'crc32:...': tells damage and change, not malice.

    Raises:
        OSError: the file cannot be read.
    """
    value = 0
    with pathlib.Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            value = isal_zlib.crc32(block, value)
    return f"crc32:{value:08x}"


def fingerprint(values: Iterable[Any]) -> str:
    """Hexadecimal SHA-256 of values that JSON can hold, in their order."""
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def disk_error(error: BaseException, place: str | pathlib.Path) -> OSError | None:
    """The trouble with a disk or folder that an error tells of: full, over quota, read-only, no permission, broken,
    removed while it was written to.

    Args:
        error: Of any kind: libraries in C++ put the system's words into errors of their own, and other errors have
            one as their cause.
        place: What to name where the error names no file.

    Returns:
        An `OSError` with number and file name, None where it is something else.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RemovedError):
            return seen
        if isinstance(seen, OSError) and seen.errno in _DISK_ERRORS:
            return OSError(seen.errno, os.strerror(seen.errno), seen.filename or str(place))
        # Only of full disks is the wording telling enough by itself.
        for number in (*_FULL, errno.EROFS):
            if not isinstance(seen, InputError) and os.strerror(number) in str(seen):
                return OSError(number, os.strerror(number), str(place))
        seen = seen.__cause__
    return None


def describe_disk_error(error: OSError) -> str:
    """The line to show for what `disk_error` found."""
    file = printable(str(error.filename))
    if isinstance(error, RemovedError):
        return f"{file}: is gone, removed or moved while it was written to. Run the same command again to resume"
    hint = (
        "Free some space or choose another folder, then run the same command again"
        if error.errno in _FULL
        else "Choose a folder that can be written, or have its permissions changed"
    )
    return f"{file}: cannot be written or read ({error.strerror}). {hint}"


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Writes UTF-8 text, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON, all of it or nothing. Not-a-number is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | pathlib.Path, hint: str = "Delete it to have it made again") -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        hint: What to do where it is damaged.

    Raises:
        InputError: it is missing, unreadable or not JSON.
    """
    path = pathlib.Path(path)
    try:
        # Opening a named pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("expected a file, found something else", file=path, hint=CHECK_ACCESS)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(error, path) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error})", file=path, hint=hint) from error
