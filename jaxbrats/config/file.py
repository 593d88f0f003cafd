"""Reading a config: a Python file with `get_config()`, or a run's `config.json`, and what changes it from outside."""

import functools
import operator
import pathlib
import re
import runpy
from collections.abc import Iterable

from ml_collections import ConfigDict

from jaxbrats.config import typed
from jaxbrats.config.reference import settings
from jaxbrats.config.settings import Settings, complete
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json

# Settings that ask for other patients on each side than those of the run whose record is the config.
_DRAWS = ("data.val_fraction", "data.split_seed", "data.fold")


def load_config(name: str | pathlib.Path, changes: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Every setting as a file gives it, or at its default, with what arguments change.

    Args:
        name: FILE.py, which is run, or RUN/config.json, whose arrays are used again where they still are. Arguments
            may follow it, FILE.py:fold=1,seed=3: settings by their dotted names or the ends of these.
        changes: Settings to change after that: dotted name and text.

    Raises:
        InputError: the file is missing or not a config; a name is not a setting, or a value of the wrong type.
    """
    path, arguments = split_arguments(name)
    if not path.is_file():
        raise InputError("is not there", file=path, hint="Give --config a file, such as configs/unet3d.py")
    changes = [*((_full_name(key), text) for key, text in arguments), *changes]
    drawn = {key for key, _ in changes if key in _DRAWS}
    values = complete(_of_run(path, drawn) if path.suffix == ".json" else _of_python(path), path)
    for key, text in changes:
        *groups, last = key.split(".")
        value = typed.read(typed.type_of(Settings, key), text, f"config.{key}")
        functools.reduce(operator.getitem, groups, values)[last] = value
    return ConfigDict(values, type_safe=False)


def split_arguments(name: str | pathlib.Path) -> tuple[pathlib.Path, list[tuple[str, str]]]:
    """FILE:KEY=VALUE,... as the file and its arguments; a value may hold commas.

    Raises:
        InputError: what follows the colon is not of that form.
    """
    file, _, text = str(name).partition(":")
    if pathlib.Path(name).is_file() or not text:
        return pathlib.Path(name), []
    pairs = [argument.partition("=") for argument in re.split(r",(?=[\w.]+=)", text)]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"expected arguments such as fold=1,seed=3 after the colon, found '{key}'", file=file)
    return pathlib.Path(file), [(key, value) for key, _, value in pairs]


def _full_name(end: str) -> str:
    """The dotted name of a setting of which the end is given: data.fold for fold."""
    names = [name for name, _, _ in settings() if f".{name}".endswith(f".{end}")]
    return names[0] if len(names) == 1 else end


def _of_run(path: pathlib.Path, drawn: set[str]) -> dict:
    """The settings of a run: its patients on each side or, where some of `_DRAWS` change, what else drew these."""
    record = read_json(path, hint="Restore it, or give --config a FILE.py")
    try:
        values, data = record["settings"], record["data"]
        arrays = path.parent / data["dir"]
        values["data"]["dir"] = str(arrays) if arrays.is_dir() else ""
        # The same patients on each side, whatever the arrays' folder proposes by now.
        same = {"split": str(path), "val_fraction": None, "split_seed": None, "fold": None}
        if not drawn:
            values["data"] |= same
        else:  # of a fold and a share the one that is asked for
            displaced = {"data.fold": "val_fraction", "data.val_fraction": "fold"}
            values["data"] |= {"split": ""} | {displaced[name]: None for name in drawn & displaced.keys()}
    except (KeyError, TypeError) as error:
        raise InputError("is not the config.json of a run", file=path, hint="Give --config one, or FILE.py") from error
    return values


def _of_python(path: pathlib.Path) -> dict:
    try:
        return runpy.run_path(str(path))["get_config"]().to_dict()
    except InputError:
        raise
    # The file is a program: it raises anything, and may even end this one.
    except (Exception, SystemExit) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        problem = f"is not a config: a Python file with get_config() that returns a ConfigDict ({what})"
        raise InputError(problem, file=path, hint="Take one of configs/ as a pattern") from error
