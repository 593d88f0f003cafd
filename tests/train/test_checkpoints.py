import concurrent.futures
import itertools
import json
import shutil
import threading

import jax.numpy as jnp
import pytest

from experiments import faults
from jaxbrats import commands, main
from jaxbrats.inference.network import load_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train import checkpoints
from jaxbrats.train.checksums import DamagedCheckpointError, verify, write_checksums
from jaxbrats.train.state import TrainState


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path, bit=0):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def latest(workdir):
    with checkpoints.open_checkpoints(workdir) as manager:
        return manager.latest_step()


def test_every_flipped_bit_and_missing_byte_is_found(run):
    folder = run / "checkpoints" / "9"
    files = [path for path in folder.glob("*/**/*") if path.is_file()]
    assert len(files) > 20
    for number, path in enumerate(files):
        content = path.read_bytes()
        flip(path, number % 8)
        with pytest.raises(DamagedCheckpointError, match="holds other bytes than were written"):
            verify(folder)
        path.write_bytes(content[:-1])
        with pytest.raises(DamagedCheckpointError, match=rf"has {len(content) - 1} bytes, {len(content)} were written"):
            verify(folder)
        path.unlink()
        with pytest.raises(DamagedCheckpointError, match=r"cannot be read \(No such file"):
            verify(folder)
        path.write_bytes(content)
    verify(folder)
    for text in ("", "{}", '{"files": {"model/x": 1}}'):
        (folder / "checksums.json").write_text(text)
        with pytest.raises(DamagedCheckpointError, match=r"checksums.json: is damaged"):
            verify(folder)


def test_the_one_before_a_damaged_checkpoint_is_used_and_said(run, tiny_run, tiny_config, training_alone, capsys):
    damaged = largest_file(run / "checkpoints" / "9" / "training")
    flip(damaged)
    arguments = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_run / 'data'}"]
    assert main.run(arguments) == 0
    printed = capsys.readouterr()
    assert f"checkpoint 9 is damaged ({damaged}: holds other bytes than were written) and was moved to" in printed.err
    assert "left: 3, 8" in printed.err
    assert "resuming after step 8 of 9" in printed.out
    assert (run / "damaged" / "9" / "checksums.json").exists()
    assert faults.trained(run) == faults.trained(tiny_run)


def test_metrics_that_are_not_json_do_not_stop_a_run(run, capsys):
    (run / "checkpoints" / "9" / "metrics" / "metrics").write_text('{"mean_regio')
    assert latest(run) == 8
    (run / "checkpoints" / "8" / "checksums.json").unlink()
    assert latest(run) == 3
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["8", "9"]


def test_no_usable_checkpoint_is_an_error_and_nothing_is_moved(run):
    for folder in (run / "checkpoints").iterdir():
        flip(largest_file(folder))
    with pytest.raises(InputError, match=r"none of the checkpoints can be used: .*/3/.*/8/.*/9/.*from a backup"):
        latest(run)
    assert len(list((run / "checkpoints").iterdir())) == 3


def test_a_checkpoint_that_was_to_be_written_again_is_not_lost(run):
    """A kill, or a full disk, after Orbax renamed the latest away and before it is there again."""
    folder = run / "checkpoints"
    (folder / ".deleted").mkdir()
    (folder / "9").rename(folder / ".deleted" / "9")
    (folder / "3").rename(folder / ".deleted" / "3")  # an old one that is really to go
    checkpoints._empty_deleted(folder)
    assert [path.name for path in (folder / ".deleted").iterdir()] == ["9"]
    assert latest(run) == 9
    verify(folder / "9")
    assert not (folder / ".deleted").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_another_checkpoint_is_not_used_in_silence(run, tiny_cohort, tmp_path, capsys, command):
    flip(largest_file(run / "checkpoints" / "3" / "model"))
    arguments = [f"--input={tiny_cohort}", f"--output={tmp_path / 'out'}"] if command == "predict" else []
    assert commands.run([command, f"--workdir={run}", *arguments]) == 1
    error = capsys.readouterr().err
    assert "checkpoint 3 is damaged (" in error
    assert "name another one with --step: 8, 9" in error
    assert len(error.splitlines()) == 1


def test_damaged_scores_are_not_compared(run):
    metrics = run / "checkpoints" / "9" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text().replace("0.", "1."))
    with pytest.raises(InputError, match=r"checkpoint 9 is damaged .*name another one with --step: 3, 8"):
        checkpoints.choose_step(run, "best")
    assert checkpoints.choose_step(run, "latest") == 9


def test_a_checkpoint_gets_its_name_after_its_checksums(run, monkeypatch, tiny_run, tiny_config, capsys):
    """A kill at any moment leaves no checkpoint that would be taken for a damaged one."""
    shutil.rmtree(run / "checkpoints" / "9")
    seen = []

    def fails(folder):
        seen.append(sorted(path.name for path in folder.iterdir()))
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(checkpoints, "write_checksums", fails)
    arguments = [f"--config={tiny_config}", f"--workdir={run}", f"--config.data.dir={tiny_run / 'data'}"]
    assert main.run(arguments) == 1
    assert "(No space left on device). Free some space" in capsys.readouterr().err.splitlines()[-1]
    assert {"loader", "metrics", "model", "training"} <= set(seen[0])
    assert not (run / "checkpoints" / "9").exists()
    monkeypatch.setattr(checkpoints, "write_checksums", write_checksums)
    assert latest(run) == 8


def test_best_is_the_last_of_equals(run):
    for step, score in ((3, 0.5), (9, 0.5)):
        folder = run / "checkpoints" / str(step)
        (folder / "metrics" / "metrics").write_text(json.dumps({checkpoints.SCORE: score}))
        (folder / "checksums.json").unlink()
        write_checksums(folder)
    assert checkpoints.choose_step(run, "best") == 9


@pytest.mark.slow
def test_loading_while_training_saves_and_deletes(tmp_path):
    """Whoever loads finds a whole checkpoint, though each lives for moments only."""
    zero = jnp.int32(0)
    state = TrainState(zero, {"kernel": jnp.ones((2, 3))}, {}, {"momentum": jnp.ones((2, 3))}, zero)
    like = {"params": state.params, "batch_stats": {}}
    loads, ended = [], threading.Event()

    def load():
        try:
            # However fast one goes beside the other: many loads, of many checkpoints.
            while len(loads) < 200 or len(set(loads)) <= 20:
                loads.append(checkpoints.load_variables(tmp_path, ("best", "latest")[len(loads) % 2], like)[0])
        finally:
            ended.set()

    with checkpoints.open_checkpoints(tmp_path) as manager, concurrent.futures.ThreadPoolExecutor() as executor:
        for step in itertools.count(1):
            # The best is replaced with every third step.
            checkpoints.save(manager, state.replace(step=jnp.int32(step)), {}, {checkpoints.SCORE: step // 3 / 1e6})
            if step == 3:
                loading = executor.submit(load)
            if ended.is_set():
                break
        loading.result()
    assert len(loads) >= 200
    assert len(set(loads)) > 20
    assert not (tmp_path / "checkpoints" / ".deleted").exists()


def test_a_checkpoint_deleted_while_it_is_read(run, monkeypatch):
    """'best' and 'latest' are chosen again; of a number it is said that it is there no more."""
    record = read_record(run)
    like = load_network(run, record.settings, record.frame).variables
    verify_before = checkpoints.verify

    def delete_and_verify(folder, part=""):
        if not part and (run / "checkpoints" / "9").exists():
            shutil.rmtree(run / "checkpoints" / "9")
        verify_before(folder, part)

    monkeypatch.setattr(checkpoints, "verify", delete_and_verify)
    with pytest.raises(InputError, match=r"there is no checkpoint '9', training keeps .*one of 3, 8$"):
        checkpoints.load_variables(run, "9", like)
    shutil.copytree(run / "checkpoints" / "8", run / "checkpoints" / "9")
    assert checkpoints.load_variables(run, "latest", like)[0] == 8
