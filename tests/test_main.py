"""The training program from the command line to the last file: what it leaves, resuming, refusing."""

import json
import pathlib

import numpy as np
import pytest

from experiments import faults
from jaxbrats import commands, main
from jaxbrats.config.settings import from_config
from jaxbrats.data.labels import SCORED
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.runs import job
from jaxbrats.system.errors import InputError
from jaxbrats.train.logs import read_metrics
from jaxbrats.train.plan import Plan


def test_a_run_leaves_everything(tiny_run):
    files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert {"config.json", "metrics.jsonl", "data/manifest.json", "data/split.json"} <= files
    assert {"figures/loss.png", "figures/iou.png", "figures/dice.png"} <= files
    assert {"evaluation/cases.csv", "evaluation/summary.json"} <= files
    split = json.loads((tiny_run / "data" / "split.json").read_text())
    assert len([name for name in files if name.startswith("figures/overlay_")]) == len(split["val"])
    assert not [name for name in files if ".partial-" in name]
    rows = read_csv(tiny_run / "evaluation" / "cases.csv")
    assert {(row["case"], row["region"]) for row in rows} == {
        (case, region) for case in split["val"] for region in SCORED
    }
    assert all(0 <= row["dice"] <= 1 for row in rows)


def test_the_log_tells_every_step_and_epoch(tiny_run):
    split = json.loads((tiny_run / "data" / "split.json").read_text())
    plan = Plan(len(split["train"]), 2, 3)
    log = read_metrics(tiny_run)
    train = [record for record in log if record["split"] == "train"]
    assert [record["step"] for record in train] == list(range(1, plan.total_steps + 1))
    val = [record for record in log if record["split"] == "val"]
    assert [(record["epoch"], record["step"]) for record in val] == [(e, plan.end_of_epoch(e)) for e in (1, 2, 3)]
    assert all(np.isfinite(record["loss"]) for record in log)
    assert set(val[0]["dice"]) == {"background", "NCR", "ED", "ET"}
    assert val[0]["mean_region_dice"] == pytest.approx(np.mean(list(val[0]["region_dice"].values())))
    assert train[-1]["lr"] < train[1]["lr"]


@pytest.mark.slow
def test_the_record_is_enough_to_run_again(tiny_run, tmp_path, training_alone):
    """The same seed twice gives the same parameters, to the last bit, from nothing but what the first run recorded."""
    record = json.loads((tiny_run / "config.json").read_text())
    assert record["settings"]["data"]["modalities"] == ["t2f", "t1c"]
    assert set(record["versions"]) >= {"jax", "flax", "orbax-checkpoint", "python"}
    again = tmp_path / "again"
    assert main.run([f"--config={tiny_run / 'config.json'}", f"--workdir={again}"]) == 0
    assert faults.trained(again) == faults.trained(tiny_run)
    assert not (again / "data").exists()  # the arrays are where they were


def test_a_record_without_its_arrays_makes_them_anew(tiny_run, tmp_path):
    moved = tmp_path / "moved" / "config.json"
    record = json.loads((tiny_run / "config.json").read_text())
    record["data"]["dir"] = str(tmp_path / "gone")
    moved.parent.mkdir()
    moved.write_text(json.dumps(record))
    config, workdir, _ = main.parse([f"--config={moved}"])
    assert config.data.dir == ""
    assert config.data.raw_dir == record["settings"]["data"]["raw_dir"]
    assert workdir == moved.parent  # goes on with the run


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--config.data.raw_dir=FOLDER"),
        (["--config.lerning_rate=1"], 2, "config.lerning_rate is not a setting. Did you mean config.learning_rate?"),
        (["--config.seed"], 2, "Missing value for flag --config.seed"),
        (["--nonsense=1"], 2, "Unknown command line flag 'nonsense'"),
        (["stray"], 2, "unexpected argument 'stray'"),
        (["--config.data.raw_dir=/nonexistent"], 1, "/nonexistent"),
        (["--config.data.dir=/nonexistent"], 1, "/nonexistent: is not a folder"),
        (["--config.data.crop=(15,16,16)"], 1, "data.crop must be divisible by 2x2x2"),
        (
            ["--config.batch_size=3", "--config.mesh.data=2", "--config.data.dir=/x"],
            1,
            "the 2 devices of mesh.data",
        ),
        (["--config.batch_size=12", "--config.mesh.data=-1", "--config.data.dir=/x"], 1, "divided over 8 devices"),
        (
            ["--config.batch_size=9", "--config.mesh.data=9", "--config.data.dir=/x"],
            1,
            "9 x 1 devices, there are 8",
        ),
        (["--config.mesh.space=3", "--config.data.dir=/x"], 1, "divisible along its first axis by the 3 devices"),
    ],
)
def test_mistakes_end_in_a_line(tiny_config, tmp_path, capsys, arguments, code, message):
    assert main.run([f"--config={tiny_config}", f"--workdir={tmp_path / 'run'}", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == (2 if not arguments else 1)
    assert not list((tmp_path / "run").rglob("*.npy"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not there"),
        ("def get_config(:", "is not a config: a Python file with get_config() that returns a ConfigDict (SyntaxError"),
        ("import sys; sys.exit('bye')", "(SystemExit: bye)"),
        ("x = 1", "(KeyError: 'get_config')"),
        ("def get_config():\n  return None", "is not a config"),
    ],
)
def test_config_files_that_are_none(tmp_path, capsys, text, message):
    path = tmp_path / "config.py"
    if text:
        path.write_text(text)
    assert main.run([f"--config={path}", f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert message in error
    assert len(error.splitlines()) == 1


def test_every_setting_can_be_given_whatever_the_file_leaves_out(tmp_path, capsys):
    path = tmp_path / "small.py"
    path.write_text("from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict({'seed': 1})")
    flags = ["--config.model.features=4,6", "--config.model.dropout=0.2", "--config.loss.gamma", "3"]
    config, workdir, _ = main.parse([f"--config={path}", *flags])
    settings = from_config(config)
    assert (settings.seed, settings.model.features, settings.loss.gamma) == (1, (4, 6), 3.0)
    assert workdir == pathlib.Path("runs/small")


def test_arrays_made_otherwise_are_not_made_anew_under_another_run(
    tiny_run, tiny_config, tiny_cohort, tmp_path, capsys
):
    arguments = [f"--config={tiny_config}", f"--workdir={tmp_path}", f"--config.data.raw_dir={tiny_cohort}"]
    data = tiny_run / "data"
    assert main.run([*arguments, f"--config.data.dir={data}", "--config.data.normalization=zscore"]) == 1
    assert "holds arrays made with normalization = minmax, the config asks for zscore" in capsys.readouterr().err


def test_the_arrays_own_settings_are_recorded(tiny_run, tiny_config, tmp_path, training_alone):
    """A folder of arrays is used as it was made, whatever the config says, and the record tells so."""
    arguments = [f"--config={tiny_config}", f"--workdir={tmp_path}", f"--config.data.dir={tiny_run / 'data'}"]
    assert main.run([*arguments, "--config.data.modalities=t1n,t2w"]) == 0  # with the step that is compiled already
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["settings"]["data"]["modalities"] == ["t2f", "t1c"]


def test_train_is_the_program(tiny_config, tmp_path, capsys):
    assert commands.run(["train", f"--config={tiny_config}", f"--workdir={tmp_path}"]) == 2
    assert "configs/quickstart.py" in capsys.readouterr().err
    assert commands.run(["train", "--help"]) == 0
    assert "--config.data.raw_dir" in capsys.readouterr().out


@pytest.mark.slow
def test_keras_folders_train_too(tiny_config, tmp_path):
    """What the notebook wrote: image_N.npy with one-hot masks, as splitfolders lays them out."""
    rng = np.random.default_rng(0)
    for side, numbers in (("train", (0, 1)), ("val", (2,))):
        for name in ("images", "masks"):
            (tmp_path / "keras" / side / name).mkdir(parents=True)
        for number in numbers:
            labels = rng.integers(0, 4, (8, 8, 8))
            np.save(tmp_path / "keras" / side / "images" / f"image_{number}.npy", rng.random((8, 8, 8, 2)))
            np.save(tmp_path / "keras" / side / "masks" / f"mask_{number}.npy", np.eye(4, dtype=np.float32)[labels])
    workdir = pathlib.Path(tmp_path / "run")
    arguments = [f"--config={tiny_config}", f"--workdir={workdir}", f"--config.data.dir={tmp_path / 'keras'}"]
    assert main.run([*arguments, "--config.num_epochs=1"]) == 0
    record = json.loads((workdir / "config.json").read_text())
    assert record["settings"]["data"]["crop"] == [8, 8, 8]
    assert record["data"]["val"] == ["image_2"]


def test_home_is_found_where_a_shell_leaves_it_and_nothing_is_not_a_folder(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tiny.py").write_text(tiny_config.read_text())
    flags = ["--config=~/tiny.py", "--workdir=~/run", "--config.data.raw_dir=~/raw", "--config.data.dir", "~/data"]
    config, workdir, _ = main.parse(flags)
    assert (config.data.raw_dir, config.data.dir) == (str(tmp_path / "raw"), str(tmp_path / "data"))
    assert workdir == tmp_path / "run"
    assert commands.run(["synth", "--out=~/cohort", "--cases=1", "--shape=16,16,16"]) == 0
    assert len(list((tmp_path / "cohort").iterdir())) == 1
    assert commands.run(["predict", "--workdir=~/none", "--input=x", "--output=y"]) == 1
    assert f"{tmp_path}/none" in capsys.readouterr().err
    assert commands.run(["preprocess", f"--raw={tmp_path}", "--out="]) == 2
    assert "--out= is empty. Is a variable of the command not set?" in capsys.readouterr().err


@pytest.mark.parametrize(("patch", "batch"), [("none", 2), ("16,16,16", 1)])
def test_a_device_validates_one_window_at_a_time(tiny_data, tiny_config, tmp_path, monkeypatch, patch, batch):
    """A case may have but one; of whole arrays it gets the batch that it is trained on."""
    asked = []

    def make_validation(*arguments):
        asked.append(arguments[5:7])
        raise InputError("that is enough")

    monkeypatch.setattr(job, "make_validation", make_validation)
    flags = [f"--config={tiny_config}", f"--config.data.dir={tiny_data}", f"--config.data.patch={patch}"]
    assert main.run([*flags, f"--workdir={tmp_path}"]) == 1
    assert asked == [(batch, None if patch == "none" else (16, 16, 16))]
