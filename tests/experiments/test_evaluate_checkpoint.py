import csv
import dataclasses
import re

import evaluate_checkpoint
import pytest
from evaluate_checkpoint import unseen_cases

from jaxbrats.commands import run_program
from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.split import Split
from jaxbrats.evaluation.tables import read_csv
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError


def run(*arguments):
    return run_program(evaluate_checkpoint, "evaluate_checkpoint", arguments)


def test_a_table_of_checkpoints(tiny_run, tiny_data, tmp_path):
    runs = f"--checkpoints={tiny_run},{tiny_run}:latest"
    assert run(runs, f"--data={tiny_data}", f"--out={tmp_path / 'table'}") == 0
    best, latest = (tmp_path / "table.md").read_text().splitlines()[2:]
    expected = [row["dice"] for row in read_csv(tiny_run / "evaluation" / "cases.csv") if row["region"] == "WT"]
    assert float(re.findall(r"\d\.\d{4}", best)[0]) == round(sum(expected) / len(expected), 4)
    assert latest.startswith(f"| {tiny_run}:")
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 5 * len(expected)


def test_what_a_run_was_trained_on_is_not_scored(tiny_run, tiny_data, tmp_path):
    """Of two runs the cases that both have not seen; where there is none, it says so."""
    record, dataset = read_record(tiny_run), read_dataset(tiny_data)
    assert [case.name for case in unseen_cases([record], dataset, [])] == list(record.split.val)
    first, *others = record.split.val
    other = dataclasses.replace(record, split=Split((first, *record.split.train[1:]), (record.split.train[0], *others)))
    assert [case.name for case in unseen_cases([record, other], dataset, [])] == others
    swapped = dataclasses.replace(record, split=Split(record.split.val, record.split.train))
    with pytest.raises(InputError, match="no case that none of the runs was trained on"):
        unseen_cases([record, swapped], dataset, [])


def test_an_unknown_run_is_named(tiny_data, capsys):
    assert run("--checkpoints=/nowhere", f"--data={tiny_data}") == 1
    assert "/nowhere: holds no config.json" in capsys.readouterr().err
