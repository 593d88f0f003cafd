"""Training runs on the GPU: the same bits twice and after a kill, and the memory that XLA said a step would take."""

import signal
import subprocess
import sys
import time

import jax

# The training program without what it does after training.
TRAIN = (
    "import sys; from jaxbrats import main; from jaxbrats.runs import job;"
    "job._write_results = lambda *_: []; sys.exit(main.run(sys.argv[1:]))"
)


def start(workdir, config, cohort):
    arguments = [f"--config={config}", f"--workdir={workdir}", f"--config.data.raw_dir={cohort}"]
    arguments += ["--config.deterministic=true", "--config.checkpoint.every_steps=1", "--config.num_epochs=4"]
    return subprocess.Popen([sys.executable, "-c", TRAIN, *arguments])


def finish(*of_run):
    from faults import trained

    assert start(*of_run).wait() == 0
    return trained(of_run[0])


def test_same_bits_twice_and_after_a_kill(tiny_config, tiny_cohort, tmp_path):
    """What config.deterministic promises. All processes take the compiled step from one cache."""
    once = finish(tmp_path / "once", tiny_config, tiny_cohort)
    assert finish(tmp_path / "twice", tiny_config, tiny_cohort) == once
    killed = tmp_path / "killed"
    process = start(killed, tiny_config, tiny_cohort)
    while not (killed / "checkpoints" / "3").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "checkpoints" / str(once["metrics"][-1]["step"])).exists(), "it was over sooner"
    assert finish(killed, tiny_config, tiny_cohort) == once


def test_memory_is_what_xla_said():
    """A device reports no less than the step's arguments and a little more than XLA's account: cuDNN's tables, and
    what the allocator rounds up. A process on a CPU holds its libraries too."""
    import benchmark_step
    from step_sides import OURS, Side

    side = Side(OURS, 32 if jax.default_backend() == "cpu" else 64, 1)
    with benchmark_step.Process(side) as compiling:
        account = compiling.call(benchmark_step.account)
    with benchmark_step.Process(side) as process:  # takes the program from the cache: no algorithm is tried
        peak = process.call(benchmark_step.peak_memory)
    assert account < peak
    if jax.default_backend() != "cpu":
        assert peak < 1.25 * account + 64 * 2**20
