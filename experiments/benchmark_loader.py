"""How many preprocessed volumes a second reach the training loop, beside a PyTorch DataLoader over MONAI's Dataset?

    python experiments/benchmark_loader.py [--workers=0,1,2] [--cases=8]

Volumes of 128x128x128 with 3 float32 channels and their uint8 labels, random numbers, as .npy files that the operating
system holds in memory; shuffled, in batches of 2. The sides:

- jaxbrats: `training_batches`, as the training loop uses it (files and values are checked as it reads);
- MONAI LoadImaged: `monai.data.Dataset`, without a cache, with LoadImaged and its NumpyReader, in MONAI's DataLoader;
- MONAI numpy.load: the same Dataset with a transform that calls numpy.load, in `torch.utils.data.DataLoader`;
- numpy.load, our malloc: that once more, with glibc's malloc set as jaxbrats sets it, which no user of MONAI has. It
  shows what of the difference is the loader's own, and is not counted as a peer.

Each is measured with every number of worker processes (0: jaxbrats reads by threads, PyTorch in the loop itself), in a
process of its own, all cores to use. A round is every side with every number once; what counts is each side's best.
They must deliver the same arrays before anything is timed. Needs the extra `bench`. Writes benchmark_loader.json and
.md into experiments/results.
"""

import contextlib
import functools
import itertools
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import benchmarking
import numpy as np
from absl import flags

from jaxbrats import commands
from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.loader import training_batches, validation_batches
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Numbers of worker processes to try.", flag_values=FLAGS)
_CASES = flags.DEFINE_integer("cases", 8, "Volumes on disk.", 2, flag_values=FLAGS)
_BATCHES = flags.DEFINE_integer("batches", 20, "Batches that are timed.", 1, flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed rounds, the sides in turn.", 1, flag_values=FLAGS)
NAME = "benchmark_loader"
OURS, *PEERS = "jaxbrats", "MONAI LoadImaged", "MONAI numpy.load"
WITNESS = "numpy.load, our malloc"
SIDES = (OURS, *PEERS, WITNESS)
SHAPE = (128, 128, 128, 3)
BATCH_SIZE = 2
# Batches before the clock starts: worker processes are up and read ahead by then.
WARM_UP = 6

Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def write_cases(folder: pathlib.Path, count: int, shape: tuple[int, int, int, int] = SHAPE) -> list[ArrayCase]:
    """Writes volumes of random numbers."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(count):
        case = ArrayCase(f"case_{number}", f"{number}", folder / f"image_{number}.npy", folder / f"mask_{number}.npy")
        np.save(case.image, rng.standard_normal(shape, np.float32))
        np.save(case.mask, rng.integers(0, 4, shape[:3], np.uint8))
        cases.append(case)
    return cases


@contextlib.contextmanager
def batches_of(side: str, cases: Sequence[ArrayCase], workers: int, shuffled: bool) -> Iterator[Batches]:
    """A side's batches, (image (B, X, Y, Z, C), labels (B, X, Y, Z)): endless and shuffled, or once in order."""
    if side == OURS:
        if shuffled:
            loader = training_batches(cases, batch_size=BATCH_SIZE, seed=0, workers=workers)
        else:
            loader = validation_batches(cases, batch_size=BATCH_SIZE, workers=workers)
        with loader:
            yield ((batch["image"], batch["labels"]) for batch in loader)
        return
    yield iter(
        (batch["image"].numpy(), batch["labels"].numpy()) for batch in _torch_loader(side, cases, workers, shuffled)
    )


def _torch_loader(side: str, cases: Sequence[ArrayCase], workers: int, shuffled: bool) -> Any:
    import torch
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, LoadImaged

    files = [{"image": str(case.image), "labels": str(case.mask)} for case in cases]
    if side == "MONAI LoadImaged":
        kinds = {"image": np.float32, "labels": np.uint8}
        dataset = Dataset(files, Compose([LoadImaged(key, "NumpyReader", dtype) for key, dtype in kinds.items()]))
        loader = DataLoader
    else:
        dataset, loader = Dataset(files, _load), torch.utils.data.DataLoader
    # As many samples as anyone will take: no epoch ends while the clock runs.
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=10**6) if shuffled else None
    return loader(dataset, batch_size=BATCH_SIZE, sampler=sampler, num_workers=workers)


def _load(files: dict[str, str]) -> dict[str, np.ndarray]:
    return {name: np.load(path) for name, path in files.items()}


def rate(side: str, cases: Sequence[ArrayCase], workers: int, count: int) -> float:
    """Volumes a second, once all is warm."""
    with batches_of(side, cases, workers, shuffled=True) as batches:
        for _ in itertools.islice(batches, WARM_UP):
            pass
        begun = time.perf_counter()
        for _ in itertools.islice(batches, count):
            pass
        return BATCH_SIZE * count / (time.perf_counter() - begun)


def check_agreement(side: str, cases: Sequence[ArrayCase], workers: int) -> None:
    """Checks that a side delivers what is in the files, in order.

    Raises:
        InputError: it does not.
    """
    seen = 0
    with batches_of(side, cases, workers, shuffled=False) as batches:
        for image, labels in itertools.islice(batches, len(cases) // BATCH_SIZE):
            for row in range(BATCH_SIZE):
                case = cases[seen]
                right = image.dtype == np.float32 and np.array_equal(image[row], np.load(case.image))
                if not right or labels.dtype != np.uint8 or not np.array_equal(labels[row], np.load(case.mask)):
                    raise InputError(f"{side} with {workers} workers gives other arrays", case=case.name)
                seen += 1


def label(side: str, workers: int) -> str:
    """A column of the report."""
    return f"{side}, {workers} workers"


def measure(cases: Sequence[ArrayCase], workers: Sequence[int], count: int, rounds: int) -> dict[str, Any]:
    """Times all sides with all numbers of workers in turns, after checking each."""
    with benchmarking.processes(SIDES, as_they_come=PEERS) as run:
        for side, number in itertools.product(SIDES, workers):
            run[side](check_agreement, side, cases, number)
        calls = {
            label(side, number): functools.partial(run[side], rate, side, cases, number, count)
            for number, side in itertools.product(workers, SIDES)
        }
        return {"volumes_per_second": benchmarking.in_turns(calls, rounds), "workers": list(workers)}


def compare(rounds: Sequence[dict[str, float]], workers: Sequence[int]) -> dict[str, Any]:
    """Ratios of jaxbrats to the faster peer: each at its best, and with each number of workers."""
    medians = benchmarking.medians(rounds)

    def best(sides: Sequence[str], numbers: Sequence[int]) -> str:
        return max((label(side, number) for side, number in itertools.product(sides, numbers)), key=medians.get)

    def against(numbers: Sequence[int]) -> dict[str, Any]:
        ours, peer = best([OURS], numbers), best(PEERS, numbers)
        return {"jaxbrats": ours, "peer": peer, **benchmarking.ratio(rounds, ours, peer)}

    return {"best": against(workers), "same_workers": {str(number): against([number]) for number in workers}}


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    rounds, workers = report["volumes_per_second"], report["workers"]
    rows = [
        f"| {number} | {' | '.join(benchmarking.range_of(rounds, label(side, number), 1) for side in SIDES)} | "
        f"{benchmarking.ratio_text(report['ratio']['same_workers'][str(number)])} |"
        for number in workers
    ]
    best = report["ratio"]["best"]
    return "\n".join(
        [
            "# Volumes loaded a second",
            "",
            f"| worker processes | {' | '.join(SIDES)} | jaxbrats over the faster MONAI |",
            f"|{'---:|' * (len(SIDES) + 2)}",
            *rows,
            "",
            f"Each at its best: {best['jaxbrats']} delivers {benchmarking.ratio_text(best)} times as many as "
            f"{best['peer']}.",
            "The last column but one is no peer: it shows what of the difference is the allocator's setting.",
            "",
            f"128x128x128 voxels, 3 float32 channels and uint8 labels, .npy, warm; {report['cases']} files, shuffled, "
            f"batches of {BATCH_SIZE}. Medians (range) of {len(rounds)} rounds of {report['batches']} batches, the "
            "sides in turn. With 0 workers jaxbrats reads by threads, PyTorch in the loop.",
            *benchmarking.footer(report["machine"], NAME),
        ]
    )


def main() -> int:
    """Times, prints and writes the report."""
    try:
        workers = [int(number) for number in _WORKERS.value]
    except ValueError as error:
        raise InputError(f"--workers takes numbers such as 0,1,2, found {','.join(_WORKERS.value)}") from error
    with tempfile.TemporaryDirectory() as temporary:
        cases = write_cases(pathlib.Path(temporary), _CASES.value)
        report = {
            "machine": benchmarking.machine(("numpy", "grain", "monai", "torch")),
            "cases": len(cases),
            "batches": _BATCHES.value,
            **measure(cases, workers, _BATCHES.value, _ROUNDS.value),
        }
    report["ratio"] = compare(report["volumes_per_second"], workers)
    benchmarking.write(NAME, report, as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], NAME, sys.argv[1:]))
