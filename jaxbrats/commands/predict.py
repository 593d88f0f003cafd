"""Segments patients' NIfTI files with a trained run.

    jaxbrats predict --workdir=runs/unet3d --input=BraTS-GLI-00001-000 --output=predictions
    jaxbrats predict --workdir=runs/fold0,runs/fold1 --input=cohort --output=predictions

The input is one case's folder or a cohort in any form that `jaxbrats preprocess` takes; segmentations are not needed.
Each case is preprocessed as the run's own were. Writes OUTPUT/CASE.nii.gz on the voxels of the case's own files, and
OUTPUT/CASE.png to look at. For research and education; not a medical device.
"""

import pathlib
import sys

from absl import flags
from tqdm import tqdm

from jaxbrats.data.cases import find_cases
from jaxbrats.errors import InputError
from jaxbrats.evaluation.overlays import plot_overlay
from jaxbrats.inference.network import load_ensemble, make_predict
from jaxbrats.inference.predict import predict_cases

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list(
    "workdir", None, "The run's folder; several, as RUN,RUN, are averaged.", required=True, flag_values=FLAGS
)
_INPUT = flags.DEFINE_string("input", None, "Folder of a case or of a cohort.", required=True, flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the segmentations.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_CONVENTION = flags.DEFINE_enum(
    "labels",
    "2023",
    ["2023", "2021"],
    "Label numbers of the files: 2023 writes the enhancing tumour as 3, 2021 (BraTS 2018 to 2021) as 4.",
    flag_values=FLAGS,
)


def main() -> int:
    """Predicts and prints how many cases were segmented; 1 if one could not be."""
    networks = load_ensemble(_WORKDIR.value, _STEP.value)
    settings = networks[0].preprocessing
    cohort = find_cases(_INPUT.value, settings.modalities)
    problems: list[InputError] = list(cohort.problems)
    folder = pathlib.Path(_OUTPUT.value)
    results = predict_cases(cohort.cases, make_predict(networks), settings, folder, _CONVENTION.value)
    for result in tqdm(results, desc="predicting", unit="case", total=len(cohort.cases), dynamic_ncols=True):
        if isinstance(result, InputError):
            problems.append(result)
            continue
        plot_overlay(
            result.image[..., 0],
            [("prediction", result.labels)],
            folder / f"{result.case}.png",
            affine=result.affine,
            title=result.case,
            image_title=settings.modalities[0],
        )
    done = len(cohort.cases) + len(cohort.problems) - len(problems)
    print(f"{done} of {done + len(problems)} cases segmented in {folder}")
    for problem in problems:
        print(f"not segmented: {problem}", file=sys.stderr)
    return 1 if problems else 0
