"""A whole run on soft labels of voxels larger than the files: trained, resumed, evaluated on those of the files."""

import numpy as np
import pytest

from jaxbrats import main
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.runs import job
from jaxbrats.runs.evaluate import evaluate_run
from jaxbrats.runs.record import read_record
from jaxbrats.system.files import read_json
from jaxbrats.train.logs import read_metrics

OPTIONS = {"data.crop": "brain", "data.patch": "8,8,8", "data.spacing": "16,16,16", "model.head": "regions"}
OPTIONS |= {"data.soft_labels": "true", "loss.terms": "dice:1,bce:1", "augment.rotation": "0.5", "num_epochs": "1"}


@pytest.fixture
def train(tiny_config, tiny_cohort, tmp_path):
    def run(name, **changes):
        options = OPTIONS | {"data.raw_dir": tiny_cohort}
        options |= {name.replace("__", "."): value for name, value in changes.items()}
        flags = [f"--config.{key}={value}" for key, value in options.items()]
        return main.run([f"--config={tiny_config}", f"--workdir={tmp_path / name}", *flags])

    return run


@pytest.mark.slow
def test_a_run_learns_from_parts_and_goes_on(train, tmp_path, monkeypatch, capsys):
    assert train("soft") == 0
    record = read_record(tmp_path / "soft")
    assert record.settings.data.soft_labels
    rows = read_csv(tmp_path / "soft" / "evaluation" / "cases.csv")
    assert {row["case"] for row in rows} == set(record.split.val)
    assert read_json(tmp_path / "soft" / "evaluation" / "summary.json")["scored"] == "whole volumes"
    monkeypatch.setattr(job, "_write_results", lambda *_: [])  # of what follows no run's scores are looked at
    # A run of single labels has arrays that are none for soft ones to learn from; they score it all the same.
    assert train("hard", data__soft_labels="false") == 0
    before = (tmp_path / "soft" / "evaluation" / "cases.csv").read_text()
    evaluate_run(tmp_path / "soft", "best", tmp_path / "hard" / "data")
    assert (tmp_path / "soft" / "evaluation" / "cases.csv").read_text() == before
    assert train("other", data__dir=tmp_path / "hard" / "data") == 1
    assert "holds arrays made with soft_labels = False, the config asks for True" in capsys.readouterr().err
    # It sees the same patches and learns something else.
    assert train("soft", num_epochs=2) == 0
    soft, hard = (
        [line["loss"] for line in read_metrics(tmp_path / name) if line["split"] == "train"]
        for name in ("soft", "hard")
    )
    assert len(soft) == 2 * len(hard) and np.isfinite(soft).all()
    assert 0 < abs(soft[0] - hard[0]) < 0.2
