import json
import shutil

import pytest

from jaxbrats import commands, main
from jaxbrats.train.logs import MetricsLog, read_metrics

RECORD = {"step": 1, "epoch": 1, "split": "train", "loss": 0.5, "dice": {"ET": None}, "seconds": 1}
NO_RECORDS = [
    b"5",
    b"[1]",
    b"null",
    '{"note": "caf\u00e9"}'.encode("latin-1"),
    b"[" * 100_000,
    json.dumps({name: value for name, value in RECORD.items() if name != "step"}).encode(),
    json.dumps({name: value for name, value in RECORD.items() if name != "epoch"}).encode(),
    json.dumps(RECORD | {"step": "1"}).encode(),
    json.dumps(RECORD | {"step": True}).encode(),
    json.dumps(RECORD | {"split": "test"}).encode(),
    json.dumps(RECORD | {"seconds": "long"}).encode(),
    json.dumps(RECORD | {"dice": {"ET": [1]}}).encode(),
]


def write_lines(workdir, *lines):
    (workdir / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize("line", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_what_is_no_record_is_left_out(tmp_path, line):
    good = [RECORD, RECORD | {"step": 2}]
    write_lines(tmp_path, json.dumps(good[0]).encode(), line, json.dumps(good[1]).encode())
    assert read_metrics(tmp_path) == good


def test_no_file_and_a_line_cut_short(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD)[:20])
    assert read_metrics(tmp_path) == [RECORD]


def test_resuming_cuts_later_lines_and_says_what_it_leaves_out(tmp_path, capsys):
    kept = json.dumps(RECORD, separators=(",", ":")).encode()  # stays as it is, byte for byte
    write_lines(tmp_path, kept, *NO_RECORDS[:4], json.dumps(RECORD | {"step": 2}).encode())
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "spl')
    log = MetricsLog(tmp_path, resume_step=1)
    path = tmp_path / "metrics.jsonl"
    assert path.read_bytes() == kept + b"\n"
    assert capsys.readouterr().err == f"{path}: 4 lines are no record of this program, and left out\n"
    log.write(RECORD | {"step": 2})
    log.close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    MetricsLog(tmp_path, resume_step=1).close()
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_and_is_reported_with_a_damaged_log(run, tiny_run, tiny_config, training_alone, capsys):
    shutil.rmtree(run / "checkpoints" / "9")
    lines = (tiny_run / "metrics.jsonl").read_bytes().splitlines()
    write_lines(run, *NO_RECORDS, *lines, *NO_RECORDS)
    assert commands.run(["report", f"--workdir={run}"]) == 0
    arguments = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_run / 'data'}"]
    assert main.run(arguments) == 0
    assert f"metrics.jsonl: {2 * len(NO_RECORDS)} lines are no record of this program" in capsys.readouterr().err
    assert len((run / "metrics.jsonl").read_bytes().splitlines()) == len(lines)
