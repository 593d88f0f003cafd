"""Reading a config: a Python file with `get_config()`, or the `config.json` of a run, to run it again."""

import pathlib
import runpy

from ml_collections import ConfigDict

from jaxbrats.config.settings import parse
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json


def load_config(path: str | pathlib.Path) -> ConfigDict:
    """The settings that a file gives, and the default for each one that it leaves out.

    Args:
        path: FILE.py, which is run, or RUN/config.json. A run's arrays are used again where they still are.

    Raises:
        InputError: the file is not there or no config; a name in it is no setting, or a value of the wrong type.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError("is not there", file=path, hint="Give --config a file, such as configs/unet3d.py")
    values = _of_run(path) if path.suffix == ".json" else _of_python(path)
    try:
        return ConfigDict(parse(values).to_dict())
    except InputError as error:
        raise InputError(error.problem, file=path, hint=error.hint) from error


def _of_run(path: pathlib.Path) -> dict:
    record = read_json(path)
    try:
        values, arrays = record["settings"], record["data"]["dir"]
        if pathlib.Path(arrays).is_dir():
            values["data"]["dir"] = arrays
    except (KeyError, TypeError) as error:
        raise InputError("is not the config.json of a run", file=path, hint="Give --config one, or FILE.py") from error
    return values


def _of_python(path: pathlib.Path) -> dict:
    try:
        return runpy.run_path(str(path))["get_config"]().to_dict()
    # The file is a program: it raises anything, and may even end this one.
    except (Exception, SystemExit) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        problem = f"is no config, a Python file with get_config() that returns a ConfigDict ({what})"
        raise InputError(problem, file=path, hint="Take one of configs/ as a pattern") from error
