"""Validation while training: each case by itself, on its array, with tumour outside the array counted as missed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxbrats.config.settings import Loss, Model, Settings
from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.labels import ED, ET, REGIONS
from jaxbrats.evaluation.metrics import dice
from jaxbrats.inference.network import Network
from jaxbrats.inference.predictor import Predictor
from jaxbrats.inference.validation import jit_validation_step, make_validation
from jaxbrats.model.heads import LABELS, RegionsHead
from jaxbrats.model.losses import make_loss
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import TrainState, init_state, make_model


def test_each_case_is_scored_by_itself():
    settings = Settings(conv="direct", model=Model(features=(4, 6), norm="instance", dropout=(0.0,)))
    model, loss = make_model(settings), make_loss(settings.loss)
    mesh = make_mesh(1, 1, 2)
    state = replicate(mesh, init_state(model, make_optimizer(1e-2, "constant", 10), 0, 3))
    step = jit_validation_step(mesh, model, loss)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 8, 8, 8, 3)).astype(np.float32)
    batch = {"image": image, "labels": rng.integers(0, 4, image.shape[:-1]).astype(np.uint8)}
    together = step(state, put_batch(mesh, batch))
    swapped = step(state, put_batch(mesh, {name: array[::-1].copy() for name, array in batch.items()}))
    np.testing.assert_allclose(together.loss, swapped.loss[::-1], rtol=1e-5)
    np.testing.assert_array_equal(together.counts.confusion, swapped.counts.confusion[::-1])
    assert together.counts.confusion.sum() == 2 * 8**3
    logits = model.apply({"params": state.params}, batch["image"][:1])
    np.testing.assert_allclose(together.loss[0], loss(logits, batch["labels"][:1]), rtol=1e-5)


class Shown(nn.Module):
    """Predicts the label whose channel of the image is 1."""

    @nn.compact
    def __call__(self, image):
        return 10 * image


@pytest.fixture
def validate(tmp_path):
    """Validation of three cases of 4 x 4 x 4 voxels, two at a time."""

    def case(name, truth, prediction, outside):
        image, mask = tmp_path / f"{name}-image.npy", tmp_path / f"{name}-mask.npy"
        np.save(image, np.eye(4, dtype=np.float32)[prediction])
        np.save(mask, truth)
        return ArrayCase(name, name, image, mask, record=outside and {"label_voxels_outside": outside})

    empty = np.zeros((4, 4, 4), np.uint8)
    edema, enhancing, half = empty.copy(), empty.copy(), empty.copy()
    edema[:2, :2, :2] = ED
    enhancing[0, 0, :] = ET
    half[0, 0, :2] = ET
    cases = [
        case("all_found", edema, edema, [100, 0, 8, 0]),  # 8 voxels of edema inside, 8 outside
        case("half_found", enhancing, half, None),  # no manifest tells of an outside
        case("all_outside", empty, empty, [100, 5, 0, 0]),  # nothing but 5 voxels of necrosis, outside
    ]

    def draw(case, predicted):
        return case.name, predicted

    return make_validation(make_mesh(1, 1, 2), Shown(), make_loss(Loss()), LABELS, cases, 2, draw=draw)


def goes_on():
    return None


STATE = TrainState(jnp.int32(0), {}, {}, {}, jnp.int32(0))


def test_tumour_outside_the_array_counts_as_missed(validate):
    scores = validate(STATE, goes_on)
    half = 2 * 2 / (4 + 2)
    assert scores["crop_region_dice"] == pytest.approx(dict.fromkeys(("WT", "TC", "ET"), (1 + half + 1) / 3))
    expected = {
        "WT": (2 * 8 / (8 + 16) + half + 0) / 3,
        "TC": (1 + half + 0) / 3,
        "ET": (1 + half + 1) / 3,
    }
    assert scores["region_dice"] == pytest.approx(expected)
    assert scores["mean_region_dice"] == pytest.approx(sum(expected.values()) / 3)
    # The labels' own scores are of the arrays.
    assert scores["dice"]["ED"] == scores["dice"]["NCR"] == 1
    assert scores["dice"]["ET"] == pytest.approx((1 + half + 1) / 3)
    assert scores["accuracy"] == pytest.approx(1 - 2 / (3 * 64))


def test_the_first_two_cases_are_drawn_where_they_have_most_tumour(validate, tmp_path):
    drawn = validate(STATE, goes_on)["pictures"]
    assert list(drawn) == ["all_found", "half_found"]
    half = np.load(tmp_path / "half_found-image.npy").argmax(-1)
    np.testing.assert_array_equal(drawn["half_found"][1], half[:, :, 0])
    cases = [ArrayCase("case", "case", tmp_path / "half_found-image.npy", tmp_path / "moved-mask.npy")]
    np.save(cases[0].mask, np.roll(np.load(tmp_path / "half_found-mask.npy"), 1, axis=1) * (np.arange(4) == 1))
    for window, batch in ((None, 2), ((4, 4, 4), 1)):
        options = {"window": window, "draw": lambda case, predicted: predicted}
        validate = make_validation(make_mesh(1, 1, batch), Shown(), make_loss(Loss()), LABELS, cases, batch, **options)
        np.testing.assert_array_equal(validate(STATE, goes_on)["pictures"]["case"], half[:, :, 1])
    assert half[:, :, 1].any()


def test_a_signal_cuts_validation_short(validate):
    assert validate(STATE, lambda: 15) is None


def test_the_scores_do_not_depend_on_the_mesh(validate, tmp_path):
    cases = [ArrayCase("case", "case", tmp_path / "half_found-image.npy", tmp_path / "half_found-mask.npy")]
    options = {"draw": lambda case, predicted: predicted}
    scores = [
        make_validation(make_mesh(data, space, data), Shown(), make_loss(Loss()), LABELS, cases, data, **options)(
            replicate(make_mesh(data, space, data), STATE), goes_on
        )
        for data, space in ((1, 1), (2, 2))
    ]
    assert scores[0]["region_dice"] == scores[1]["region_dice"]
    np.testing.assert_array_equal(*(one["pictures"]["case"] for one in scores))
    assert jax.tree.map(np.shape, scores[0]) == jax.tree.map(np.shape, scores[1])


@pytest.mark.parametrize("head", [LABELS, RegionsHead()])
def test_in_windows_the_scores_are_those_of_what_the_predictor_gives(tmp_path, head):
    rng, window = np.random.default_rng(0), (8, 8, 8)
    loss = {"dice": 1.0, "ce": 1.0} if head == LABELS else {"dice": 1.0, "bce": 1.0}
    name = "labels" if head == LABELS else "regions"
    model = Model(features=(4, 6), norm="instance", dropout=(0.0,), head=name)
    settings = Settings(conv="direct", model=model, loss=Loss(terms=loss))
    model, loss = make_model(settings), make_loss(settings.loss, head)
    state = init_state(model, make_optimizer(1e-2, "constant", 10), 0, 2)
    cases, expected, right, voxels = [], [], 0, 0
    for number, shape in enumerate(((8, 8, 8), (5, 8, 11), (13, 9, 8))):
        case = ArrayCase(f"{number}", f"{number}", tmp_path / f"{number}-image.npy", tmp_path / f"{number}-mask.npy")
        image, labels = rng.normal(size=(*shape, 2)).astype(np.float32), rng.integers(0, 4, shape).astype(np.uint8)
        np.save(case.image, image)
        np.save(case.mask, labels)
        cases.append(case)
        network = Network(tmp_path, 0, None, model, state.variables, window, head=head)
        predicted = Predictor([network], window).labels(image)
        right, voxels = right + np.sum(predicted == labels), voxels + labels.size
        expected.append([dice(np.isin(predicted, region), np.isin(labels, region)) for region in REGIONS.values()])
    for mesh, batch in ((make_mesh(1, 1, 1), 1), (make_mesh(2, 2, 2), 2)):
        validate = make_validation(mesh, model, loss, head, cases, batch, window)
        scores = validate(replicate(mesh, state), goes_on)
        found = [scores["region_dice"][region] for region in REGIONS]
        assert found == pytest.approx(np.mean(expected, axis=0), abs=2e-3)
        assert scores["accuracy"] == pytest.approx(right / voxels, abs=2e-3)  # of the arrays, nothing around them
        if mesh.size == 1:
            first = make_validation(mesh, model, loss, head, cases[:1], batch, window)(state, goes_on)["loss"]
            whole = make_validation(mesh, model, loss, head, cases[:1], batch)(state, goes_on)["loss"]
            assert first == pytest.approx(whole, rel=1e-4)


def test_a_signal_cuts_validation_in_windows_short(validate, tmp_path):
    cases = [ArrayCase("case", "case", tmp_path / "half_found-image.npy", tmp_path / "half_found-mask.npy")]
    mesh = make_mesh(1, 1, 1)
    windows = make_validation(mesh, Shown(), make_loss(Loss()), LABELS, cases, 1, (4, 4, 4))
    assert windows(STATE, lambda: 15) is None
    assert windows(STATE, goes_on)["region_dice"]["ET"] == pytest.approx(2 * 2 / (4 + 2))
