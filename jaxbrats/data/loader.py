"""From preprocessed cases to an endless, seeded stream of batches.

The stream is every case once in a random order, then every case once in another order, and so on; batch k is the
positions k B to (k + 1) B - 1 of it. So every batch is full, no case is ever dropped, and any batch can be made from
its number alone: resuming is starting at another number, and neither worker processes nor several hosts change what a
batch holds. Grain (https://google-grain.readthedocs.io) reads ahead, by threads or by processes.
"""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from jaxbrats.data.arrays import ArrayCase, read_image, read_labels, read_patch, read_soft_labels
from jaxbrats.data.boxes import CropBox, crop
from jaxbrats.data.dataset import array_shape, array_shapes
from jaxbrats.data.labels import SHARES, most_covered
from jaxbrats.data.patches import Size, patch_start
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import fingerprint
from jaxbrats.system.processes import end_with_parent

Batch = dict[str, np.ndarray]

_SHARED_MEMORY = pathlib.Path("/dev/shm")


def training_batches(
    cases: Sequence[ArrayCase],
    *,
    batch_size: int,
    seed: int,
    patch: Size | None = None,
    foreground: float = 0.0,
    soft: bool = False,
    start_batch: int = 0,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
) -> "BatchIterator":
    """Endless batches for training, the cases in a new order each epoch.

    Args:
        cases: What to train on.
        batch_size: Cases in a batch, over all processes.
        seed: Random seed of the order and of the patches, not negative.
        patch: Size (X, Y, Z) of what is read of each array, with zeros around one that is smaller; None for the whole.
        foreground: Probability that a patch is centred on tumour, see `patches.patch_start`.
        soft: Whether the labels are soft, (B, X, Y, Z, 3); see `arrays.read_soft_labels`.
        start_batch: Number of the first batch to yield; nothing is read of those before.
        workers: Processes that read; 0 reads by threads of this one. Threads are several times faster: reading files
            holds no interpreter lock, and what processes hand over lies in shared memory that is new each time.
        process_index: Which of `process_count` this is.
        process_count: Hosts that share each batch: each yields its own `batch_size / process_count` rows, in order.
        prefetch: Batches read ahead.

    Returns:
        Iterator over 'image' (B, X, Y, Z, C) float32, 'labels' (B, X, Y, Z) uint8 and 'index' (B,) int32, the places of
        the cases in `cases`. Close it, or use it in a `with` statement.

    Raises:
        InputError: the cases have unusable files or, without a patch, different shapes, or `batch_size` does not divide
            by `process_count`; while iterating, a file that cannot be used, or a worker process that died.
    """
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, found {seed}")
    rows = _rows(batch_size, process_index, process_count)
    shapes = array_shapes(cases) if patch else [array_shape(cases)] * len(cases)
    size = (*(patch or shapes[0][:3]), shapes[0][3])
    stream = _Stream(tuple(cases), tuple(shapes), size, batch_size, rows, seed, foreground, soft, shared=workers > 0)
    return BatchIterator(stream, start_batch, workers, prefetch)


def validation_batches(
    cases: Sequence[ArrayCase],
    *,
    batch_size: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
) -> "BatchIterator":
    """One pass over all cases in their order.

    As `training_batches`, with a further entry 'valid' (B,) bool: the last batch is filled up with cases from the start
    again, for which it is False.
    """
    rows = _rows(batch_size, process_index, process_count)
    size = array_shape(cases)
    shapes = (size,) * len(cases)
    stream = _Stream(tuple(cases), shapes, size, batch_size, rows, None, 0.0, False, shared=workers > 0)
    return BatchIterator(stream, 0, workers, prefetch)


def loader_state(cases: Sequence[ArrayCase], seed: int) -> dict[str, Any]:
    """What, besides the number of the next batch, a training stream of `identified` cases follows from; JSON-able, to
    compare on resuming.
    """
    return {"seed": seed, "cases": len(cases), "fingerprint": fingerprint(case.content for case in cases)}


@functools.lru_cache(maxsize=8)
def epoch_order(num_cases: int, seed: int, epoch: int) -> np.ndarray:
    """A random order of the cases for one epoch.

    Grain's own shuffle takes milliseconds a case when there are few of them. Raw generator bits are sorted instead of
    calling `Generator.permutation` because NumPy promises never to change the former (NEP 19).

    Returns:
        int64 (num_cases,), each of 0 to num_cases - 1 once.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(num_cases)
    order = np.argsort(bits, kind="stable")
    order.setflags(write=False)
    return order


class BatchIterator(Iterator[Batch]):
    """Yields the batches of a stream, read ahead; see `training_batches`."""

    def __init__(self, stream: "_Stream", start: int, workers: int, prefetch: int) -> None:
        if workers < 0 or prefetch < 1:
            raise InputError(f"expected 0 or more workers and 1 or more prefetched, found {workers} and {prefetch}")
        self._stream = stream
        self._next = start
        threads = 0 if workers else prefetch
        batches = grain.MapDataset.source(stream)[start:].to_iter_dataset(grain.ReadOptions(threads, threads))
        if workers:
            # Grain buffers twice, in the worker and here; and a batch is in the making on each side.
            ahead = math.ceil(prefetch / (2 * workers))
            _check_shared_memory(stream.nbytes * (workers * (2 * ahead + 2) + 2))
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
            batches = batches.mp_prefetch(options, worker_init_fn=_set_up_worker)
        with _flags_parsed():
            self._batches = iter(batches)

    def __next__(self) -> Batch:
        try:
            with _flags_parsed():
                batch = next(self._batches)
        except RuntimeError as error:
            ended, found, _ = str(error).partition(". Search the logs")
            if not found:
                raise
            raise InputError(
                f"{ended}, before batch {self._next} ({self._stream.names(self._next)}) came",
                hint="If memory ran out take fewer workers, or --config.data.workers=0 for none",
            ) from error
        self._next += 1
        # From a worker they are grain's own class of array over shared memory.
        return {name: np.asarray(array) for name, array in batch.items()}

    def close(self) -> None:
        """Stops reading and ends the worker processes."""
        self._batches.close()

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Random access to batches by number, as grain asks of a source.

    Attributes:
        cases: All cases.
        shapes: (X, Y, Z, C) of each case's array.
        size: (X, Y, Z, C) of what is read of it.
        batch_size: Rows of a whole batch.
        rows: Those that this process reads.
        seed: Random seed of order and patches; None is in order, and once.
        foreground: Probability that a patch is centred on tumour.
        soft: Whether the labels are soft.
        shared: Whether to put batches in shared memory, from which another process takes them without a copy.
    """

    cases: tuple[ArrayCase, ...]
    shapes: tuple[tuple[int, int, int, int], ...]
    size: tuple[int, int, int, int]
    batch_size: int
    rows: range
    seed: int | None
    foreground: float
    soft: bool
    shared: bool

    def __len__(self) -> int:
        return sys.maxsize if self.seed is not None else math.ceil(len(self.cases) / self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        index = self._index(number)
        allocate = grain.multiprocessing.SharedMemoryArray if self.shared else np.empty
        image = allocate((len(index), *self.size), np.float32)
        labels = allocate((*image.shape[:-1], *((len(SHARES),) if self.soft else ())), np.uint8)
        try:
            for row, case in enumerate(index):
                record = int(self._positions(number)[row])
                self._read(case, record, image[row], labels[row])
        except Exception as error:
            if self.shared:
                image.unlink_on_del()
                labels.unlink_on_del()
            if isinstance(error, InputError):
                raise
            raise RuntimeError(f"batch {number} ({self.names(number)}) could not be read: {error!r}") from error
        batch = {"image": image, "labels": labels, "index": index}
        return batch if self.seed is not None else batch | {"valid": self._positions(number) < len(self.cases)}

    def _read(self, index: int, record: int, image: np.ndarray, labels: np.ndarray) -> None:
        case, read = self.cases[index], read_soft_labels if self.soft else read_labels
        if self.size == self.shapes[index]:
            read_image(case, image)
            read(case, labels)
            return
        whole, patch = read(case), self.size[:3]
        hard = most_covered(whole) if self.soft else whole
        box = CropBox(patch_start(hard, patch, self.foreground, self.seed, record), patch, hard.shape)
        read_patch(case, box, image)
        labels[...] = crop(whole, box)

    @property
    def nbytes(self) -> int:
        """Bytes of the images and labels of a batch."""
        return len(self.rows) * math.prod(self.size[:3]) * (4 * self.size[3] + (len(SHARES) if self.soft else 1))

    def names(self, number: int) -> str:
        """Names of the cases of a batch."""
        return ", ".join(self.cases[case].name for case in self._index(number))

    def _positions(self, number: int) -> np.ndarray:
        return number * self.batch_size + np.arange(self.rows.start, self.rows.stop)

    def _index(self, number: int) -> np.ndarray:
        num_cases = len(self.cases)
        epochs, places = np.divmod(self._positions(number), num_cases)
        if self.seed is not None:
            places = [
                epoch_order(num_cases, self.seed, epoch)[place]
                for epoch, place in zip(epochs.tolist(), places, strict=True)
            ]
        return np.asarray(places, np.int32)


@contextlib.contextmanager
def _flags_parsed() -> Iterator[None]:
    """Lets grain read absl's flags, which only a program with absl's own entry point has parsed."""
    if flags.FLAGS.is_parsed():
        yield
        return
    flags.FLAGS.mark_as_parsed()
    try:
        yield
    finally:
        flags.FLAGS.unparse_flags()


def _rows(batch_size: int, process_index: int, process_count: int) -> range:
    if batch_size < 1 or batch_size % process_count:
        hint = "Choose a multiple of the number of processes"
        raise InputError(f"a batch of {batch_size} cannot be divided among {process_count} processes", hint=hint)
    share = batch_size // process_count
    return range(process_index * share, (process_index + 1) * share)


def _check_shared_memory(needed: int) -> None:
    # A worker that finds it full is killed without a word, and containers often have 64 MB.
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < needed:
        raise InputError(
            f"worker processes need {needed / 1e9:.1f} GB of shared memory, {free / 1e9:.1f} GB are free",
            file=_SHARED_MEMORY,
            hint="Set --config.data.workers=0 to read by threads, or give the container more (docker run --shm-size)",
        )


def _set_up_worker(worker: int, worker_count: int) -> None:
    """Runs first in each worker process."""
    del worker, worker_count
    # No device memory for those who only read, whatever the main program imports.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    # The terminal's Ctrl-C and the batch system's warning are for the main process, which goes on to finish its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
