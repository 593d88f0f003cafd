"""The logic of the benchmarks: turns, ratios, agreement; no timing is asserted."""

import numpy as np
import pytest

from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import find_cases
from jaxbrats.system.errors import InputError

MACHINE = {"processor": "one", "cpus": 2, "python": "3", "versions": {"jax": "0"}}


def test_sides_take_turns_and_begin_in_turn(capsys):
    import benchmarking

    order = []
    sides = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    rounds = benchmarking.in_turns(sides, 4)
    assert "".join(order) == "abcbcacababc"
    assert rounds[1] == {"b": 4.0, "c": 5.0, "a": 6.0}
    assert list(rounds[1]) == ["a", "b", "c"]


def test_ratios_are_of_the_same_round():
    import benchmarking

    rounds = [{"ours": 1.0, "peer": 4.0}, {"ours": 10.0, "peer": 20.0}, {"ours": 2.0, "peer": 6.0}]
    assert benchmarking.ratio(rounds, "peer", "ours") == {"median": 3.0, "least": 2.0, "greatest": 4.0}
    assert benchmarking.ratio_text(benchmarking.ratio(rounds, "peer", "ours")) == "3.00 (2.00 to 4.00)"
    assert benchmarking.medians(rounds) == {"ours": 2.0, "peer": 6.0}
    assert benchmarking.range_of(rounds, "ours", 1) == "2.0 (1.0 to 10.0)"


def test_each_side_has_a_process_on_one_core():
    import os

    import benchmarking

    core = max(os.sched_getaffinity(0))
    with benchmarking.processes(("a", "b"), one_core=True) as run:
        assert run["a"](os.getpid) not in (run["b"](os.getpid), os.getpid())
        assert run["a"](os.sched_getaffinity, 0) == run["b"](os.sched_getaffinity, 0) == {core}
        assert run["a"](os.getenv, "OMP_NUM_THREADS") == "1"
    assert len(os.sched_getaffinity(0)) >= 1 and core in os.sched_getaffinity(0)


@pytest.mark.parametrize("normalization", ["minmax", "zscore"])
def test_monai_preprocesses_alike(tiny_cohort, tmp_path, normalization):
    pytest.importorskip("monai")
    import benchmark_preprocess as benchmark

    case = find_cases(tiny_cohort).cases[0]
    settings = Preprocessing(("t2f", "t1n"), (8, 16, 12), normalization, 0.0)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert benchmark.with_jaxbrats(case, settings, ours) > 0
    assert benchmark.with_monai(case, settings, "LPS", theirs) > 0
    assert benchmark.largest_difference(case, ours, theirs) < 1e-5
    mask = benchmark.mask_path(theirs, case.name)
    np.save(mask, 3 - np.load(mask))
    with pytest.raises(InputError, match="both sides give different labels"):
        benchmark.largest_difference(case, ours, theirs)


def test_preprocessing_report():
    pytest.importorskip("monai")
    import benchmark_preprocess as benchmark

    seconds = [{"jaxbrats": 0.1, "MONAI": 0.4}, {"jaxbrats": 0.1, "MONAI": 0.5}, {"jaxbrats": 0.1, "MONAI": 0.3}]
    text = benchmark.as_markdown(
        {
            "machine": MACHINE,
            "synthetic": True,
            "normalization": "minmax",
            "voxels": [20, 24, 18],
            "largest_difference": 0.0,
            "seconds": seconds,
            "ratio": benchmark.benchmarking.ratio(seconds, "MONAI", "jaxbrats"),
        }
    )
    assert "| jaxbrats | 10.00 | 0.100 (0.100 to 0.100) |" in text and "| MONAI | 2.50 |" in text
    assert "jaxbrats is 4.00 (3.00 to 5.00) times as fast" in text


def test_all_loaders_deliver_the_files(tmp_path):
    pytest.importorskip("monai")
    import benchmark_loader as benchmark

    cases = benchmark.write_cases(tmp_path, 4, (6, 5, 4, 3))
    for side in benchmark.SIDES:
        benchmark.check_agreement(side, cases, 0)
    assert benchmark.rate("MONAI numpy.load", cases, 0, 3) > 0 and benchmark.rate("jaxbrats", cases, 0, 3) > 0
    swapped = [cases[0], cases[1], cases[3], cases[2]]
    swapped[2] = type(cases[2])("case_2", "2", cases[3].image, cases[2].mask)
    with benchmark.batches_of("jaxbrats", swapped, 0, shuffled=False) as batches:
        images = np.concatenate([image for image, _ in batches])
    assert np.array_equal(images[2], np.load(cases[3].image))


def test_loader_ratios_are_best_against_best_and_with_the_same_workers():
    pytest.importorskip("monai")
    import benchmark_loader as benchmark

    values = {
        ("jaxbrats", 0): 90.0,
        ("jaxbrats", 2): 30.0,
        ("MONAI LoadImaged", 0): 10.0,
        ("MONAI LoadImaged", 2): 15.0,
    }
    values |= {("MONAI numpy.load", 0): 45.0, ("MONAI numpy.load", 2): 20.0}
    values |= {(benchmark.WITNESS, 0): 80.0, (benchmark.WITNESS, 2): 25.0}
    rounds = [{benchmark.label(*key): value for key, value in values.items()}]
    ratio = benchmark.compare(rounds, [0, 2])
    assert ratio["best"]["median"] == 2.0 and ratio["best"]["peer"] == "MONAI numpy.load, 0 workers"
    assert ratio["same_workers"]["2"]["median"] == 1.5
    report = {
        "machine": MACHINE,
        "cases": 4,
        "batches": 3,
        "volumes_per_second": rounds,
        "workers": [0, 2],
        "ratio": ratio,
    }
    text = benchmark.as_markdown(report)
    columns = ("30.0 (30.0 to 30.0)", "15.0 (15.0 to 15.0)", "20.0 (20.0 to 20.0)", "25.0 (25.0 to 25.0)")
    assert f"| 2 | {' | '.join(columns)} | 1.50 (1.50 to 1.50) |" in text
    assert "jaxbrats, 0 workers delivers 2.00 (2.00 to 2.00) times as many as MONAI numpy.load, 0 workers" in text


def test_a_run_that_does_not_start_is_told(tmp_path, monkeypatch):
    import benchmark_start as benchmark

    monkeypatch.setenv("XLA_FLAGS", "")  # one device, which any batch fits
    monkeypatch.setenv("PATH", str(tmp_path))  # without a compiler, which would take most of the time

    with pytest.raises(InputError, match=r"the run ended without a step: .*is not a folder"):
        benchmark.seconds_to_first_step(tmp_path / "none", tmp_path / "run", tmp_path / "cache")


def test_a_start_in_words():
    import benchmark_start as benchmark

    text = benchmark.as_markdown(
        {
            "machine": MACHINE,
            "warm_starts": 2,
            "seconds": [{"cold": 30.0, "warm": 6.0}],
            "ratio": {"median": 5.0, "least": 5.0, "greatest": 5.0},
        }
    )
    assert "| warm | 6.0 (6.0 to 6.0) |" in text and "5.00 (5.00 to 5.00) times sooner" in text


def test_a_case_is_learnt(tiny_data, capsys):
    import overfit_one_case as experiment

    from jaxbrats.config.settings import Data, Model, Settings
    from jaxbrats.data.arrays import read_image, read_labels

    case = read_dataset(tiny_data).cases[0]
    data = Data(modalities=("t2f", "t1c"), crop=(16, 16, 16))
    model = Model(features=(8,), norm="instance", dropout=(0.0,))
    settings = Settings(num_epochs=60, learning_rate=1e-2, schedule="cosine", conv="direct", data=data, model=model)
    curve = experiment.overfit(read_image(case), read_labels(case), settings, 0.6, 5)
    assert [row["step"] for row in curve] == list(range(5, curve[-1]["step"] + 1, 5))
    assert curve[-1]["mean"] > 0.6 >= max(row["mean"] for row in curve[:-1])
    assert np.isclose(curve[-1]["mean"], np.mean([curve[-1][name] for name in ("WT", "TC", "ET")]))
    settings_row = {"crop": [16] * 3, "features": [8], "learning_rate": 0.02, "steps": 60, "seed": 0}
    report = {"machine": MACHINE, "synthetic": True, "settings": settings_row}
    assert "0.9 was not reached" in experiment.as_markdown({**report, "curve": curve})
    best = {**curve[-1], "mean": 0.95, "seconds": 12.0}
    assert "Above 0.9 after 12 s" in experiment.as_markdown({**report, "curve": [*curve, best]})
