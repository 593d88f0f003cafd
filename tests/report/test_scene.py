"""What a viewer is given: the right voxels in the right places, exact labels, and few bytes."""

import base64
import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from jaxbrats.report import scene as scenes
from jaxbrats.report.orientation import Orientation
from jaxbrats.report.scene import make_scene, mosaic, pack

AFFINES = {
    "LPS": np.array([[-1.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, 5], [0, 0, 0, 1]]),
    "RAS": np.array([[1.0, 0, 0, 10], [0, 2.0, 0, 20], [0, 0, 3.0, 5], [0, 0, 0, 1]]),
    "PSR": np.array([[0, 0, 3.0, 1], [-1.0, 0, 0, 2], [0, 2.0, 0, 3], [0, 0, 0, 1]]),
}


def volumes(shape=(14, 18, 12), channels=2):
    rng = np.random.default_rng(0)
    image = np.zeros((*shape, channels), np.float32)
    image[4:9, 5:12, 4:9] = rng.normal(5, 1, (5, 7, 5, channels))
    truth, prediction = rng.integers(0, 4, (2, 5, 7, 5)).astype(np.uint8)
    labels = np.zeros((2, *shape), np.uint8)
    labels[:, 4:9, 5:12, 4:9] = truth, prediction
    return image, *labels


@pytest.mark.parametrize("codes", AFFINES)
def test_every_voxel_is_where_its_matrices_say(codes):
    image, truth, prediction = volumes()
    scene = make_scene(image, truth, prediction, Orientation(AFFINES[codes]))
    # The box is 5 x 7 x 5 and 3 voxels of margin on each side.
    assert sorted(scene.truth.shape) == [11, 11, 13]
    for index in np.argwhere(scene.truth > 0)[::7]:
        source = np.rint(nib.affines.apply_affine(np.vstack([scene.to_source, [0, 0, 0, 1]]), index)).astype(int)
        array = tuple(source)
        assert scene.truth[tuple(index)] == truth[array]
        assert scene.prediction[tuple(index)] == prediction[array]
        world = scene.to_world[:, :3] @ index + scene.to_world[:, 3]
        np.testing.assert_allclose(world, nib.affines.apply_affine(AFFINES[codes], array))
        assert scene.index_of(source) == tuple(index)
    assert np.count_nonzero(scene.truth) == np.count_nonzero(truth)
    # Display axes run to the patient's left, back and feet.
    assert (np.diag(scene.to_world[:, :3]) < 0).all()
    np.testing.assert_allclose(scene.spacing_mm, np.abs(np.diag(scene.to_world[:, :3])))


def test_sides_that_are_not_known_are_not_told():
    scene = make_scene(*volumes(), Orientation.unknown((1, 1, 1)))
    assert scene.to_world is None and pack(scene, ["a", "b"])["ends"] is None


def test_greys_keep_order_and_spread_and_zero_stays_zero():
    image, truth, prediction = volumes()
    scene = make_scene(image, truth, prediction, Orientation(AFFINES["RAS"]))
    shown = Orientation(AFFINES["RAS"]).display(image[1:12, 2:15, 1:12, 0])
    grey = scene.images[0].astype(float)
    assert (grey[shown == 0] == 0).all() and (grey[shown != 0] >= 1).all()
    inside = shown != 0
    assert np.corrcoef(grey[inside], shown[inside])[0, 1] > 0.999
    assert grey.max() == 255 and np.unique(grey).size > 100
    black, white = scene.windows[0]
    assert 1 < black < white <= 255
    assert 0.005 < np.mean(grey[inside] < black) < 0.03


def test_a_mask_and_an_empty_image_can_be_shown():
    image, truth, prediction = volumes()
    image[..., 0] = image[..., 0] != 0
    image[..., 1] = 0
    scene = make_scene(image, truth, prediction, Orientation(AFFINES["RAS"]))
    assert set(np.unique(scene.images[0])) == {0, 255} and not scene.images[1].any()
    empty = make_scene(0 * image, 0 * truth, 0 * truth, Orientation(AFFINES["RAS"]))
    assert empty.truth.shape == truth.shape


def test_the_mosaic_holds_slice_after_slice():
    volume = np.random.default_rng(0).integers(0, 256, (20, 30, 7)).astype(np.uint8)
    picture = mosaic(volume)
    assert picture.shape == (3 * 32, 3 * 32)
    np.testing.assert_array_equal(picture[32 : 32 + 30, 64 : 64 + 20].T, volume[:, :, 5])
    assert picture.sum() == volume.sum()


def test_what_is_packed_can_be_read_back():
    scene = make_scene(*volumes(), Orientation(AFFINES["LPS"]))
    packed = pack(scene, ["FLAIR", "T1"])
    labels = np.frombuffer(gzip.decompress(base64.b64decode(packed["labels"].split(",")[1])), np.uint8)
    both = labels.reshape(packed["shape"], order="F")
    np.testing.assert_array_equal(both & 3, scene.truth)
    np.testing.assert_array_equal(both >> 2, scene.prediction)
    for modality, image in zip(packed["modalities"], scene.images, strict=True):
        uri = modality["image"]
        assert uri.startswith("data:image/webp;base64,")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L"), float)
        assert np.abs(picture - mosaic(image)).mean() < 4
    assert [modality["title"] for modality in packed["modalities"]] == ["FLAIR", "T1"]


def test_noise_is_compressed_until_it_fits():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (48, 48, 48, 4)).astype(np.float32)
    labels = rng.integers(0, 4, (2, 48, 48, 48)).astype(np.uint8)
    scene = make_scene(image, *labels, Orientation(AFFINES["RAS"]))

    def size(most):
        packed = pack(scene, "abcd", most)
        return sum(len(base64.b64decode(modality["image"].split(",")[1])) for modality in packed["modalities"])

    labels_size = 48**3 / 2
    assert size(10**9) + labels_size > 300_000
    assert size(300_000) + labels_size <= 320_000


def test_of_a_volume_too_large_every_other_voxel_is_shown(monkeypatch):
    image, truth, prediction = volumes()
    monkeypatch.setattr(scenes, "PAGE_VOXELS", 11 * 13 * 11 * 2 // 4)
    scene = make_scene(image, truth, prediction, Orientation(AFFINES["LPS"]))
    assert scene.step == 2 and scene.truth.shape == (6, 7, 6)
    np.testing.assert_allclose(scene.spacing_mm, (2, 4, 6))
    for index in np.argwhere(scene.truth >= 0)[::5]:
        array = (scene.to_source @ [*index, 1]).astype(int)
        assert scene.truth[tuple(index)] == truth[tuple(array)]
