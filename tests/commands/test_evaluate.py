import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from jaxbrats import commands
from jaxbrats.evaluation.tables import read_csv


def test_scores_of_the_validation_cases(run, tiny_data, tiny_cohort, capsys):
    assert commands.run(["evaluate", f"--workdir={run}", "--step=latest"]) == 0
    table = capsys.readouterr().out
    *lines, last = table.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["WT", "TC", "ET", "NCR", "ED"]
    assert last.endswith(f"so it is gone; to make it anew: jaxbrats report --workdir={run}")
    rows = {(row["case"], row["region"]): row["dice"] for row in read_csv(run / "evaluation" / "cases.csv")}
    split = json.loads((tiny_data / "split.json").read_text())
    assert {case for case, _ in rows} == set(split["val"])
    for case in split["val"]:
        predicted, truth = (
            np.asarray(nib.load(path).dataobj) > 0
            for path in (run / "predictions" / f"{case}.nii.gz", tiny_cohort / case / f"{case}-seg.nii.gz")
        )
        expected = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert rows[case, "WT"] == pytest.approx(expected)
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert summary["step"] == 9
    wt = [dice for (_, region), dice in rows.items() if region == "WT"]
    assert summary["regions"]["WT"]["dice"]["mean"] == pytest.approx(np.mean(wt))
    assert summary["regions"]["WT"]["dice"]["median"] == pytest.approx(np.median(wt))


def test_arrays_of_other_preprocessing_are_refused(run, tiny_data, tmp_path, capsys):
    shutil.copytree(tiny_data, tmp_path / "other")
    manifest = json.loads((tiny_data / "manifest.json").read_text())
    manifest["settings"]["modalities"] = ["t2f", "t1n"]
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    assert commands.run(["evaluate", f"--workdir={run}", f"--data={tmp_path / 'other'}"]) == 1
    assert "modalities = ['t2f', 't1n'], the run was trained with ['t2f', 't1c']" in capsys.readouterr().err
