"""The ladder of recipes: ends where configs/brats_3mm.py is, goes on after a stop, and its table is of its folds."""

import functools
import operator
import shutil

import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.config import from_config, load_config
from jaxbrats.config.settings import default
from jaxbrats.evaluation.tables import read_csv


@pytest.fixture
def program(monkeypatch):
    import ablation

    return ablation


def climbed(program):
    settings = load_config("configs/unet3d.py")
    for rung in program.LADDER:
        for name, value in rung.settings.items():
            *groups, last = name.split(".")
            functools.reduce(operator.getitem, groups, settings)[last] = value
        from_config(settings)  # every rung is a recipe that can be trained
    return settings


def test_the_last_rung_is_the_config(program):
    expected, found = (
        from_config(config).to_dict() for config in (load_config("configs/brats_3mm.py"), climbed(program))
    )
    assert {**found, "num_epochs": expected["num_epochs"]} == expected
    assert default().to_dict() != expected


@pytest.fixture
def four(tiny_cohort, tmp_path):
    """Four cases, two of them of one patient."""
    names = sorted(path.name for path in tiny_cohort.iterdir() if path.is_dir())
    (second,) = [name for name in names if not name.endswith("-000")]
    pair = [name for name in names if name.rsplit("-", 1)[0] == second.rsplit("-", 1)[0]]
    for name in [*pair, *sorted(set(names) - set(pair))[:2]]:
        shutil.copytree(tiny_cohort / name, tmp_path / "raw" / name)
    return tmp_path / "raw"


@pytest.mark.slow
def test_a_short_ladder(program, four, tiny_config, tmp_path, monkeypatch, capsys):
    ladder = (
        program.Rung("0_start", {"ema": 0.5}),
        program.Rung("1_none_left", {"postprocessing.component_mm3": 1e9}, trains=False),
    )
    monkeypatch.setattr(program, "LADDER", ladder)
    # Of what a run leaves, the scores alone are looked at.
    monkeypatch.setattr("jaxbrats.runs.report.report_run", lambda run: ((run / "report.html").touch(), []))
    monkeypatch.setattr("jaxbrats.report.curves.plot_curves", lambda *_, **__: None)
    monkeypatch.setattr("jaxbrats.runs.evaluate.draw_overlays", lambda *_: [])
    monkeypatch.setattr(program, "ASIDE", (program.Rung("aside", {"seed": 7}),))
    run = [f"--raw={four}", f"--workdir={tmp_path}", f"--base={tiny_config}", "--folds=2", "--epochs=1"]
    assert commands.run_program(program, "ablation", [*run, "--rungs=1"]) == 0
    assert (tmp_path / "0_start" / "cases.csv").exists() and not (tmp_path / "1_none_left").exists()
    assert commands.run_program(program, "ablation", run) == 0
    lines = (tmp_path / "ablation.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0_start", "| 1_none_left", "| aside"]
    config = from_config(load_config(tmp_path / "aside.py"))
    assert (config.ema, config.seed, config.postprocessing.component_mm3) == (0.5, 7, 0)
    rows = read_csv(tmp_path / "1_none_left" / "cases.csv")
    assert len({row["case"] for row in rows}) == 4 and not any(row["volume_pred_mm3"] for row in rows)
    # Means over patients, of whom one has two scans, by hand.
    dice = {}
    for row in read_csv(tmp_path / "0_start" / "cases.csv"):
        if row["region"] in ("WT", "TC", "ET"):
            dice.setdefault(row["case"].rsplit("-", 1)[0], []).append(row["dice"])
    assert lines[2].split(" | ")[1].startswith(f"{np.mean([np.mean(one) for one in dice.values()]):.3f} (")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoints/*")}
    capsys.readouterr()
    assert commands.run_program(program, "ablation", run) == 0
    assert capsys.readouterr().out.count("nothing to do") == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoints/*")} == before
