"""Full disks and folders that cannot be written, for every command: a line with the folder, nothing half-written."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess
import time
from multiprocessing import forkserver

import pytest

from experiments import faults
from jaxbrats import commands, main
from jaxbrats.runs import job
from jaxbrats.system.files import RemovedError, describe_disk_error, disk_error, replacing
from jaxbrats.train import checkpoints, logs

CASE = ("--shape=20,24,18", "--workers=1")
PREPROCESS = ("--crop=16,16,16", "--modalities=t2f,t1c", "--min_tumour=0", "--workers=1")


@contextlib.contextmanager
def largest_file(size):
    """Lets the system refuse (EFBIG) what makes a file larger than so many bytes, as it refuses on a full disk."""
    # The server that starts worker processes lives on, and would keep the limit if it were started within.
    forkserver.ensure_running()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(folder):
    return {path: path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        (("synth", "--out=OUT", "--cases=2", *CASE), 2000),
        (("preprocess", "--raw=COHORT", "--out=OUT", *PREPROCESS), 9000),
        (("predict", "--workdir=RUN", "--input=COHORT/BraTS-GLI-00001-000", "--output=OUT"), 200),
        (("score", "--pred=RUN/predictions", "--ref=COHORT", "--out=OUT/scores.csv"), 200),
        (("evaluate", "--workdir=RUN"), 200),
        (("report", "--workdir=RUN"), 5000),
    ],
)
def test_a_full_disk(command, limit, run, tiny_cohort, tmp_path, capsys):
    out = tmp_path / "out"
    places = {"OUT": out, "COHORT": tiny_cohort, "RUN": run}
    arguments = list(command)
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    before = content(tmp_path)
    with largest_file(limit):
        assert commands.run(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"jaxbrats {command[0]}: {run if 'OUT' not in ''.join(command) else out}")
    assert "cannot be written or read (File too large). Free some space or choose another folder" in last
    after = content(tmp_path)
    assert not [path for path in after if ".partial-" in path.name]
    # What was there is there; what is new was small enough and is whole.
    assert {path: after[path] for path in before if path.name != ".evaluate.lock"}.items() <= before.items()
    capsys.readouterr()
    assert commands.run(arguments) == (command[0] == "score")  # most references there have no prediction
    complete = content(tmp_path)
    new = [path for path in after if path not in before and path.name not in ("manifest.json", ".preprocess.lock")]
    assert all(after[path] == complete[path] for path in new if path.suffix in (".npy", ".gz", ".csv"))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [3500, 6000])
def test_a_full_disk_while_training(limit, run, tiny_run, tiny_config, training_alone, capsys):
    """Whether it is a checkpoint that does not fit or a line of metrics.jsonl, the run goes on from what was saved."""
    shutil.rmtree(run / "checkpoints" / "9")
    saved = content(run / "checkpoints")
    arguments = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_run / 'data'}"]
    with largest_file(limit):
        assert main.run([*arguments, "--config.data.workers=0"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"jaxbrats train: {run}")
    assert "(File too large). Free some space or choose another folder, then run the same command again" in last
    assert content(run / "checkpoints").items() >= saved.items()
    assert main.run(arguments) == 0
    assert faults.trained(run) == faults.trained(tiny_run)


@pytest.mark.skipif(not pathlib.Path("/sys/kernel").is_dir(), reason="needs a folder that not even root can write")
@pytest.mark.parametrize(
    "command",
    [
        ("synth", "--out=/sys/kernel/out", "--cases=1", *CASE),
        ("preprocess", "--raw=COHORT", "--out=/sys/kernel/out", *PREPROCESS),
        ("predict", "--workdir=RUN", "--input=COHORT", "--output=/sys/kernel/out"),
        ("score", "--pred=RUN/predictions", "--ref=COHORT", "--out=/sys/kernel/out/scores.csv"),
        ("train", "--config=CONFIG", "--workdir=/sys/kernel/out", "--config.data.raw_dir=COHORT"),
    ],
)
def test_a_folder_that_cannot_be_made(command, tiny_run, tiny_cohort, tiny_config, capsys):
    places = {"COHORT": tiny_cohort, "RUN": tiny_run, "CONFIG": tiny_config}
    arguments = list(command)
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    assert commands.run(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"jaxbrats {command[0]}: /sys/kernel/out")
    assert "cannot be written or read (" in last


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, where the system lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_real_full_disk_and_a_real_read_only_one(small_disk, tiny_run, tiny_config, training_alone, capsys):
    run = small_disk / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data", "report*", "figures", "evaluation"))
    shutil.rmtree(run / "checkpoints" / "9")
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        with contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        filler.truncate(filler.tell() - 40_000)
    arguments = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_run / 'data'}"]
    assert main.run(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"jaxbrats train: {run}")
    assert "(No space left on device). Free some space" in last
    (small_disk / "filler").unlink()
    # The threads of the save that failed may still have files open for a moment.
    end = time.monotonic() + 20
    while subprocess.run(["mount", "-o", "remount,ro", small_disk], check=False).returncode:
        assert time.monotonic() < end
        time.sleep(0.05)
    before = content(small_disk)
    for command in (["train", *arguments], ["evaluate", f"--workdir={run}"], ["report", f"--workdir={run}"]):
        assert commands.run(command) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"jaxbrats {command[0]}: {run}")
        assert "(Read-only file system). Choose a folder that can be written" in last
    assert content(small_disk) == before
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert main.run(arguments) == 0
    assert faults.trained(run) == faults.trained(tiny_run)


def test_what_is_trouble_with_a_disk():
    full = OSError(28, "No space left on device")
    assert disk_error(full, "/data").filename == "/data"
    assert disk_error(NotADirectoryError(20, "Not a directory", "x"), "/data").errno == 20
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = ValueError("RESOURCE_EXHAUSTED: pwrite [OS error 28: ENOSPC No space left on device]")
    assert disk_error(wrapped, "/data").errno == 28
    assert disk_error(FileNotFoundError(2, "No such file", "x"), "/data") is None
    assert disk_error(ValueError("no"), "/data") is None
    removed = disk_error(RemovedError("/runs/\x1b[31mred"), "/data")
    assert describe_disk_error(removed).startswith("/runs/\\x1b[31mred: is gone, removed or moved while it was written")


def test_the_folder_of_a_file_removed_while_it_is_written(tmp_path):
    with pytest.raises(RemovedError, match="out"), replacing(tmp_path / "out" / "file.txt") as temporary:
        temporary.write_text("half")
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("moment", ["a step", "a checkpoint", "the results"])
def test_the_run_removed_while_it_trains(moment, run, tiny_run, tiny_config, monkeypatch, capfd):
    shutil.rmtree(run / "checkpoints" / "9")

    def removing(function):
        def remove_first(*args, **kwargs):
            shutil.rmtree(run, ignore_errors=True)
            return function(*args, **kwargs)

        return remove_first

    if moment == "a step":
        monkeypatch.setattr(logs.MetricsLog, "write", removing(logs.MetricsLog.write))
    elif moment == "a checkpoint":
        monkeypatch.setattr(checkpoints, "write_checksums", removing(checkpoints.write_checksums))
    else:
        monkeypatch.setattr(job, "_write_results", removing(job._write_results))
    arguments = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_run / 'data'}"]
    assert main.run([*arguments, "--config.data.workers=0"]) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith(f"jaxbrats train: {run}")
    assert "is gone, removed or moved while" in last or "holds no config.json" in last
