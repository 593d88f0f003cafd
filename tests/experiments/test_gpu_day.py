"""The script for a card: which parts it begins, what it says of them; and the tables of its experiments."""

import os
import pathlib
import re
import subprocess

import pytest

from jaxbrats.system.errors import InputError

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "gpu_day.sh"
# Writes down what it is asked to run; one part fails.
PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *benchmark_inference*) exit 3 ;; esac
"""


def run(tmp_path, *arguments):
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "CALLS": str(calls)}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)
    return done, calls.read_text().splitlines()[1:] if calls.exists() else []


def test_parts_that_fit_and_one_that_fails(tmp_path):
    done, calls = run(tmp_path, "--minutes=10", f"--out={tmp_path}/out")
    assert done.returncode == 1
    assert "  tests: about 3 min\n" in done.stdout
    assert "  compiled: about 8 min, if the others take less\n  bounds: about 1 min\n" in done.stdout
    assert [call.split()[0] for call in calls] == [
        "-m",
        *(
            f"experiments/{name}.py"
            for name in ("benchmark_step", "benchmark_inference", "benchmark_step", "gpu_bounds")
        ),
    ]
    table = (tmp_path / "out" / "gpu_day.md").read_text()
    assert "| step | done | " in table
    assert f"| inference | FAILED, see {tmp_path}/out/inference.txt | " in table
    assert re.search(r"variants \| left out, \d+ min left of the 15 it may take \|", table)


def test_a_wrong_argument_tells_how_it_is_used(tmp_path):
    done, calls = run(tmp_path, "--minutes=soon")
    assert (done.returncode, calls) == (2, [])
    assert "experiments/gpu_day.sh [--minutes=60]" in done.stderr


def test_card_by_the_name_of_its_driver():
    gpu_bounds = pytest.importorskip("gpu_bounds")
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA A100-SXM4-40GB", "NVIDIA GeForce RTX 4090")
    assert [gpu_bounds.described(name) for name in names] == ["h100", "h200", "a100", "rtx4090"]
    with pytest.raises(InputError, match="no description"):
        gpu_bounds.described("NVIDIA T4")
