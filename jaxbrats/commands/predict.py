"""Segments patients' NIfTI files with a trained run.

    jaxbrats predict --workdir=runs/unet3d --input=BraTS-GLI-00001-000 --output=predictions
    jaxbrats predict --workdir=runs/fold0,runs/fold1 --input=cohort --output=predictions --mirror

The input is one case's folder or a cohort in any form that `jaxbrats preprocess` takes; segmentations are not needed.
Each case is prepared as the run's own were: normalised, turned to their orientation and resampled to their spacing
where it has another. Windows of the size of the run's crop go over the brain, and their predictions are blended.
Writes OUTPUT/CASE.nii.gz on the voxels of the case's own files, and OUTPUT/CASE.png to look at. For research and
education; not a medical device.
"""

import functools
import pathlib
import sys

from absl import flags
from tqdm import tqdm

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.inference.network import load_ensemble, make_apply
from jaxbrats.inference.postprocess import read_postprocessing
from jaxbrats.inference.predict import MODES, predict_cases
from jaxbrats.inference.sliding_window import predict_probabilities
from jaxbrats.report.overlays import plot_overlay
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list(
    "workdir", None, "The run's folder; several, as RUN,RUN, are averaged.", required=True, flag_values=FLAGS
)
_INPUT = flags.DEFINE_string("input", None, "Folder of a case or of a cohort.", required=True, flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the segmentations.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)
_MODE = flags.DEFINE_enum(
    "mode",
    "window",
    MODES,
    "window: windows over the brain's bounding box; crop: the one crop about the centre that training used.",
    flag_values=FLAGS,
)
_OVERLAP = flags.DEFINE_float(
    "overlap", 0.5, "Least share of a window that the next one covers.", 0, 0.9, flag_values=FLAGS
)
_BATCH = flags.DEFINE_integer("batch", 1, "Windows that the network is given at once.", 1, flag_values=FLAGS)
_MIRROR = flags.DEFINE_bool(
    "mirror", False, "Average over the eight mirrorings of the image too; takes eight times as long.", flag_values=FLAGS
)
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "Write the class probabilities as OUTPUT/CASE-probabilities.nii.gz.", flag_values=FLAGS
)
_UNCERTAINTY = flags.DEFINE_bool(
    "uncertainty",
    False,
    "Write how uncertain each voxel is, the entropy of its probabilities in nats, as OUTPUT/CASE-entropy.nii.gz.",
    flag_values=FLAGS,
)
_POSTPROCESS = flags.DEFINE_bool(
    "postprocess", True, "Do what RUN/postprocess.json asks for, where there is one.", flag_values=FLAGS
)
_CONVENTION = flags.DEFINE_enum(
    "labels",
    "2023",
    ["2023", "2021"],
    "Label numbers of the files: 2023 writes the enhancing tumour as 3, 2021 (BraTS 2018 to 2021) as 4.",
    flag_values=FLAGS,
)


def main() -> int:
    """Predicts and prints how many cases were segmented; 1 if one could not be."""
    prepare_jax()
    networks = load_ensemble(_WORKDIR.value, _STEP.value)
    settings = networks[0].preprocessing
    workdirs = [network.workdir for network in networks]
    postprocessing = read_postprocessing(workdirs) if _POSTPROCESS.value else None
    cohort = find_cases(_INPUT.value, settings.modalities)
    problems: list[InputError] = list(cohort.problems)
    folder = pathlib.Path(_OUTPUT.value)
    results = predict_cases(
        cohort.cases,
        functools.partial(
            predict_probabilities,
            make_apply(networks, _MIRROR.value),
            window=settings.crop,
            overlap=_OVERLAP.value,
            batch=_BATCH.value,
        ),
        settings,
        folder,
        frame=networks[0].frame,
        mode=_MODE.value,
        postprocessing=postprocessing,
        convention=_CONVENTION.value,
        maps=[name for name, wanted in (("probabilities", _PROBABILITIES), ("entropy", _UNCERTAINTY)) if wanted.value],
    )
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
