"""Graphics cards that XLA compiles for where there is none, by its descriptions of them, `NAME.txtpb`.

The descriptions have the form of openxla/xla, xla/backends/gpu/target_config/specs/. Layouts, fusion, buffers and with
them the memory of the real program are settled without the card; cuDNN's choice of algorithm is not.
"""

import os
import pathlib
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from jaxbrats.system.errors import InputError

_FOLDER = pathlib.Path(__file__).parent
CARDS = tuple(sorted(path.stem for path in _FOLDER.glob("*.txtpb")))


def compile_for_descriptions() -> None:
    """Has this process look for no GPU and make no good machine code, since what it compiles is thrown away.

    Layouts, fusion and buffers are settled before. Comes before JAX looks for devices.
    """
    jax.config.update("jax_platforms", "cpu")
    quick = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"


def described_gpus(card: str, count: int = 1) -> Sequence[jax.Device]:
    """Devices to compile for, on which nothing can run.

    Args:
        card: One of `CARDS`.
        count: Of how many that are linked.

    Raises:
        InputError: JAX's CUDA plugin is not installed.
    """
    try:
        return topologies.get_topology_desc(
            "", "cuda", target_config=_description(card), topology=f"1x1x{count}"
        ).devices
    except NotImplementedError as error:
        hint = "pip install 'jax[cuda13]' of the version of jax; it needs neither GPU nor driver"
        raise InputError("compiling for a GPU needs JAX's CUDA plugin, which is not installed", hint=hint) from error


def published(card: str, figure: str) -> int:
    """A figure of a card's description: device_memory_size in bytes, memory_bandwidth in bytes a second."""
    return int(re.search(rf"{figure}: (\d+)", _description(card))[1])


def _description(card: str) -> str:
    return (_FOLDER / f"{card}.txtpb").read_text()
