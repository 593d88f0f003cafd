"""What Python programs call: the commands' own code, with values in the place of files and printed lines."""

import pathlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxbrats.commands.startup import use_compiled_convolution
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs.networks import find_network
from jaxbrats.system.errors import InputError

if TYPE_CHECKING:
    from jaxbrats.evaluation.statistics import Summary


def preprocess(
    raw: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    modalities: Sequence[str] = ("t2f", "t1c", "t2w"),
    crop: tuple[int, int, int] | Literal["brain"] = (128, 128, 128),
    normalization: Literal["minmax", "zscore"] = "minmax",
    min_tumour: float = 0.01,
    spacing: tuple[float, float, float] | None = None,
    incomplete: bool = False,
    soft_labels: bool = False,
    workers: int | None = 0,
) -> dict[str, dict[str, Any]]:
    """Turns a cohort of NIfTI files into training arrays, as `jaxbrats preprocess` does.

    Called again it makes only what is missing or changed.

    Args:
        raw: Folder of the cohort, in any form that `jaxbrats preprocess` takes.
        out: Folder for the arrays, which `--config.data.dir` trains on.
        modalities: Channels, in order: some of t1n, t1c, t2w, t2f.
        crop: Size (X, Y, Z) in voxels, cut out about the centre; 'brain' for the bounding box of each brain.
        normalization: 'minmax' maps each volume to [0, 1]; 'zscore' gives brain voxels mean 0 and standard deviation 1.
        min_tumour: Least share of tumour voxels in the crop for a case to be kept.
        spacing: Size (X, Y, Z) in mm of the voxels; None for that of most cases.
        incomplete: Whether cases that lack some of the modalities are taken too; a missing channel is all zeros.
        soft_labels: Whether the masks hold what part of each voxel every label covers.
        workers: Processes; 0 works in this one, None takes one a CPU. Each imports the program that calls this, which
            therefore does so under `if __name__ == "__main__":`.

    Returns:
        Case -> its record, as `out/manifest.json` has it: `status`, which is 'kept', 'skipped' or 'failed', the
        `reason` of the latter two, and what was done. A case whose files cannot be used fails and the others go on.

    Raises:
        InputError: no case is found, a setting has a value that is not allowed, or `out` cannot be used.
        OSError: an array cannot be written (full disk, no permission).
    """
    settings = Preprocessing(tuple(modalities), crop, normalization, min_tumour, spacing, incomplete, soft_labels)
    return preprocess_cohort(raw, out, settings, workers)["cases"]


def evaluate(
    run: str | pathlib.Path, step: int | Literal["best", "latest"] = "best", data: str | pathlib.Path | None = None
) -> "tuple[Summary, list[InputError]]":
    """Scores a run's checkpoint on its validation cases, as `jaxbrats evaluate` does, and writes what that writes.

    Args:
        run: Folder of a run.
        step: Which checkpoint.
        data: Folder of arrays; None for the run's own. Of a folder without the run's validation cases, all cases but
            those of patients that the run was trained on.

    Returns:
        The summary, such as `summary["WT"]["dice"]["mean"]`: region (WT, TC, ET, NCR, ED) -> column of
        `run/evaluation/cases.csv` -> n, mean, sd, median, q1, q3, ci_low and ci_high of the 95 % interval. And what was
        wrong with each case that could not be scored.

    Raises:
        InputError: there is no such run, checkpoint or data, or no case that can be scored.
    """
    # Imported here: with SciPy and matplotlib it takes as long as all that `segment` needs.
    from jaxbrats.runs.evaluate import evaluate_run

    use_compiled_convolution()
    return evaluate_run(run, str(step), data)


def segment(case: str | pathlib.Path, run: str | pathlib.Path = "demo") -> tuple[np.ndarray, np.ndarray]:
    """Segments a patient, as `jaxbrats predict` does, whose warnings are given as Python's.

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
    unusable = list(cohort.unusable(pathlib.Path(case)).values())
    if len(cohort.cases) != 1 or unusable:
        besides = f" that can be used and {len(unusable)} that cannot" if unusable else ""
        problem = f"holds {len(cohort.cases)} cases{besides}, expected one"
        hint = unusable[0].problem if unusable else "Give one case's folder, or use jaxbrats predict"
        raise InputError(problem, file=pathlib.Path(case), hint=hint)
    (result,) = predict_cases(cohort.cases, Predictor.of(network), network, None)
    if isinstance(result, InputError):
        raise result
    for warning in result.patient.warnings:
        warnings.warn(str(warning), stacklevel=2)
    return result.file_labels, result.patient.header.get_best_affine()
