"""Patches: where they lie follows from seed and record; a share is centred on tumour, its classes taking turns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.boxes import CropBox
from jaxbrats.data.labels import ED, ET, NCR
from jaxbrats.data.loader import training_batches
from jaxbrats.data.patches import patch_start
from jaxbrats.system.errors import InputError


def labels_with(shape=(12, 10, 8), **voxels):
    labels = np.zeros(shape, np.uint8)
    for name, voxel in voxels.items():
        labels[voxel] = {"NCR": NCR, "ED": ED, "ET": ET}[name]
    return labels


@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(0, 2**31), st.integers(0, 2**40), st.floats(0, 1))
def test_a_patch_lies_inside_and_follows_from_seed_and_record(patch, seed, record, foreground):
    labels = labels_with((6, 6, 6), ED=(5, 0, 3))
    start = patch_start(labels, patch, foreground, seed, record)
    assert all(0 <= first <= 6 - size for first, size in zip(start, patch, strict=True))
    assert start == patch_start(labels, patch, foreground, seed, record)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**31), st.integers(0, 2**40), st.floats(0, 1))
def test_a_smaller_array_lies_in_the_middle_of_its_patch(shape, seed, record, foreground):
    patch, labels = (6, 4, 8), labels_with(shape, ED=(0, 0, 0))
    for first, size, whole in zip(patch_start(labels, patch, foreground, seed, record), patch, shape, strict=True):
        assert first == -((size - whole) // 2) if whole <= size else 0 <= first <= whole - size


def test_every_place_is_drawn_alike():
    starts = [patch_start(labels_with(), (9, 10, 6), 0.0, 0, record) for record in range(3000)]
    places, counts = np.unique(starts, axis=0, return_counts=True)
    assert len(places) == 4 * 1 * 3  # 12 - 9 + 1, 1, 8 - 6 + 1
    assert counts.min() > 3000 / 12 * 0.75 and counts.max() < 3000 / 12 * 1.25
    other = [patch_start(labels_with(), (9, 10, 6), 0.0, 1, record) for record in range(100)]
    assert other != starts[:100]


def test_classes_take_turns_and_a_missing_one_gives_its_turn_away():
    labels = labels_with(ET=(6, 5, 4), NCR=(3, 4, 5), ED=(7, 6, 3))
    centres = [np.add(patch_start(labels, (2, 2, 2), 1.0, 0, record), 1).tolist() for record in range(6)]
    assert centres == [[6, 5, 4], [3, 4, 5], [7, 6, 3]] * 2
    without = labels_with(ED=(7, 6, 3), ET=(6, 5, 4))
    assert np.add(patch_start(without, (2, 2, 2), 1.0, 0, 1), 1).tolist() == [7, 6, 3]
    at_the_edge = labels_with(ET=(0, 9, 7))
    assert patch_start(at_the_edge, (4, 4, 4), 1.0, 0, 0) == (0, 6, 4)


def test_the_share_of_patches_on_tumour():
    labels = labels_with((40, 40, 40), ET=(20, 20, 20))
    on_tumour = sum(patch_start(labels, (4, 4, 4), 0.33, 0, record) == (18, 18, 18) for record in range(2000))
    assert on_tumour / 2000 == pytest.approx(0.33, abs=0.03)
    assert all(patch_start(labels * 0, (4, 4, 4), 1.0, 0, record) for record in range(3))  # no tumour: anywhere


@pytest.fixture
def cases(tmp_path):
    found = []
    for number in range(3):
        rng = np.random.default_rng(number)
        image, labels = rng.random((8, 6, 10, 2), np.float32), rng.integers(0, 4, (8, 6, 10), np.uint8)
        image[..., 0] += 10 * number
        order = "F" if number == 1 else "C"
        np.save(tmp_path / f"image{number}.npy", np.asarray(image, order=order))
        np.save(tmp_path / f"mask{number}.npy", labels)
        found.append(
            ArrayCase(f"{number}", f"{number}", tmp_path / f"image{number}.npy", tmp_path / f"mask{number}.npy")
        )
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_patches_and_resume_at_any_of_them(cases, workers):
    options = {"batch_size": 2, "seed": 5, "patch": (4, 6, 4), "foreground": 0.5, "workers": workers}
    with training_batches(cases, **options) as batches:
        first = [next(batches) for _ in range(6)]
    with training_batches(cases, **options, start_batch=4) as batches:
        again = [next(batches) for _ in range(2)]
    for one, other in zip(first[4:], again, strict=True):
        for name in ("image", "labels", "index"):
            np.testing.assert_array_equal(one[name], other[name])
    for number, batch in enumerate(first):
        assert batch["image"].shape == (2, 4, 6, 4, 2)
        for row, case in enumerate(batch["index"]):
            image, labels = np.load(cases[case].image), np.load(cases[case].mask)
            start = patch_start(labels, (4, 6, 4), 0.5, 5, 2 * number + row)
            box = CropBox(start, (4, 6, 4), labels.shape).in_volume
            np.testing.assert_array_equal(batch["image"][row], image[box])
            np.testing.assert_array_equal(batch["labels"][row], labels[box])


def test_zeros_go_around_an_array_that_is_smaller_than_the_patch(tmp_path):
    rng, cases = np.random.default_rng(0), []
    for name, shape in (("small", (3, 8, 4)), ("large", (6, 7, 9))):
        cases.append(ArrayCase(name, name, tmp_path / f"{name}-image.npy", tmp_path / f"{name}-mask.npy"))
        np.save(cases[-1].image, rng.normal(size=(*shape, 2)).astype(np.float32))
        np.save(cases[-1].mask, rng.integers(1, 4, shape).astype(np.uint8))
    with training_batches(cases, batch_size=2, seed=3, patch=(6, 6, 6), foreground=0.5) as batches:
        for batch in (next(batches) for _ in range(4)):
            for row, index in enumerate(batch["index"]):
                image, labels = batch["image"][row], batch["labels"][row]
                inside = (slice(1, 4), slice(None), slice(1, 5)) if index == 0 else (slice(None),) * 3
                assert (labels[inside] > 0).all() and (labels > 0).sum() == labels[inside].size
                assert (image[labels == 0] == 0).all() and (image[inside] != 0).all()
                whole = np.load(cases[index].image)
                shape = image[inside].shape
                views = np.lib.stride_tricks.sliding_window_view(whole, shape).reshape(-1, *shape)
                assert (views == image[inside]).all((1, 2, 3, 4)).sum() == 1


def test_nan_in_a_patch_is_refused(cases):
    image = np.load(cases[0].image)
    image[...] = np.nan
    np.save(cases[0].image, image)
    with (
        pytest.raises(InputError, match=r"case 0: .*that are NaN"),
        training_batches(cases, batch_size=3, seed=0, patch=(4, 4, 4)) as batches,
    ):
        next(batches)


def test_the_whole_array_as_patch_is_the_whole_array(cases):
    whole = training_batches(cases, batch_size=2, seed=5)
    patches = training_batches(cases, batch_size=2, seed=5, patch=(8, 6, 10), foreground=1.0)
    with whole, patches:
        for one, other in zip((next(whole), next(whole)), (next(patches), next(patches)), strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])
