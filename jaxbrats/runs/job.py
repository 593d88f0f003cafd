"""The whole job of a training run, step by step: data, split, training, evaluation, figures."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Collection, Sequence

import jax

from jaxbrats.config.settings import Settings
from jaxbrats.data.arrays import ArrayCase, identified
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.dataset import Dataset, array_shape, array_shapes, read_dataset
from jaxbrats.data.manifest import has_manifest, point_to_raw, read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.sources import differences, is_gone
from jaxbrats.data.split import choose_split, read_split
from jaxbrats.inference.validation import make_validation
from jaxbrats.model.losses import make_loss
from jaxbrats.report.pages import REPORT
from jaxbrats.report.slices import draw_case
from jaxbrats.runs import record as records
from jaxbrats.runs.finetune import Beginning, load_beginning
from jaxbrats.runs.record import RunRecord
from jaxbrats.system import distributed
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import locked
from jaxbrats.system.signals import Interrupted
from jaxbrats.train import checkpoints
from jaxbrats.train.class_weights import balance
from jaxbrats.train.logs import read_metrics
from jaxbrats.train.loop import Outcome, train
from jaxbrats.train.mesh import make_mesh
from jaxbrats.train.state import make_head, make_model
from jaxbrats.train.tracking import tracker_names


def run(settings: Settings, workdir: pathlib.Path) -> int:
    """Does what is not done yet.

    Returns:
        The exit code: 0, 1 where cases of the cohort could not be used, 128 plus the signal that stopped it.

    Raises:
        InputError: data or settings that cannot be used, or another process at work in `workdir`.
    """
    # What the devices or the installation cannot serve is refused before anything is read.
    tracker_names(settings)
    mesh = make_mesh(settings.mesh.data, settings.mesh.space, settings.batch_size, settings.accumulate)
    # Of several processes that train one run together, one holds the folder for all.
    with locked(workdir, "train", "a training run") if distributed.is_first() else contextlib.nullcontext():
        return _run(settings, mesh, workdir)


def _run(settings: Settings, mesh: jax.sharding.Mesh, workdir: pathlib.Path) -> int:
    # Of several processes the first makes what the others then find.
    with distributed.first_process_first("data"):
        if records.has_record(workdir):
            records.check_settings(records.read_record(workdir), settings, arrays_known=False)
        dataset = prepare_data(settings, workdir)
        settings = adopt_preprocessing(settings, dataset)
        settings.check_training()
        begins = settings.init_from and not checkpoints.has_checkpoints(workdir)
        beginning = load_beginning(settings) if begins else None
        record, cases = _begin(settings, workdir, dataset, beginning.record["patients"] if beginning else ())
    training, validation = cases[: len(record.split.train)], cases[len(record.split.train) :]
    print(f"{workdir}: {len(training)} training and {len(validation)} validation cases from {dataset.folder}")
    settings = balance(settings, training)
    try:
        window = settings.inference.window or settings.data.patch
        validate = make_validation(
            mesh,
            make_model(settings),
            make_loss(settings.loss, make_head(settings)),
            make_head(settings),
            validation,
            # A case's windows may be few: each device gets one at a time, so that few are computed for nothing.
            mesh.shape["data"] if window else settings.batch_size // settings.accumulate,
            window,
            settings.inference.overlap,
            draw_case if tracker_names(settings) and distributed.is_first() else None,
        )
        outcome = train(
            settings,
            training,
            mesh,
            validate,
            workdir,
            on_start=lambda step: _tell(record, settings, dataset, step, beginning),
            initial=beginning and beginning.variables,
        )
    except Interrupted as interruption:
        print(f"{interruption}; run the same command again to resume", file=sys.stderr)
        return interruption.exit_code
    if not distributed.is_first():
        return 0
    problems = [*dataset.failures, *map(str, _write_results(record, settings, dataset, outcome))]
    for problem in problems:
        print(f"not used: {problem}", file=sys.stderr)
    return 1 if problems else 0


def prepare_data(settings: Settings, workdir: pathlib.Path) -> Dataset:
    """The arrays to train on, preprocessed now where that is not done.

    Raises:
        InputError: there is no usable case, or the folder holds arrays made with other settings or from other files,
            which another run may need.
    """
    data = settings.data
    data_dir = pathlib.Path(data.dir) if data.dir else workdir / "data"
    if data.raw_dir and not _is_preprocessed(data_dir, pathlib.Path(data.raw_dir), Preprocessing.of(data)):
        if data.synthetic_cases:
            if not pathlib.Path(data.raw_dir).exists():
                print(f"{data.raw_dir}: is not there; {data.synthetic_cases} phantoms are written, no patients")
            from jaxbrats.synthetic.cohort import write_cohort  # with much of SciPy, which no other run needs

            write_cohort(data.raw_dir, data.synthetic_cases, data.synthetic_shape, seed=0)
        preprocess_cohort(data.raw_dir, data_dir, Preprocessing.of(data), workers=data.workers or None)
    dataset = read_dataset(data_dir)
    if data.raw_dir and is_gone(dataset.raw_dir) and not is_gone(pathlib.Path(data.raw_dir)):
        with contextlib.suppress(OSError):  # read-only: they are scored on the arrays, which is said
            point_to_raw(data_dir, data.raw_dir)
    return dataset


def _is_preprocessed(data_dir: pathlib.Path, raw_dir: pathlib.Path, preprocessing: Preprocessing) -> bool:
    """Whether a folder holds what preprocessing the cohort would give.

    Raises:
        InputError: it holds arrays made with other settings or from other files.
    """
    if not has_manifest(data_dir):
        return False
    manifest = read_manifest(data_dir)
    made = Preprocessing.from_dict(manifest["settings"])
    if made != preprocessing:
        name = next(name for name, value in made.to_dict().items() if value != preprocessing.to_dict()[name])
        raise InputError(
            f"holds arrays made with {name} = {getattr(made, name)}, the config asks for "
            f"{getattr(preprocessing, name)}",
            file=data_dir,
            hint="Choose another config.data.dir",
        )
    if missing := manifest.get("missing"):
        print(f"{data_dir}: its preprocessing is not finished, missing shard {', '.join(missing)}; doing it now")
    if is_gone(raw_dir) and (data_dir / manifest["raw"]).resolve() == raw_dir.resolve():
        return bool(manifest["finished"])  # the cohort may be elsewhere by now; the arrays are all that is needed
    if manifest["finished"] and (unlike := differences(raw_dir, data_dir, preprocessing)):
        first = unlike[0]
        more = f", and {len(unlike) - 1} more differ" if len(unlike) > 1 else ""
        raise InputError(
            f"holds arrays of another state of {raw_dir}: case {first.name} is {first.what}{more}",
            file=data_dir,
            hint="Choose another config.data.dir for arrays of the cohort as it is now, or go on with these as they "
            f"are: --config.data.raw_dir= --config.data.dir={data_dir}",
        )
    return bool(manifest["finished"])


def adopt_preprocessing(settings: Settings, dataset: Dataset) -> Settings:
    """The settings with what the arrays were really made with, so that the run's record is true and prediction
    repeats it.

    Args:
        settings: As configured.
        dataset: Tells how its arrays were made or, of the Keras notebook's folders, what shape they have.

    Raises:
        InputError: the arrays do not fit the network, or have other channels than the modalities named.
    """
    configured = Preprocessing.of(settings.data)
    made = dataset.preprocessing
    if made is None:
        *crop, channels = array_shape(dataset.cases)
        made = dataclasses.replace(configured, crop=tuple(crop))
    else:
        channels = array_shapes(dataset.cases)[0][3]
    if len(made.modalities) != channels:
        raise InputError(
            f"the arrays have {channels} channels, config.data.modalities names {len(made.modalities)}: "
            f"{', '.join(made.modalities)}",
            file=dataset.folder,
            hint="Name the modalities of the arrays, in order, in config.data.modalities",
        )
    for name, value in made.to_dict().items():
        if value != configured.to_dict()[name]:
            print(f"data.{name} = {value}, as the arrays in {dataset.folder} were made")
    try:
        return dataclasses.replace(settings, data=dataclasses.replace(settings.data, **vars(made)))
    except InputError as error:
        hint = "Give --config.data.patch=X,Y,Z that suits the arrays, or none for whole ones of one size"
        if made.incomplete and not settings.augment.modality_dropout:
            hint = "Set --config.augment.modality_dropout, such as 0.3"
        problem = f"holds arrays that the config does not suit: {error.problem}"
        raise InputError(problem, file=dataset.folder, hint=hint) from error


def _begin(
    settings: Settings, workdir: pathlib.Path, dataset: Dataset, learned: Collection[str]
) -> tuple[RunRecord, list[ArrayCase]]:
    """The record of the run, written now where the run begins, and its training and then its validation cases.

    Args:
        settings: With what the arrays were really made with.
        workdir: The run's folder.
        dataset: Its arrays.
        learned: Patients whom the network that the run begins with has learned from.

    Raises:
        InputError: the run in this folder has other settings or other data, or there is no case to validate on, or one
            of a patient among `learned`.
    """
    if records.has_record(workdir):
        record = records.read_record(workdir)
        records.check_settings(record, settings)
        if settings.data.split:
            patients = {name: case.patient for name, case in record.cases.items()}
            split = read_split(pathlib.Path(settings.data.split), patients)
            if (set(split.train), set(split.val)) != (set(record.split.train), set(record.split.val)):
                raise InputError(
                    "names other cases than this run was started with",
                    file=settings.data.split,
                    hint="Leave config.data.split out, or choose another --workdir",
                )
        cases = identified(dataset.select([*record.split.train, *record.split.val]))
        records.check_data(record, cases)
        summary = workdir / "evaluation" / "summary.json"
        if summary.exists() and not checkpoints.has_checkpoints(workdir):
            raise InputError(
                "is of a checkpoint of this run, which has none",
                file=summary,
                hint="Restore the run's checkpoints, or delete this file to train from the beginning",
            )
        _check_unseen(settings, cases[len(record.split.train) :], learned)
        return record, cases
    if checkpoints.has_checkpoints(workdir):
        raise InputError(
            "holds checkpoints, but no config.json that says which run they belong to",
            file=workdir,
            hint="Restore it, or choose another --workdir",
        )
    split, origin = choose_split(dataset, settings.data)
    if not split.val:
        raise InputError(
            f"has {len(split.train)} training and no validation cases",
            file=dataset.folder,
            hint="Two patients at least are needed, one to train on and one to validate on",
        )
    cases = identified(dataset.select([*split.train, *split.val]))
    _check_unseen(settings, cases[len(split.train) :], learned)
    other = pathlib.Path(settings.data.split).parent
    if settings.data.split and records.has_record(other):
        with contextlib.suppress(InputError):  # of an older version: its split is all that is needed
            if records.differs(records.read_record(other), cases):
                print(f"{dataset.folder}: not the arrays that {other} was trained on", file=sys.stderr)
    return records.begin_record(workdir, settings, dataset, split, origin, cases), cases


def _check_unseen(settings: Settings, validation: Sequence[ArrayCase], learned: Collection[str]) -> None:
    """Refuses to begin with a network that has learned from patients who are to be validated on."""
    validated = {case.patient for case in validation}
    if seen := sorted(validated.intersection(learned)):
        raise InputError(
            f"its network has learned from {len(seen)} of the {len(validated)} patients of the validation set, such as "
            f"{seen[0]}: scores would say nothing of new patients",
            file=settings.init_from,
            hint="Take its split: config.data.split=RUN/config.json",
        )


def _tell(record: RunRecord, settings: Settings, dataset: Dataset, step: int, beginning: Beginning | None) -> None:
    """Notes that training goes on now, and says what may make its numbers differ from an uninterrupted run's."""
    if not distributed.is_first():
        return
    (record.workdir / REPORT).unlink(missing_ok=True)  # of what the run was before
    if step and (unlike := records.unlike_last_start(record, settings)):
        print(f"not bit for bit as if uninterrupted: {'; '.join(unlike)}", file=sys.stderr)
    records.add_start(record, settings, dataset, step, beginning and beginning.record)


def _write_results(record: RunRecord, settings: Settings, dataset: Dataset, outcome: Outcome) -> list[InputError]:
    """Evaluates, draws and reports, where that is not done; returns what was wrong with each case left out."""
    # Not imported before there is something to show: with SciPy and matplotlib it takes as long as all else together.
    from jaxbrats.evaluation.statistics import summary_table
    from jaxbrats.report.curves import plot_curves
    from jaxbrats.runs.evaluate import evaluate_run, is_evaluated
    from jaxbrats.runs.report import report_run

    workdir, problems = record.workdir, []
    evaluated = not outcome.trained and is_evaluated(record, checkpoints.choose_step(workdir, "best"), dataset)
    if evaluated and (workdir / REPORT).exists():
        print(f"{workdir}: this run is finished ({outcome.epochs} epochs, {outcome.step} steps); nothing to do")
        return []
    plot_curves(read_metrics(workdir), workdir / "figures", run_name=workdir.name)
    if not evaluated:
        summary, problems = evaluate_run(workdir, data_dir=dataset.folder, wait=True)
        print(summary_table(summary))
    page, unshown = report_run(workdir)
    print(f"{workdir}: done. Open {page}; scores are in evaluation/cases.csv, pictures in figures/")
    return [*problems, *unshown]
