"""The table of the patients that runs did not train on: the scores of their own evaluation, and post-processed."""

import json

import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.system.errors import InputError


@pytest.fixture
def real_patients(monkeypatch, tmp_path):
    import benchmarking
    import real_patients
    import tune_postprocess

    write = benchmarking.write
    monkeypatch.setattr(benchmarking, "write", lambda *report: write(*report, folder=tmp_path))
    monkeypatch.setattr(tune_postprocess, "VOLUMES", ((0,), (0, 1e9), (0,), (0,)))
    monkeypatch.setattr(tune_postprocess, "GRID", [Postprocessing(), Postprocessing(component_mm3=1e9)])
    # In this process, where GRID is patched.
    monkeypatch.setattr(real_patients, "map_in_processes", lambda work, tasks, *_, name: ((t, work(t)) for t in tasks))
    return real_patients


def test_as_evaluated(real_patients, tiny_run, tmp_path):
    assert commands.run_program(real_patients, "real_patients", [f"--workdir={tiny_run}"]) == 0
    report = json.loads((tmp_path / "real_patients.json").read_text())
    evaluated = {(row["case"], row["region"]): row for row in read_csv(tiny_run / "evaluation" / "cases.csv")}
    assert sorted({name for name, _ in evaluated}) == [case["case"] for case in report["cases"]]
    for case in report["cases"]:
        for metric in real_patients.METRICS:
            expected = [evaluated[case["case"], region][metric] for region in REGIONS]
            assert case["as predicted"][metric] == pytest.approx(expected)
        assert case["enhancing_mm3"] == [
            evaluated[case["case"], "ET"]["volume_ref_mm3"],
            evaluated[case["case"], "ET"]["volume_pred_mm3"],
        ]
    mean = np.mean([case["as predicted"]["dice"] for case in report["cases"]])
    assert f"| {mean:.3f} (" in (tmp_path / "real_patients.md").read_text()


def test_runs_that_are_no_folds_or_cannot_be_scored_are_one_line(real_patients, tiny_run, monkeypatch, capsys):
    assert commands.run_program(real_patients, "real_patients", [f"--workdir={tiny_run},{tiny_run}"]) == 1
    assert f"validates on the same patient as {tiny_run}. Give the folds" in capsys.readouterr().err

    def nothing(run, step, problems):
        problems.append(InputError("is gone", case="A"))
        return iter(())

    monkeypatch.setattr(real_patients.tune_postprocess, "predictions", nothing)
    assert commands.run_program(real_patients, "real_patients", [f"--workdir={tiny_run}"]) == 1
    assert capsys.readouterr().err == "real_patients: case A: is gone\n"


def test_a_fold_gets_the_post_processing_that_is_best_for_the_others(real_patients):
    helps, harms = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    helps[1], harms[0] = 0.5, 0.4  # the second setting, and none
    cases = {"A": {"run": 0, "scores": helps}, "B": {"run": 1, "scores": harms}, "C": {"run": 2, "scores": harms}}
    # Means of the others: B and C 0.4 without, A and C 0.2 against 0.25, A and B as well.
    assert [real_patients._chosen_for(run, cases) for run in (0, 1, 2)] == [0, 1, 1]
    assert real_patients._chosen_for(0, {"A": cases["A"]}) == 1
