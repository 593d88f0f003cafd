"""Evaluates a run's checkpoint on preprocessed cases: predictions, scores as CSV, a summary, overlays.

RUN/predictions/CASE.nii.gz    what was predicted, on the voxels of the case's source files
RUN/evaluation/cases.csv       a row for each case and region
RUN/evaluation/summary.json    mean, sd, median, ... of each region and metric, and of which checkpoint
RUN/figures/overlay_*.png      image, truth and prediction, from the worst case to the best
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from jaxbrats.data.arrays import ArrayCase, find_arrays, read_image, read_labels
from jaxbrats.data.labels import REGIONS
from jaxbrats.data.manifest import has_manifest, read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.split import find_split
from jaxbrats.evaluation import metrics, statistics, tables
from jaxbrats.evaluation.volumes import ScoredCase
from jaxbrats.inference.network import load_network, make_predict
from jaxbrats.inference.predictions import write_prediction
from jaxbrats.report.ranked import draw_overlays
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json
from jaxbrats.system.locks import locked
from jaxbrats.train.checkpoints import choose_step

Predict = Callable[[np.ndarray], np.ndarray]


def evaluate_run(
    workdir: str | pathlib.Path, step: str = "best", data_dir: str | pathlib.Path | None = None
) -> tuple[statistics.Summary, list[InputError]]:
    """Scores a checkpoint on the validation cases and writes predictions, tables and overlays into the run.

    Args:
        workdir: The run.
        step: 'best', 'latest' or a step's number.
        data_dir: Preprocessed arrays; None for those the run was trained on. Of another folder the validation cases of
            its split are taken, or all cases where it has none.

    Returns:
        The summary, and what was wrong with each case that could not be scored.

    Raises:
        InputError: no run, checkpoint or arrays there, arrays preprocessed otherwise than the run's, no case that can
            be scored, or another evaluation of the run at work.
    """
    workdir = pathlib.Path(workdir)
    read_record(workdir)  # before a lock is left in a folder that is no run
    with locked(workdir, "evaluate", "an evaluation"):
        return _evaluate(workdir, step, data_dir)


def _evaluate(
    workdir: pathlib.Path, step: str, data_dir: str | pathlib.Path | None
) -> tuple[statistics.Summary, list[InputError]]:
    network = load_network(workdir, step)
    own_data = read_record(workdir).data_dir
    folder = own_data if data_dir is None else pathlib.Path(data_dir)
    records = case_records(folder, network.preprocessing)
    cases = validation_cases(folder)
    predict = make_predict([network])
    rows, problems = score_cases(cases, predict, records, workdir / "predictions")
    if not rows:
        raise problems[0] if problems else InputError("holds no validation case", file=folder)
    summary = statistics.summarise(rows)
    tables.write_csv(workdir / "evaluation" / "cases.csv", rows)
    scored = [
        ScoredCase(case, records.get(case.name), workdir / "predictions" / f"{case.name}.nii.gz") for case in cases
    ]
    dice: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["region"] in REGIONS:
            dice.setdefault(str(row["case"]), {})[str(row["region"])] = float(row["dice"])
    problems += draw_overlays(workdir / "figures", scored, dice, network.preprocessing.modalities[0])
    write_json(
        workdir / "evaluation" / "summary.json",
        {"step": network.step, "data": str(folder), "cases": len(cases) - len(problems), "regions": summary},
    )
    return summary, problems


def is_evaluated(workdir: pathlib.Path) -> bool:
    """Whether the run's best checkpoint is the one its summary tells of."""
    path = workdir / "evaluation" / "summary.json"
    if not path.exists():
        return False
    return read_json(path).get("step") == choose_step(workdir, "best")


def case_records(data_dir: pathlib.Path, preprocessing: Preprocessing) -> Mapping[str, Any]:
    """The manifest's record of each case; none of the Keras notebook's folders, which have no manifest.

    Raises:
        InputError: the arrays were made otherwise than `preprocessing`.
    """
    if not has_manifest(data_dir):
        return {}
    manifest = read_manifest(data_dir)
    check_same_preprocessing(Preprocessing.from_dict(manifest["settings"]), preprocessing, data_dir)
    return manifest["cases"]


def check_same_preprocessing(found: Preprocessing, expected: Preprocessing, folder: pathlib.Path) -> None:
    """Refuses arrays that a network was not trained on the like of; which cases were kept does not matter.

    Raises:
        InputError: naming the first difference.
    """
    for name, value in expected.to_dict().items():
        if name != "min_tumour" and found.to_dict()[name] != value:
            raise InputError(
                f"holds arrays made with {name} = {found.to_dict()[name]}, the run was trained with {value}",
                file=folder,
                hint=f"Preprocess again with --{name} as the run's",
            )


def validation_cases(data_dir: pathlib.Path) -> list[ArrayCase]:
    """The validation cases of a folder's split, or all its cases where it has none.

    Raises:
        InputError: no arrays there, or a split that does not fit them.
    """
    cases = find_arrays(data_dir)
    split = find_split(data_dir, cases)
    return cases if split is None else [case for case in cases if case.name in split.val]


def score_cases(
    cases: Sequence[ArrayCase], predict: Predict, records: Mapping[str, Any], folder: pathlib.Path | None = None
) -> tuple[list[tables.Row], list[InputError]]:
    """Predicts and scores each case, with a progress bar; leaves the prediction in `folder/CASE.nii.gz` if given.

    Returns:
        The rows of the score table, and what was wrong with each case that could not be read.
    """
    rows, problems = [], []
    for case in tqdm(cases, desc="evaluating", unit="case", dynamic_ncols=True):
        try:
            labels, truth = predict(read_image(case)), read_labels(case)
        except InputError as problem:
            problems.append(problem)
            continue
        if folder is not None:
            write_prediction(folder / f"{case.name}.nii.gz", labels, records.get(case.name))
        spacing = tuple(nib.affines.voxel_sizes(affine_of(case, records)).tolist())
        rows += tables.case_rows(case.name, metrics.score_case(labels, truth, spacing))
    return rows, problems


def affine_of(case: ArrayCase, records: Mapping[str, Any]) -> np.ndarray:
    """Affine `(4, 4)` of a case's array: the file's, moved to the crop's corner. 1 mm where no manifest tells."""
    if case.name not in records:
        return np.eye(4)
    affine = np.array(records[case.name]["affine"])
    corner = np.array(records[case.name]["crop_origin"])
    return affine @ nib.affines.from_matvec(np.eye(3), corner)
