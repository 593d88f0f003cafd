"""What Python programs call: the commands' own code, for a patient at a time."""

import pathlib

import numpy as np

from jaxbrats.commands.startup import use_compiled_convolution
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.inference.predict import predict_by_settings
from jaxbrats.runs.networks import find_network
from jaxbrats.system.errors import InputError


def segment(case: str | pathlib.Path, run: str | pathlib.Path = "demo") -> tuple[np.ndarray, np.ndarray]:
    """Segments a patient, as `jaxbrats predict` does.

    For education and research; not a medical device.

    Args:
        case: Folder of the patient's files, in any form that `jaxbrats preprocess` takes.
        run: Folder of a run, a file that `jaxbrats export` wrote, or the name of a model that ships with the package.

    Returns:
        Labels `(X, Y, Z)` uint8 on the voxels of the files: 0 background, 1 necrosis, 2 edema, 3 enhancing tumour; and
        their affine `(4, 4)`, voxel index to mm.

    Raises:
        InputError: the folder is not of one patient, its files cannot be used, or there is no such network.
    """
    use_compiled_convolution()
    network, cohort = find_network(run), find_cases(case)
    if len(cohort.cases) != 1:
        problem = f"holds {len(cohort.cases)} cases, expected one"
        hint = cohort.problems[0].problem if cohort.problems else "Give one case's folder, or use jaxbrats predict"
        raise InputError(problem, file=pathlib.Path(case), hint=hint)
    (result,) = predict_by_settings(cohort.cases, network, None)
    if isinstance(result, InputError):
        raise result
    return result.file_labels, result.file_affine
