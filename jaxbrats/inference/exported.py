"""A trained network as one file, to hand on or to ship with the package.

FILE.npz holds each parameter in half precision under its path, such as params/encoder_0/conv_0/kernel, what batch
normalisation keeps in single precision, and `about`, JSON: the format's number, the run's settings without its paths,
the frame and the number of its training cases, the checkpoint's step and the versions of the packages. NumPy alone
reads it (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).

What ships with the package lies in `jaxbrats/weights`, NAME.npz beside its model card, NAME.md.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxbrats
from jaxbrats.config.settings import Settings, from_config
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.inference.network import Network, network_of, shapes_of
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import replacing

_FORMAT = 1
_WEIGHTS = pathlib.Path(jaxbrats.__file__).parent / "weights"
_NEEDED = {"format", "settings", "frame", "step"}
_HINT = "Give a file that jaxbrats export wrote"


def write_model(path: str | pathlib.Path, network: Network, settings: Settings, about: Mapping[str, Any]) -> None:
    """Writes a network with all that prediction needs.

    Args:
        path: The file, FILE.npz.
        network: What to write; its `inference` and `postprocessing` go along.
        settings: Its run's.
        about: What else is to be known of it, JSON-able.

    Raises:
        InputError: a parameter is too large for half precision.
    """
    # Without what tells of the machine it was trained on.
    data = dataclasses.replace(settings.data, dir="", raw_dir="", split="")
    applied = {"inference": network.inference, "postprocessing": network.postprocessing}
    values = dataclasses.replace(settings, data=data, init_from="", **applied).to_dict()
    frame = network.frame and network.frame.to_dict()
    about = {"format": _FORMAT, "settings": values, "frame": frame, "step": network.step, **about}
    arrays = {"about": np.frombuffer(json.dumps(about, indent=1).encode(), np.uint8)}
    for name, leaf in flatten_dict(network.variables, sep="/").items():
        array = arrays[name] = np.asarray(leaf)
        if name.startswith("params/"):
            with np.errstate(over="ignore"):
                arrays[name] = array.astype(np.float16)
            if not np.isfinite(arrays[name]).all():
                raise InputError(f"{name} does not fit in half precision: it has values up to {np.abs(array).max():g}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_model(name: str | pathlib.Path) -> Network:
    """Reads a network from a file, or one that ships with the package by its name, such as 'demo'.

    Raises:
        InputError: there is none, or the file is damaged or of another version of jaxbrats.
    """
    path, arrays, about = _read(name)
    settings = from_config(about["settings"], path)
    shapes = flatten_dict(shapes_of(settings), sep="/")
    expected = {name: leaf.shape for name, leaf in shapes.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))[0]
        problem = f"{wrong} has shape {found.get(wrong)}, expected {expected.get(wrong)}"
        raise InputError(problem, file=path, hint="Use the jaxbrats that wrote it")
    variables = {name: jnp.asarray(arrays[name], leaf.dtype) for name, leaf in shapes.items()}
    frame = Frame.from_dict(about["frame"]) if about["frame"] else None
    return network_of(settings, frame, path, int(about["step"]), unflatten_dict(variables, sep="/"))


def read_about(name: str | pathlib.Path) -> dict[str, Any]:
    """What `write_model` was told of a network beyond what prediction needs; arguments and errors as `read_model`'s."""
    about = _read(name)[-1]
    return {key: value for key, value in about.items() if key not in _NEEDED}


def _read(name: str | pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray], dict[str, Any]]:
    """The file that is meant, its arrays and what is said about them."""
    path = pathlib.Path(name)
    if path.suffix != ".npz":
        path = _WEIGHTS / f"{name}.npz"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in _WEIGHTS.glob("*.npz"))) or "none"
            problem = f"there is no such folder or model {name}; with the package come: {names}"
            raise InputError(problem, hint="Give one of these, or a file FILE.npz that jaxbrats export wrote")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        number, _ = about["format"], int(about["step"])
        if not about.keys() >= _NEEDED:
            raise KeyError
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", file=path, hint=_HINT) from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError("is not a model, or damaged", file=path, hint=_HINT) from error
    if number != _FORMAT:
        raise InputError(f"is of format {number}, expected {_FORMAT}", file=path, hint="Use the jaxbrats that wrote it")
    return path, arrays, about
