"""A trained network as a program that runs without jaxbrats: ONNX for onnxruntime and its like, StableHLO for JAX.

Both take windows `(batch, x, y, z, channel)` float32 of the size that `predict` gives it, any number at once,
and give the head's probabilities in float32, whatever type the activations had in training. Parameters are inside. What
is to be done before and after is told by `describe`: in the metadata of FILE.onnx, each value as JSON, and in
FILE.stablehlo.json.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbrats.inference.description import describe
from jaxbrats.inference.network import Network
from jaxbrats.inference.onnx_graph import to_onnx
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import replacing, write_json

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Largest difference of a probability, over rounding, at which two programs are still the same network.
_TOLERANCE = 1e-3


def write_onnx(path: str | pathlib.Path, network: Network, about: Mapping[str, Any]) -> float:
    """Writes FILE.onnx, after onnxruntime has given the probabilities that the network gives.

    Args:
        path: The file.
        network: What to write.
        about: What else is to be known of it, JSON-able.

    Returns:
        The largest difference between the probabilities of a window of noise, by onnxruntime and by the network.

    Raises:
        InputError: onnx or onnxruntime is not installed, the network has something that is not translated, or the
            probabilities differ.
    """
    try:
        import onnxruntime
    except ImportError as error:
        hint = "pip install '.[export]' in the clone"
        raise InputError("ONNX files are checked by the package onnxruntime, which is missing", hint=hint) from error
    shape = (*network.window, len(network.preprocessing.modalities))
    metadata = {name: json.dumps(value) for name, value in describe(network, about).items()}
    content = to_onnx(_probabilities(network, "direct"), shape, metadata=metadata).SerializeToString()
    noise = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": noise})
    # 'direct' is slow on CPUs; by what the run itself takes, the check is of more than the translation.
    difference = np.abs(found - jax.jit(_probabilities(network, network.model.conv))(noise)).max().item()
    if not difference < _TOLERANCE:
        problem = f"onnxruntime gives other probabilities than the network, by up to {difference:g}"
        raise InputError(problem, file=network.workdir, hint="Export with --format=stablehlo or npz")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return difference


def write_stablehlo(path: str | pathlib.Path, network: Network, about: Mapping[str, Any]) -> None:
    """Writes FILE.stablehlo for `jax.export.deserialize`, for all `PLATFORMS`, and FILE.stablehlo.json beside it.

    Args:
        path: The file.
        network: What to write.
        about: What else is to be known of it, JSON-able.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    image = jax.ShapeDtypeStruct((batch, *network.window, len(network.preprocessing.modalities)), jnp.float32)
    program = jax.export.export(jax.jit(_probabilities(network, "direct")), platforms=PLATFORMS)(image)
    path = pathlib.Path(path)
    write_json(path.with_name(f"{path.name}.json"), describe(network, about))
    with replacing(path) as temporary:
        temporary.write_bytes(program.serialize())


def _probabilities(network: Network, conv: str) -> Callable[[jax.Array], jax.Array]:
    model = network.model.clone(conv=conv, remat=False, dtype=jnp.float32)
    return lambda image: network.head.probabilities(model.apply(network.variables, image))
