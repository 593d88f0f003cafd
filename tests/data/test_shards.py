"""Shards of a preprocessing: together they are what one run makes, in whatever order and however often they run."""

import json
import shutil
import threading

import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.data import cohort
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.manifest import read_manifest
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.shards import Shard, merge
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import fingerprint

SETTINGS = Preprocessing(("t2f",), (8, 8, 8), min_tumour=0.0)


@pytest.fixture(scope="module")
def five_cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("five") / "raw"
    write_cohort(folder, 5, (16, 16, 16), seed=0, workers=1)
    return folder


def run(raw, out, shard, settings=SETTINGS):
    return preprocess_cohort(raw, out, settings, workers=1, progress=False, shard=Shard.parse(shard))


def contents(out):
    arrays = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.npy")}
    manifest = json.loads((out / "manifest.json").read_text())
    for record in manifest["cases"].values():
        record.pop("stat", None)
    return arrays, json.dumps({key: value for key, value in manifest.items() if key != "raw"})


def test_the_text_of_a_shard():
    assert str(Shard.parse("2/4")) == "2/4"
    assert Shard.parse("2/4").share("abcdefghij") == "bfj"
    for text in ("0/4", "5/4", "1/0", "1", "a/b", "-1/4", ""):
        with pytest.raises(InputError, match=r"expected i/n with i from 1 to n"):
            Shard.parse(text)


@pytest.mark.parametrize("order", [("1/3", "2/3", "3/3"), ("3/3", "1/3", "2/3")])
def test_shards_together_are_one_run(five_cases, tmp_path, order):
    whole, out = tmp_path / "whole", tmp_path / "shards"
    run(five_cases, whole, "1/1")
    left = list(order)
    for shard in order:
        made = run(five_cases, out, shard)
        left.remove(shard)
        assert made["finished"]
        assert made["missing"] == [f"{other} (not started)" for other in sorted(left)]
        assert len(made["cases"]) == (1 if shard == "3/3" else 2)
    assert contents(out) == contents(whole)
    assert [path.name for path in out.glob("*.json")] == ["manifest.json"]


def test_shards_at_the_same_time(five_cases, tmp_path, monkeypatch):
    """All shards are in the midst of their work at once, and end at once."""
    everyone = threading.Barrier(3, timeout=20)
    work = cohort._work

    def together(task):
        if task.case.name in first:
            everyone.wait()
        return work(task)

    run(five_cases, tmp_path / "whole", "1/1")
    first = list(read_manifest(tmp_path / "whole")["cases"])[:3]
    monkeypatch.setattr(cohort, "_work", together)
    out = tmp_path / "out"
    threads = [threading.Thread(target=run, args=(five_cases, out, f"{index}/3")) for index in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(out) == contents(tmp_path / "whole")


def test_a_missing_shard_is_named(five_cases, tmp_path):
    run(five_cases, tmp_path, "1/3")
    with pytest.raises(
        InputError, match=r"not finished: missing shards 2/3 \(not started\), 3/3 \(not started\)\. Run "
    ):
        read_dataset(tmp_path)
    run(five_cases, tmp_path, "2/3")
    part = json.loads((tmp_path / "manifest.2-of-3.json").read_text())
    (tmp_path / "manifest.2-of-3.json").write_text(json.dumps(part | {"finished": False}))  # as a kill leaves it
    run(five_cases, tmp_path, "3/3")
    with pytest.raises(InputError, match=r"missing shard 2/3 \(not finished\)\. Run jaxbrats preprocess with --shard"):
        read_dataset(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert run(five_cases, tmp_path, "2/3")["missing"] == []
    assert len(read_dataset(tmp_path).cases) == 5
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == stamps


def test_a_run_without_shards_takes_over(five_cases, tmp_path):
    run(five_cases, tmp_path, "1/3")
    run(five_cases, tmp_path, "2/3")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(run(five_cases, tmp_path, "1/1")["cases"]) == 5
    assert stamps.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}.items()
    assert len(read_dataset(tmp_path).cases) == 5
    assert [path.name for path in tmp_path.glob("*.json")] == ["manifest.json"]


def test_one_shard_again_in_a_finished_folder(five_cases, tmp_path):
    run(five_cases, tmp_path, "1/1")
    before = contents(tmp_path)
    damaged = tmp_path / "images" / f"{list(read_manifest(tmp_path)['cases'])[1]}.npy"
    damaged.write_bytes(b"")
    assert run(five_cases, tmp_path, "2/3")["missing"] == []
    assert contents(tmp_path) == before


def test_a_cohort_that_grew_between_shards(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_cohort(raw, 2, (16, 16, 16), seed=0, workers=1)
    run(raw, out, "1/2")
    write_cohort(raw, 3, (16, 16, 16), seed=0, workers=1)
    assert run(raw, out, "2/2")["missing"] == ["2/2 (of another cohort than 1/2)"]
    assert run(raw, out, "1/2")["missing"] == []
    assert len(read_dataset(out).cases) == 3


def test_cases_that_are_gone_are_deleted_with_the_last_shard(five_cases, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_cohort(raw, 3, (16, 16, 16), seed=0, workers=1)
    run(raw, out, "1/1")
    gone = min(raw.iterdir())
    gone.rename(tmp_path / "elsewhere")
    run(raw, out, "1/2")
    run(raw, out, "2/2")
    assert not (out / "images" / f"{gone.name}.npy").exists()
    assert len(read_dataset(out).cases) == len(list(out.glob("images/*.npy"))) == 2


def test_shards_that_do_not_go_together_are_refused(five_cases, tmp_path):
    run(five_cases, tmp_path, "1/3")
    with pytest.raises(InputError, match=r"was started with 3 shards, so shard 1/2 does not belong to it"):
        run(five_cases, tmp_path, "1/2")
    with pytest.raises(InputError, match=r"1/3 was made with normalization = minmax, shard 2/3 would be made with zs"):
        run(five_cases, tmp_path, "2/3", Preprocessing(("t2f",), (8, 8, 8), "zscore", 0.0))
    (tmp_path / "manifest.1-of-2.json").write_bytes((tmp_path / "manifest.1-of-3.json").read_bytes())
    with pytest.raises(InputError, match=r"in shards of 2 and of 3, which do not go together"):
        read_dataset(tmp_path)


def test_two_runs_of_one_shard_and_a_whole_run_beside_shards_are_refused(five_cases, tmp_path, monkeypatch):
    started, goes_on = threading.Event(), threading.Event()
    work = cohort._work

    def slow(task):
        started.set()
        goes_on.wait(20)
        return work(task)

    monkeypatch.setattr(cohort, "_work", slow)
    first = threading.Thread(target=run, args=(five_cases, tmp_path, "1/3"))
    first.start()
    assert started.wait(20)
    for shard, message in (("1/3", "a preprocess run of shard 1/3 is at work"), ("1/1", "is at work in this folder")):
        with pytest.raises(InputError, match=message):
            run(five_cases, tmp_path, shard)
    goes_on.set()
    first.join()


def test_merging_keeps_the_order_of_the_cohort():
    names = [f"case{number}" for number in range(7)]

    def part(shard):
        cases = {name: {"status": "kept", "of": str(shard)} for name in shard.share(names)}
        return {
            "version": 1,
            "settings": {},
            "frame": None,
            "raw": "",
            "finished": True,
            "cohort": fingerprint(names),
            "cases": cases,
        }

    parts = {Shard(index, 3): part(Shard(index, 3)) for index in (1, 2, 3)}
    assert list(merge(parts, None)["cases"]) == names
    before = {"finished": True, "settings": {}, "frame": None, "cases": {name: {"status": "skipped"} for name in names}}
    merged = merge({Shard(2, 3): parts[Shard(2, 3)]}, before)
    assert list(merged["cases"]) == names
    assert [record["status"] for record in merged["cases"].values()].count("kept") == 2
    assert merge({Shard(2, 3): parts[Shard(2, 3)]}, before | {"settings": {"crop": 1}})["missing"] == [
        "1/3 (not started)",
        "3/3 (not started)",
    ]


def test_the_command(five_cases, tmp_path, capsys):
    arguments = ["preprocess", f"--raw={five_cases}", f"--out={tmp_path}", "--crop=8,8,8", "--min_tumour=0"]
    assert commands.run([*arguments, "--workers=1", "--shard=2/2"]) == 0
    assert capsys.readouterr().out == (
        f"2 cases in shard 2/2: 2 kept, 0 skipped, 0 failed. Arrays in {tmp_path}\n"
        "still missing: shard 1/2 (not started)\n"
    )
    assert commands.run([*arguments, "--workers=1", "--shard=1/2"]) == 0
    assert "not yet there" not in capsys.readouterr().out
    assert np.load(next(tmp_path.glob("images/*.npy"))).shape == (8, 8, 8, 3)
    assert commands.run([*arguments, "--shard=3/2"]) == 1
    assert "--shard=3/2: expected i/n" in capsys.readouterr().err


def test_arrays_of_a_case_that_is_withdrawn_between_shards_are_deleted(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_cohort(raw, 4, (16, 16, 16), seed=0, workers=1)
    made = [name for name, record in run(raw, out, "2/2")["cases"].items() if record["status"] == "kept"]
    shutil.rmtree(raw / made[0])
    run(raw, out, "1/2")
    assert run(raw, out, "2/2")["missing"] == []
    kept = {f"{name}.npy" for name, record in read_manifest(out)["cases"].items() if record["status"] == "kept"}
    assert made[0] not in kept and {path.name for path in (out / "images").glob("*.npy")} == kept


def test_a_shard_that_sees_part_of_the_cohort_takes_nothing_of_another_away(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_cohort(raw, 4, (16, 16, 16), seed=0, workers=1)
    run(raw, out, "2/2")
    last = max(path.name for path in raw.iterdir() if path.is_dir())
    (raw / last).rename(tmp_path / last)  # as where it is still being copied
    run(raw, out, "1/2")
    (tmp_path / last).rename(raw / last)
    assert run(raw, out, "1/2")["missing"] == []
    assert len(read_dataset(out).cases) == 4 and len(list((out / "images").glob("*.npy"))) == 4
