"""How soon after its start is a run stepping, with a cold and with a warm compilation cache?

    python experiments/benchmark_start.py [--rounds=3]

Starts `python -m jaxbrats.main` with the network of configs/unet3d.py on prepared arrays of 64x64x64 and takes the wall
seconds from there to the first step's line in metrics.jsonl, which the run writes when the step is done; then ends it.
Cold: an empty compilation cache (JAX's, and that of the compiled convolution). Warm: the one that the cold start before
it filled. Python's own bytecode cache and the files are warm on both sides. Writes benchmark_start.json and .md into
experiments/results.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import benchmarking
from absl import flags

from jaxbrats import commands
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system.errors import InputError
from jaxbrats.train.logs import read_metrics

FLAGS = flags.FlagValues()
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Cold starts, each with warm ones after it.", 1, flag_values=FLAGS)
_WARM = flags.DEFINE_integer("warm", 3, "Warm starts after each cold one; their median counts.", 1, flag_values=FLAGS)
NAME = "benchmark_start"
COLD, WARM = "cold", "warm"
ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "unet3d.py"
_LOOK_EVERY = 0.01  # seconds


def write_data(folder: pathlib.Path, edge: int = 64) -> pathlib.Path:
    """Prepared arrays of a few phantoms."""
    write_cohort(folder / "raw", 6, (edge + 16,) * 3, seed=0, workers=1)
    settings = Preprocessing(crop=(edge,) * 3, min_tumour=0.0)
    preprocess_cohort(folder / "raw", folder / "arrays", settings, workers=1, progress=False)
    return folder / "arrays"


def seconds_to_first_step(
    data: pathlib.Path, workdir: pathlib.Path, cache: pathlib.Path, config: pathlib.Path = CONFIG
) -> float:
    """Wall seconds from starting the program to the record of its first step.

    Args:
        data: Prepared arrays.
        workdir: Of the run; emptied first.
        cache: Folder that holds what is compiled.
        config: Config file of the run.

    Raises:
        InputError: the run ended before its first step; the message is its last line.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "jaxbrats.main", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--config.data.dir={data}", "--config.batch_size=1"]
    with tempfile.TemporaryFile("w+") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while not read_metrics(workdir):
                if process.poll() is not None:
                    output.seek(0)
                    said = output.read().strip().splitlines()
                    raise InputError(f"the run ended without a step: {said[-1] if said else 'it said nothing'}")
                time.sleep(_LOOK_EVERY)
            return time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()


def measure(folder: pathlib.Path, rounds: int, warm: int) -> dict[str, Any]:
    """Starts cold and warm in turns."""
    data = write_data(folder)
    taken = []
    for number in range(rounds):
        cache = folder / f"cache_{number}"
        cold = seconds_to_first_step(data, folder / "run", cache)
        warm_starts = [seconds_to_first_step(data, folder / "run", cache) for _ in range(warm)]
        taken.append({COLD: cold, WARM: statistics.median(warm_starts)})
        print(f"cold {cold:.2f} s, warm {', '.join(f'{seconds:.2f}' for seconds in warm_starts)} s", flush=True)
    return {"seconds": taken, "ratio": benchmarking.ratio(taken, COLD, WARM)}


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    return "\n".join(
        [
            "# Seconds from the start of the program to its first finished step",
            "",
            "| compilation cache | seconds, median (range) |",
            "|---|---:|",
            *(f"| {side} | {benchmarking.range_of(report['seconds'], side, 1)} |" for side in (COLD, WARM)),
            "",
            f"A warm start is stepping {benchmarking.ratio_text(report['ratio'])} times sooner.",
            "",
            f"`python -m jaxbrats.main --config=configs/unet3d.py`, prepared arrays of 64x64x64, batch 1. "
            f"{len(report['seconds'])} rounds of a cold start and {report['warm_starts']} warm ones, whose "
            "median counts.",
            *benchmarking.footer(report["machine"], NAME),
        ]
    )


def main() -> int:
    """Times, prints and writes the report."""
    with tempfile.TemporaryDirectory() as temporary:
        report = {
            "machine": benchmarking.machine(("jax", "flax", "numpy", "orbax-checkpoint")),
            "warm_starts": _WARM.value,
            **measure(pathlib.Path(temporary), _ROUNDS.value, _WARM.value),
        }
    benchmarking.write(NAME, report, as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], NAME, sys.argv[1:]))
