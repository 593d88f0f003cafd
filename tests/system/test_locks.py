import contextlib
import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from jaxbrats import commands, main
from jaxbrats.runs.evaluate import evaluate_run
from jaxbrats.system import locks
from jaxbrats.system.errors import InputError
from jaxbrats.system.locks import locked


@pytest.fixture
def holder(tmp_path):
    """A process that holds a folder."""
    script = (
        "import sys, time\nfrom jaxbrats.system.locks import locked\n"
        "with locked(sys.argv[1], 'train', 'a training run'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_refused_until_the_first_is_killed(holder, tmp_path):
    with (
        pytest.raises(
            InputError, match=f"a training run is at work .*: process {holder.pid} on {socket.gethostname()}"
        ),
        locked(tmp_path, "train", "a training run"),
    ):
        pass
    with locked(tmp_path, "evaluate", "an evaluation"):  # another lock of the same folder
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path, "train", "a training run"):
        assert (tmp_path / ".train.lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_system_without_locks(tmp_path):
    script = "import sys\nsys.modules['fcntl'] = None\nfrom jaxbrats import main\nsys.exit(main.run(sys.argv[1:]))\n"
    config = pathlib.Path(main.__file__).parents[1] / "configs" / "quickstart.py"
    command = [sys.executable, "-c", script, f"--config={config}", f"--workdir={tmp_path}", "--config.mesh.data=1"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    # JAX's own file lock warns as well.
    assert process.stderr.splitlines()[-1] == (
        f"jaxbrats train: {tmp_path}: this system cannot lock files, so two runs could spoil each other's work. Use "
        "Linux or macOS; on Windows, the Windows Subsystem for Linux"
    )
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys, number):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    def work():
        with locked(tmp_path, "train", "a training run"):
            return 0

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    assert commands.finish("jaxbrats train", work) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"jaxbrats train: {tmp_path / '.train.lock'}: cannot be written or read ({os.strerror(number)}). "
        "Choose a folder that can be written, or have its permissions changed"
    ]


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locked(tmp_path, "train", "a training run"):
        pass
    assert f"{tmp_path}: this file system has no locks" in caplog.text


def test_two_runs_on_one_workdir(holder, tiny_config, tmp_path, capsys):
    assert main.run([f"--config={tiny_config}", f"--workdir={tmp_path}", "--config.data.dir=/nowhere"]) == 1
    assert f"a training run is at work in this folder already: process {holder.pid}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".train.lock"]


def test_two_evaluations_of_one_run(tiny_run):
    with (
        locked(tiny_run, "evaluate", "an evaluation"),
        pytest.raises(InputError, match="an evaluation is at work in this folder already"),
    ):
        evaluate_run(tiny_run)


def test_one_may_wait_for_another(tmp_path, capsys):
    holding = contextlib.ExitStack()
    holding.enter_context(locks.locked(tmp_path, "evaluate", "an evaluation"))
    threading.Timer(0.3, holding.close).start()
    begun = time.monotonic()
    with locks.locked(tmp_path, "evaluate", "an evaluation", wait=True):
        assert time.monotonic() - begun > 0.2
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    line = f"{tmp_path}: an evaluation is at work in this folder already: {holder}; waiting for it\n"
    assert capsys.readouterr().out == line
