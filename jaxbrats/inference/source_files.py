"""What a prediction was made from, by content: whether a case's files are still those of before."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxbrats.data.raw.cases import Case
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import checksum


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that was read.

    Attributes:
        path: Where it was.
        channel: Channel of a 4-D file; None for a file of one volume.
        size: Bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        checksum: Of its bytes, see `files.checksum`.
    """

    path: str
    channel: int | None
    size: int
    mtime_ns: int
    checksum: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


def source_files(case: Case, modalities: Iterable[str]) -> dict[str, SourceFile]:
    """Modality -> the file it is read from, as it is now.

    Raises:
        InputError: a file cannot be read.
    """
    checksums: dict[pathlib.Path, str] = {}
    found = {}
    for modality in modalities:
        path, channel = case.modalities[modality].path, case.modalities[modality].channel
        try:
            status = path.stat()
            if path not in checksums:
                checksums[path] = checksum(path)
        except OSError as error:
            hint = "Check that the file is there and its permissions"
            raise InputError(f"cannot be read ({error.strerror})", case=case.name, file=path, hint=hint) from error
        found[modality] = SourceFile(str(path), channel, status.st_size, status.st_mtime_ns, checksums[path])
    return found


def is_unchanged(case: Case, recorded: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the files of a case hold what was recorded; those of the same place, size and time are not read again.

    Args:
        case: The case as it is now.
        recorded: Modality -> what `SourceFile.to_dict` gave.
    """
    for modality, before in recorded.items():
        volume = case.modalities.get(modality)
        if volume is None or volume.channel != before["channel"]:
            return False
        try:
            status = volume.path.stat()
            if status.st_size != before["size"]:
                return False
            same_place = str(volume.path) == before["path"] and status.st_mtime_ns == before["mtime_ns"]
            if not same_place and checksum(volume.path) != before["checksum"]:
                return False
        except OSError:
            return False
    return True
