"""What names tell: the patient of a case, the stem of a NIfTI file, the order in which people count."""

import re

# Patient and time point; two numbers are asked for, so that patient-001 and patient-002 stay two patients.
_TIME_POINT = re.compile(r"(.+-\d+)-\d{3}", re.DOTALL)
_NIFTI = re.compile(r"(.+)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)


def patient_of(case: str) -> str:
    """The patient of a case: BraTS-GLI-00005 of BraTS-GLI-00005-001, the name itself where it has no time point."""
    match = _TIME_POINT.fullmatch(case)
    return match[1] if match else case


def nifti_stem(name: str) -> str | None:
    """The name of a .nii or .nii.gz file without its suffix, None for other files."""
    match = _NIFTI.fullmatch(name)
    return match[1] if match else None


def natural_key(text: str) -> tuple:
    """Sorting key that puts case_2 before case_10."""
    parts = re.split(r"([0-9]+)", text)
    return (*[int(part) if index % 2 else part.lower() for index, part in enumerate(parts)], text)
