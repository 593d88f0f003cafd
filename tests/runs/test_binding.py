"""A run and its data are bound to each other by content: whatever is moved, copied or changed, no wrong number."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from run_files import files_of, invert, record_of, rewrite, scored, starts_of, without_last_step

from experiments import faults
from jaxbrats import commands, main
from jaxbrats.data.arrays import identified
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.manifest import checksum, point_to_raw
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.split import make_folds, make_split
from jaxbrats.evaluation import tables
from jaxbrats.evaluation.tables import read_summary
from jaxbrats.runs import evaluate, job
from jaxbrats.runs.evaluate import is_evaluated
from jaxbrats.runs.record import check_data, read_record
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system.errors import InputError
from jaxbrats.train.checkpoints import choose_step

VAL = ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000")
TRAINED = "BraTS-GLI-00003-000"


def evaluated(workdir: pathlib.Path, *flags: str) -> int:
    return commands.run(["evaluate", f"--workdir={workdir}", *flags])


def scores(run: pathlib.Path) -> str:
    return (run / "evaluation" / "cases.csv").read_text()


def copied(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """As `cp -r` does: with the time of the copy."""
    return pathlib.Path(shutil.copytree(source, target, copy_function=shutil.copyfile))


class TestSplit:
    def test_evaluation_is_of_the_runs_own_cases_though_the_split_was_redrawn(self, run, tiny_run):
        """Without split.json, see `TestPlace.test_data_moved_elsewhere`."""
        path = run / "data" / "split.json"
        assert json.loads(path.read_text())["val"] == list(VAL)
        rewrite(path, lambda split: split.update(train=split["val"], val=split["train"]))
        assert evaluated(run) == 0
        assert scored(run) == set(VAL)
        assert scores(run) == scores(tiny_run)
        assert is_evaluated(read_record(run), choose_step(run, "best"))

    @pytest.mark.parametrize(
        ("asked", "origin"),
        [
            ({"val_fraction": 0.5}, "drawn, 0.5 of the patients for validation, seed 0"),
            ({"split_seed": 4}, "drawn, 0.25 of the patients for validation, seed 4"),
            ({"val_fraction": 0.4, "split_seed": 4}, "drawn, 0.4 of the patients for validation, seed 4"),
            ({"fold": 1, "folds": 3, "split_seed": 2}, "fold 1 of 3, drawn with seed 2"),
        ],
    )
    def test_the_record_says_what_drew_and_that_drew(self, tiny_data, tmp_path, train, begun_only, asked, origin):
        assert train(tmp_path, data__dir=tiny_data, **{f"data__{name}": value for name, value in asked.items()}) == 0
        record, cases = record_of(tmp_path), read_dataset(tiny_data).cases
        patients = {case.name: case.patient for case in cases}
        volumes = {case.name: sum(case.record["label_voxels"][1:]) for case in cases}
        seed = asked.get("split_seed", 0)
        if "fold" in asked:
            expected = make_folds(patients, volumes, asked["folds"], asked["fold"], seed)
        else:
            expected = make_split(patients, volumes, asked.get("val_fraction", 0.25), seed)
        assert (record["data"]["train"], record["data"]["val"]) == (list(expected.train), list(expected.val))
        assert record["data"]["split"] == origin
        assert {name: record["settings"]["data"][name] for name in asked} == asked
        assert json.loads((tiny_data / "split.json").read_text())["val"] == list(VAL)

    def test_a_record_as_config_takes_its_patients_though_the_split_was_redrawn(
        self, run, tiny_cohort, tmp_path, begun_only, capsys
    ):
        path = run / "data" / "split.json"
        rewrite(path, lambda split: split.update(train=split["val"], val=split["train"]))
        assert main.run([f"--config={run / 'config.json'}", f"--workdir={tmp_path / 'new'}"]) == 0
        before, now = record_of(run)["data"], record_of(tmp_path / "new")["data"]
        assert now["split"] == str(run / "config.json")
        for name in ("train", "val", "cases", "fingerprint"):
            assert now[name] == before[name]
        assert "not the arrays" not in capsys.readouterr().err
        shutil.rmtree(run / "data")
        other = Preprocessing(("t2f", "t1c"), (16, 16, 16), "zscore", 0.0)
        preprocess_cohort(tiny_cohort, run / "data", other, workers=1)
        flags = [f"--workdir={tmp_path / 'other'}", "--config.data.raw_dir="]
        assert main.run([f"--config={run / 'config.json'}", *flags]) == 0
        assert f"{run / 'data'}: not the arrays that {run} was trained on\n" in capsys.readouterr().err


def test_a_report_that_was_killed_is_made_by_the_same_command(run, train, capsys):
    (run / "report.html").unlink()
    before = files_of(run / "evaluation")
    assert train(run, data__dir=run / "data") == 0
    told = capsys.readouterr().out
    assert "done. Open" in told and "nothing to do" not in told and (run / "report.html").exists()
    assert files_of(run / "evaluation") == before
    assert train(run, data__dir=run / "data") == 0
    assert "nothing to do" in capsys.readouterr().out


class TestPlace:
    def test_a_copied_run_whose_data_changed_is_refused_and_the_first_is_untouched(self, run, tmp_path, train, capsys):
        before, other = files_of(run), copied(run, tmp_path / "copy")
        assert train(other, data__dir=other / "data") == 0
        assert "nothing to do" in capsys.readouterr().out
        changed = other / "data" / "images" / f"{VAL[1]}.npy"
        invert(changed)
        record = files_of(other)
        assert train(other, data__dir=other / "data") == 1
        assert f"case {VAL[1]}: {changed}: holds other values than preprocessing wrote" in capsys.readouterr().err
        assert files_of(other) == record
        assert evaluated(other) == 1
        error = capsys.readouterr().err
        assert f"not scored: case {VAL[1]}: {changed}: holds other values" in error
        assert scored(other) == {VAL[0]}
        assert not is_evaluated(read_record(other), choose_step(other, "best"))
        assert files_of(run) == before

    def test_a_copied_run_with_the_arrays_of_another_cohort(self, run, tiny_run, tmp_path, train, capsys):
        """The same names, shapes and settings; nothing but the content tells."""
        write_cohort(tmp_path / "raw", 8, (20, 24, 18), seed=5, workers=1)
        settings = Preprocessing.of(read_record(run).settings.data)
        shutil.rmtree(run / "data")
        preprocess_cohort(tmp_path / "raw", run / "data", settings, workers=1, progress=False)
        before = files_of(run)
        assert train(run, data__dir=run / "data") == 1
        error = capsys.readouterr().err
        assert f"{run / 'data'}/images/" in error
        assert f"is not the array that the run in {run} was trained with (checksum crc32:" in error
        assert files_of(run) == before
        assert evaluated(run) == 1
        assert (
            f"case {VAL[0]}: {run}/data/images/{VAL[0]}.npy: is not the array that the run" in capsys.readouterr().err
        )
        assert files_of(run, "data") == {k: v for k, v in before.items() if not k.startswith("data/")}

    def test_checkpoints_that_are_gone_are_missed(self, run, train, capsys):
        (run / "checkpoints").rename(run / "elsewhere")
        before = files_of(run)
        assert train(run, data__dir=run / "data") == 1
        message = f"{run}/evaluation/summary.json: is of a checkpoint of this run, which has none. Restore the run's"
        assert message in capsys.readouterr().err
        assert files_of(run) == before

    def test_a_run_whose_first_checkpoint_failed_begins_again(self, run, train, monkeypatch, capsys):
        for folder in ("checkpoints", "evaluation"):
            shutil.rmtree(run / folder)

        def begins(*_, **__):
            raise InputError("it begins")

        monkeypatch.setattr(job, "train", begins)
        assert train(run, data__dir=run / "data") == 1
        assert "it begins" in capsys.readouterr().err

    def test_a_cohort_that_is_named_where_it_is_now_is_known_from_then_on(self, run, tiny_cohort, tmp_path, capsys):
        shutil.copytree(tiny_cohort, tmp_path / "cohort")
        rewrite(run / "data" / "manifest.json", lambda manifest: manifest.update(raw="/gone"))
        settings = read_record(run).settings
        data = dataclasses.replace(settings.data, raw_dir=str(tmp_path / "cohort"), dir=str(run / "data"))
        job.prepare_data(dataclasses.replace(settings, data=data), run)
        assert read_dataset(run / "data").raw_dir.resolve() == tmp_path / "cohort"
        (run / "data" / "manifest.json").unlink()
        point_to_raw(run / "data", tmp_path)  # of shards that are not merged yet
        assert not (run / "data" / "manifest.json").exists()

    def test_a_moved_run_evaluates_reports_and_goes_on(self, run, tiny_run, tmp_path, train, training_alone, capsys):
        moved = tmp_path / "deeper" / "moved"
        moved.parent.mkdir()
        run.rename(moved)
        (moved / "evaluation" / "cases.csv").unlink()
        assert evaluated(moved) == 0
        assert scores(moved) == scores(tiny_run)
        shutil.rmtree(moved / "report")
        assert commands.run(["report", f"--workdir={moved}"]) == 0
        assert len(list((moved / "report").rglob("*.html"))) == len(list((tiny_run / "report").rglob("*.html"))) == 2
        page = (moved / "report.html").read_text()
        assert "crc32:" not in page  # of each case, and there may be thousands
        code = record_of(moved)["code"]
        assert (
            f"<dt>commit</dt><dd>{code['commit'] or 'unknown'}{', modified' if code['modified'] else ''}</dd>" in page
        )
        assert "<dt>devices</dt><dd>cpu, cpu" in page
        step = without_last_step(moved)
        assert train(moved, data__dir=moved / "data", data__workers=0) == 0
        assert f"resuming after step {step} of 9" in capsys.readouterr().out
        assert faults.trained(moved) == faults.trained(tiny_run)

    def test_data_moved_elsewhere(self, run, tiny_run, tmp_path, train, training_alone, capsys):
        elsewhere, before = tmp_path / "elsewhere", (run / "config.json").read_bytes()
        copied(run / "data", elsewhere)
        shutil.rmtree(run / "data")
        assert evaluated(run) == 1
        assert f"{run / 'data'}: is not a folder" in capsys.readouterr().err
        (elsewhere / "split.json").unlink()
        assert evaluated(run, f"--data={elsewhere}") == 0
        assert scores(run) == scores(tiny_run)
        assert "left out" not in capsys.readouterr().out
        without_last_step(run)
        assert train(run, data__dir=elsewhere, data__workers=0) == 0
        assert faults.trained(run) == faults.trained(tiny_run)
        assert (run / "config.json").read_bytes() == before
        assert starts_of(run)[-1]["data"] == {"dir": str(elsewhere)}
        assert evaluated(run) == 0
        assert scored(run) == set(VAL)


class TestCohort:
    @pytest.fixture
    def raw(self, run, tiny_cohort, tmp_path) -> pathlib.Path:
        """A copy of the cohort, from which the run's arrays were made."""
        raw = copied(tiny_cohort, tmp_path / "raw")
        rewrite(run / "data" / "manifest.json", lambda manifest: manifest.update(raw=str(raw)))
        return raw

    def test_the_same_files_elsewhere_are_the_same_cohort(self, run, tiny_cohort, tmp_path, train, capsys):
        other = copied(tiny_cohort, tmp_path / "other")
        before = files_of(run)
        assert train(run, data__raw_dir=other) == 0
        assert "nothing to do" in capsys.readouterr().out
        assert files_of(run) == before

    @pytest.mark.parametrize("part", ["relabelled", "repaired", "new", "gone", "another"])
    def test_another_state_of_the_cohort_is_refused_and_recorded_nowhere(self, run, raw, train, capsys, part):
        name, what = VAL[0], {"new": "new", "gone": "gone"}.get(part, "changed")
        if part == "another":
            shutil.rmtree(raw)
            write_cohort(raw, 8, (20, 24, 18), seed=5, workers=1)
        elif part == "gone":
            shutil.rmtree(raw / name)
        elif part == "new":
            name = "BraTS-GLI-00099-000"
            for path in (raw / VAL[0]).iterdir():
                (raw / name).mkdir(exist_ok=True)
                shutil.copy(path, raw / name / path.name.replace(VAL[0], name))
        else:
            of = {"relabelled": "seg", "repaired": "t2f"}[part]
            shutil.copy(raw / TRAINED / f"{TRAINED}-{of}.nii.gz", raw / name / f"{name}-{of}.nii.gz")
        capsys.readouterr()
        for workdir in (run, run.parent / "second"):
            before = files_of(run)
            assert train(workdir, data__raw_dir=raw, data__dir=run / "data") == 1
            error = capsys.readouterr().err
            assert f"{run / 'data'}: holds arrays of another state of {raw}: case " in error
            assert f"is {what}" in error
            assert part == "another" or f"case {name} is {what}." in error
            assert "more differ" in error or part != "another"
            assert error.count("\n") == 1
            assert files_of(run) == before
            assert not (workdir / "config.json").exists() or workdir == run

    def test_with_the_cohort_gone_or_not_mounted_the_arrays_are_enough(self, run, raw, train, capsys):
        before = files_of(run)
        shutil.rmtree(raw)
        assert train(run, data__raw_dir=raw) == 0
        raw.mkdir()
        assert train(run, data__raw_dir=raw) == 0
        assert train(run, data__dir=run / "data") == 0
        assert capsys.readouterr().out.count("nothing to do") == 3
        assert train(run, data__raw_dir=raw.with_name("nowhere")) == 1
        assert "nowhere: there is no such folder" in capsys.readouterr().err
        assert files_of(run) == before


class TestArrays:
    @pytest.mark.parametrize(("kind", "case"), [("images", TRAINED), ("masks", TRAINED), ("masks", VAL[0])])
    def test_an_array_changed_between_two_starts_is_refused(self, run, train, capsys, kind, case):
        """By its content where size or time differ from those it was written with. A change that leaves both as they
        were is not detected, by design: the arrays of thousands of cases are not read at each start.
        """
        path = run / "data" / kind / f"{case}.npy"
        size = path.stat().st_size
        invert(path)
        assert path.stat().st_size == size
        without_last_step(run)
        before = files_of(run)
        assert train(run, data__dir=run / "data") == 1
        error = capsys.readouterr().err
        assert f"case {case}: {path}: holds other values than preprocessing wrote" in error
        assert error.count("\n") == 1
        assert files_of(run) == before

    def test_touched_arrays_are_the_same(self, run, train, capsys):
        for path in (run / "data").rglob("*.npy"):
            os.utime(path, ns=(1, 1))
        before = files_of(run)
        assert train(run, data__dir=run / "data") == 0
        assert "nothing to do" in capsys.readouterr().out
        assert files_of(run) == before

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_array_written_while_the_run_trains_ends_it(self, run, train, monkeypatch, capsys, workers):
        path = run / "data" / "images" / f"{TRAINED}.npy"
        step, before = without_last_step(run), (run / "config.json").read_bytes()
        tell = job._tell

        def tell_and_write(*arguments):
            tell(*arguments)
            np.save(path, np.load(path))

        monkeypatch.setattr(job, "_tell", tell_and_write)
        assert train(run, data__dir=run / "data", data__workers=workers, num_epochs=5) == 1
        error = capsys.readouterr().err
        assert f"case {TRAINED}: {path}: was written by something else while it was in use" in error
        assert (run / "config.json").read_bytes() == before
        assert max(int(folder.name) for folder in (run / "checkpoints").glob("[0-9]*")) < 9 + 3
        assert starts_of(run)[-1]["step"] == step
        monkeypatch.undo()
        # The same values: the next start finds that out and goes on.
        check_data(read_record(run), identified(read_dataset(run / "data").cases))


class TestOtherData:
    def test_patients_and_images_that_were_trained_on_are_left_out(self, run, tiny_data, tmp_path, capsys):
        other = copied(tiny_data, tmp_path / "other")
        names = {"X-001": TRAINED, "X-002": TRAINED, "X-003": VAL[1]}

        def rename(manifest):
            cases = manifest["cases"]
            for name, source in names.items():
                cases[name] = json.loads(json.dumps(cases[source])) | {"patient": name}
                for kind in ("images", "masks"):
                    shutil.copy(other / kind / f"{source}.npy", other / kind / f"{name}.npy")
            del cases[VAL[1]]  # so that these are not the run's own data
            mask = other / "masks" / "X-002.npy"
            invert(mask)
            cases["X-002"]["checksum"]["mask"] = checksum(np.load(mask))

        rewrite(other / "manifest.json", rename)
        assert evaluated(run, f"--data={other}") == 1
        captured = capsys.readouterr()
        assert f"{other}: 6 cases are left out, because the run was trained on them" in captured.out
        for name in ("X-001", "X-002"):
            path = other / "images" / f"{name}.npy"
            assert f"not scored: case {name}: {path}: is an image that the run was trained on" in captured.err
        assert scored(run) == {VAL[0], "X-003"}
        summary = read_summary(run)
        assert (summary["data"], summary["cases"], len(summary["problems"])) == (str(other), 2, 2)
        assert not is_evaluated(read_record(run), choose_step(run, "best"))

    def test_nothing_of_the_last_evaluation_is_left(self, run, tmp_path):
        (run / "predictions" / "stale.nii.gz").write_bytes(b"")
        killed = run / ".partial-1-predictions"
        killed.mkdir()
        (killed / "half.nii.gz").write_bytes(b"")
        first = files_of(run)
        assert evaluated(run, "--step=latest") == 0
        assert scored(run) == set(VAL)
        assert not list(run.glob(".partial-*"))
        assert read_summary(run)["step"] == 9
        assert any(files_of(run)[f"predictions/{name}.nii.gz"] != first[f"predictions/{name}.nii.gz"] for name in VAL)

    def test_an_evaluation_that_fails_half_way_leaves_the_last_one(self, run, monkeypatch, capsys):
        before = files_of(run)

        def fails(network, cases, files_of, folder):
            (folder / f"{cases[0].name}.nii.gz").write_bytes(b"new")
            raise KeyboardInterrupt

        monkeypatch.setattr(evaluate, "predicted", fails)
        assert evaluated(run, "--step=latest") == 130
        assert {name: content for name, content in files_of(run).items() if ".unfinished" not in name} == before

    @pytest.mark.parametrize("module", [tables, evaluate.files], ids=["at the table", "at the folder"])
    def test_an_evaluation_that_ends_after_that_counts_for_none(self, run, train, monkeypatch, capsys, module):
        def ends(*_):
            raise KeyboardInterrupt

        if module is tables:
            monkeypatch.setattr(tables, "write_csv", ends)
        else:
            monkeypatch.setattr(pathlib.Path, "rename", ends)
        assert evaluated(run, "--step=latest") == 130
        assert not (run / "evaluation" / "summary.json").exists()
        monkeypatch.undo()
        assert not is_evaluated(read_record(run), choose_step(run, "best"))
        assert commands.run(["report", f"--workdir={run}"]) == 0
        assert not list((run / "report").rglob("*.html"))
