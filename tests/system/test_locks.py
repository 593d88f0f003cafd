import os
import signal
import socket
import subprocess
import sys

import pytest

from jaxbrats import main
from jaxbrats.runs.evaluate import evaluate_run
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
