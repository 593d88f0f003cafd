"""Kills a small run with SIGKILL at random moments, again and again, and compares how it ends with a run never killed.

    python experiments/faults.py --kills=50

Each run preprocesses, trains with a checkpoint after every step, evaluates and writes its report. It is killed a few
times, started again by the same command each time, and then left to end. Parameters, optimiser state, the loader's
place, metrics and scores must be those of the run that was never killed, bit for bit. The first kill of a run comes
while it preprocesses and the last while it evaluates; of the others every second waits for a checkpoint that is just
being written, and the rest come at any time. Results go to experiments/results/faults.json and
.md.
"""

import dataclasses
import itertools
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import benchmarking
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json, write_json, write_text
from jaxbrats.train.logs import read_metrics

RESULTS = pathlib.Path(__file__).parent / "results"
FLAGS = flags.FlagValues()
flags.DEFINE_integer("kills", 50, "How often to kill.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("kills_a_run", 10, "How often to kill each run before it may end.", 1, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=FLAGS)
flags.DEFINE_string("out", str(RESULTS), "Folder for faults.json and faults.md.", flag_values=FLAGS)

_CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        seed=1, batch_size=2, num_epochs=4, learning_rate=3e-3, schedule="cosine",
        data=dict(modalities=("t2f", "t1c"), crop=(16, 16, 16), min_tumour=0.0, workers=1),
        model=dict(features=(4, 6), norm="instance", dropout=(0.1,)),
        checkpoint=dict(every_steps=1),
    ))
"""
_STARTING, _RESTORING = "starting", "restoring, compiling"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass
class Kill:
    """One kill: in which run, what that was doing, and from which step the next start went on (0: the beginning)."""

    run: int
    seconds: float
    phase: str
    resumed_from: int = 0
    identical: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
    """The training program on a small cohort, as a process of its own.

    Args:
        folder: For the config, the cohort and the compilation cache.
    """

    folder: pathlib.Path

    def prepare(self) -> None:
        """Writes cohort and config."""
        write_cohort(self.folder / "raw", 8, (20, 24, 18), seed=0, workers=1)
        write_text(self.folder / "config.py", _CONFIG)

    def start(self, workdir: pathlib.Path) -> subprocess.Popen:
        """Starts it, on one device; what it prints goes to a file beside `workdir`."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
        }
        command = [sys.executable, "-m", "jaxbrats.main", f"--config={self.folder / 'config.py'}"]
        command += [f"--workdir={workdir}", f"--config.data.raw_dir={self.folder / 'raw'}"]
        with _output(workdir).open("wb") as output:
            return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def finish(self, workdir: pathlib.Path) -> None:
        """Runs it to its end.

        Raises:
            InputError: it did not end well.
        """
        if code := self.start(workdir).wait():
            raise InputError(f"ended with code {code}: {_output(workdir).read_text()[-2000:]}", file=workdir)


def _output(workdir: pathlib.Path) -> pathlib.Path:
    return workdir.with_suffix(".txt")


def kill_at_some_time(process: subprocess.Popen, seconds: float) -> None:
    """Kills after a time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def kill_after(process: subprocess.Popen, begun: Callable[[], bool], seconds: float) -> None:
    """Kills some time after something has begun."""
    while process.poll() is None and not begun():
        time.sleep(0.001)
    kill_at_some_time(process, seconds)


def kill_while_saving(process: subprocess.Popen, workdir: pathlib.Path, saves: int, seconds: float) -> None:
    """Kills some time after the beginning of the n-th checkpoint that it is seen to write."""
    left_over = _being_written(workdir)  # by a start that was killed
    seen: set[str] = set()

    def begun() -> bool:
        seen.update(_being_written(workdir) - left_over)
        return len(seen) >= saves

    kill_after(process, begun, seconds)


def kill_while_preprocessing(process: subprocess.Popen, workdir: pathlib.Path, images: int) -> None:
    """Kills as soon as this many of the eight cases have their image."""
    kill_after(process, lambda: len(list((workdir / "data" / "images").glob("*.npy"))) >= images, 0)


def _being_written(workdir: pathlib.Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")}


def phase(workdir: pathlib.Path, left_over: set[str]) -> str:
    """What a killed run was doing, as its folder tells; `left_over` are unfinished checkpoints of earlier starts."""
    if written := _being_written(workdir) - left_over:
        return f"saving step {written.pop().split('.')[0]}"
    output = _output(workdir).read_text()
    if "evaluating" in output:
        return "evaluating, report"
    if match := re.findall(r"(\d+)/\d+ \[.*step", output):
        return f"training, after step {match[-1]}"
    if "validation cases from" in output:
        return _RESTORING
    return "preprocessing" if (workdir / "data").exists() and not (workdir / "config.json").exists() else _STARTING


def resumed_from(workdir: pathlib.Path) -> int:
    """The step that the last start went on from."""
    output = _output(workdir).read_text()
    if "evaluating" in output and "a step takes" not in output:
        return read_metrics(workdir)[-1]["step"]  # all steps were done
    match = re.search(r"resuming after step (\d+)", output)
    return int(match[1]) if match else 0


def tell_where_all_went_on(kills: list[Kill]) -> None:
    """A start that was killed before it trained may not have told where it would go on: where the next one did."""
    for kill, following in reversed(list(itertools.pairwise(kills))):
        if following.phase in (_STARTING, _RESTORING):
            kill.resumed_from = following.resumed_from


def result(workdir: pathlib.Path) -> dict[str, Any]:
    """All that must not depend on how often a run was killed."""
    return trained(workdir) | {"scores": (workdir / "evaluation" / "cases.csv").read_text()}


def trained(workdir: pathlib.Path) -> dict[str, Any]:
    """The part of it that training makes: what the loop leaves, and the cases that it saw."""
    return of_loop(workdir) | {"cases": read_json(workdir / "config.json")["data"]["train"]}


def of_loop(workdir: pathlib.Path) -> dict[str, Any]:
    """What the loop leaves: parameters, optimiser state, the loader's place, metrics."""
    records = read_metrics(workdir)
    last = workdir / "checkpoints" / str(records[-1]["step"])
    with ocp.StandardCheckpointer() as reader:
        arrays = {item: reader.restore(last / item) for item in ("model", "training")}
    return {
        "arrays": _bytes(arrays),
        "loader": read_json(last / "loader" / "metadata"),
        "metrics": [
            {key: value for key, value in record.items() if key not in ("seconds", "data_wait")} for record in records
        ],
    }


def _bytes(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _bytes(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_bytes(value) for value in tree]
    return None if tree is None else np.asarray(tree).tobytes()


def kill_runs(folder: pathlib.Path, kills: int, kills_a_run: int, seed: int) -> tuple[list[Kill], float]:
    """Kills runs in `folder`.

    Returns:
        Every kill, and the seconds of a run that is not killed.
    """
    generator = random.Random(seed)
    program = Program(folder)
    program.prepare()
    program.finish(folder / "never-killed")  # fills the compilation cache
    program.finish(folder / "again")
    begun = time.monotonic()
    program.finish(folder / "timed")
    whole = time.monotonic() - begun
    expected = result(folder / "never-killed")
    if expected != result(folder / "again"):
        raise InputError("two runs that were not killed differ", file=folder)
    done: list[Kill] = []
    number = 0
    with tqdm(total=kills, desc="kills", dynamic_ncols=True) as bar:
        while len(done) < kills:
            workdir = folder / f"run-{number}"
            here: list[Kill] = []
            planned = min(kills_a_run, kills - len(done))
            while (place := len(here)) < planned:
                left_over = _being_written(workdir)
                process, begun = program.start(workdir), time.monotonic()
                if place == 0:
                    kill_while_preprocessing(process, workdir, generator.randint(1, 7))
                elif place == planned - 1:
                    output = _output(workdir)
                    kill_after(process, lambda output=output: "evaluating" in output.read_text(), generator.random())
                elif place % 2:
                    kill_while_saving(process, workdir, generator.randint(1, 3), generator.uniform(0, 0.1))
                else:
                    kill_at_some_time(process, generator.uniform(0.1, 0.9) * whole)
                if here:
                    here[-1].resumed_from = resumed_from(workdir)
                if process.returncode != -signal.SIGKILL:
                    break  # it was done sooner
                here.append(Kill(number, time.monotonic() - begun, phase(workdir, left_over)))
                bar.update()
            if process.returncode:
                program.finish(workdir)
                here[-1].resumed_from = resumed_from(workdir)
            tell_where_all_went_on(here)
            identical = result(workdir) == expected
            done += [dataclasses.replace(kill, identical=identical) for kill in here]
            number += 1
    return done, whole


def as_markdown(report: dict[str, Any]) -> str:
    """The table."""
    lines = ["| run | killed after, s | while | next start went on after step | end identical |"]
    lines += ["|---:|---:|---|---:|---|"]
    for kill in report["kills"]:
        same = "yes" if kill["identical"] else "NO"
        lines.append(
            f"| {kill['run']} | {kill['seconds']:.2f} | {kill['phase']} | {kill['resumed_from'] or '-'} | {same} |"
        )
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    same = sum(kill["identical"] for kill in report["kills"])
    return "\n".join(
        [
            "# A run killed again and again",
            "",
            f"{same} of {len(report['kills'])} kills ended bit-identical to a run never killed: parameters, optimiser "
            "state, loader, every step's metrics (but for seconds), scores. A run that is not killed takes "
            f"{report['seconds']:.1f} s and saves after each of its 12 steps. Where a start was "
            "killed before it trained, the step is the one from which the start after it went on.",
            "",
            *lines,
            "",
            f"{report['processor']}, {report['cpus']} CPUs. Python {report['python']}, {versions}.",
            "",
            f"`python experiments/faults.py --kills={len(report['kills'])} --seed={report['seed']}`",
            "",
        ]
    )


def main() -> int:
    """Kills, compares, writes the table; 1 if a run ended otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        kills, seconds = kill_runs(pathlib.Path(folder), FLAGS.kills, FLAGS.kills_a_run, FLAGS.seed)
    report = {
        "seed": FLAGS.seed,
        "seconds": seconds,
        **benchmarking.machine(_PACKAGES),
        "kills": [dataclasses.asdict(kill) for kill in kills],
    }
    write_json(pathlib.Path(FLAGS.out) / "faults.json", report)
    write_text(pathlib.Path(FLAGS.out) / "faults.md", as_markdown(report))
    print(as_markdown(report))
    return 0 if all(kill.identical for kill in kills) else 1


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "faults", sys.argv[1:]))
