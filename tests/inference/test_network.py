import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrats.errors import InputError
from jaxbrats.inference.network import load_ensemble, load_network, make_predict


@pytest.fixture(scope="module")
def network(tiny_run):
    return load_network(tiny_run)


def image_of(seed=0):
    return np.random.default_rng(seed).random((16, 16, 16, 2), np.float32)


def test_labels_are_the_most_probable_classes(network):
    image = image_of()
    logits = jax.jit(network.model.apply)(network.variables, jnp.asarray(image)[None])
    labels = make_predict([network])(image)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.argmax(logits[0], axis=-1))


def test_an_ensemble_averages_probabilities(network):
    other = jax.tree.map(lambda leaf: -leaf, network.variables)
    second = type(network)(network.workdir, network.step, network.preprocessing, network.model, other)
    image = image_of(1)
    apply = jax.jit(network.model.apply)
    mean = sum(jax.nn.softmax(apply(one.variables, image[None])[0]) for one in (network, second))
    np.testing.assert_array_equal(make_predict([network, second])(image), np.argmax(mean, axis=-1))


def test_steps_are_named(tiny_run):
    latest = load_network(tiny_run, "latest")
    assert load_network(tiny_run, str(latest.step)).step == latest.step
    log = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    kept = {int(path.name) for path in (tiny_run / "checkpoints").iterdir()}
    best = max((r for r in log if r["split"] == "val"), key=lambda r: (r["mean_region_dice"], r["step"]))
    assert best["step"] in kept
    assert load_network(tiny_run, "best").step == best["step"]
    with pytest.raises(InputError, match=rf"there is no checkpoint '77'. Take best, latest or one of .*{latest.step}"):
        load_network(tiny_run, "77")


def test_no_run(tmp_path):
    with pytest.raises(InputError, match=r"holds no config.json, so it is no training run"):
        load_network(tmp_path)


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


def test_a_damaged_checkpoint_is_named(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    for path in (run / "checkpoints").rglob("*"):
        if path.is_file() and path.parent.name != "metrics":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_network(run)


def test_an_ensemble_needs_runs_preprocessed_alike(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("data"))
    record = json.loads((run / "config.json").read_text())
    record["settings"]["data"]["normalization"] = "zscore"
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="preprocessed alike: normalization is zscore here and minmax in"):
        load_ensemble([tiny_run, run])
