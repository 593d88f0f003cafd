"""The mesh of devices, and where the arrays of a step lie on it.

Two axes: 'data' splits the batch, 'space' splits each volume along its first spatial axis. The state is on every
device. `jax.jit` with these shardings lets XLA put in the communication
(https://docs.jax.dev/en/latest/sharded-computation.html).
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbrats.errors import InputError


def make_mesh(data: int, space: int, batch_size: int, accumulate: int = 1) -> Mesh:
    """The mesh `('data', 'space')` over the devices there are.

    Args:
        data: Devices along the batch; -1 for all that `space` leaves.
        space: Devices along each volume's first spatial axis.
        batch_size: Cases in a global batch.
        accumulate: Micro-batches that it is worked on in; the 'data' axis must divide each.

    Raises:
        InputError: more devices asked for than there are, or a batch that they do not divide.
    """
    devices = jax.devices()
    if data == -1:
        data = max(1, len(devices) // space)
    if data * space > len(devices):
        raise InputError(
            f"config.mesh asks for {data} x {space} devices, there are {len(devices)} ({devices[0].platform})",
            cure="Lower config.mesh.data or config.mesh.space",
        )
    if batch_size % (data * accumulate):
        parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise InputError(
            f"config.batch_size {batch_size} cannot be divided over {data} devices{parts}",
            cure=f"Take a multiple of {data * accumulate}, "
            f"or set config.mesh.data to a divisor of {batch_size // accumulate}",
        )
    return Mesh(np.array(devices[: data * space]).reshape(data, space), ("data", "space"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Cases over 'data', the first spatial axis over 'space'."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Sends this process's rows of a batch to its devices, without waiting for the copy.

    Args:
        mesh: From `make_mesh`.
        batch: 'image' `(B, X, Y, Z, C)` and 'labels' `(B, X, Y, Z)`; other entries stay on the host.
    """
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, batch[name]) for name in ("image", "labels")}


def batch_shapes(mesh: Mesh, batch_size: int, shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """What `put_batch` returns, without the data: to compile for.

    Args:
        mesh: From `make_mesh`.
        batch_size: Cases in a global batch.
        shape: `(X, Y, Z, C)` of a case.
    """
    sharding = batch_sharding(mesh)
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *shape), np.float32, sharding=sharding),
        "labels": jax.ShapeDtypeStruct((batch_size, *shape[:-1]), np.uint8, sharding=sharding),
    }


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a tree of host arrays on every device."""
    return jax.device_put(tree, replicated(mesh))
