"""Telling a whole checkpoint from a damaged one.

Orbax checksums the indices of what it writes but not the arrays themselves, and a folder that lacks a file may read
without an error. So each checkpoint gets a list of its files, with sizes and CRC-32, before it gets its name:

    RUN/checkpoints/STEP/checksums.json    {"files": {PATH: [bytes, "crc32:..."]}}
"""

import pathlib

from jaxbrats.system.errors import InputError
from jaxbrats.system.files import checksum, read_json, write_json

_NAME = "checksums.json"


class DamagedCheckpointError(InputError):
    """A checkpoint is not as it was written."""


def write_checksums(folder: pathlib.Path) -> None:
    """Lists the files in the folders of a checkpoint. Those beside the folders, of Orbax's own, are still to change.

    Raises:
        OSError: the list cannot be written.
    """
    paths = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, checksum(path)] for path in paths}
    write_json(folder / _NAME, {"files": files})


def verify(folder: pathlib.Path, part: str = "") -> None:
    """Compares the files of a checkpoint with its list.

    Args:
        folder: Of the checkpoint.
        part: Only files whose path in it begins so.

    Raises:
        DamagedCheckpointError: naming the first file that differs.
    """

    def need(right: bool, path: pathlib.Path, problem: str) -> None:
        if not right:
            raise DamagedCheckpointError(problem, file=path)

    need((folder / _NAME).exists(), folder / _NAME, "is missing")
    try:
        files = read_json(folder / _NAME)["files"]
        expected = {str(name): (int(size), str(value)) for name, (size, value) in files.items()}
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedCheckpointError("is damaged", file=folder / _NAME) from error
    for name, (size, value) in expected.items():
        path = folder / name
        if not name.startswith(part):
            continue
        try:
            found = path.stat().st_size
            need(found == size, path, f"has {found} bytes, {size} were written")
            need(checksum(path) == value, path, "holds other bytes than were written")
        except OSError as error:
            raise DamagedCheckpointError(f"cannot be read ({error.strerror})", file=path) from error
