"""The table of a run's validation patients: the scores of its own evaluation, and those after post-processing."""

import json
import shutil

import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.inference.postprocess import write_postprocessing


def test_as_evaluated_and_with_everything_removed(tiny_run, tmp_path, monkeypatch):
    import benchmarking
    import real_patients

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    write_postprocessing(run, Postprocessing(component_mm3=1e9), {})
    write = benchmarking.write
    monkeypatch.setattr(benchmarking, "write", lambda *report: write(*report, folder=tmp_path))
    assert commands.run_program(real_patients, "real_patients", [f"--workdir={run}"]) == 0
    report = json.loads((tmp_path / "real_patients.json").read_text())
    evaluated = {(row["case"], row["region"]): row for row in read_csv(tiny_run / "evaluation" / "cases.csv")}
    for case in report["cases"]:
        for metric in real_patients.METRICS:
            expected = [evaluated[case["case"], region][metric] for region in REGIONS]
            assert case["as predicted"][metric] == pytest.approx(expected)
        assert case["post-processed"]["dice"] == [
            float(evaluated[case["case"], region]["volume_ref_mm3"] == 0) for region in REGIONS
        ]
    mean = np.mean([case["as predicted"]["dice"] for case in report["cases"]])
    assert f"| {mean:.3f} (" in (tmp_path / "real_patients.md").read_text()
