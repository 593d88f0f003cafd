"""The mesh of devices, and where the arrays of a step lie on it.

Two axes: 'data' splits the batch, 'space' splits each volume along its first spatial axis. The state is on every
device. `jax.jit` with these shardings lets XLA put in the communication
(https://docs.jax.dev/en/latest/sharded-computation.html).

The devices may be those of several processes. 'space' is the inner axis, so that a volume lies on neighbouring devices,
of one process if it can.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbrats.data.labels import SHARES
from jaxbrats.system.errors import InputError


def make_mesh(
    data: int, space: int, batch_size: int, accumulate: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh `('data', 'space')` over the devices there are.

    Args:
        data: Devices along the batch; -1 for all that `space` leaves.
        space: Devices along each volume's first spatial axis.
        batch_size: Cases in a global batch.
        accumulate: Micro-batches that it is worked on in; the 'data' axis must divide each.
        devices: Others than those there are, to compile for.

    Raises:
        InputError: more devices asked for than there are (or, of several processes, not all), or a batch that they do
            not divide.
    """
    devices = jax.devices() if devices is None else devices
    if data == -1:
        data = max(1, len(devices) // space)
    if data * space > len(devices):
        raise InputError(
            f"config.mesh asks for {data} x {space} devices, there are {len(devices)} ({devices[0].platform})",
            hint="Lower config.mesh.data or config.mesh.space",
        )
    if jax.process_count() > 1:
        local = jax.local_device_count()
        if data * space != len(devices) or (local % space and space % local):
            raise InputError(
                f"config.mesh asks for {data} x {space} devices, there are {jax.process_count()} processes of {local}",
                hint="Set config.mesh.data to -1, config.mesh.space to a divisor or multiple of a process's devices",
            )
    if batch_size % (data * accumulate):
        parts = f" in {accumulate} micro-batches" if accumulate > 1 else ""
        raise InputError(
            f"config.batch_size {batch_size} cannot be divided over {data} devices{parts}",
            hint=f"Take a multiple of {data * accumulate}, "
            f"or set config.mesh.data to a divisor of {batch_size // accumulate}",
        )
    return Mesh(np.array(devices[: data * space]).reshape(data, space), ("data", "space"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Cases over 'data', the first spatial axis over 'space'."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


@dataclasses.dataclass(frozen=True)
class ProcessSlice:
    """What a process's devices hold of every batch.

    Attributes:
        index: Which share of the batch's rows, from 0.
        count: How many shares the rows are cut into.
        space: Which parts of the volumes' first axis, cut into as many as the mesh's 'space' axis is long.
    """

    index: int
    count: int
    space: range


def process_slice(mesh: Mesh) -> ProcessSlice:
    """The share of this process. Processes whose devices hold parts of the same volumes have the same rows."""
    held = np.argwhere([[device.process_index == jax.process_index() for device in row] for row in mesh.devices])
    (first_row, first_part), (last_row, last_part) = held.min(0).tolist(), held.max(0).tolist()
    rows = last_row + 1 - first_row
    return ProcessSlice(first_row // rows, mesh.shape["data"] // rows, range(first_part, last_part + 1))


def by_case(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Has each device compute a function of its own cases, volumes whole, with nothing sent along 'data'.

    Args:
        mesh: From `make_mesh`. Devices along 'space' gather their volumes and each compute the same.
        function: From arrays `(B, ...)` to arrays `(B, X, ...)`, case by case.
    """
    cases = PartitionSpec("data")
    by_device = jax.shard_map(function, mesh=mesh, in_specs=cases, out_specs=cases, check_vma=False)

    def with_sharding(*arrays: jax.Array) -> Any:
        return jax.lax.with_sharding_constraint(by_device(*arrays), batch_sharding(mesh))

    return with_sharding


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Sends this process's rows of a batch to its devices, without waiting for the copy.

    Args:
        mesh: From `make_mesh`.
        batch: This process's rows (see `process_slice`), volumes whole: 'image' `(B, X, Y, Z, C)` and 'labels'
            `(B, X, Y, Z)` or soft `(B, X, Y, Z, 3)`; other entries stay on the host.
    """
    return {name: put_images(mesh, batch[name]) for name in ("image", "labels")}


def put_images(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """As `put_batch`, one array `(B, X, ...)` of this process's rows."""
    share, part = process_slice(mesh), rows.shape[1] // mesh.shape["space"]
    here = rows[:, share.space.start * part : share.space.stop * part]
    shape = (len(rows) * share.count, *rows.shape[1:])
    return jax.make_array_from_process_local_data(batch_sharding(mesh), here, shape)


def batch_shapes(
    mesh: Mesh, batch_size: int, shape: tuple[int, ...], soft: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """What `put_batch` returns, without the data: to compile for.

    Args:
        mesh: From `make_mesh`.
        batch_size: Cases in a global batch.
        shape: `(X, Y, Z, C)` of a case.
        soft: Whether the labels are soft, `(X, Y, Z, 3)` of a case.
    """
    sharding = batch_sharding(mesh)
    labels = (*shape[:-1], len(SHARES)) if soft else shape[:-1]
    return {
        "image": jax.ShapeDtypeStruct((batch_size, *shape), np.float32, sharding=sharding),
        "labels": jax.ShapeDtypeStruct((batch_size, *labels), np.uint8, sharding=sharding),
    }


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a tree of arrays, the same in every process, on every device."""

    def put(leaf: Any) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # which do not travel between processes
            data = jax.device_put(jax.random.key_data(leaf), replicated(mesh))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.device_put(leaf, replicated(mesh))

    return jax.tree.map(put, tree)
