"""What names tell: a case's patient, a NIfTI file's stem, the order in which people count; and which may be names."""

import pathlib
import re

from jaxbrats.system.errors import InputError

# Bytes of UTF-8. File systems take names of 255, and files are called by their case with more around it: the longest
# are CASE-probabilities.nii.gz and overlay_RANK_CASE.png.
LONGEST_CASE_NAME = 200

# Patient and time point; two numbers are asked for, so that patient-001 and patient-002 stay two patients.
_TIME_POINT = re.compile(r"(.+-\d+)-\d{3}", re.DOTALL)
_NIFTI = re.compile(r"(.+)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)
_DIGITS = re.compile(r"([0-9]+)")


def patient_of(case: str) -> str:
    """The patient of a case: BraTS-GLI-00005 of BraTS-GLI-00005-001, the name itself where it has no time point."""
    match = _TIME_POINT.fullmatch(case)
    return match[1] if match else case


def nifti_stem(name: str) -> str | None:
    """The name of a .nii or .nii.gz file without its suffix, None for other files."""
    match = _NIFTI.fullmatch(name)
    return match[1] if match else None


def natural_key(text: str) -> tuple:
    """Sorting key that puts case_2 before case_10; a total order of all strings."""
    parts = _DIGITS.split(text)
    # A number by its digits: Python refuses to convert more than some thousand of them.
    numbers = [part.lstrip("0") for part in parts[1::2]]
    parts[::2] = [part.lower() for part in parts[::2]]
    parts[1::2] = [(len(number), number) for number in numbers]
    return tuple(parts), text


def case_name_problem(name: str) -> str | None:
    """Why files cannot be called by the name of a case, wherever it was read; None where they can.

    A name is UTF-8 of at most `LONGEST_CASE_NAME` bytes, without a separator of folders or a null character, and does
    not begin with a dot.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if size > LONGEST_CASE_NAME:
        return f"has a name of {size} bytes, at most {LONGEST_CASE_NAME} are taken"
    if not name or name[0] == "." or any(character in name for character in "/\\\0"):
        return "has a name that no file may have: it is empty, begins with a dot, or holds a / or \\ or null character"
    return None


def check_case_name(name: str, file: pathlib.Path, hint: str) -> None:
    """Refuses the name of a case that a file gives, before it becomes a path.

    Raises:
        InputError: files cannot be called by it, see `case_name_problem`.
    """
    problem = case_name_problem(name)
    if problem is not None:
        shown = name if len(name) <= LONGEST_CASE_NAME else f"{name[:LONGEST_CASE_NAME]}..."
        raise InputError(problem, case=shown, file=file, hint=hint)
