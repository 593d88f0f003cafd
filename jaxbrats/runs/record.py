"""What a run is, as its folder tells: `RUN/config.json`, written once when it begins, and `RUN/starts.jsonl`.

    RUN/config.json     {"settings", "data": {"dir", "raw_dir", "frame", "fingerprint", "split", "train", "val",
                         "cases": {NAME: {"patient", "image", "mask"}}}, "code", "versions", "machine"}
    RUN/starts.jsonl    a line for each start: when, after which step, the settings that it changed (balanced
                        weights with the numbers they came to), code, versions, machine; of a run that begins with
                        a trained network, which, what of it and, where it is a run's, the patients it learned from

`settings.data` holds what the arrays were really made with and `data.frame` how their voxels lie; prediction brings new
patients to both. `data.cases` holds the checksums of the arrays that the run began with: what identifies data is its
content, so that a run goes on with the same arrays wherever they lie and with no others. Paths inside the run's folder
are relative to it.
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict

from jaxbrats.config.settings import Settings, from_config
from jaxbrats.data.arrays import ArrayCase, CaseContent
from jaxbrats.data.dataset import Dataset
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.data.split import Split
from jaxbrats.runs.provenance import provenance
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import fingerprint, read_json, write_json, write_text

_RECORD, _STARTS = "config.json", "starts.jsonl"

# What may differ when a run goes on: how long, how often saved, and on which machine. A batch split over other devices
# is the same batch. Where the data lies may change, but not what it is.
_MAY_CHANGE = {
    "num_epochs",
    "early_stop",
    "checkpoint",
    "mesh",
    "gpu_memory_fraction",
    "deterministic",
    "conv",
    "remat",
    "skip_nonfinite",
    "tracking",
    "data.dir",
    "data.raw_dir",
    "data.split",  # is compared by what it holds
    "data.workers",
}
# What of these changes the last digits of a run's numbers.
_DIGITS = ("mesh.data", "mesh.space", "remat", "deterministic")
# What the arrays decide, whatever the config says.
_OF_THE_ARRAYS = {f"data.{field.name}" for field in dataclasses.fields(Preprocessing)}
# What a split that is named, and compared by what it holds, takes the place of.
_DRAWS = {"data.val_fraction", "data.split_seed", "data.fold", "data.folds"}
_OF_A_START = ("data", "settings", "code", "versions", "machine")
_HINT = "Restore it, or train again in another --workdir"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What `config.json` says about a run.

    Attributes:
        workdir: The run's folder.
        settings: The run's settings, with what the arrays were really made with.
        data_dir: Folder of the arrays, where they were at the last start.
        frame: Orientation and spacing of the arrays' voxels; None where they are not known.
        split: Names of the cases it is trained and validated on.
        cases: What each of these cases is.
        content: The whole record, as the file holds it.
    """

    workdir: pathlib.Path
    settings: Settings
    data_dir: pathlib.Path
    frame: Frame | None
    split: Split
    cases: Mapping[str, CaseContent]
    content: Mapping[str, Any]


def has_record(workdir: pathlib.Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (workdir / _RECORD).exists()


def read_record(workdir: str | pathlib.Path) -> RunRecord:
    """Reads `workdir/config.json`.

    Raises:
        InputError: the folder is not a run, or the file is damaged.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / _RECORD
    if not path.exists():
        raise InputError("holds no config.json, so it is not a training run", file=workdir, hint="Check --workdir")
    content = read_json(path, hint=_HINT)
    try:
        data = content["data"]
        frame = data["frame"]
        split = Split(tuple(data["train"]), tuple(data["val"]))
        return RunRecord(
            workdir=workdir,
            settings=from_config(content["settings"], path),
            data_dir=workdir / (_starts(workdir) or [content])[-1]["data"]["dir"],
            frame=None if frame is None else Frame.from_dict(frame),
            split=split,
            cases={name: CaseContent(name, **data["cases"][name]) for name in (*split.train, *split.val)},
            content=content,
        )
    except KeyError as error:
        raise InputError(
            f"lacks {error} that the record of a run has in this version of jaxbrats", file=path, hint=_HINT
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"is not a run's config.json ({error})", file=path, hint=_HINT) from error


def patients_trained_on(record: RunRecord) -> set[str]:
    """The patients whom a run's network has learned from, in the run and in those that it goes on from."""
    began_with = (_starts(record.workdir) or [{}])[0].get("init_from", {})
    return {record.cases[name].patient for name in record.split.train} | set(began_with.get("patients", ()))


def begin_record(
    workdir: pathlib.Path, settings: Settings, dataset: Dataset, split: Split, origin: str, cases: Sequence[ArrayCase]
) -> RunRecord:
    """Writes `workdir/config.json` of a run that begins; it is never written again.

    Args:
        workdir: The run's folder.
        settings: The run's settings, with what the arrays were really made with.
        dataset: Where the arrays are.
        split: The run's.
        origin: Where the split comes from, in words.
        cases: The `identified` cases of both sides.
    """
    content = {
        "settings": settings.to_dict(),
        "data": {
            "dir": portable(dataset.folder, workdir),
            "raw_dir": portable(pathlib.Path(settings.data.raw_dir), workdir) if settings.data.raw_dir else None,
            "frame": dataset.frame and dataset.frame.to_dict(),
            "fingerprint": fingerprint(case.content for case in cases),
            "split": origin,
            "train": list(split.train),
            "val": list(split.val),
            "cases": {
                case.name: {"patient": case.patient, "image": case.content.image, "mask": case.content.mask}
                for case in cases
            },
        },
        **provenance(settings.conv),
    }
    write_json(workdir / _RECORD, content)
    return read_record(workdir)


def check_settings(record: RunRecord, settings: Settings, arrays_known: bool = True) -> None:
    """Refuses settings with which the run cannot go on.

    Args:
        record: The run's.
        settings: Those of this start.
        arrays_known: Whether `settings` tell how the arrays were really made; before that, what the arrays decide is
            not compared.

    Raises:
        InputError: the message names the first setting that differs.
    """
    for name, (before, now) in changes_of_the_recipe(record, settings, arrays_known).items():
        raise InputError(
            f"holds a run with config.{name} = {before}; now it is {now}",
            file=record.workdir / _RECORD,
            hint="Go on with the settings it began with, or choose another --workdir",
        )


def check_data(record: RunRecord, cases: Sequence[ArrayCase]) -> None:
    """Refuses arrays that are not those the run began with, by their content.

    Args:
        record: The run's.
        cases: `identified` cases, all of them the run's by name.

    Raises:
        InputError: naming the first case that differs.
    """
    for case in cases:
        known = record.cases[case.name]
        for path, found, expected in (
            (case.image, case.content.image, known.image),
            (case.mask, case.content.mask, known.mask),
        ):
            if found != expected:
                raise InputError(
                    f"is not the array that the run in {record.workdir} was trained with (checksum {found}, "
                    f"the run's record has {expected})",
                    case=case.name,
                    file=path,
                    hint="Restore it, name the folder of the run's arrays, or train again in another --workdir",
                )


def differs(record: RunRecord, cases: Sequence[ArrayCase]) -> bool:
    """Whether any of these cases, `identified`, is another by content than the run's of that name, or not among its."""
    known = [record.cases.get(case.name) for case in cases]
    return any(
        run_case is None or (run_case.image, run_case.mask) != (case.content.image, case.content.mask)
        for run_case, case in zip(known, cases, strict=True)
    )


def changes(record: RunRecord, settings: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings of a start that differ from the run's first: dotted name -> (then, now)."""
    # A setting that came after the run began has its default there.
    before, now = _by_name(record.settings), _by_name(settings)
    return {
        name: (before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    }


def changes_of_the_recipe(
    record: RunRecord, settings: Settings, arrays_known: bool = True
) -> dict[str, tuple[Any, Any]]:
    """Those of the `changes` that make it another run; arguments as of `check_settings`."""
    ignored = _MAY_CHANGE | (set() if arrays_known else _OF_THE_ARRAYS) | (_DRAWS if settings.data.split else set())
    return {
        name: change
        for name, change in changes(record, settings).items()
        if not any(name == other or name.startswith(f"{other}.") for other in ignored)
    }


def add_start(
    record: RunRecord, settings: Settings, dataset: Dataset, step: int, beginning: Mapping[str, Any] | None = None
) -> None:
    """Appends what goes on with the run, after which step, and what it begins with, to `starts.jsonl`."""
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "data": {"dir": portable(dataset.folder, record.workdir)},
        "settings": {name: now for name, (_, now) in changes(record, settings).items()},
        **({"init_from": beginning} if beginning else {}),
        **provenance(settings.conv),
    }
    write_text(record.workdir / _STARTS, "".join(f"{json.dumps(one)}\n" for one in [*_starts(record.workdir), start]))


def unlike_last_start(record: RunRecord, settings: Settings) -> list[str]:
    """In words, what differs between this start and the last in ways that change its numbers, or their last digits.

    A schedule ends with the last epoch: asked for more of them, it gives each step that is left another learning rate.
    """
    starts, now = _starts(record.workdir), provenance(settings.conv)
    last = starts[-1] if starts else record.content
    unlike = []
    if last["code"].get("sha256") != now["code"]["sha256"]:
        unlike.append(f"jaxbrats {now['code']['version']} with other code than before ({_commits(last, now)})")
    unlike += [
        f"{name} {version} (before {last['versions'].get(name)})"
        for name, version in now["versions"].items()
        if last["versions"].get(name) != version
    ]
    unlike += [
        f"{name} {value} (before {last['machine'].get(name)})"
        for name, value in now["machine"].items()
        if last["machine"].get(name) != value
    ]
    then = _by_name(record.settings) | (starts[-1]["settings"] if starts else {})
    here = _by_name(settings)
    # -1 is as many as there are, of which the machine's entry tells.
    different = [name for name in _DIGITS if then.get(name) != here[name] and -1 not in (then.get(name), here[name])]
    unlike += [f"config.{name} {here[name]} (before {then.get(name)})" for name in different]
    if settings.schedule != "constant" and then["num_epochs"] != settings.num_epochs:
        follows = f"from which the learning rates of config.schedule = {settings.schedule} follow"
        unlike.append(f"config.num_epochs {settings.num_epochs} (before {then['num_epochs']}), {follows}")
    return unlike


def _starts(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of `starts.jsonl`, without what is none."""
    path = workdir / _STARTS
    starts = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            start = json.loads(line)
            if isinstance(start, dict) and all(isinstance(start.get(name), dict) for name in _OF_A_START):
                starts.append(start)
    return starts


def _commits(last: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    def name(code: Mapping[str, Any]) -> str:
        return f"{(code.get('commit') or code.get('sha256') or '?')[:10]}{' modified' if code.get('modified') else ''}"

    return f"{name(now['code'])}, before {name(last['code'])}"


def portable(path: pathlib.Path, workdir: pathlib.Path) -> str:
    """A path inside the run's folder relative to it, so that a run can be moved and copied; else absolute."""
    path, workdir = path.resolve(), workdir.resolve()
    return path.relative_to(workdir).as_posix() if path.is_relative_to(workdir) else str(path)


def _by_name(settings: Settings) -> dict[str, Any]:
    """Settings by their dotted names, tuples as the lists that JSON makes of them."""
    flat = flatten_dict(settings.to_dict(), sep=".")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
