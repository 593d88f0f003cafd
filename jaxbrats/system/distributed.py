"""Several processes as one run: how they find each other, who goes first, and that they end together.

Each process, on one machine or on many, drives the devices it sees, and `jax.distributed` joins them into one mesh
(https://docs.jax.dev/en/latest/multi_process.html). Every process runs the same program. Process 0 goes first where
files are written that the others read, and alone writes what a run tells about itself. All see one file system.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxbrats.system.errors import InputError
from jaxbrats.system.heartbeat import Heartbeat

# JAX's own detection of lost processes ends the others with a stack trace. It is the second net, and the only one when
# process 0 is lost, which every process notices at once.
_JAX_HEARTBEAT_SECONDS = 50
_JOIN_SECONDS = 300
# Preprocessing a cohort of thousands may take process 0 days, while the others wait.
_PATIENCE_MS = 14 * 24 * 3600 * 1000


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where this process stands among those of a run.

    Attributes:
        processes: How many there are.
        process: Which this is, from 0.
        coordinator: HOST:PORT at which process 0 is reached; None where JAX learns it from SLURM or Open MPI.
        local_device: The one device of the machine that is this process's; None for all, or as JAX has it from SLURM.
    """

    processes: int
    process: int
    coordinator: str | None = None
    local_device: int | None = None


def find_cluster(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """What the flags say of the run's processes and, where they don't, SLURM (`srun`) or Open MPI (`mpirun`).

    Args:
        coordinator: HOST:PORT of process 0.
        processes: How many; 1 for a run of its own, also under srun.
        process: Which this is.
        environment: Variables of the environment.

    Returns:
        None where this is the only process.

    Raises:
        InputError: what is given is not enough or cannot be.
    """
    found = _from_environment(environment)
    if processes is None and process is None and found is not None:
        cluster = dataclasses.replace(found, coordinator=coordinator or found.coordinator)
    elif processes == 1 or (processes is None and process is None and coordinator is None):
        return None
    elif None in (coordinator, processes, process):
        raise InputError(
            "--coordinator=HOST:PORT, --processes=N and --process=I belong together",
            hint="Give all three, or start the processes with srun or mpirun, which tell the last two",
        )
    else:
        cluster = Cluster(processes, process, coordinator)
    if not 0 <= cluster.process < cluster.processes:
        raise InputError(f"--process={cluster.process}: {cluster.processes} processes are numbered from 0")
    if cluster.coordinator is not None and not cluster.coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator={cluster.coordinator}: expected HOST:PORT, such as node01:29500")
    if cluster.coordinator is None and not _jax_finds_coordinator(environment):
        raise InputError(
            "Open MPI 5 does not tell its processes where process 0 is",
            hint="Give --coordinator=HOST:PORT with the machine of process 0 and a free port of it",
        )
    return cluster


def _from_environment(environment: Mapping[str, str]) -> Cluster | None:
    # Without srun's own variables a batch script would be taken for one of its tasks.
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1:
        return Cluster(int(environment["SLURM_NTASKS"]), int(environment["SLURM_PROCID"]))
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return Cluster(
            int(environment["OMPI_COMM_WORLD_SIZE"]),
            int(environment["OMPI_COMM_WORLD_RANK"]),
            local_device=int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]),
        )
    return None


def _jax_finds_coordinator(environment: Mapping[str, str]) -> bool:
    return "SLURM_STEP_NODELIST" in environment or "OMPI_MCA_orte_hnp_uri" in environment


@contextlib.contextmanager
def joined(cluster: Cluster | None) -> Iterator[None]:
    """Joins this process with the others of the run while the block lasts; must come before JAX looks for devices.

    The block ends together in all processes. When one of them raises, or is lost, the others end within a minute, with
    a line that says why. Only process 0 writes to the standard output.

    Args:
        cluster: From `find_cluster`; None for a run of one process, where this does nothing.

    Raises:
        InputError: the processes did not find each other.
    """
    if cluster is None:
        yield
        return
    _connect(cluster)
    heartbeat = Heartbeat(_client(), cluster.process, cluster.processes)
    heartbeat.start()
    try:
        with contextlib.ExitStack() as stack:
            if cluster.process:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
            yield
        _barrier("end")
    except BaseException as error:
        heartbeat.fail(error)
        raise
    heartbeat.stop()
    jax.distributed.shutdown()


def _connect(cluster: Cluster) -> None:
    # The signal that SLURM ends a job with is this program's to answer, see `StopConsensus`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            cluster.local_device,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_JAX_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {cluster.process} of {cluster.processes} could not join the others at "
            f"{cluster.coordinator or 'the address that the batch system gives'} ({str(error).splitlines()[0]})",
            hint="See that all processes are started, with different numbers, that process 0 runs on that machine, "
            "and that the port is free",
        ) from error


def _client() -> Any:
    """JAX's client of its key-value store and of barriers that do not occupy the devices, which has no public name.

    Raises:
        InputError: this version of JAX has it elsewhere.
    """
    try:
        from jax._src import distributed

        client = distributed.global_state.client
        _ = client.key_value_set, client.key_value_try_get, client.key_value_dir_get, client.wait_at_barrier
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"runs of several processes do not work with JAX {jax.__version__}: {error}",
            hint="Install JAX 0.10, or run on the devices of one process",
        ) from error
    return client


def is_first() -> bool:
    """Whether this is process 0, which writes what a run leaves beside its checkpoints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Process 0 runs the block first, the others when it is done, with what it made.

    Args:
        name: Of the barrier, which each process may pass once in a run.
    """
    if not is_first():
        _barrier(name)
    yield
    if is_first():
        _barrier(name)


def _barrier(name: str) -> None:
    """Returns when every process has called this with the same name, which each may do once in a run."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"jaxbrats/{name}", _PATIENCE_MS)


class StopConsensus:
    """Lets every process learn, at the same step, what one of them was told: to stop on a signal.

    The processes of a run answer a signal at different moments, but have to stop at the same step. Each hands in its
    number with every step; the maximum is taken on the devices beside that step, and read when the next is called.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        self._largest = jax.jit(
            jax.numpy.max, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        )
        self._asked: jax.Array | None = None

    def __call__(self, number: int | None) -> int | None:
        """The largest number that any process gave a call before; in a run of one process, that of this call."""
        if jax.process_count() == 1:
            return number
        told = None if self._asked is None else int(self._asked) or None
        mine = jax.numpy.full(self._sharding.mesh.local_mesh.size, number or 0, "int32")
        self._asked = self._largest(jax.make_array_from_process_local_data(self._sharding, mine))
        return told
