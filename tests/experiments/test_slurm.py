"""The files for sbatch: what they start, with `srun` and `scontrol` that only write down how they were called."""

import os
import pathlib
import subprocess
import sys

import pytest

from jaxbrats.data.dataset import read_dataset
from jaxbrats.synthetic.cohort import write_cohort

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def programs(tmp_path):
    """A folder for the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def add(name, script):
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    add("python", f'exec {sys.executable} "$@"')
    add("scontrol", f'echo "$@" >> {tmp_path}/scontrol')
    return add


def run(tmp_path, name, *arguments, **variables):
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", ROOT / "experiments" / "slurm" / name, *arguments],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_array_job_makes_all_shards(programs, tmp_path):
    write_cohort(tmp_path / "raw", 3, (16, 16, 16), seed=0, workers=1)
    arguments = [f"--raw={tmp_path / 'raw'}", f"--out={tmp_path / 'out'}", "--crop=8,8,8", "--min_tumour=0"]
    variables = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    first = run(tmp_path, "preprocess.sbatch", *arguments, **variables)
    assert first.returncode == 0, first.stderr
    assert "still missing: shard 2/2 (not started)" in first.stdout
    # Made again alone, a task is an array of one.
    variables = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "2"}
    assert run(tmp_path, "preprocess.sbatch", *arguments, **variables).returncode == 0
    assert len(read_dataset(tmp_path / "out").cases) == 3


@pytest.mark.parametrize(("code", "queued_again"), [(0, False), (1, False), (143, True)])
def test_training_is_queued_again_when_it_was_stopped(programs, tmp_path, code, queued_again):
    programs("srun", f'echo "$@" > {tmp_path}/srun; exit {code}')
    done = run(tmp_path, "train.sbatch", "--config=configs/unet3d.py", "--config.seed=1", SLURM_JOB_ID="77")
    assert done.returncode == code
    started = (tmp_path / "srun").read_text()
    assert started == "--kill-on-bad-exit=1 python -m jaxbrats.main --config=configs/unet3d.py --config.seed=1\n"
    assert (tmp_path / "scontrol").exists() == queued_again
    assert not queued_again or (tmp_path / "scontrol").read_text() == "requeue 77\n"
