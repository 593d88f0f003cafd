"""Several processes as one run, over loopback: the same losses, ended together, resumed on any layout."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax._src.distributed
import numpy as np
import pytest

from jaxbrats.config.settings import from_config
from jaxbrats.runs import job
from jaxbrats.system import distributed
from jaxbrats.system.distributed import Cluster, find_cluster
from jaxbrats.system.errors import InputError
from jaxbrats.train import checkpoints

# The training program; at a step it is told, it waits to be killed.
TRAIN = """
import os, sys, time
from jaxbrats import main
from jaxbrats.train.logs import MetricsLog
write = MetricsLog.write
def write_and_wait(self, record):
    write(self, record)
    if str(record["step"]) == os.environ["TEST_HANG_AT"]:
        time.sleep(600)
MetricsLog.write = write_and_wait
sys.exit(main.run(sys.argv[1:]))
"""

# Joins and either waits at the end, computes together for ever, works by itself, or fails.
JOIN = """
import sys, time
from jaxbrats.commands import finish
from jaxbrats.system.errors import InputError
from jaxbrats.system import distributed, heartbeat
heartbeat.SILENCE_SECONDS, heartbeat.EXIT_SECONDS = 5.0, 2
port, process, what = sys.argv[1:]
def work():
    with distributed.joined(distributed.Cluster(2, int(process), f"127.0.0.1:{port}")):
        import jax
        from jaxbrats.train.mesh import make_mesh
        agreed = distributed.StopConsensus(make_mesh(-1, 1, 4))
        # A signal comes to process 1 with its third step.
        told = [agreed(15 if (process, step) == ("1", 2) else None) for step in range(5)]
        print("ready", told, file=sys.stderr, flush=True)
        if what == "fail":
            raise InputError("expected a scan, found a shopping list", file="x.nii.gz")
        if what == "work":
            time.sleep(600)
        while what == "compute":
            agreed(None)
    return 0
sys.exit(finish("jaxbrats train", work))
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(program, *arguments, **environment):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"  # the last counts
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | settings | environment,
        cwd=pathlib.Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, processes, seconds=120):
    begun = time.monotonic()
    while not condition():
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)


def records(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(workdir):
    return [(record["step"], record["split"], record["loss"]) for record in records(workdir)]


@pytest.fixture
def joined():
    """Starts the program JOIN in two processes; whatever is left of them at the end is killed."""
    processes = []

    def run(*what):
        port = str(free_port())
        processes.extend(start(JOIN, port, str(process), part) for process, part in enumerate(what))
        return processes

    yield run
    for process in processes:
        process.kill()


def test_a_jax_that_keeps_its_client_elsewhere_is_said(monkeypatch):
    monkeypatch.setattr(jax._src.distributed.global_state, "client", object())
    with pytest.raises(
        InputError, match=r"runs of several processes do not work with JAX .*key_value_set.*Install JAX"
    ):
        distributed._client()


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others(joined):
    waiting, failing = joined("wait", "fail")
    _, told = failing.communicate(timeout=60)
    _, heard = waiting.communicate(timeout=60)
    assert (failing.returncode, waiting.returncode) == (1, 1)
    # Both learn of the signal with the step after.
    assert "ready [None, None, None, 15, None]\n" in told
    assert "ready [None, None, None, 15, None]\n" in heard
    message = "x.nii.gz: expected a scan, found a shopping list"
    assert f"jaxbrats train: {message}\n" in told
    assert f"jaxbrats train: process 1 of 2 ({socket.gethostname()}) ended: {message}\n" in heard
    assert "Traceback" not in told + heard


@pytest.mark.slow
def test_a_signal_outside_training_ends_all_with_its_code(joined):
    """The batch system is told by the code to start the job again, whichever process it looks at."""
    working, waiting = joined("work", "wait")
    assert any("ready" in line for line in working.stderr)
    working.send_signal(signal.SIGTERM)
    _, told = working.communicate(timeout=60)
    _, heard = waiting.communicate(timeout=60)
    assert (working.returncode, waiting.returncode) == (143, 143)
    stopped = "stopped by SIGTERM; run the same command again to resume\n"
    assert f"jaxbrats train: {stopped}" in told
    assert f"jaxbrats train: process 0 of 2 ({socket.gethostname()}) ended: {stopped}" in heard


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_others(joined):
    first, second = joined("compute", "compute")
    assert any("ready" in line for line in second.stderr)
    second.kill()
    begun = time.monotonic()
    _, heard = first.communicate(timeout=60)
    assert time.monotonic() - begun < 60
    assert first.returncode == 1
    assert f"jaxbrats train: nothing heard from process 1 of 2 ({socket.gethostname()}) for 5 seconds: killed" in heard
    assert "Traceback" not in heard


@pytest.mark.slow
def test_the_death_of_process_0_ends_the_others(joined):
    first, second = joined("compute", "compute")
    assert any("ready" in line for line in second.stderr)
    first.kill()
    _, heard = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "leader task was preempted/died/restarted unexpectedly" in heard  # JAX's own words: it is faster


@pytest.mark.slow
def test_two_processes_train_as_one_and_checkpoints_move_between_layouts(
    tiny_data, tiny_config, tmp_path, training_alone
):
    """Two processes that share each volume, killed; two again; one device of one process: the losses are those of that
    one device.
    """
    config = {"__file__": str(tiny_config)}
    exec(tiny_config.read_text(), config)
    settings = config["get_config"]()
    # Small, because Adam's first step moves a parameter whose gradient is rounding by the whole learning rate.
    settings.update({"batch_size": 4, "schedule": "constant", "learning_rate": 1e-4})
    settings.checkpoint.every_steps = 1
    settings.data.workers, settings.data.dir = 0, str(tiny_data)

    def train_here(workdir, epochs):
        settings.num_epochs = epochs
        assert job.run(from_config(settings), workdir) == 0
        return checkpoints.choose_step(workdir, "latest")

    def start_two(hang_at, environment=None):
        port = free_port()
        flags = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_data}"]
        flags += [
            "--config.batch_size=4",
            "--config.schedule=constant",
            "--config.learning_rate=1e-4",
            "--config.checkpoint.every_steps=1",
        ]
        flags += [
            "--config.data.workers=0",
            "--config.mesh.data=-1",
            "--config.mesh.space=4",
            "--config.num_epochs=2",
        ]
        hang = {"TEST_HANG_AT": hang_at}
        if environment is not None:
            return [start(TRAIN, *flags, **hang, **environment(process, port)) for process in range(2)]
        flags += [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
        return [start(TRAIN, *flags, f"--process={process}", **hang) for process in range(2)]

    reference, run = tmp_path / "reference", tmp_path / "run"
    killed = start_two("2")
    wait_until(lambda: records(run) and records(run)[-1]["step"] == 2, killed)
    for process in killed:
        process.kill()
        process.communicate()

    def slurm(process, port):
        """As srun starts them; JAX makes the port from the job's number."""
        job = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        return job | {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}

    ended = start_two("none", slurm)
    outputs = [process.communicate(timeout=200) for process in ended]
    assert [process.returncode for process in ended] == [0, 0], outputs
    assert "done. Open" in outputs[0][0]
    assert "done" not in outputs[1][0]
    assert (run / "evaluation" / "summary.json").exists()
    assert train_here(run, 3) == train_here(reference, 3)

    expected, found = losses(reference), losses(run)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    np.testing.assert_allclose([entry[2] for entry in found], [entry[2] for entry in expected], rtol=1e-5)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
URI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ((None, None, None), {}, None),
        (("node01:1234", 2, 1), {}, Cluster(2, 1, "node01:1234")),
        ((None, None, None), SLURM, Cluster(2, 1)),
        ((None, 1, None), SLURM, None),
        (("node01:1234", None, None), SLURM, Cluster(2, 1, "node01:1234")),
        ((None, None, None), {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),
        ((None, None, None), OPEN_MPI | URI, Cluster(4, 3, None, 1)),
        (("node01:1234", None, None), OPEN_MPI, Cluster(4, 3, "node01:1234", 1)),
    ],
)
def test_where_the_processes_are(flags, environment, expected):
    assert find_cluster(*flags, environment) == expected


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (("node01:1234", None, None), {}, "belong together"),
        ((None, 2, 0), {}, "belong together"),
        (("node01:1234", 2, 2), {}, "--process=2: 2 processes are numbered from 0"),
        (("node01", 2, 0), {}, "expected HOST:PORT, such as node01:29500"),
        ((None, None, None), OPEN_MPI, "Open MPI 5 does not tell.*Give --coordinator"),
    ],
)
def test_processes_that_cannot_find_each_other(flags, environment, message):
    with pytest.raises(InputError, match=message):
        find_cluster(*flags, environment)
