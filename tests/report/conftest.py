"""A finished run for the report's tests: real files of a tiny run, with predictions that err in known ways."""

import json
import shutil

import numpy as np
import pytest

from jaxbrats.data.arrays import read_labels
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.labels import ED
from jaxbrats.data.manifest import read_manifest
from jaxbrats.evaluation import metrics, statistics, tables
from jaxbrats.inference.predictions import write_prediction
from jaxbrats.report import figures
from jaxbrats.system.files import write_json

# Markup, quotes, characters with a meaning in addresses and in shells, an emoji.
HOSTILE = "<img src=x onerror=alert(1)> \"'&#%3F?$x$ 🧠"


@pytest.fixture
def full_size(monkeypatch):
    """Pictures of as many dots as users get, for tests that look at these."""
    monkeypatch.setattr(figures, "DOTS_PER_INCH", 160)


@pytest.fixture(scope="session")
def hostile_name():
    """Name of the best case of `report_run`."""
    return HOSTILE


@pytest.fixture(scope="session")
def report_source(tiny_run, tmp_path_factory):
    """As `report_run`, not to be written to."""
    run = tmp_path_factory.mktemp("report") / "run <b>"
    shutil.copytree(tiny_run / "data", run / "data")
    shutil.copy(tiny_run / "metrics.jsonl", run)
    config = json.loads((tiny_run / "config.json").read_text())
    config["data"]["dir"] = str(run / "data")
    config["settings"]["data"]["raw_dir"] = "</script><script>alert(2)</script>"
    write_json(run / "config.json", config)

    manifest = json.loads((run / "data" / "manifest.json").read_text())
    first = next(name for name, record in manifest["cases"].items() if record["status"] == "kept")
    manifest["cases"] = {HOSTILE if name == first else name: record for name, record in manifest["cases"].items()}
    write_json(run / "data" / "manifest.json", manifest)
    for folder in ("images", "masks"):
        (run / "data" / folder / f"{first}.npy").rename(run / "data" / folder / f"{HOSTILE}.npy")

    rows = []
    records = read_manifest(run / "data")["cases"]
    for number, case in enumerate(read_dataset(run / "data").cases[:4]):
        truth = read_labels(case)
        # Each case errs more than the one before, along the first axis; the last has a false positive in a corner.
        prediction = np.roll(truth, number, axis=0)
        if number == 3:
            prediction[:2, :2, 2:4] = ED
        write_prediction(run / "predictions" / f"{case.name}.nii.gz", prediction, records[case.name])
        rows += tables.case_rows(case.name, metrics.score_case(prediction, truth, records[case.name]["zooms"]))
    tables.write_csv(run / "evaluation" / "cases.csv", rows)
    summary = {"step": 9, "data": str(run / "data"), "cases": 4, "regions": statistics.summarise(rows)}
    write_json(run / "evaluation" / "summary.json", summary)
    return run


@pytest.fixture
def report_run(report_source, tmp_path):
    """A run of four evaluated cases, one of them with a hostile name; its folder is named "run <b>"."""
    run = tmp_path / report_source.name
    shutil.copytree(report_source, run)
    for name in ("config.json", "evaluation/summary.json"):
        (run / name).write_text((run / name).read_text().replace(str(report_source), str(run)))
    return run
