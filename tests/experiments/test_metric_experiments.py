import compare_runs
import numpy as np
import pytest

from jaxbrats.commands import run_program
from jaxbrats.data.labels import SCORED
from jaxbrats.evaluation import metrics, tables
from jaxbrats.evaluation.lesions import CHALLENGES


def run(*arguments):
    return run_program(compare_runs, "compare_runs", arguments)


def table(path, offset, cases):
    tables.write_csv(
        path,
        [
            {"case": case, "region": region, "dice": 0.5 + offset + number / 100, "hd95_mm": 3.0}
            for number, case in enumerate(cases)
            for region in ("WT", "ET")
        ],
    )
    return path


def test_two_runs_compared(tmp_path, capsys):
    first, second = table(tmp_path / "a.csv", 0, "ABCDE"), table(tmp_path / "b.csv", 0.125, "ABCDEF")
    assert run(f"--first={first}", f"--second={second}", "--metric=dice", f"--out={tmp_path}/c.csv") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "| region | metric | cases | first | second | difference | 95 % interval | p |"
    assert lines[2] == "| WT | dice | 5 | 0.5200 | 0.6450 | +0.1250 | +0.1250 to +0.1250 | 0.0625 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| WT", "| ET"]
    assert f"1 cases are in {second} alone and were left out: F" in printed.err
    assert (
        (tmp_path / "c.csv")
        .read_text()
        .startswith("region,metric,n,mean_first,mean_second,difference,ci_low,ci_high,p\n")
    )


def test_runs_without_a_common_case_are_refused_in_a_line(tmp_path, capsys):
    first, second = table(tmp_path / "a.csv", 0, "AB"), table(tmp_path / "b.csv", 0, "CD")
    assert run(f"--first={first}", f"--second={second}") == 1
    assert capsys.readouterr().err == f"compare_runs: {second}: has no case and metric in common with {first}\n"


def test_the_benchmark_times_two_sides_that_agree():
    benchmark = pytest.importorskip("benchmark_metrics", reason="needs surface_distance")
    rng = np.random.default_rng(0)
    pred, ref = (np.where(rng.random((24, 20, 18)) < 0.02, rng.integers(1, 4, (24, 20, 18)), 0) for _ in range(2))
    ref[4:10, 4:10, 4:10], pred[5:10, 4:10, 4:10], ref[15:20, 12:17, 10:15] = 3, 3, 1
    for challenge, rules in CHALLENGES.items():
        theirs = benchmark.challenge_scores(pred, ref, (1.0, 1.0, 1.0), rules, SCORED)
        assert benchmark.largest_difference(metrics.score_case(pred, ref, challenge=challenge), theirs) < 1e-9
    report = benchmark.measure("tiny", pred, ref, (1.0, 1.0, 1.0), repeats=1)
    assert report["case"] == "tiny (24x20x18)"
    assert report["largest_difference"] < 1e-9 and report["speedup"]["jaxbrats, 5 regions"] == 1
    assert "| tiny (24x20x18) | " in benchmark.as_markdown(
        {"repeats": 1, "processor": "one", "python": "3", "versions": {}, "cases": [report]}
    )
