"""Kinds of images that are damaged as files, or whose header is: cut, flipped, another format, absurd numbers."""

import gzip
import struct
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np

from malformed.kinds import REFUSED, SAME, Files, Kind, content_of, voxels_of, write

Spoil = Callable[[Files], None]
_DAMAGED = "is damaged or cut short"
_NO_NIFTI = "is not a NIfTI file"
_TOO_LARGE = "more than the file can hold"
_DEEP = 32767  # the largest dimension that NIfTI-1 can name


def compressed(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes the bytes of the file as they are on disk."""
    return lambda files: files.image.write_bytes(change(files.image.read_bytes()))


def content(change: Callable[[bytearray], bytes]) -> Spoil:
    """Changes the bytes before compression."""
    return lambda files: write(files.image, bytes(change(content_of(files.image))))


def plain(change: Callable[[bytearray], bytes]) -> Spoil:
    """Changes the bytes and writes them as .nii, not compressed."""

    def spoil(files: Files) -> None:
        write(files.image.with_suffix(""), bytes(change(content_of(files.image))))
        files.image.unlink()

    return spoil


def header(**fields: Any) -> Spoil:
    """Sets fields of the header as they are stored, unchecked."""

    def change(whole: bytearray) -> bytes:
        made = nib.Nifti1Header(bytes(whole[:348]), check=False)
        for name, value in fields.items():
            made[name] = value
        return made.binaryblock + bytes(whole[348:])

    return content(change)


def dimensions(*dim: int, **fields: Any) -> Spoil:
    """Sets the number of dimensions and each of them."""
    return header(dim=[*dim, *[1] * (8 - len(dim))], **fields)


def _flipped(position: int) -> Callable[[bytes], bytes]:
    def change(whole: bytes) -> bytes:
        changed = bytearray(whole)
        changed[position] ^= 0x10
        return bytes(changed)

    return change


def _patched(position: int, value: bytes) -> Callable[[bytearray], bytes]:
    return lambda whole: bytes(whole[:position]) + value + bytes(whole[position + len(value) :])


def _as(image: type, byte_order: str = "<") -> Spoil:
    def spoil(files: Files) -> None:
        array = voxels_of(files.image)
        affine = nib.load(files.image).affine
        made = image(array, affine, image.header_class(endianness=byte_order))
        made.set_data_dtype(array.dtype)
        made.set_sform(affine, 1)
        made.set_qform(affine, 1)
        write(files.image, made.to_bytes())

    return spoil


def _nifti2_terabytes(files: Files) -> None:
    made = nib.Nifti2Header()
    made.set_data_dtype(np.float64)
    made["dim"] = [3, 1 << 40, 1 << 40, 1 << 40, 1, 1, 1, 1]
    made["vox_offset"] = 544
    write(files.image, made.binaryblock + bytes(1000))


def _renamed(files: Files) -> None:
    files.image.rename(files.image.with_suffix(""))


def _with_extension(size: int) -> Callable[[bytearray], bytes]:
    def change(whole: bytearray) -> bytes:
        made = nib.Nifti1Header(bytes(whole[:348]), check=False)
        made["vox_offset"] = 352 + 64
        extension = struct.pack("<4B2i", 1, 0, 0, 0, size, 6) + bytes(56)
        return made.binaryblock + extension + bytes(whole[352:])

    return change


def _two_members(files: Files) -> None:
    whole = bytes(content_of(files.image))
    files.image.write_bytes(gzip.compress(whole[:500]) + gzip.compress(whole[500:]))


def _bomb(files: Files) -> None:
    # Two members of one stream; zeros shrink to a thousandth.
    files.image.write_bytes(files.image.read_bytes() + gzip.compress(bytes(80 << 20), 1))


KINDS = [
    Kind("file of no bytes", compressed(lambda whole: b""), REFUSED, "is empty"),
    Kind("file of one byte", compressed(lambda whole: whole[:1]), REFUSED, _NO_NIFTI),
    Kind("gzip cut in its own header", compressed(lambda whole: whole[:7]), REFUSED, _DAMAGED),
    Kind("gzip cut in the middle", compressed(lambda whole: whole[: len(whole) // 2]), REFUSED, _DAMAGED),
    Kind("gzip without its last byte", compressed(lambda whole: whole[:-1]), REFUSED, _DAMAGED),
    Kind("gzip with a bit flipped in the stream", compressed(_flipped(200)), REFUSED, _DAMAGED),
    Kind("gzip with a bit flipped in the checksum", compressed(_flipped(-7)), REFUSED, _DAMAGED),
    Kind("gzip with a bit flipped in the length", compressed(_flipped(-3)), REFUSED, _DAMAGED),
    Kind("gzip with an unknown method", compressed(_flipped(2)), REFUSED, _DAMAGED),
    Kind("gzip followed by rubbish", compressed(lambda whole: whole + b"rubbish" * 9), REFUSED, _DAMAGED),
    Kind("gzip padded with zeros", compressed(lambda whole: whole + bytes(512)), SAME),
    Kind("gzip in two members", _two_members, SAME),
    Kind("gzip of a gzip", compressed(gzip.compress), REFUSED, _NO_NIFTI),
    Kind("gzip that goes on for 80 MB of zeros", _bomb, REFUSED, "goes on for more than 64 MiB"),
    Kind("text called .nii.gz", compressed(lambda whole: b"To be uploaded later.\n"), REFUSED, _NO_NIFTI),
    Kind("web page, compressed", content(lambda whole: b"<!DOCTYPE html><html>Sign in</html>"), REFUSED, _NO_NIFTI),
    Kind("Git LFS pointer", compressed(lambda whole: b"version https://git-lfs.github.com/"), REFUSED, _NO_NIFTI),
    Kind("DICOM called .nii.gz", compressed(lambda whole: bytes(128) + b"DICM" + bytes(400)), REFUSED, _NO_NIFTI),
    Kind("zip called .nii.gz", compressed(lambda whole: b"PK\x03\x04" + bytes(400)), REFUSED, _NO_NIFTI),
    Kind("not compressed, called .nii.gz", compressed(gzip.decompress), SAME),
    Kind("compressed, called .nii", _renamed, SAME),
    Kind("not compressed", plain(bytes), SAME),
    Kind("not compressed, cut in the voxels", plain(lambda whole: whole[:-5]), REFUSED, "cut short"),
    Kind("not compressed, cut in the header", plain(lambda whole: whole[:200]), REFUSED, "damaged header"),
    Kind("header of zeros", content(lambda whole: bytes(len(whole))), REFUSED, _NO_NIFTI),
    Kind("header alone, no voxels", content(lambda whole: whole[:352]), REFUSED, "is cut short"),
    Kind("half of a .hdr and .img pair", header(magic=b"ni1"), REFUSED, "half of a .hdr and .img pair"),
    Kind("magic of no format", header(magic=b"xyz"), REFUSED, "damaged header"),
    Kind("Analyze 7.5 header", header(magic=b""), REFUSED, "damaged header"),
    Kind("negative dimension", dimensions(3, 9, -8, 7), REFUSED, "expected a 3-D volume"),
    Kind("dimension of zero", dimensions(3, 9, 0, 7), REFUSED, "expected a 3-D volume"),
    Kind("no dimension", dimensions(0, 9, 8, 7), REFUSED, "expected a 3-D volume"),
    Kind("nine dimensions", dimensions(9, 9, 8, 7), REFUSED, "header"),
    Kind("one slice more than there is", dimensions(3, 9, 8, 8), REFUSED, "is cut short"),
    Kind("one slice less than there is", dimensions(3, 9, 8, 6), REFUSED, "has 9x8x6 voxels, but"),
    Kind("terabytes claimed", dimensions(3, _DEEP, _DEEP, _DEEP, datatype=64, bitpix=64), REFUSED, _TOO_LARGE),
    Kind("more voxels claimed than 64 bits count", dimensions(7, *[_DEEP] * 7), REFUSED, "x32767 voxels of 2 bytes"),
    Kind("terabytes claimed in NIfTI-2", _nifti2_terabytes, REFUSED, _TOO_LARGE),
    Kind(
        "terabytes claimed, not compressed",
        plain(_patched(40, struct.pack("<4h", 3, *[_DEEP] * 3))),
        REFUSED,
        _TOO_LARGE,
    ),
    Kind("number type that does not exist", header(datatype=77), REFUSED, "damaged header"),
    Kind("number type of one bit", header(datatype=1, bitpix=1), REFUSED, "header"),
    Kind("bits a voxel at odds with the number type", header(bitpix=64), SAME),
    Kind("voxels said to begin beyond the end", header(vox_offset=1e9), REFUSED, _TOO_LARGE),
    Kind("voxels said to begin before the header", header(vox_offset=-100), REFUSED, "damaged header"),
    Kind("voxels said to begin at NaN", header(vox_offset=np.nan), REFUSED, "damaged header"),
    Kind("big-endian", _as(nib.Nifti1Image, ">"), SAME),
    Kind("NIfTI-2", _as(nib.Nifti2Image), SAME),
    Kind("NIfTI-2, big-endian", _as(nib.Nifti2Image, ">"), SAME),
    Kind("header extension", content(_with_extension(64)), SAME),
    Kind("header extension of a negative size", content(_with_extension(-5)), SAME),
    Kind("bytes after the voxels", content(lambda whole: whole + bytes(100)), SAME),
    Kind("description that is no text", header(descrip=b"\xff\xfe\x00\x01" * 20), SAME),
]
