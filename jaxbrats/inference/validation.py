"""Scores of the validation cases while training: the network on each case's array, whole or in windows as it predicts.

Each case is scored on its own, so that the scores do not depend on how cases share batches.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxbrats.data.arrays import ArrayCase, read_image, read_labels
from jaxbrats.data.boxes import CropBox, crop
from jaxbrats.data.labels import BACKGROUND, NUM_CLASSES, REGIONS
from jaxbrats.data.loader import validation_batches
from jaxbrats.inference.sliding_window import Size, padded_shape, predict_probabilities
from jaxbrats.model.counts import Counts, accuracy, class_dice, class_iou, region_dice
from jaxbrats.model.heads import LABELS, Head
from jaxbrats.model.losses import LossFunction
from jaxbrats.train.checkpoints import SCORE
from jaxbrats.train.loop import Validate
from jaxbrats.train.mesh import batch_sharding, process_slice, put_batch, put_images, replicated
from jaxbrats.train.progress import PICTURES, scores_by_name
from jaxbrats.train.state import TrainState
from jaxbrats.train.step import Batch


class CaseMetrics(NamedTuple):
    """Of each case of a batch: loss `(B,)`, the counts its scores follow from, and probabilities `(B, X, Y, K)` of its
    `shown_slice`, which not all cases keep.
    """

    loss: jax.Array
    counts: Counts
    shown: jax.Array | None


# From a case and the labels `(X, Y)` predicted in its `shown_slice` to a picture `(down, across, 3)` uint8.
Draw = Callable[[ArrayCase, np.ndarray], np.ndarray]
# Cases that are drawn at each validation, the first ones.
_DRAWN = 2


def validation_step(
    model: nn.Module, loss_function: LossFunction, state: TrainState, batch: Batch, head: Head = LABELS
) -> CaseMetrics:
    """Loss and counts of each case on its own, so that the scores do not depend on how cases share batches."""
    logits = model.apply(state.variables, batch["image"])
    places = shown_slice(batch["labels"])[:, None, None, None, None]
    shown = jnp.take_along_axis(logits, places, axis=3)[:, :, :, 0]
    with jax.named_scope("scores"):
        loss = jax.vmap(lambda one, labels: loss_function(one[None], labels[None]))(logits, batch["labels"])
        return CaseMetrics(loss, head.count(logits, batch["labels"]), head.probabilities(shown))


def shown_slice(labels: Any) -> Any:
    """The slice along Z of labels `(..., X, Y, Z)` with the most tumour, `(...)`; the first of equals."""
    return (labels > 0).sum((-3, -2)).argmax(-1)


def jit_validation_step(
    mesh: jax.sharding.Mesh, model: nn.Module, loss_function: LossFunction, head: Head = LABELS
) -> Callable[[TrainState, Batch], CaseMetrics]:
    """`validation_step` compiled over the mesh."""
    step = functools.partial(validation_step, model, loss_function, head=head)
    whole = replicated(mesh)
    return jax.jit(step, in_shardings=(whole, batch_sharding(mesh)), out_shardings=whole)


def make_validation(
    mesh: jax.sharding.Mesh,
    model: nn.Module,
    loss_function: LossFunction,
    head: Head,
    cases: Sequence[ArrayCase],
    batch_size: int,
    window: Size | None = None,
    overlap: float = 0.5,
    draw: Draw | None = None,
) -> Validate:
    """What the training loop calls at each epoch's end.

    Args:
        mesh: The devices.
        model: The network.
        loss_function: The loss that is trained with.
        head: What the network's output means.
        cases: The validation cases.
        batch_size: Cases, or windows of one, that the network is given at once, over all devices.
        window: Size of the windows that go over each array, as in prediction; None where the network is given it whole.
        overlap: Least share of a window that the next one covers.
        draw: Draws the first two cases, for trackers; None for no pictures.

    Returns:
        A function from a state to loss (with windows, of the middle one), Dice, IoU and accuracy of the arrays, each
        the mean over cases, and to `region_dice` with its mean, in which tumour that the file has outside the array
        counts as missed. It is also given a function that tells of a signal, and returns None where one came
        meanwhile: many cases take longer than a batch system waits.
    """
    outside = np.stack([_outside(case) for case in cases])
    if window is None:
        step = jit_validation_step(mesh, model, loss_function, head)
        results_of = functools.partial(_whole_arrays, mesh, step, cases, batch_size)
    else:
        predict, measure = _jit_probabilities(mesh, model, head), _make_measure(loss_function, head, window)
        options = {"window": window, "overlap": overlap, "batch": batch_size, "num_classes": head.channels}
        blend = functools.partial(predict_probabilities, on_device=False, **options)
        results_of = functools.partial(_in_windows, mesh, predict, blend, measure, cases, batch_size)

    def validate(state: TrainState, stopped: Callable[[], int | None]) -> dict[str, Any] | None:
        results, shown = [], []
        with contextlib.closing(results_of(state)) as parts:
            for part in parts:
                results.append(part._replace(shown=None))
                shown += [part.shown] * (len(shown) < _DRAWN)
                if stopped():  # in each process at the same part, of which all have as many
                    return None
        # Of whole arrays the last batch is filled up with cases from the start again.
        case = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(cases)], *jax.device_get(results))
        if draw is None:
            return _scores(case, outside)
        slices = zip(cases[:_DRAWN], itertools.chain.from_iterable(jax.device_get(shown)), strict=False)
        pictures = {case.name: draw(case, head.labels(probabilities)) for case, probabilities in slices}
        return {**_scores(case, outside), PICTURES: pictures}

    return validate


def _whole_arrays(
    mesh: jax.sharding.Mesh,
    step: Callable[[TrainState, Batch], CaseMetrics],
    cases: Sequence[ArrayCase],
    batch_size: int,
    state: TrainState,
) -> Iterator[CaseMetrics]:
    """What is measured of each batch of whole arrays."""
    rows = process_slice(mesh)
    options = {"batch_size": batch_size, "process_index": rows.index, "process_count": rows.count}
    with validation_batches(cases, **options) as batches:
        for batch in batches:
            yield step(state, put_batch(mesh, batch))


def _in_windows(
    mesh: jax.sharding.Mesh,
    predict: Callable[[Any, jax.Array], jax.Array],
    blend: Callable[..., np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], CaseMetrics],
    cases: Sequence[ArrayCase],
    batch_size: int,
    state: TrainState,
) -> Iterator[CaseMetrics]:
    """What is measured of each case, windows blended as in prediction.

    Every process cuts all windows and gives its devices their share.
    """
    rows = process_slice(mesh)
    share = batch_size // rows.count

    def apply(windows: np.ndarray) -> jax.Array:
        mine = windows[rows.index * share : (rows.index + 1) * share]
        return predict(state.variables, put_images(mesh, mine))

    for case in cases:
        yield measure(blend(apply, read_image(case)), read_labels(case))


def _jit_probabilities(mesh: jax.sharding.Mesh, model: nn.Module, head: Head) -> Callable[[Any, jax.Array], jax.Array]:
    """From variables and windows to probabilities, compiled over the mesh."""

    def probabilities(variables: Any, images: jax.Array) -> jax.Array:
        return head.probabilities(model.apply(variables, images))

    whole = replicated(mesh)
    return jax.jit(probabilities, in_shardings=(whole, batch_sharding(mesh)), out_shardings=whole)


def _make_measure(
    loss_function: LossFunction, head: Head, window: Size
) -> Callable[[np.ndarray, np.ndarray], CaseMetrics]:
    """From the blended probabilities `(X, Y, Z, K)` and labels `(X, Y, Z)` of a case to loss and counts.

    The loss is of the patch about the array's middle, as training sees patches, and counts are of the whole array. So
    that few shapes are compiled, these are taken with background put around it, which is then subtracted.
    """

    @jax.jit
    def loss_of(blended: jax.Array, labels: jax.Array) -> jax.Array:
        return loss_function(head.logits(blended)[None], labels[None])

    @jax.jit
    def count(blended: jax.Array, labels: jax.Array) -> Counts:
        return head.count(head.logits(blended)[None], labels[None])

    def in_box(blended: np.ndarray, labels: np.ndarray, box: CropBox) -> tuple[np.ndarray, np.ndarray]:
        around = np.broadcast_to(head.background, (*box.size, head.channels)).copy()
        around[box.in_box] = blended[box.in_volume]
        return around, crop(labels, box)

    def measure(blended: np.ndarray, labels: np.ndarray) -> CaseMetrics:
        box = CropBox((0, 0, 0), padded_shape(labels.shape, window), labels.shape)
        counts = jax.tree.map(np.array, count(*in_box(blended, labels, box)))
        for confusion in counts:
            confusion[:, BACKGROUND, BACKGROUND] -= math.prod(box.size) - labels.size
        middle = CropBox.about_centre(labels.shape, window)
        shown = blended[:, :, shown_slice(labels)]
        return CaseMetrics(np.asarray(loss_of(*in_box(blended, labels, middle)))[None], counts, shown[None])

    return measure


def _outside(case: ArrayCase) -> np.ndarray:
    """int64 `(C,)`: tumour voxels of each label outside the array, which no prediction finds."""
    return np.array(case.record["label_voxels_outside"] if case.record else [0] * NUM_CLASSES)


def _scores(case: CaseMetrics, outside: np.ndarray) -> dict[str, Any]:
    """The means over cases, for the log."""
    of_arrays = case.counts.confusion
    of_files = of_arrays.copy()
    of_files[:, :, BACKGROUND] += outside.astype(of_files.dtype)  # reference label i, predicted as background
    crop_dice, file_dice = (
        {name: float(np.mean(region_dice(confusion, labels))) for name, labels in REGIONS.items()}
        for confusion in (of_arrays, of_files)
    )
    return {
        **scores_by_name(
            np.mean(case.loss, dtype=np.float64),
            np.mean(class_dice(of_arrays), axis=0),
            np.mean(class_iou(case.counts), axis=0),
            accuracy(of_arrays),
        ),
        "crop_region_dice": crop_dice,
        "region_dice": file_dice,
        SCORE: float(np.mean(list(file_dice.values()))),
    }
