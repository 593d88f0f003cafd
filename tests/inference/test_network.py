import dataclasses
import itertools
import json
import shutil
import types

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from jaxbrats.data.raw.geometry import Frame
from jaxbrats.inference import network as module
from jaxbrats.inference import predictor
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError

WINDOW = (16, 16, 16)


def load_network(run, step="best"):
    record = read_record(run)
    return module.load_network(run, record.settings, record.frame, step)


def load_ensemble(runs):
    networks = [load_network(run) for run in runs]
    module.check_ensemble(networks)
    return networks


@pytest.fixture(scope="module")
def network(tiny_run):
    return load_network(tiny_run)


def image_of(seed=0):
    return np.random.default_rng(seed).random((16, 16, 16, 2), np.float32)


def test_labels_are_the_most_probable_classes(network):
    image = image_of()
    logits = jax.jit(network.model.apply)(network.variables, jnp.asarray(image)[None])
    labels = Predictor([network], WINDOW).labels(image)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.argmax(logits[0], axis=-1))


def test_an_ensemble_averages_probabilities(network):
    other = jax.tree.map(lambda leaf: -leaf, network.variables)
    second = dataclasses.replace(network, variables=other)
    image = image_of(1)
    apply = jax.jit(network.model.apply)
    mean = sum(jax.nn.softmax(apply(one.variables, image[None])[0]) for one in (network, second))
    np.testing.assert_array_equal(Predictor([network, second], WINDOW).labels(image), np.argmax(mean, axis=-1))


def test_a_slice_is_not_mirrored_across(monkeypatch):
    asked = []
    monkeypatch.setattr(predictor, "probabilities_of", lambda *given: asked.append(tuple(given[-1])) or given[-2] + 0)
    windows = np.random.default_rng(0).random((2, 4, 4, 1, 3), np.float32)
    apply = Predictor([types.SimpleNamespace(model=None, head=None, variables=None)], (4, 4, 1), mirror=True).apply
    np.testing.assert_array_equal(apply(windows), windows)  # the mean of four that are alike
    assert asked == [(False, False, False), (False, True, False), (True, False, False), (True, True, False)]


def flipped(array, axes):
    return np.flip(array, [axis for axis, reverse in zip((-4, -3, -2), axes, strict=True) if reverse])


def test_mirroring_averages_eight_views(network):
    image = image_of(2)
    plain = Predictor([network], WINDOW).apply
    mirrorings = itertools.product((False, True), repeat=3)
    views = [flipped(np.asarray(plain(flipped(image, axes)[None]))[0], axes) for axes in mirrorings]
    assert np.abs(views[0] - views[1]).max() > 1e-3
    result = Predictor([network], WINDOW, mirror=True)(image)
    np.testing.assert_allclose(result, np.mean(views, axis=0), rtol=0, atol=1e-6)


def test_an_ensemble_of_one_architecture_and_all_mirrorings_is_one_program(network):
    other = dataclasses.replace(network, variables=jax.tree.map(lambda leaf: leaf * 0.9, network.variables))
    predict = Predictor([network, other], WINDOW, batch=2, mirror=True)
    before = predictor.probabilities_of._cache_size()
    for length in (9, 16, 21):
        image = np.random.default_rng(0).random((length, 16, 9, 2), np.float32)
        result = predict(image)
        assert result.shape == (length, 16, 9, 4)
    assert predictor.probabilities_of._cache_size() == before + 1


def test_the_run_tells_how_its_training_voxels_lay(network, tiny_cohort):
    case = min(tiny_cohort.iterdir())
    source = nib.load(case / f"{case.name}-t2f.nii.gz")
    assert network.frame == Frame("LPS", tuple(round(float(size), 4) for size in source.header.get_zooms()))


def test_steps_are_named(tiny_run):
    latest = load_network(tiny_run, "latest")
    assert load_network(tiny_run, str(latest.step)).step == latest.step
    log = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    kept = {int(path.name) for path in (tiny_run / "checkpoints").iterdir()}
    best = max((r for r in log if r["split"] == "val"), key=lambda r: (r["mean_region_dice"], r["step"]))
    assert best["step"] in kept
    assert load_network(tiny_run, "best").step == best["step"]
    last = rf"training keeps its last two and the best\. Take best, latest or one of .*{latest.step}"
    with pytest.raises(InputError, match=rf"there is no checkpoint '77', {last}"):
        load_network(tiny_run, "77")


def test_a_run_of_another_network_names_the_first_parameter(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    record = json.loads((run / "config.json").read_text())
    record["settings"]["model"]["features"] = [4, 8]
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(
        InputError, match=r"\['bottom'\]\['conv_0'\]\['kernel'\] has shape \(3, 3, 3, 4, 6\) in the check"
    ):
        load_network(run)


def test_an_ensemble_needs_runs_preprocessed_alike(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    record = json.loads((run / "config.json").read_text())
    record["settings"]["data"]["normalization"] = "zscore"
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="preprocessed alike: normalization is zscore here and minmax in"):
        load_ensemble([tiny_run, run])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"orientation": "RAS", "spacing_mm": [8, 8, 8]}, "orientation is RAS here and LPS in"),
        ({"orientation": "LPS", "spacing_mm": [2, 2, 1]}, r"spacing_mm is \[2.0, 2.0, 1.0\] here and \["),
        (None, "orientation is None here and LPS in"),
    ],
)
def test_an_ensemble_needs_one_frame(tiny_run, tmp_path, frame, message):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    record = json.loads((run / "config.json").read_text())
    assert record["data"]["frame"]["orientation"] == "LPS"
    record["data"]["frame"] = frame
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        load_ensemble([tiny_run, run])


def test_runs_that_differ_by_less_than_a_percent_are_an_ensemble(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    record = json.loads((run / "config.json").read_text())
    record["data"]["frame"]["spacing_mm"][0] *= 1.002
    (run / "config.json").write_text(json.dumps(record))
    assert len(load_ensemble([tiny_run, run])) == 2


def test_an_image_of_a_window_is_one_call_with_nothing_changed(network):
    image = image_of(4)
    predict = Predictor([network], WINDOW)
    np.testing.assert_array_equal(predict(image), predict.apply(image[None])[0])


def test_the_checksum_is_of_the_parameters(network):
    assert dataclasses.replace(network, workdir="elsewhere", step=0).checksum() == network.checksum()
    leaves, tree = jax.tree.flatten(jax.tree.map(np.array, network.variables))
    leaves[-1].flat[-1] += 1e-6
    assert dataclasses.replace(network, variables=jax.tree.unflatten(tree, leaves)).checksum() != network.checksum()


def test_an_ensemble_has_one_window_that_suits_all(network):
    thin = dataclasses.replace(network, window=(16, 16, 1))
    with pytest.raises(
        InputError, match=r"with one window: it is \(16, 16, 1\) here and .* Give --window, which then is"
    ):
        module.check_ensemble([network, thin])
    with pytest.raises(InputError, match=r"windows of \(16, 16, 1\) voxels, needs multiples of \(2, "):
        module.check_ensemble([thin, network])


def test_an_ensemble_may_have_learned_from_other_cases_and_forms_of_labels(network):
    other = dataclasses.replace(network.preprocessing, min_tumour=0.5, incomplete=True, soft_labels=True)
    module.check_ensemble([network, dataclasses.replace(network, preprocessing=other)])
    other = dataclasses.replace(network.preprocessing, normalization="zscore")
    with pytest.raises(InputError, match="preprocessed alike: normalization is zscore here"):
        module.check_ensemble([network, dataclasses.replace(network, preprocessing=other)])
