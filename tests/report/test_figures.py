"""What all figures share: colours everybody can tell apart, and names written as they are."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from jaxbrats.data.labels import LABEL_NAMES, REGIONS
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.figures import page, write_line

pytestmark = pytest.mark.usefixtures("full_size")

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def cielab(colour, vision):
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISION[vision] @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ seen / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_from_each_other_and_from_grey_for_every_vision(vision):
    assert set(COLOURS) == {*LABEL_NAMES, *REGIONS}
    seen = {name: cielab(colour, vision) for name, colour in COLOURS.items() if name != "background"}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 30, (one, other)
    for label in ("NCR", "ED", "ET"):
        assert np.hypot(*seen[label][1:]) > 30, label


@pytest.mark.parametrize(
    ("name", "written"),
    [(name, name) for name in ("cost_$5", r"$\frac{$", "a_b^c", "$x$ 100%", "")]
    + [("two\nlines", r"two\nlines"), ("bad\udc80byte", r"bad\udc80byte")],
)
def test_names_are_written_as_they_are(name, written):
    figure = page(3.0, 1.0)
    line = write_line(figure, 0.5, 0.5, name, 2.4, fontsize=9)
    assert line.get_text() == written
    assert line.get_fontsize() == 9
    # Characters side by side: a formula would be set in another font and swallow its dollars.
    narrower = write_line(figure, 0.5, 0.2, written[:-1], 2.4, fontsize=9)
    assert not written or line.get_window_extent().width > narrower.get_window_extent().width
    figure.canvas.draw()


@pytest.mark.parametrize("length", [30, 50, 200, 2000])
def test_long_names_are_made_to_fit(length):
    name = "BEGIN_" + "n" * (length - 10) + "_END"
    figure = page(3.0, 1.0)
    line = write_line(figure, 0.5, 0.5, name, 2.4, fontsize=12)
    extent = line.get_window_extent()
    assert extent.x0 == pytest.approx(0.5 * 160, abs=1)
    assert 0.85 * 2.4 * 160 < extent.width <= 2.4 * 160
    assert line.get_fontsize() >= 5
    assert (line.get_text() == name) == (length <= 50)
    assert line.get_text().startswith("BEGIN_")
    assert line.get_text().endswith("_END")
