"""Signals, kills and broken inputs while the training program runs, in processes of its own where that matters."""

import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import faults
from jaxbrats import commands, main
from jaxbrats.data import manifest
from jaxbrats.data.dataset import read_dataset
from jaxbrats.inference import validation
from jaxbrats.train import checkpoints, compilation
from jaxbrats.train.logs import read_metrics


def start(tmp_path, *arguments):
    """A process of its own, with one device, that shares the tests' compiled programs."""
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",  # the last counts
        "PYTHONPATH": str(pathlib.Path(main.__file__).parents[1]),
    }
    with (tmp_path / "output.txt").open("w") as output:
        command = [sys.executable, "-m", "jaxbrats", *arguments]
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def one_cpu():
    """Processes that the test starts have one CPU, on which threads that wait for each other would wait for ever."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.slow
def test_signals_and_kills_change_nothing(tiny_cohort, tiny_config, tmp_path, one_cpu):
    """One device and one CPU: a run told to stop, then killed while it saves, ends as one that was left alone."""
    workdir, output = tmp_path / "run", tmp_path / "output.txt"
    settings = [f"--config={tiny_config}", f"--config.data.raw_dir={tiny_cohort}", "--config.data.workers=0"]
    settings += [f"--config.data.dir={tmp_path / 'data'}", "--config.conv=auto", "--config.schedule=constant"]
    arguments = [*settings, f"--workdir={workdir}"]
    process = start(tmp_path, "train", *arguments)
    wait_for(lambda: len(read_metrics(workdir)) > 0, process)
    assert "validation cases from" in output.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    step = read_metrics(workdir)[-1]["step"]
    message = f"stopped by SIGTERM after step {step}, which is saved; run the same command again to resume"
    assert message in output.read_text().splitlines()
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == step
    process = start(tmp_path, "train", *arguments)
    wait_for(lambda: list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")), process)
    process.kill()
    process.wait()
    assert f"resuming after step {step} of 9" in output.read_text()
    assert start(tmp_path, "train", *arguments).wait(120) == 0
    assert start(tmp_path, "train", *settings, f"--workdir={tmp_path / 'alone'}").wait(120) == 0
    assert faults.result(workdir) == faults.result(tmp_path / "alone")
    assert not list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_a_signal_during_validation_is_answered_at_once_and_loses_nothing(
    tiny_run, tiny_config, tmp_path, training_alone
):
    workdir = tmp_path / "run"
    arguments = [f"--config={tiny_config}", f"--workdir={workdir}", f"--config.data.dir={tiny_run / 'data'}"]
    batches = validation.validation_batches

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
        return batches(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "validation_batches", interrupted)
        assert main.run(arguments) == 143
    records = read_metrics(workdir)
    assert (len(records), records[-1]["split"], records[-1]["step"]) == (3, "train", 3)
    assert main.run(arguments) == 0
    assert faults.trained(workdir) == faults.trained(tiny_run)
    assert checkpoints.choose_step(workdir, "best") == checkpoints.choose_step(tiny_run, "best") == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_any_command_is_a_line_and_a_code(capsys, number, code):
    before = signal.getsignal(signal.SIGTERM)
    # What a shell starts in the background has SIGINT ignored.
    here = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert commands.finish("jaxbrats evaluate", lambda: os.kill(os.getpid(), number) or time.sleep(5)) == code
    finally:
        signal.signal(signal.SIGINT, here)
    name = signal.Signals(number).name
    assert capsys.readouterr().err == f"jaxbrats evaluate: stopped by {name}; run the same command again to resume\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_preprocessing_stopped_by_sigterm_goes_on(tiny_cohort, tmp_path):
    out = tmp_path / "out"
    arguments = ["preprocess", f"--raw={tiny_cohort}", f"--out={out}", "--crop=16,16,16", "--min_tumour=0"]
    process = start(tmp_path, *arguments, "--workers=2")
    wait_for(lambda: (out / "manifest.json").exists(), process)
    process.terminate()
    assert process.wait(30) == 143
    last = (tmp_path / "output.txt").read_text().splitlines()[-1]
    assert last == "jaxbrats preprocess: stopped by SIGTERM; run the same command again to resume"
    assert commands.run([*arguments, "--workers=1"]) == 0
    assert len(read_dataset(out).cases) == 8
    assert not list(out.rglob(".partial-*"))


@pytest.mark.slow
def test_a_killed_reader_ends_the_run_with_a_line(tiny_run, tiny_config, tmp_path, capsys):
    """Where worker processes read the batches and one dies, the loop does not wait for it for ever."""
    arguments = [f"--config={tiny_config}", f"--workdir={tmp_path}", f"--config.data.dir={tiny_run / 'data'}"]
    done = threading.Event()

    def kill_readers():
        while not done.wait(0.05):
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_readers)
    killer.start()
    try:
        assert main.run([*arguments, "--config.num_epochs=1000", "--config.data.workers=1"]) == 1
    finally:
        done.set()
        killer.join()
    error = capsys.readouterr().err.splitlines()[-1]
    assert "before batch" in error
    assert "--config.data.workers=0" in error


@pytest.fixture
def poisoned(tiny_run, tmp_path, monkeypatch, training_alone):
    """The arrays with one training case whose labels are all 3, and a loss that is finite there, its gradient not."""
    data = tmp_path / "data"
    shutil.copytree(tiny_run / "data", data)
    case = json.loads((data / "split.json").read_text())["train"][0]
    labels = np.full_like(np.load(data / "masks" / f"{case}.npy"), 3)
    np.save(data / "masks" / f"{case}.npy", labels)
    content = json.loads((data / "manifest.json").read_text())
    content["cases"][case]["checksum"]["mask"] = manifest.checksum(labels)
    (data / "manifest.json").write_text(json.dumps(content))
    jit_train_step = compilation.jit_train_step

    def poisoned_step(mesh, model, optimizer, loss, *rest, **options):
        def poisoned_loss(logits, labels):
            bad = jnp.any(jnp.all(labels == 3, axis=(1, 2, 3)))
            return loss(logits, labels) + jnp.sqrt(jnp.where(bad, 0.0, 1.0) * jnp.sum(logits) ** 2)

        return jit_train_step(mesh, model, optimizer, poisoned_loss, *rest, **options)

    monkeypatch.setattr(compilation, "jit_train_step", poisoned_step)
    return data, case


@pytest.mark.slow
def test_an_update_that_is_not_finite_stops_the_run_or_is_dropped(poisoned, tiny_config, tmp_path, capsys):
    data, case = poisoned
    workdir = tmp_path / "run"
    arguments = [f"--config={tiny_config}", f"--workdir={workdir}", f"--config.data.dir={data}"]
    arguments += ["--config.checkpoint.every_steps=1", "--config.num_epochs=2"]
    assert main.run(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    step = len(read_metrics(workdir)) + 1
    assert f"the update of step {step}, whose loss is " in error
    assert case in error
    assert "config.skip_nonfinite" in error
    saved = sorted(int(path.name) for path in (workdir / "checkpoints").glob("*"))
    assert not saved or saved[-1] == step - 1

    assert main.run([*arguments, "--config.skip_nonfinite=True"]) == 0
    assert f"not finite and dropped: the update of step {step}" in capsys.readouterr().err
    records = read_metrics(workdir)
    train = [record for record in records if record["split"] == "train"]
    assert train[-1]["skipped"] == 2  # once an epoch
    assert [record["skipped"] for record in train] == sorted(record["skipped"] for record in train)
    assert all(np.isfinite(record["loss"]) for record in records)


def test_the_table_of_kills():
    """A start that was killed before it trained tells nothing of where it would have gone on: the next one does."""
    phases = ("saving step 4", "restoring, compiling", "starting", "training, after step 4")
    kills = [faults.Kill(0, 1.0, phase, step, True) for phase, step in zip(phases, (0, 0, 3, 4), strict=True)]
    faults.tell_where_all_went_on(kills)
    assert [kill.resumed_from for kill in kills] == [3, 3, 3, 4]
