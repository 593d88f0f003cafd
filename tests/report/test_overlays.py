"""Overlays: where the patient's sides, the labels and their colours are in the picture."""

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from jaxbrats.data.labels import ED, ET, LABEL_NAMES, NCR
from jaxbrats.report import overlays
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.figures import write_png
from jaxbrats.report.orientation import Orientation

pytestmark = pytest.mark.usefixtures("full_size")


def affine_of(codes, spacing, shape):
    """An affine with the axis directions `codes`, the volume's middle at 0, 0, 0."""
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        world = "RLAPSI".index(code) // 2
        affine[world, axis] = spacing[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[3, 3] = 1
    return affine


def reordered(volume, codes):
    """A volume whose axes run right, anterior, superior, with axes in the directions `codes` instead."""
    transform = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    return nib.orientations.apply_orientation(volume, transform)


def pixels(figure):
    """What was rendered, `(height, width, 3)` from 0 to 1."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


def panel(figure, image, name):
    """The pixels of one panel, its letters' margin left out."""
    axes = next(axes for axes in figure.axes if axes.get_label() == name)
    box = axes.get_window_extent()
    height = len(image)
    return image[round(height - box.y1) + 1 : round(height - box.y0) - 1, round(box.x0) + 1 : round(box.x1) - 1]


def coloured(image, label):
    """Where pixels have a label's hue: its colour mixed with some grey, so the channels differ in its proportions."""
    colour = np.array(to_rgb(COLOURS[LABEL_NAMES[label]]))
    direction = colour - colour.mean()
    chroma = image - image.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(chroma, axis=-1)
    cosine = chroma @ direction / np.maximum(length, 1e-9) / np.linalg.norm(direction)
    return (length > 0.15) & (cosine > 0.97)


@pytest.fixture(scope="module")
def head():
    """An image and labels in RAS order, 2 mm x 1 mm x 3 mm voxels, with a tumour left, in front and high up."""
    rng = np.random.default_rng(0)
    image = np.zeros((20, 40, 14), np.float32)
    image[2:18, 4:36, 2:12] = rng.uniform(100, 200, (16, 32, 10))
    labels = np.zeros(image.shape, np.uint8)
    labels[3:7, 24:32, 8:11] = ED
    labels[4:6, 26:30, 9] = ET
    labels[5, 28, 9] = NCR
    return image, labels


SPACING = np.array([2.0, 1.0, 3.0])


def figure_of(head, codes, **texts):
    image, labels = (reordered(volume, codes) for volume in head)
    spacing = [SPACING["RLAPSI".index(code) // 2] for code in codes]
    orientation = Orientation(affine_of(codes, spacing, image.shape))
    return overlays.overlay_figure(image, [("truth", labels)], orientation, **texts)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_the_patients_left_is_on_the_right_in_every_voxel_order(head, codes):
    figure = figure_of(head, codes)
    image = pixels(figure)
    # Where the tumour should be: (to the right, to the bottom) of the panel's middle.
    for plane, sides in {"axial": (1, -1), "coronal": (1, -1), "sagittal": (-1, -1)}.items():
        shown = panel(figure, image, f"{plane} truth")
        down, across = np.nonzero(coloured(shown, ED))
        assert np.sign(across.mean() - shown.shape[1] / 2) == sides[0], plane
        assert np.sign(down.mean() - shown.shape[0] / 2) == sides[1], plane
        letters = [
            text.get_text() for axes in figure.axes if axes.get_label() == f"{plane} truth" for text in axes.texts
        ]
        assert (
            letters
            == {"axial": ["R", "L", "A", "P"], "coronal": ["R", "L", "S", "I"], "sagittal": ["A", "P", "S", "I"]}[plane]
        )


def test_the_same_patient_looks_the_same_in_every_voxel_order(head):
    one, other = figure_of(head, "LPS"), figure_of(head, "SRA")
    image_one, image_other = pixels(one), pixels(other)
    for axes in one.axes:
        np.testing.assert_array_equal(
            panel(one, image_one, axes.get_label()), panel(other, image_other, axes.get_label())
        )


def test_each_label_has_its_colour_where_it_is_and_nowhere_else(head):
    figure = figure_of(head, "RAS")
    image = pixels(figure)
    _, labels = head
    axes = next(axes for axes in figure.axes if axes.get_label() == "axial truth")
    k = overlays.largest_slices(labels)[2]
    assert k == 9
    # RAS to the display's left and posterior: both are turned round.
    cut = labels[::-1, ::-1, k]
    seen = {label: coloured(image, label) for label in (NCR, ED, ET)}
    for i, j in np.ndindex(cut.shape):
        x, y = axes.transData.transform(((i + 0.5) * SPACING[0], (j + 0.5) * SPACING[1]))
        row, column = int(len(image) - y), int(x)
        neighbours = set(np.unique(cut[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]))
        for label in (NCR, ED, ET):
            if cut[i, j] == label:
                assert seen[label][row, column]
            elif label not in neighbours:
                assert not seen[label][row, column]
    # The first column is the image alone: all grey.
    alone = panel(figure, image, "axial image")
    assert np.ptp(alone, axis=-1).max() == 0
    assert alone.max() == 1
    # Beside the tumour, which is to the right, the second is too.
    rest = slice(None), slice(0, alone.shape[1] // 2)
    np.testing.assert_array_equal(panel(figure, image, "axial truth")[rest], alone[rest])


def test_the_fill_lets_the_image_through():
    image = np.full((8, 8, 8), 100.0, np.float32)
    image[:4] = 300.0
    labels = np.zeros(image.shape, np.uint8)
    labels[1:7, 1:7, 1:7] = ET
    figure = overlays.overlay_figure(image, [("truth", labels)], Orientation.unknown((1, 1, 1)))
    shown = panel(figure, pixels(figure), "axial truth")
    middle = shown[len(shown) // 2]
    colour = np.array(to_rgb(COLOURS["ET"])) * overlays.FILL_OPACITY
    for place, grey in ((0.35, 1.0), (0.65, 0.0)):
        expected = colour + grey * (1 - overlays.FILL_OPACITY)
        np.testing.assert_allclose(middle[int(place * len(middle))], expected, atol=0.02)


def test_millimetres_have_one_scale_in_all_directions(head):
    image = np.ones((24, 24, 6), np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[8:16, 8:16, 2:4] = ED  # 8 mm x 8 mm x 8 mm
    figure = overlays.overlay_figure(image, [("truth", labels)], Orientation(affine_of("LPS", (1, 1, 4), image.shape)))
    rendered = pixels(figure)
    sizes = set()
    for plane in overlays.PLANES:
        down, across = np.nonzero(coloured(panel(figure, rendered, f"{plane} truth"), ED))
        sizes |= {np.ptp(down), np.ptp(across)}
    assert max(sizes) - min(sizes) <= 3
    assert min(sizes) > 100


def test_slices_go_through_the_most_tumour():
    labels = np.zeros((6, 7, 9), np.uint8)
    assert overlays.largest_slices(labels) == (3, 3, 4)
    labels[1, 2:5, 3] = NCR
    labels[4, 2, 3:6] = ET
    labels[4, 2, 3] = ED
    labels[4, 3, 3] = ET
    # Along the first axis: 3 voxels at 1, 4 at 4; second: 4 at 2, 2 at 3, 1 at 4; third: 5 at 3.
    assert overlays.largest_slices(labels) == (4, 2, 3)
    labels[:] = 0
    labels[2:5, 1:6, 7] = ED
    assert overlays.largest_slices(labels) == (3, 3, 7)


def test_slices_come_from_the_prediction_only_where_the_reference_is_empty(head):
    image, labels = head
    orientation = Orientation(affine_of("RAS", SPACING, image.shape))

    def texts(*volumes):
        figure = overlays.overlay_figure(image, list(zip(("truth", "prediction"), volumes, strict=True)), orientation)
        return [text.get_text() for text in figure.texts]

    other = np.zeros_like(labels)
    other[10:12, 5:7, 3] = ET
    assert {"Slices with the most tumour in truth.", "axial   k = 9, z = 8 mm"} <= set(texts(labels, other))
    empty = texts(np.zeros_like(labels), other)
    assert {"Slices with the most tumour in prediction.", "axial   k = 3, z = -10 mm"} <= set(empty)
    neither = texts(np.zeros_like(labels), np.zeros_like(labels))
    assert {"Slices through the volume's centre.", "axial   k = 6, z = -2 mm"} <= set(neither)


def test_volumes_are_in_millilitres():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = ED
    labels[6:11, 6:11, 6:10] = ET
    image = np.ones(labels.shape, np.float32)
    figure = overlays.overlay_figure(image, [("truth", labels)], Orientation(affine_of("LPS", (2, 2, 5), image.shape)))
    # 900 and 100 voxels of 20 mm3.
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if text.endswith(" ml")] == ["0.0 ml", "18.0 ml", "2.0 ml"]
    assert [text for text in texts if text.endswith(")")] == ["necrosis (NCR)", "edema (ED)", "enhancing tumour (ET)"]


@pytest.mark.parametrize(("codes", "letter"), [("RAS", "k"), ("LPS", "k"), ("LSP", "j"), ("IRA", "i")])
def test_slices_are_named_by_the_files_index_and_the_place_in_the_patient(codes, letter):
    shape = (11, 13, 15)
    affine = affine_of(codes, (1.0, 2.0, 3.0), shape)
    orientation = Orientation(affine)
    marked = np.zeros(shape)
    voxel = (2, 4, 6)
    marked[voxel] = 1
    display = orientation.display(marked)
    index = int(np.argwhere(display)[0][2])
    z = nib.affines.apply_affine(affine, voxel)[2]
    own = "ijk".index(letter)
    assert orientation.name_slice(2, index, display.shape) == f"{letter} = {voxel[own]}, z = {z:.0f} mm"
    np.testing.assert_array_equal(orientation.display_spacing()[2], (1.0, 2.0, 3.0)[own])


def test_without_an_affine_no_side_is_claimed(head):
    image, labels = head
    figure = overlays.overlay_figure(image, [("prediction", labels)], Orientation.unknown(SPACING))
    assert not any(axes.texts for axes in figure.axes)
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "Sides not known" in texts
    assert "Radiological" not in texts
    assert " mm" not in texts


def test_the_grey_window_is_of_voxels_that_are_not_zero():
    image = np.zeros((10, 10, 10))
    image[:5] = np.arange(1, 501).reshape(5, 10, 10)
    np.testing.assert_allclose(overlays.grey_window(image), (1 + 4.99, 1 + 494.01))
    image[9, 9, 9] = np.nan
    np.testing.assert_allclose(overlays.grey_window(image), (1 + 4.99, 1 + 494.01))
    assert overlays.grey_window(np.zeros((3, 3, 3))) == (0.0, 1.0)
    assert overlays.grey_window(np.full((3, 3, 3), 7)) == (6.0, 7.0)
    # A large image is sampled.
    large = np.broadcast_to(np.arange(1.0, 501.0), (300, 300, 500))
    np.testing.assert_allclose(overlays.grey_window(large), (6, 496), atol=3)


def test_around_the_brain_it_is_black_also_where_normalised_values_are_negative(head):
    image, _ = head
    normalised = np.where(image > 0, (image - 150) / 30, 0).astype(np.float32)
    figure = overlays.overlay_figure(normalised, [], Orientation.unknown(SPACING))
    shown = panel(figure, pixels(figure), "axial image")
    assert shown[2, 2].max() == 0
    assert shown[len(shown) // 2, 2].max() == 0


def test_an_overlay_is_one_whole_png_file(tmp_path, head):
    image, labels = head
    path = tmp_path / "new" / "case_1.png"
    orientation = Orientation(affine_of("LPS", SPACING, image.shape))
    both, titles = [("truth", labels), ("prediction", labels)], (r"case_1 $\frac{$", "Dice WT 0.91")
    assert write_png(overlays.overlay_figure(image, both, orientation, *titles), path) == path
    assert [entry.name for entry in path.parent.iterdir()] == ["case_1.png"]
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert len(first) < 1_000_000
    height, width, _ = imread(path).shape
    assert 900 < width < 1500
    assert 600 < height < 1800
    write_png(overlays.overlay_figure(image, both, orientation, *titles), path)
    assert path.read_bytes() == first
    with pytest.raises(ValueError, match=r"truth: labels of shape \(2, 2, 2\) over an image of shape \(20, 40, 14\)"):
        overlays.overlay_figure(image, [("truth", np.zeros((2, 2, 2), np.uint8))], orientation)


def test_an_overlay_says_what_it_is_not(head):
    assert "For research and education; not a medical device." in [
        text.get_text() for text in figure_of(head, "LPS").texts
    ]
