"""Segments patients' NIfTI files with a trained run.

    jaxbrats predict --workdir=runs/unet3d --input=BraTS-GLI-00001-000 --output=predictions
    jaxbrats predict --workdir=runs/fold0,runs/fold1 --input=cohort --output=predictions --mirror
    jaxbrats predict --model=demo --input=BraTS-GLI-00001-000 --output=predictions

The input is one case's folder or a cohort in any form that `jaxbrats preprocess` takes; segmentations are not needed.
Each case is prepared as the run's own were: normalised, turned to their orientation and resampled to their spacing
where it has another. Windows go over the brain, and their predictions are blended. A run that was trained with modality
dropout (augment.modality_dropout) also predicts cases without some of the modalities, as if these were 0; any other
refuses them.

Writes OUTPUT/CASE.nii.gz on the voxels of the case's own files, OUTPUT/CASE.png to look at, what made them into
OUTPUT/predictions.json, and the labels' names and colours for 3D Slicer (labels.ctbl) and ITK-SNAP
(labels_itksnap.txt). The same command again predicts only what is missing or whose files have changed; other runs or
options need another folder. A case that cannot be segmented is named and the others go on; so is one whose images look
unlike those that a network is trained on. For research and education; not a medical device.
"""

import dataclasses
import errno
import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config import typed
from jaxbrats.config.inference import Postprocessing
from jaxbrats.config.model import Model
from jaxbrats.config.settings import Settings
from jaxbrats.data.labels import BRATS_2021, BRATS_2023
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.inference.exported import read_model
from jaxbrats.inference.network import Network, check_ensemble
from jaxbrats.inference.output_folder import made_by, open_output
from jaxbrats.inference.patient import MODES
from jaxbrats.inference.predict import Segmentation, output_names, predict_cases
from jaxbrats.inference.predictor import Predictor
from jaxbrats.model.heads import Head, RegionsHead
from jaxbrats.report.figures import write_png
from jaxbrats.report.label_tables import write_label_tables
from jaxbrats.report.orientation import Orientation
from jaxbrats.report.overlays import overlay_figure
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import has_record, read_record
from jaxbrats.system.errors import InputError, printable
from jaxbrats.system.files import disk_error

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_list(
    "workdir", None, "The run's folder; the predictions of several, RUN,RUN, are averaged.", flag_values=FLAGS
)
_MODEL = flags.DEFINE_list(
    "model",
    None,
    "Instead of a run: demo, which comes with the package, or a file that jaxbrats export wrote, or several.",
    flag_values=FLAGS,
)
flags.mark_flags_as_mutual_exclusive(["workdir", "model"], required=True, flag_values=FLAGS)
_INPUT = flags.DEFINE_string("input", None, "Folder of a case or of a cohort.", required=True, flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the segmentations.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint of a run: best, latest or a step's number.", flag_values=FLAGS)
_MODE = flags.DEFINE_enum(
    "mode",
    "window",
    MODES,
    "window: windows over the brain's bounding box; crop: the box that training took, such as the crop about the "
    "centre.",
    flag_values=FLAGS,
)
_WINDOW = flags.DEFINE_string(
    "window",
    None,
    "Size X,Y,Z in voxels of the windows; by default the run's. Larger ones show more at once, for more memory.",
    flag_values=FLAGS,
)
_OVERLAP = flags.DEFINE_float(
    "overlap",
    None,
    "Least share of a window that the next one covers; by default the run's.",
    0,
    0.9,
    flag_values=FLAGS,
)
_BATCH = flags.DEFINE_integer("batch", 1, "Windows that the network is given at once.", 1, flag_values=FLAGS)
_MIRROR = flags.DEFINE_bool(
    "mirror",
    None,
    "Average over the eight mirrorings of the image too, which takes eight times as long; by default as the run's "
    "settings say.",
    flag_values=FLAGS,
)
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities",
    False,
    "Write the probabilities, of background, NCR, ED and ET or of the regions WT, TC and ET, as "
    "OUTPUT/CASE-probabilities.nii.gz.",
    flag_values=FLAGS,
)
_UNCERTAINTY = flags.DEFINE_bool(
    "uncertainty",
    False,
    "Write how uncertain each voxel is, the entropy of its probabilities in nats, as OUTPUT/CASE-entropy.nii.gz: up to "
    "ln 4 = 1.39 for labels, 3 ln 2 = 2.08 for regions.",
    flag_values=FLAGS,
)
_THRESHOLDS = flags.DEFINE_string(
    "thresholds",
    None,
    "Probability of WT,TC,ET above which a voxel belongs to it, for runs with the head regions; by default the run's.",
    flag_values=FLAGS,
)
_POSTPROCESS = flags.DEFINE_bool(
    "postprocess", True, "Do what RUN/postprocess.json asks for, else the run's settings.", flag_values=FLAGS
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
    networks = _networks()
    first = dataclasses.replace(networks[0], missing_allowed=all(network.missing_allowed for network in networks))
    inference = first.inference
    maps = [name for name, wanted in (("probabilities", _PROBABILITIES), ("entropy", _UNCERTAINTY)) if wanted.value]
    options = {
        "mode": _MODE.value,
        **({"window": inference.window} if inference.window else {}),
        "overlap": inference.overlap,
        "mirror": inference.mirror,
        "postprocess": dataclasses.asdict(first.postprocessing),
        "labels": _CONVENTION.value,
        "maps": maps,
        **({"thresholds": first.head.thresholds} if isinstance(first.head, RegionsHead) else {}),
    }
    cohort = find_cases(_INPUT.value)
    folder = pathlib.Path(_OUTPUT.value)
    inside = (folder.resolve(), *folder.resolve().parents)
    if any(place.name == "predictions" and has_record(place.parent) for place in inside):
        hint = "Choose another --output"
        raise InputError("is where jaxbrats evaluate leaves what it predicts of its cases", file=folder, hint=hint)
    unusable = cohort.unusable(pathlib.Path(_INPUT.value))
    problems = list(unusable.values())
    without_picture: list[InputError] = []
    predictor = Predictor(networks, first.window, inference.overlap, _BATCH.value, inference.mirror)
    made = made_by(networks, options)
    with open_output(folder, made, cohort.cases, lambda case: [*output_names(case, maps), f"{case}.png"]) as output:
        write_label_tables(folder, BRATS_2023 if _CONVENTION.value == "2023" else BRATS_2021)
        if output.already:
            print(f"{output.already} of {len(cohort.cases)} cases were segmented before")
        results = predict_cases(
            output.todo, predictor, first, folder, mode=_MODE.value, convention=_CONVENTION.value, maps=maps
        )
        for result in tqdm(results, desc="predicting", unit="case", total=len(output.todo), dynamic_ncols=True):
            if isinstance(result, InputError):
                problems.append(result)
                output.add_problem(result)
                continue
            for warning in result.patient.warnings:
                tqdm.write(f"warning: {warning}", file=sys.stderr)
            problem = _draw(result, folder, first.preprocessing.modalities)
            without_picture += [problem] if problem else []
            case = result.patient.case
            output.add(result, [*output_names(case, maps), *([] if problem else [f"{case}.png"])])
    done = len(cohort.cases) + len(unusable) - len(problems)
    print(f"{done} of {done + len(problems)} cases segmented in {printable(str(folder))}")
    for problem in problems:
        print(f"not segmented: {problem}", file=sys.stderr)
    for problem in without_picture:
        print(f"segmented, but without a picture: {problem}", file=sys.stderr)
    return 1 if problems or without_picture else 0


def _networks() -> list[Network]:
    """What predicts, with what the flags say in the place of what their settings do.

    Raises:
        InputError: they cannot be read or do not go together.
    """
    if _MODEL.value and _STEP.present:
        raise InputError("--step is of a run, --model holds one step's network", hint="Leave --step out")
    networks = [run_network(read_record(workdir), _STEP.value) for workdir in _WORKDIR.value or []]
    networks += [read_model(name) for name in _MODEL.value or []]
    window = None if _WINDOW.value is None else typed.read(tuple[int, int, int], _WINDOW.value, "--window")
    given = {"window": window, "overlap": _OVERLAP.value, "mirror": _MIRROR.value}
    given = {name: value for name, value in given.items() if value is not None}
    networks = [
        dataclasses.replace(
            network,
            window=window or network.window,
            head=_with_thresholds(network.head),
            inference=dataclasses.replace(network.inference, **given),
            postprocessing=network.postprocessing if _POSTPROCESS.value else Postprocessing(),
        )
        for network in networks
    ]
    check_ensemble(networks)
    return networks


def _with_thresholds(head: Head) -> Head:
    """A network's head with the thresholds asked for."""
    if _THRESHOLDS.value is None:
        return head
    kind = typed.type_of(Settings, "model.thresholds")
    model = Model(
        head="regions" if isinstance(head, RegionsHead) else "labels",
        thresholds=typed.read(kind, _THRESHOLDS.value, "--thresholds"),
    )
    return RegionsHead(model.thresholds)


def _draw(result: Segmentation, folder: pathlib.Path, modalities: Sequence[str]) -> InputError | None:
    """Draws a case; returns why it could not be drawn. Only a disk that takes no more files ends the cohort."""
    patient = result.patient
    path = folder / f"{patient.case}.png"
    modality = next(modality for modality in modalities if modality not in patient.missing)
    try:
        figure = overlay_figure(
            patient.image[..., modalities.index(modality)],
            [("prediction", result.labels)],
            Orientation(patient.affine),
            title=printable(patient.case),
            image_title=modality,
        )
        write_png(figure, path)
    except Exception as error:
        trouble = disk_error(error, path)
        if trouble is not None and trouble.errno != errno.ENAMETOOLONG:
            raise
        reason = " ".join(str(error).split())
        return InputError(f"cannot be drawn ({type(error).__name__}: {reason})", case=patient.case, file=path)
    return None
