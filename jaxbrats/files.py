"""Writing files so that nothing is lost: a temporary name in the same folder, renamed when whole."""

import contextlib
import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any

from jaxbrats.errors import InputError

_LONGEST_NAME = 255  # bytes, on nearly every file system


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`; on leaving without an error it becomes `path` in one rename.

    The temporary name keeps the suffixes of `path`, because NumPy and nibabel choose the format by them. What was at
    `path` stays until the rename, and the temporary file is removed when the block raises.

    Raises:
        OSError: the folder cannot be made or written (full disk, read-only, permissions).
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path.name))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_name(name: str) -> str:
    """Of this process, with the same suffixes; names may be as long as a file system takes, and no longer."""
    prefix = f".partial-{os.getpid()}-"
    if len(os.fsencode(prefix + name)) <= _LONGEST_NAME:
        return prefix + name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return prefix + digest + "".join(pathlib.PurePath(name).suffixes[-2:])


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Writes UTF-8 text, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON, all of it or nothing. Not-a-number is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: it is missing, unreadable or not JSON.
    """
    path = pathlib.Path(path)
    cure = "Check that the file is there and its permissions"
    try:
        # Opening a named pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("expected a file, found something else", file=path, cure=cure)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path, cure=cure) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not valid JSON ({error})", file=path, cure="Delete it to have it made again") from error
