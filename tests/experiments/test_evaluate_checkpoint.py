import csv
import re
import subprocess
import sys

from jaxbrats.evaluation.tables import read_csv


def test_a_table_of_checkpoints(tiny_run, tiny_data, tmp_path, request):
    command = [
        sys.executable,
        str(request.config.rootpath / "experiments" / "evaluate_checkpoint.py"),
        f"--checkpoints={tiny_run},{tiny_run}:latest",
        f"--data={tiny_data}",
        f"--out={tmp_path / 'table'}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=request.config.rootpath)
    assert result.returncode == 0, result.stderr
    best, latest = (tmp_path / "table.md").read_text().splitlines()[2:]
    expected = [row["dice"] for row in read_csv(tiny_run / "evaluation" / "cases.csv") if row["region"] == "WT"]
    assert float(re.findall(r"\d\.\d{4}", best)[0]) == round(sum(expected) / len(expected), 4)
    assert latest.startswith(f"| {tiny_run}:")
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 5 * len(expected)


def test_an_unknown_run_is_named(tiny_data, request):
    script = str(request.config.rootpath / "experiments" / "evaluate_checkpoint.py")
    command = [sys.executable, script, "--checkpoints=/nowhere", f"--data={tiny_data}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=request.config.rootpath)
    assert result.returncode == 1
    assert "/nowhere: holds no config.json" in result.stderr
    assert "Traceback" not in result.stderr
