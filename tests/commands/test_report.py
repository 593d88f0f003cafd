"""`jaxbrats report` on a run as the training program leaves it."""

import shutil

from jaxbrats import commands


def test_a_trained_run_gets_a_report(run, capsys):
    for folder in ("checkpoints", "report"):
        shutil.rmtree(run / folder)
    (run / "report.html").unlink()
    assert commands.run(["report", f"--workdir={run}"]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    pages = {path.stem for path in (run / "report").iterdir()}
    assert pages == {path.name.removesuffix(".nii.gz") for path in (run / "predictions").iterdir()}
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_a_missing_prediction_fails_the_command_and_spares_the_rest(run, capsys):
    lost = next((run / "predictions").iterdir())
    lost.unlink()
    (run / "report.html").unlink()
    assert commands.run(["report", f"--workdir={run}"]) == 1
    assert f"not shown: case {lost.name.removesuffix('.nii.gz')}: {lost}" in capsys.readouterr().err
    assert (run / "report.html").exists()


def test_no_run_is_an_error_in_one_line(tmp_path, capsys):
    assert commands.run(["report", f"--workdir={tmp_path / 'none'}"]) == 1
    assert "holds no config.json, so it is not a training run" in capsys.readouterr().err
