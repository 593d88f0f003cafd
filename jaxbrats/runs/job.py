"""The whole job of a training run, step by step: data, split, training, evaluation, figures."""

import contextlib
import dataclasses
import pathlib
import sys

from jaxbrats.config.settings import Settings, check
from jaxbrats.data.arrays import array_shape, find_arrays, fingerprint
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.manifest import FAILED, KEPT, has_manifest, read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame, common_frame
from jaxbrats.data.split import load_or_make_split
from jaxbrats.runs.record import write_record
from jaxbrats.system import distributed
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import locked
from jaxbrats.system.signals import Interrupted
from jaxbrats.train.logs import read_metrics
from jaxbrats.train.loop import Outcome, train
from jaxbrats.train.mesh import make_mesh


def run(settings: Settings, workdir: pathlib.Path) -> int:
    """Does what is not done yet.

    Returns:
        The exit code: 0, 1 where cases of the cohort could not be used, 128 plus the signal that stopped it.

    Raises:
        InputError: data or settings that cannot be used, or another process at work in `workdir`.
    """
    # What the devices cannot serve is refused before anything is read.
    make_mesh(settings.mesh.data, settings.mesh.space, settings.batch_size, settings.accumulate)
    # Of several processes that train one run together, one holds the folder for all.
    with locked(workdir, "train", "a training run") if distributed.is_first() else contextlib.nullcontext():
        return _run(settings, workdir)


def _run(settings: Settings, workdir: pathlib.Path) -> int:
    # Of several processes the first makes what the others then find.
    distributed.wait_for_first("data")
    data_dir, failed = prepare_data(settings, workdir)
    cases = find_arrays(data_dir)
    settings = adopt_preprocessing(settings, data_dir, array_shape(cases))
    split = load_or_make_split(data_dir, cases, settings.data.val_fraction, settings.data.split_seed)
    by_name = {case.name: case for case in cases}
    training = [by_name[name] for name in split.train]
    validation = [by_name[name] for name in split.val]
    if not validation:
        raise InputError(
            f"has {len(training)} training and no validation cases",
            file=data_dir,
            hint="Two patients at least are needed, one to train on and one to validate on",
        )
    frame = training_frame(data_dir)
    chosen = {
        "fingerprint": fingerprint(cases),
        "train": list(split.train),
        "val": list(split.val),
        "frame": frame and frame.to_dict(),
    }
    if distributed.is_first():
        write_record(workdir, settings, data_dir, chosen)
    distributed.let_others_follow("data")
    print(f"{workdir}: {len(training)} training and {len(validation)} validation cases from {data_dir}")
    try:
        outcome = train(settings, training, validation, workdir)
    except Interrupted as interruption:
        print(f"{interruption}; the same command goes on from there", file=sys.stderr)
        return interruption.exit_code
    if not distributed.is_first():
        return 0
    failed += map(str, _write_results(settings, workdir, outcome))
    for problem in failed:
        print(f"not used: {problem}", file=sys.stderr)
    return 1 if failed else 0


def _write_results(settings: Settings, workdir: pathlib.Path, outcome: Outcome) -> list[InputError]:
    """Evaluates, draws and reports, where that is not done; returns what was wrong with each case left out."""
    # Not imported before there is something to show: with SciPy and matplotlib it takes as long as all else together.
    from jaxbrats.evaluation.statistics import summary_table
    from jaxbrats.report.curves import plot_curves
    from jaxbrats.runs.evaluate import evaluate_run, is_evaluated
    from jaxbrats.runs.report import report_run

    if not outcome.trained and is_evaluated(workdir):
        print(f"{workdir}: this run is finished ({settings.num_epochs} epochs, {outcome.step} steps); nothing to do")
        return []
    plot_curves(read_metrics(workdir), workdir / "figures", run_name=workdir.name)
    summary, problems = evaluate_run(workdir)
    print(summary_table(summary))
    page, unshown = report_run(workdir)
    print(f"{workdir}: done. Open {page}; scores are in evaluation/cases.csv, pictures in figures/")
    return [*problems, *unshown]


def prepare_data(settings: Settings, workdir: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """Sees to it that there are preprocessed arrays.

    Returns:
        Their folder, and a line for each case of the cohort that could not be read.

    Raises:
        InputError: there is no usable case, or the folder holds arrays made with other settings,
            which another run may need.
    """
    data = settings.data
    data_dir = pathlib.Path(data.dir) if data.dir else workdir / "data"
    if not data.raw_dir:
        return data_dir, []
    if has_manifest(data_dir):
        manifest = read_manifest(data_dir)
        made = Preprocessing.from_dict(manifest["settings"])
        if made != data.preprocessing:
            name = next(name for name, value in made.to_dict().items() if value != data.preprocessing.to_dict()[name])
            raise InputError(
                f"holds arrays made with {name} = {getattr(made, name)}, the config asks for "
                f"{getattr(data.preprocessing, name)}",
                file=data_dir,
                hint="Choose another config.data.dir",
            )
        if manifest["finished"]:
            return data_dir, _failures(manifest)
        if missing := manifest.get("missing"):
            print(f"{data_dir}: its preprocessing is not finished, missing shard {', '.join(missing)}; doing it now")
    raw_dir = pathlib.Path(data.raw_dir)
    if data.synthetic_cases:
        from jaxbrats.synthetic.cohort import write_cohort  # with much of SciPy, which no other run needs

        write_cohort(raw_dir, data.synthetic_cases, data.synthetic_shape, seed=0)
    return data_dir, _failures(preprocess_cohort(raw_dir, data_dir, data.preprocessing, workers=data.workers or None))


def adopt_preprocessing(settings: Settings, data_dir: pathlib.Path, shape: tuple[int, ...]) -> Settings:
    """The settings with what the arrays were really made with, so that the run's record is true and prediction
    repeats it.

    Args:
        settings: As configured.
        data_dir: Folder of the arrays; its manifest tells, or where the Keras notebook wrote them, the arrays' shape
            and the config.
        shape: `(X, Y, Z, C)` of the arrays.

    Raises:
        InputError: the arrays do not fit the network, or have other channels than the modalities named.
    """
    if has_manifest(data_dir):
        made = read_manifest(data_dir)["settings"]
        preprocessing = Preprocessing.from_dict(made)
    else:
        preprocessing = dataclasses.replace(settings.data.preprocessing, crop=shape[:3])
    if len(preprocessing.modalities) != shape[-1]:
        raise InputError(
            f"the arrays have {shape[-1]} channels, config.data.modalities names {len(preprocessing.modalities)}: "
            f"{', '.join(preprocessing.modalities)}",
            file=data_dir,
            hint="Name the modalities of the arrays, in order, in config.data.modalities",
        )
    for name, value in preprocessing.to_dict().items():
        if value != settings.data.preprocessing.to_dict()[name]:
            print(f"data.{name} = {value}, as the arrays in {data_dir} were made")
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, **vars(preprocessing)))
    check(settings)
    return settings


def training_frame(data_dir: pathlib.Path) -> Frame | None:
    """The orientation and spacing that most arrays of a folder have; None where no manifest tells."""
    if not has_manifest(data_dir):
        return None
    records = read_manifest(data_dir)["cases"].values()
    return common_frame(record["affine"] for record in records if record["status"] == KEPT)


def _failures(manifest: dict) -> list[str]:
    return [str(case["reason"]) for case in manifest["cases"].values() if case["status"] == FAILED]
