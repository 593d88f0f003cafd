"""What benchmarks share: sides in turn, each in a process of its own; ratios of pairs; a note of the machine.

The figures of one round are taken seconds apart, so a ratio of two sides of the same round says more than one of
medians on a machine that others use as well.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxbrats.data.raw.cases import Case, find_cases
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system import files
from jaxbrats.system.memory import keep_freed_memory
from jaxbrats.system.processes import available_cpus

RESULTS = pathlib.Path(__file__).parent / "results"
# What computes on a GPU, whichever is installed.
_CUDA = ("jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
# What OpenMP, MKL, OpenBLAS and NumExpr read when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """Processor, GPU, CPUs this process may use, and versions of Python and of those packages that are installed."""
    packages = [*packages, *(_CUDA if gpu() else ())]
    installed = {one.name for one in importlib.metadata.distributions()}
    return {
        "processor": processor(),
        "gpu": gpu(),
        "cpus": available_cpus(),
        "python": platform.python_version(),
        "versions": {one: importlib.metadata.version(one) for one in packages if one in installed},
    }


def gpu() -> str | None:
    """Name, driver and memory of the first NVIDIA GPU; None without its driver's `nvidia-smi`."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return "{}, driver {}, {}".format(*told[0].split(", ")) if told else None


def processor() -> str:
    """The processor's name."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_line(of: Mapping[str, Any]) -> str:
    """The machine in a line."""
    versions = ", ".join(f"{package} {version}" for package, version in of["versions"].items())
    card = f"{of['gpu']}; " if of.get("gpu") else ""
    return f"{card}{of['processor']}, {of['cpus']} cores. Python {of['python']}, {versions}."


def footer(of: Mapping[str, Any], name: str) -> list[str]:
    """How a report ends: the machine and the command."""
    return ["", machine_line(of), "", f"`python experiments/{name}.py`", ""]


@contextlib.contextmanager
def processes(
    sides: Iterable[str], one_core: bool = False, as_they_come: Collection[str] = ()
) -> Iterator[dict[str, Callable[..., Any]]]:
    """A process for each side, in which it stays warm, and what calls a function there and waits for what it returns.

    They have glibc's malloc keep what is freed, as jaxbrats does: it helps whoever the side is.

    Args:
        sides: Their names.
        one_core: Whether all are bound to one and the same core, and to one thread.
        as_they_come: Those whose malloc is left as it is.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    if one_core:
        os.environ.update(dict.fromkeys(_THREADS, "1"))
    core = max(os.sched_getaffinity(0)) if one_core else None
    context = multiprocessing.get_context("spawn")
    pools = {
        side: concurrent.futures.ProcessPoolExecutor(1, context, _start, (core, side not in as_they_come))
        for side in sides
    }
    try:
        yield {
            side: lambda function, *arguments, pool=pool: pool.submit(function, *arguments).result()
            for side, pool in pools.items()
        }
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _start(core: int | None, keep: bool) -> None:
    if keep:
        keep_freed_memory()
    if core is not None:
        os.sched_setaffinity(0, {core})


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> list[dict[str, float]]:
    """Calls every side once a round, each time beginning with another; returns what they returned, round by round."""
    names = list(sides)
    taken = []
    for number in range(rounds):
        first = number % len(names)
        values = {name: sides[name]() for name in (*names[first:], *names[:first])}
        taken.append({name: values[name] for name in names})
        print(", ".join(f"{name} {value:.3f}" for name, value in taken[-1].items()), flush=True)
    return taken


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each side."""
    return {side: statistics.median(one[side] for one in rounds) for side in rounds[0]}


def ratio(rounds: Sequence[Mapping[str, float]], over: str, under: str) -> dict[str, float]:
    """Median, least and greatest of one side's figure over another's in the same round."""
    pairs = [one[over] / one[under] for one in rounds]
    return {"median": statistics.median(pairs), "least": min(pairs), "greatest": max(pairs)}


def range_of(rounds: Sequence[Mapping[str, float]], side: str, digits: int = 2) -> str:
    """'median (least to greatest)' of a side."""
    values = [one[side] for one in rounds]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def interval(described: Mapping[str, Any], digits: int, sign: str = "") -> str:
    """'mean (low to high)' of what `statistics.describe` returns: the 95 % interval of the mean."""
    mean, low, high = (described[name] for name in ("mean", "ci_low", "ci_high"))
    if mean is None:
        return "-"
    return f"{mean:{sign}.{digits}f}" + ("" if low is None else f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})")


def ratio_text(of: Mapping[str, float]) -> str:
    """'median (least to greatest)' of a ratio."""
    return f"{of['median']:.2f} ({of['least']:.2f} to {of['greatest']:.2f})"


def case_to_measure(
    given: str | None, modalities: Sequence[str], folder: pathlib.Path, shape: Sequence[int] = (240, 240, 155)
) -> Case:
    """The case in the folder that was given, or a synthetic one, by default of a BraTS scan's size, in `folder`.

    Raises:
        InputError: the folder given holds no case.
    """
    if given is None:
        write_cohort(folder, 1, tuple(shape), seed=0, workers=1)
    cohort = find_cases(given or folder, modalities)
    if not cohort.cases:
        raise cohort.problems[0]
    return cohort.cases[0]


def write(name: str, report: Mapping[str, Any], text: str, folder: pathlib.Path = RESULTS) -> None:
    """Prints a report and writes it as NAME.json and NAME.md."""
    files.write_json(folder / f"{name}.json", report)
    files.write_text(folder / f"{name}.md", text)
    print(text)
