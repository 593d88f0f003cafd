"""`RUN/config.json`: the resolved settings of a run and what it was made with; enough to run it again and to predict.

    {"settings": {...}, "data": {"dir", "fingerprint", "train", "val", "frame"}, "versions": {...}, "commit": ...,
    "devices": [...]}

`settings.data` holds what the arrays were really made with and `data.frame` how their voxels lie; prediction brings new
patients to both.
"""

import dataclasses
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

from jaxbrats.config.settings import Settings, from_config
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json

_PACKAGES = ("jaxbrats", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "nibabel")

# What may differ when a run goes on: how long, how often saved, and on which machine, but nothing that its results
# follow from. A batch split over other devices is the same batch.
_MAY_CHANGE = ("num_epochs", "checkpoint", "mesh", "gpu_memory_fraction", "conv", "remat", "skip_nonfinite")
_MAY_CHANGE_IN_DATA = ("dir", "raw_dir", "workers")


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What `config.json` tells of a run.

    Attributes:
        settings: Of the run.
        data_dir: Folder of the arrays.
        frame: Orientation and spacing of the arrays' voxels; None where they are not known.
    """

    settings: Settings
    data_dir: pathlib.Path
    frame: Frame | None


def write_record(workdir: pathlib.Path, settings: Settings, data_dir: pathlib.Path, data: dict[str, Any]) -> None:
    """Writes `workdir/config.json`, or checks that the one there is of the same run.

    Raises:
        InputError: the folder holds a run with other settings; the message names the first that differs.
    """
    path = workdir / "config.json"
    if path.exists():
        _check_same_run(path, settings, data["fingerprint"])
    write_json(
        path,
        {
            "settings": settings.to_dict(),
            "data": {"dir": str(data_dir.absolute()), **data},
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
            "commit": _commit(),
            "devices": [device.device_kind for device in jax.devices()],
        },
    )


def read_record(workdir: pathlib.Path) -> RunRecord:
    """Reads `workdir/config.json`.

    Raises:
        InputError: the folder is no run, or the file is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError("holds no config.json, so it is no training run", file=workdir, hint="Check --workdir")
    record = read_json(path)
    try:
        frame = record["data"].get("frame")
        return RunRecord(
            from_config(record["settings"], path),
            pathlib.Path(record["data"]["dir"]),
            None if frame is None else Frame.from_dict(frame),
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"is not a run's config.json ({error!r})", file=path, hint="Restore it or train anew"
        ) from error


def _check_same_run(path: pathlib.Path, settings: Settings, fingerprint: str) -> None:
    saved = read_json(path)
    # A setting that came after the run began has its default there.
    before = _flatten(_what_matters(from_config(saved.get("settings", {}), path).to_dict()), "config.")
    before["data"] = saved.get("data", {}).get("fingerprint")
    now = _flatten(_what_matters(settings.to_dict()), "config.")
    now["data"] = fingerprint
    for name in sorted(before.keys() | now.keys()):
        if _plain(before.get(name)) != _plain(now.get(name)):
            raise InputError(
                f"holds a run with {name} = {_plain(before.get(name))}; now it is {_plain(now.get(name))}",
                file=path,
                hint="Go on with the settings it began with, or choose another --workdir",
            )


def _what_matters(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _MAY_CHANGE}
    kept["data"] = {name: value for name, value in kept.get("data", {}).items() if name not in _MAY_CHANGE_IN_DATA}
    return kept


def _flatten(tree: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _commit() -> str | None:
    """The commit of the source tree this runs from, where it is one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
