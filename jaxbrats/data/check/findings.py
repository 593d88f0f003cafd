"""What a check finds: errors stop a case or the training, warnings are for somebody to look at."""

import dataclasses
from typing import Any

from jaxbrats.system.errors import InputError

# Kind -> what it is called in the report, in the order in which it is shown.
ERRORS = {
    "files": "file missing, twice or out of place",
    "image": "image that cannot be used",
    "segmentation": "segmentation that cannot be used",
    "voxels": "files of a case on different voxels",
    "patients": "too few patients",
}
WARNINGS = {
    "skipped": "not used for training",
    "incomplete": "modality missing",
    "unused": "file that is not read",
    "duplicate": "the same voxels twice",
    "background": "not skull-stripped: background is not 0",
    "intensity": "unusual intensities",
    "geometry": "doubtful geometry",
    "frame": "turned or resampled",
    "tumour": "doubtful segmentation",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: Key of `ERRORS` or of `WARNINGS`.
        error: Whether it stops a case or the training. Something in `ERRORS` that stops nothing, because preprocessing
            does not read the file, is a warning.
        what: The line to print: case, file, problem and hint.
    """

    kind: str
    error: bool
    what: InputError

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        what = self.what
        return {
            "severity": "error" if self.error else "warning",
            "kind": self.kind,
            "case": what.case,
            "file": None if what.file is None else str(what.file),
            "problem": what.problem,
            "hint": what.hint,
        }


def warning(kind: str, problem: str, **about: Any) -> Finding:
    """A warning; `about` is what `InputError` takes: case, file, hint."""
    return Finding(kind, False, InputError(problem, **about))
