"""The stream of batches: its order, its share per process, resuming, padding, and workers that fail or die."""

import collections
import itertools
import math
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbrats.data import loader
from jaxbrats.data.arrays import ArrayCase, identified
from jaxbrats.data.loader import epoch_order, loader_state, training_batches, validation_batches
from jaxbrats.system.errors import InputError

SHAPE = (2, 3, 4)


def write_cases(folder: pathlib.Path, count: int) -> list[ArrayCase]:
    """Case i has the value i in every voxel of the image and i % 4 in the mask."""
    cases = []
    for i in range(count):
        case = ArrayCase(f"case{i}", f"patient{i}", folder / f"image{i}.npy", folder / f"mask{i}.npy")
        np.save(case.image, np.full((*SHAPE, 2), i, np.float32))
        np.save(case.mask, np.full(SHAPE, i % 4, np.uint8))
        cases.append(case)
    return cases


@pytest.fixture
def cases(tmp_path):
    return write_cases(tmp_path, 7)


def take(count: int, cases, **arguments) -> list[list[int]]:
    """Case numbers of the first batches; checks that images and labels are those of the cases."""
    with training_batches(cases, **arguments) as batches:
        taken = list(itertools.islice(batches, count))
    for batch in taken:
        assert batch["image"].dtype == np.float32
        assert batch["labels"].dtype == np.uint8
        assert batch["index"].dtype == np.int32
        rows = len(batch["index"])
        assert batch["image"].shape == (rows, *SHAPE, 2)
        assert batch["labels"].shape == (rows, *SHAPE)
        assert (batch["image"] == batch["index"].reshape(-1, 1, 1, 1, 1)).all()
        assert (batch["labels"] == (batch["index"] % 4).reshape(-1, 1, 1, 1)).all()
    return [batch["index"].tolist() for batch in taken]


class TestOrder:
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
    def test_every_case_once_an_epoch_in_full_batches(self, cases, batch_size):
        count = math.ceil(5 * 7 / batch_size)
        batches = take(count, cases, batch_size=batch_size, seed=0)
        assert {len(batch) for batch in batches} == {batch_size}
        stream = [case for batch in batches for case in batch]
        epochs = [tuple(stream[7 * epoch : 7 * (epoch + 1)]) for epoch in range(5)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len(set(epochs)) == 5

    def test_seed(self, cases):
        first = take(7, cases, batch_size=2, seed=5)
        assert first == take(7, cases, batch_size=2, seed=5)
        # An epoch of one seed is not an epoch of the next.
        assert first != take(7, cases, batch_size=2, seed=6)
        assert all((epoch_order(50, 5, epoch + 1) != epoch_order(50, 6, epoch)).any() for epoch in range(5))

    def test_order_stays_as_it_is_from_version_to_version(self):
        # A run that is resumed with a later version of anything must go on with the same order.
        assert epoch_order(10, seed=0, epoch=0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
        assert epoch_order(10, seed=0, epoch=1).tolist() == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]

    def test_all_orders_are_equally_likely(self):
        counts = collections.Counter(tuple(epoch_order(4, 3, epoch)) for epoch in range(4800))
        assert len(counts) == 24
        chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
        assert chi_squared < 49.7  # 0.1 % of chi-squared with 23 degrees of freedom

    def test_batch_larger_than_the_cohort(self, tmp_path):
        batches = take(3, write_cases(tmp_path, 2), batch_size=4, seed=0)
        assert all(sorted(batch[:2]) == [0, 1] and sorted(batch[2:]) == [0, 1] for batch in batches)

    @pytest.mark.parametrize("start", [1, 3, 4, 100])
    def test_starting_later_is_skipping(self, cases, start):
        whole = take(start + 3, cases, batch_size=3, seed=1)
        assert take(3, cases, batch_size=3, seed=1, start_batch=start) == whole[start:]

    def test_starting_very_late_reads_nothing_of_before(self, cases):
        batch = 10**12
        positions = range(3 * batch, 3 * batch + 3)
        expected = [int(epoch_order(7, 1, position // 7)[position % 7]) for position in positions]
        assert take(1, cases, batch_size=3, seed=1, start_batch=batch) == [expected]

    def test_prefetching_does_not_change_it(self, cases):
        assert take(9, cases, batch_size=2, seed=0, prefetch=1) == take(9, cases, batch_size=2, seed=0, prefetch=8)

    @settings(max_examples=25, deadline=None)
    @given(
        share=st.integers(1, 3), count=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32), start=st.integers(0, 20)
    )
    def test_processes_together_are_one(self, tmp_path_factory, share, count, seed, start):
        cases = write_cases(tmp_path_factory.mktemp("cases"), 5)
        arguments = {"batch_size": share * count, "seed": seed, "start_batch": start}
        parts = [take(3, cases, **arguments, process_index=i, process_count=count) for i in range(count)]
        joined = [list(itertools.chain(*rows)) for rows in zip(*parts, strict=True)]
        assert joined == take(3, cases, **arguments)


class TestValidation:
    def test_every_case_once_and_the_rest_marked(self, cases):
        with validation_batches(cases, batch_size=3) as batches:
            batches = list(batches)
        assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
        assert [batch["valid"].tolist() for batch in batches] == [[True] * 3, [True] * 3, [True, False, False]]
        assert (batches[2]["image"][0] == 6).all()
        assert (batches[2]["labels"][0] == 2).all()
        assert all(batch["valid"].dtype == bool for batch in batches)

    def test_no_padding_where_the_batch_divides(self, cases):
        with validation_batches(cases, batch_size=7) as batches:
            (batch,) = batches
        assert batch["valid"].all()

    def test_fewer_cases_than_the_batch(self, cases):
        with validation_batches(cases[:2], batch_size=5) as batches:
            (batch,) = batches
        assert batch["index"].tolist() == [0, 1, 0, 1, 0]
        assert batch["valid"].tolist() == [True, True, False, False, False]

    def test_processes_share_each_batch(self, cases):
        seen = []
        for process in range(2):
            with validation_batches(cases, batch_size=4, process_index=process, process_count=2) as batches:
                batches = list(batches)
            assert [len(batch["index"]) for batch in batches] == [2, 2]
            seen += [case for batch in batches for case in batch["index"][batch["valid"]].tolist()]
        assert sorted(seen) == list(range(7))

    def test_ends_for_good(self, cases):
        batches = validation_batches(cases, batch_size=7)
        next(batches)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(batches)
        batches.close()


class TestPosition:
    def test_tells_other_data_apart(self, cases):
        cases = identified(cases)
        position = loader_state(cases, seed=3)
        assert position == loader_state(list(cases), seed=3)
        assert position["seed"] == 3
        assert position["cases"] == 7
        assert all(
            loader_state(other, seed) != position
            for other, seed in ((cases, 4), (cases[:6], 3), (cases[::-1], 3), ([*cases[:6], cases[0]], 3))
        )
        np.save(cases[0].mask, np.full(SHAPE, 3, np.uint8))
        assert loader_state(identified(cases), seed=3) != position
        np.save(cases[0].mask, np.zeros(SHAPE, np.uint8))
        assert loader_state(identified(cases), seed=3) == position

    @pytest.mark.parametrize("workers", [0, 1])
    def test_refuses_an_array_that_was_written_since_it_was_identified(self, cases, workers):
        cases = identified(cases)
        np.save(cases[5].mask, np.ones(SHAPE, np.uint8))  # as it was, at another time
        os.utime(cases[5].mask, ns=(1, 1))
        with (
            training_batches(cases, batch_size=7, seed=0, workers=workers) as batches,
            pytest.raises(InputError, match=r"case case5: .*mask5.npy: was written by something else while it was in"),
        ):
            next(batches)


class TestRefusals:
    @pytest.mark.parametrize("arguments", [{"batch_size": 3, "process_count": 2}, {"batch_size": 0}])
    def test_batch_that_cannot_be_shared(self, cases, arguments):
        with pytest.raises(InputError, match="cannot be divided"):
            training_batches(cases, seed=0, **arguments)

    @pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": 0, "workers": -1}, {"seed": 0, "prefetch": 0}])
    def test_arguments_out_of_range(self, cases, arguments):
        with pytest.raises(InputError, match="expected"):
            training_batches(cases, batch_size=1, **arguments)

    def test_shapes_are_checked_before_anything_is_read(self, cases):
        np.save(cases[4].image, np.zeros((2, 3, 4, 3), np.float32))
        with pytest.raises(InputError, match=r"case case4: .*image4.npy: has shape \(2, 3, 4, 3\)"):
            training_batches(cases, batch_size=2, seed=0)

    def test_a_bad_case_is_named(self, cases):
        np.save(cases[4].image, np.full((*SHAPE, 2), np.nan, np.float32))
        with training_batches(cases, batch_size=2, seed=0) as batches, pytest.raises(InputError) as caught:
            for _ in range(4):
                next(batches)
        assert str(caught.value).startswith(f"case case4: {cases[4].image}: holds 48 values that are NaN")

    def test_a_defect_keeps_its_cause_and_names_the_cases(self, cases, monkeypatch):
        monkeypatch.setattr(loader, "read_labels", lambda case, out: 1 / 0)
        with training_batches(cases, batch_size=7, seed=0) as batches, pytest.raises(RuntimeError) as caught:
            next(batches)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert "case4" in str(caught.value)

    def test_too_little_shared_memory(self, cases, monkeypatch, tmp_path):
        monkeypatch.setattr(loader, "_SHARED_MEMORY", tmp_path)
        monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
        with pytest.raises(InputError, match=r"shared memory.*data\.workers=0"):
            training_batches(cases, batch_size=7, seed=0, workers=1)


class TestWorkers:
    def test_same_batches_and_a_killed_worker_is_reported(self, cases):
        with training_batches(cases, batch_size=3, seed=2, start_batch=5, workers=2, prefetch=2) as batches:
            seen = [batch["index"].tolist() for batch in itertools.islice(batches, 8)]
            assert seen == take(8, cases, batch_size=3, seed=2, start_batch=5)
            batch = next(batches)
            assert (batch["image"] == batch["index"].reshape(-1, 1, 1, 1, 1)).all()
            assert type(batch["image"]) is np.ndarray
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            # Neither Ctrl-C nor a batch system's warning is theirs to act on.
            for worker in workers:
                os.kill(worker.pid, signal.SIGINT)
                os.kill(worker.pid, signal.SIGTERM)
            next(batches)
            os.kill(workers[1].pid, signal.SIGKILL)
            with pytest.raises(
                InputError, match=r"exit code -9, before batch \d+ \(case.*, case.*, case.*\) came"
            ) as caught:
                for _ in range(20):
                    next(batches)
            assert "--config.data.workers=0" in str(caught.value)
        assert multiprocessing.active_children() == []

    def test_a_bad_case_is_named_through_the_process(self, cases):
        content = cases[4].image.read_bytes()
        with training_batches(cases, batch_size=2, seed=0, workers=1) as batches, pytest.raises(InputError) as caught:
            cases[4].image.write_bytes(content[:-3])
            for _ in range(4):
                next(batches)
        assert str(caught.value).startswith(f"case case4: {cases[4].image}: is truncated")
        assert caught.value.case == "case4"
        assert multiprocessing.active_children() == []

    def test_workers_end_with_a_killed_parent(self, cases, tmp_path):
        program = tmp_path / "program.py"
        program.write_text(
            "import multiprocessing, pathlib, sys, time\n"
            "from jaxbrats.data.arrays import ArrayCase\n"
            "from jaxbrats.data.loader import training_batches\n"
            "if __name__ == '__main__':\n"
            "    folder = pathlib.Path(sys.argv[1])\n"
            "    case = ArrayCase('a', 'a', folder / 'image0.npy', folder / 'mask0.npy')\n"
            "    batches = training_batches([case], batch_size=1, seed=0, workers=1)\n"
            "    next(batches)\n"
            "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
            "    time.sleep(60)\n"
        )
        with subprocess.Popen(
            [sys.executable, program, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            worker = int(process.stdout.readline())
            process.kill()
            for _ in range(100):
                if not _runs(worker):
                    break
                time.sleep(0.1)
            assert not _runs(worker)


def _runs(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_flags_of_the_host_stay_as_they_are(cases):
    parsed = flags.FLAGS.is_parsed()
    flags.FLAGS.unparse_flags()
    try:
        with training_batches(cases, batch_size=2, seed=0, workers=1) as batches:
            next(batches)
            assert not flags.FLAGS.is_parsed()
    finally:
        if parsed:
            flags.FLAGS.mark_as_parsed()
