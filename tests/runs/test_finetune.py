"""Runs that begin with the network of the tiny run."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxbrats import main
from jaxbrats.config.file import load_config
from jaxbrats.config.settings import from_config
from jaxbrats.inference.exported import read_model, write_model
from jaxbrats.inference.network import load_network
from jaxbrats.runs import finetune
from jaxbrats.runs.record import patients_trained_on, read_record
from jaxbrats.system.errors import InputError
from jaxbrats.train.loop import train


@pytest.fixture
def settings(tiny_config, tiny_run):
    """The tiny run's settings, with changes, beginning with its network."""

    def make(**changes):
        changes = [(name.replace("__", "."), text) for name, text in changes.items()]
        return from_config(load_config(tiny_config, [("init_from", str(tiny_run)), *changes]))

    return make


@pytest.fixture
def trained(tiny_run):
    record = read_record(tiny_run)
    return load_network(tiny_run, record.settings, record.frame)


def test_the_same_network_begins_where_the_best_checkpoint_ended(settings, trained, tiny_run, capsys):
    begins = finetune.load_beginning(settings())
    jax.tree.map(np.testing.assert_array_equal, begins.variables, jax.device_get(trained.variables))
    assert begins.record["step"] == trained.step
    assert begins.record["checksum"] == trained.checksum()
    assert begins.record["fresh"] == {}
    printed = capsys.readouterr().out
    assert f"begins with {tiny_run}, checkpoint {trained.step}: {len(begins.record['loaded'])} modules as" in printed


def test_other_modalities_are_copied_and_told(settings, trained, capsys):
    begins = finetune.load_beginning(settings(data__modalities="t1c,t1n"))
    kernel, there = (one["params"]["encoder_0"]["conv_0"]["kernel"] for one in (begins.variables, trained.variables))
    np.testing.assert_array_equal(kernel[..., 0, :], there[..., 1, :])
    assert "by input channel, t1c copied and t1n fresh: encoder_0/conv_0" in capsys.readouterr().out


def test_derived_channels_begin_fresh_beside_those_that_are_copied(settings, trained, capsys):
    changed = settings(data__derived="brain,gradient_t1c")
    assert changed.data.network_channels == ("t2f", "t1c", "brain", "gradient_t1c")
    begins = finetune.load_beginning(changed)
    kernel, there = (one["params"]["encoder_0"]["conv_0"]["kernel"] for one in (begins.variables, trained.variables))
    assert kernel.shape[-2] == 4
    np.testing.assert_array_equal(kernel[..., :2, :], there)
    assert "t2f, t1c copied and brain, gradient_t1c fresh: encoder_0/conv_0" in capsys.readouterr().out


def test_what_is_not_loaded_is_told(settings, capsys):
    finetune.load_beginning(settings(model__features="4,8"))
    told = [line for line in capsys.readouterr().out.splitlines() if "not loaded, fresh" in line]
    assert len(told) == 1
    assert "bottom/conv_0 (kernel 3x3x3x4x8, there kernel 3x3x3x4x6)" in told[0]


def test_a_network_of_which_nothing_fits_is_refused(settings):
    with pytest.raises(InputError, match=r"nothing of this network fits .* encoder_0/conv_0 .*config.init_from"):
        finetune.load_beginning(settings(model__features="5,7"))


def test_a_network_that_is_not_there_is_refused_before_anything_is_written(tiny_config, tiny_data, tmp_path, capsys):
    arguments = [f"--config={tiny_config}", f"--config.data.dir={tiny_data}", "--config.init_from=/nowhere"]
    assert main.run([*arguments, f"--workdir={tmp_path / 'run'}"]) == 1
    assert "there is no such folder or model /nowhere; with the package come: demo" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_validation_patient_that_it_learned_from_is_refused(tiny_run, tiny_config, tiny_data, tmp_path, capsys):
    arguments = [f"--config={tiny_config}", f"--config.data.dir={tiny_data}", f"--config.init_from={tiny_run}"]
    arguments += ["--config.data.folds=2", "--config.data.fold=1", f"--workdir={tmp_path / 'run'}"]
    assert main.run(arguments) == 1
    told = capsys.readouterr().err
    assert f"{tiny_run}: its network has learned from " in told
    assert " of the 4 patients of the validation set" in told
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_network_that_took_the_place_of_the_first_is_asked_too(
    tiny_run, tiny_config, tiny_data, tmp_path, begun_only, capsys
):
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(tiny_run, source, ignore=shutil.ignore_patterns("data"))
    arguments = [f"--config={tiny_config}", f"--config.data.dir={tiny_data}", f"--config.init_from={source}"]
    arguments.append(f"--workdir={workdir}")
    assert main.run(arguments) == 0  # as one that was killed before its first checkpoint
    record = json.loads((source / "config.json").read_text())
    record["data"] |= {"train": record["data"]["val"], "val": record["data"]["train"]}
    (source / "config.json").write_text(json.dumps(record))
    assert main.run(arguments) == 1
    assert f"{source}: its network has learned from 2 of the 2 patients of the val" in capsys.readouterr().err


def test_a_file_begins_like_the_run_that_it_was_exported_from(settings, trained, tiny_run, tmp_path):
    path = tmp_path / "network.npz"
    write_model(path, trained, read_record(tiny_run).settings, {})
    begins = finetune.load_beginning(settings(init_from=str(path)))
    jax.tree.map(np.testing.assert_array_equal, begins.variables["params"], read_model(path).variables["params"])
    assert begins.record["network"] == str(path)
    assert begins.record["patients"] == []


@pytest.mark.slow
def test_only_a_fresh_run_begins_with_it(tiny_run, tiny_config, tiny_data, tmp_path, training_alone, monkeypatch):
    source, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(tiny_run, source, ignore=shutil.ignore_patterns("data"))
    (start, *_) = (source / "starts.jsonl").read_text().splitlines()
    began_with = {"init_from": {"patients": ["of the network before"]}}
    (source / "starts.jsonl").write_text(json.dumps(json.loads(start) | began_with) + "\n")
    given = []

    def spy(*arguments, initial, **options):
        given.append(initial)
        return train(*arguments, initial=initial, **options)

    monkeypatch.setattr("jaxbrats.runs.job.train", spy)
    arguments = [f"--config={tiny_config}", f"--workdir={workdir}", f"--config.data.dir={tiny_data}"]
    arguments += [f"--config.init_from={source}", "--config.learning_rate=1e-30", "--config.schedule=constant"]
    assert main.run([*arguments, "--config.num_epochs=1"]) == 0
    shutil.rmtree(source)  # a run that goes on needs it no more
    assert main.run([*arguments, "--config.num_epochs=2"]) == 0
    starts = [json.loads(line) for line in (workdir / "starts.jsonl").read_text().splitlines()]
    assert [("init_from" in start, start["step"] > 0) for start in starts] == [(True, False), (False, True)]
    assert starts[0]["init_from"]["network"] == str(source.resolve())
    assert [one is None for one in given] == [False, True]
    # Evaluation leaves out all whom the network has learned from, in this run and those before.
    expected = patients_trained_on(read_record(tiny_run)) | {"of the network before"}
    assert patients_trained_on(read_record(workdir)) == expected == set(starts[0]["init_from"]["patients"])
    # With so small a learning rate the network is still the one it began with.
    record = read_record(workdir)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(load_network(workdir, record.settings, None).variables), given[0]
    )
