"""The record of a run: written once, changed by nothing, refused in a line where it is damaged."""

import dataclasses
import json

import pytest
from run_files import files_of, record_of, rewrite, starts_of, without_last_step

import jaxbrats
from jaxbrats import commands, main
from jaxbrats.config.settings import Mesh
from jaxbrats.runs import job
from jaxbrats.runs.record import check_settings, portable, read_record, unlike_last_start
from jaxbrats.system.errors import InputError
from jaxbrats.train.logs import read_metrics


def test_what_it_holds(tiny_run):
    record = read_record(tiny_run)
    data = record_of(tiny_run)["data"]
    assert (data["dir"], record.data_dir) == ("data", tiny_run / "data")
    assert data["split"] == "drawn, 0.25 of the patients for validation, seed 0"
    manifest = json.loads((tiny_run / "data" / "manifest.json").read_text())
    assert list(data["cases"]) == [*data["train"], *data["val"]]
    for name, case in data["cases"].items():
        assert case == {"patient": manifest["cases"][name]["patient"], **manifest["cases"][name]["checksum"]}
        assert record.cases[name] == (name, *case.values())
    assert record.frame.to_dict() == manifest["frame"]
    (start,) = starts_of(tiny_run)
    assert (start["step"], start["settings"], start["data"]) == (0, {}, {"dir": "data"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 7}, "config.json: holds a run with config.seed = 1; now it is 7"),
        ({"learning_rate": 1e-2}, "holds a run with config.learning_rate = 0.003; now it is 0.01"),
        ({"model__features": "4,8"}, "config.model.features = [4, 6]; now it is [4, 8]"),
        ({"data__fold": 1}, "config.data.fold = None; now it is 1"),
        ({"data__dir": "other"}, "does not hold the case BraTS-GLI-00001-000"),
        ({"num_epochs": 2}, "this run has done 9 steps; config.num_epochs = 2 asks for 6. Give config.num_epochs 3 or"),
    ],
)
def test_a_refused_start_changes_nothing(run, tiny_data, tmp_path, train, capsys, changes, message):
    if "data__dir" in changes:
        other = tmp_path / "other"
        other.mkdir()
        for folder in ("images", "masks"):
            (other / folder).symlink_to(tiny_data / folder)
        manifest = json.loads((tiny_data / "manifest.json").read_text())
        del manifest["cases"]["BraTS-GLI-00001-000"]
        (other / "manifest.json").write_text(json.dumps(manifest))
        changes = {"data__dir": other}
    before = files_of(run)
    assert train(run, **{"data__dir": run / "data"} | changes) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert files_of(run) == before


def test_a_finished_run_with_another_convolution_has_nothing_to_do(run, train, capsys):
    before = files_of(run)
    assert train(run, data__dir=run / "data", conv="slices") == 0
    assert "this run is finished (3 epochs, 9 steps); nothing to do" in capsys.readouterr().out
    assert files_of(run) == before


def test_more_epochs_are_told_by_the_starts_and_the_record_stays(run, tiny_run, train, training_alone, capsys):
    # As a run that began before there was this setting.
    rewrite(run / "config.json", lambda record: record["settings"].pop("accumulate"))
    before = (run / "config.json").read_bytes()
    # Stopped when all is trained and nothing evaluated yet: no report of what the run was before is left.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_write_results", lambda *_: [])
        assert train(run, data__dir=run / "data", num_epochs=4, data__workers=0) == 0
    assert not (run / "report.html").exists()
    captured = capsys.readouterr()
    assert "resuming after step 9 of 12" in captured.out
    because = "config.num_epochs 4 (before 3), from which the learning rates of config.schedule = cosine follow"
    assert f"not bit for bit as if uninterrupted: {because}\n" in captured.err
    assert (run / "config.json").read_bytes() == before
    first, second = starts_of(run)
    assert (first["step"], second["step"]) == (0, 9)
    assert second["settings"] == {"num_epochs": 4, "data.dir": str(run / "data"), "data.workers": 0, "data.raw_dir": ""}
    assert second["data"] == {"dir": "data"}
    old, now = read_metrics(tiny_run), read_metrics(run)
    assert now[: len(old)] == old
    assert now[-1]["epoch"] == 4


def test_other_devices_are_said_as_what_changes_the_digits(tiny_run):
    record = read_record(tiny_run)
    assert unlike_last_start(record, record.settings) == []
    settings = dataclasses.replace(record.settings, mesh=Mesh(data=2, space=1), remat=True)
    assert unlike_last_start(record, settings) == ["config.mesh.data 2 (before 1)", "config.remat True (before False)"]


def test_going_on_elsewhere_says_what_the_last_digits_may_differ_by(run, train, training_alone, capsys):
    before, step = (run / "config.json").read_bytes(), without_last_step(run)
    (start,) = starts_of(run)
    start["machine"] |= {"threads": 64, "conv": "native"}
    start["versions"] |= {"jax": "0.9.9"}
    start["code"] |= {"sha256": "0" * 64, "commit": "abcdefabcdef", "modified": True}
    (run / "starts.jsonl").write_text(f'{json.dumps(start)}\n[1]\n{{"step": "cut')
    assert train(run, data__dir=run / "data", checkpoint__every_steps=3) == 0
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if "bit for bit" in line)
    version = jaxbrats.__version__
    assert line.startswith(f"not bit for bit as if uninterrupted: jaxbrats {version} with other code than before (")
    assert "before abcdefabcd modified)" in line
    assert "(before 0.9.9)" in line
    assert "threads " in line
    assert "(before 64)" in line
    assert "conv direct (before native)" in line
    assert (run / "config.json").read_bytes() == before
    first, second = starts_of(run)
    assert (first, second["step"]) == (start, step)
    assert second["machine"]["conv"] == "direct"
    assert second["settings"]["checkpoint.every_steps"] == 3


DAMAGED = {
    "a list": ("[1, 2]", "is not a run's config.json"),
    "empty": ("{}", "lacks 'data' that the record of a run has in this version of jaxbrats"),
    "cut": (None, "is not valid JSON"),
    "of an older version": ("cases", "lacks 'cases' that the record of a run has in this version of jaxbrats"),
    "a case unknown": ("case", "lacks 'BraTS-GLI-00002-000' that the record"),
}


@pytest.mark.parametrize("command", ["evaluate", "report", "predict", "train"])
@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_a_line_for_every_command(
    tiny_run, tiny_cohort, tiny_config, tmp_path, capsys, command, content, message
):
    record = record_of(tiny_run)
    if content == "cases":
        del record["data"]["cases"]
    elif content == "case":
        del record["data"]["cases"]["BraTS-GLI-00002-000"]
    text = (tiny_run / "config.json").read_text()[:-40] if content is None else content
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record) if content in ("cases", "case") else text)
    before = path.read_bytes()
    arguments = {
        "evaluate": [],
        "report": [],
        "predict": [f"--input={tiny_cohort}", f"--output={tmp_path / 'out'}"],
        "train": [f"--config={tiny_config}", f"--config.data.dir={tiny_run / 'data'}"],
    }
    assert commands.run([command, f"--workdir={tmp_path}", *arguments[command]]) == 1
    error = capsys.readouterr().err
    assert f"{path}: {message}" in error
    assert "Restore it" in error
    assert "Delete it" not in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["[1, 2]", "{}", '{"settings": {'])
def test_a_damaged_record_as_a_config(tmp_path, capsys, content):
    (tmp_path / "config.json").write_text(content)
    assert main.run([f"--config={tmp_path / 'config.json'}", f"--workdir={tmp_path / 'new'}"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'config.json'}: is not" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_checkpoints_without_a_record_are_not_given_another(run, train, capsys):
    (run / "config.json").unlink()
    before = files_of(run)
    assert train(run, data__dir=run / "data") == 1
    assert f"{run}: holds checkpoints, but no config.json that says which run they belong to" in capsys.readouterr().err
    assert files_of(run) == before


def test_a_record_goes_on_with_its_own_run_however_its_split_was_drawn(run, capsys):
    rewrite(run / "config.json", lambda record: record["settings"]["data"].update(fold=1, folds=4))
    before = files_of(run)
    assert main.run([f"--config={run / 'config.json'}"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files_of(run) == before
    assert main.run([f"--config={run / 'config.json'}:fold=2", f"--workdir={run}"]) == 1
    assert "holds a run with config.data.fold = 1; now it is 2" in capsys.readouterr().err


def test_a_named_split_is_compared_by_its_cases_and_not_by_their_order(run, train, tmp_path, capsys):
    data, path = record_of(run)["data"], tmp_path / "split.json"
    path.write_text(json.dumps({"train": data["train"][::-1], "val": data["val"]}))
    assert train(run, data__dir=run / "data", data__split=path) == 0
    path.write_text(json.dumps({"train": data["train"][1:], "val": data["val"]}))
    assert train(run, data__dir=run / "data", data__split=path) == 1
    assert f"{path}: names other cases than this run was started with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "made",
    [
        {"spacing": (2.0, 2.0, 2.0)},
        {"crop": (8, 8, 8)},
        {"normalization": "zscore"},
        {"min_tumour": 0.5},
        {"soft_labels": True},
    ],
    ids=str,
)
def test_what_the_arrays_decide_is_compared_once_it_is_known(tiny_run, made):
    record = read_record(tiny_run)
    data = dataclasses.replace(record.settings.data, **made)
    asked, record = (
        record.settings,
        dataclasses.replace(record, settings=dataclasses.replace(record.settings, data=data)),
    )
    check_settings(record, asked, arrays_known=False)
    with pytest.raises(InputError, match=rf"holds a run with config.data.{next(iter(made))} = "):
        check_settings(record, asked)


def test_paths_inside_the_run_are_relative(tmp_path):
    assert portable(tmp_path / "run" / "data", tmp_path / "run") == "data"
    assert portable(tmp_path / "run" / ".." / "data", tmp_path / "run") == str(tmp_path.resolve() / "data")
