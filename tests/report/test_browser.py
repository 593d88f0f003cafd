"""The report in a real browser: headless Chromium, driven by ChromeDriver over the WebDriver protocol.

W3C WebDriver (https://www.w3.org/TR/webdriver2/) is JSON over HTTP, so no package is needed, only Debian's chromium and
chromium-driver (or Chrome and its driver). Without them these tests are skipped.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from jaxbrats.data.dataset import read_dataset
from jaxbrats.data.labels import LABEL_NAMES
from jaxbrats.evaluation.volumes import ScoredArrays
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.orientation import Orientation
from jaxbrats.report.overlays import largest_slices
from jaxbrats.report.scene import make_scene
from jaxbrats.runs.report import report_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="Chromium or ChromeDriver is not installed")

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
)  # fmt: skip
# The driver runs here: whatever proxy the environment names is not asked.
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Browser:
    """One window."""

    def __init__(self, address, profile):
        self.address = address
        options = {"binary": CHROMIUM, "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{session['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with LOCAL.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def open(self, path, fragment=""):
        # A blank page between, because a change of the fragment alone loads nothing.
        self.call("POST", "/url", {"url": "about:blank"})
        self.call("POST", "/url", {"url": path.as_uri() + fragment})

    def js(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, seconds=30):
        end = time.monotonic() + seconds
        while not (value := self.js(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.03)
        return value

    def resize(self, width, height):
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        body = {"cmd": "Emulation.setDeviceMetricsOverride", "params": screen}
        self.call("POST", "/goog/cdp/execute", body)

    def errors(self):
        return self.call("POST", "/se/log", {"type": "browser"})


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        port = next(filter(None, (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)))[1]
        browser = Browser(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("profile"))
        yield browser
        browser.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()


@pytest.fixture
def browser(window):
    """A window of a desktop's size; that no page complains is asserted after every test."""
    window.resize(1280, 900)
    window.errors()
    yield window
    assert window.errors() == []


@pytest.fixture(scope="module")
def report(report_source, tmp_path_factory):
    run = tmp_path_factory.mktemp("browser") / report_source.name
    shutil.copytree(report_source, run)
    report_run(run)
    return run


@pytest.fixture
def page_of(browser, report, hostile_name):
    """Opens a case's page and waits until its viewer has drawn an image."""

    def open_page(name=hostile_name, fragment=""):
        browser.open(report / "report" / f"{name}.html", fragment)
        browser.wait("return document.getElementById('viewer').dataset.ready && Boolean(images[0])")
        drawn(browser)

    return open_page


def drawn(browser):
    """Waits until what is asked for has been drawn."""
    browser.js("delete viewer.dataset.ready; redraw()")
    browser.wait("return viewer.dataset.ready")


def press(browser, selector):
    browser.js("document.querySelector(arguments[0]).click()", selector)
    drawn(browser)


def voxel_colours(browser, plane):
    """The colour at the middle of every voxel of the slice shown, `(down, across, 3)`, and where the planes cross."""
    script = """
        const place = placement(arguments[0]);
        const [across, down] = PLANES[arguments[0]];
        const { canvas } = pictures[arguments[0]];
        // Reading a copy: Chromium warns of reading the same canvas often.
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
        copy.drawImage(canvas, 0, 0);
        const { data, width } = copy.getImageData(0, 0, canvas.width, canvas.height);
        const rows = [];
        for (let y = 0; y < scene.shape[down]; y++) {
          rows.push([]);
          for (let x = 0; x < scene.shape[across]; x++) {
            const at = [x, y].map((index, side) => Math.floor(place.start[side] + (index + 0.5) * place.step[side]));
            rows[y].push([...data.slice(4 * (at[0] + width * at[1]), 4 * (at[0] + width * at[1]) + 3)]);
          }
        }
        return [rows, state.point];"""
    rows, point = browser.js(script, plane)
    return np.array(rows, float), point


def scene_of(report, name):
    """The volumes of a case as they should be shown."""
    case = next(case for case in read_dataset(report / "data").cases if case.name == name)
    volumes = ScoredArrays(case, report / "predictions" / f"{name}.nii.gz").read()
    return make_scene(volumes.image, volumes.truth, volumes.prediction, Orientation(volumes.affine))


def shown_worst(report):
    """The worst case's name."""
    return re.search('data-case="([^"]*)"', (report / "report.html").read_text())[1]


def rgb(label):
    return [int(COLOURS[LABEL_NAMES[label]][start : start + 2], 16) for start in (1, 3, 5)]


def shown_cases(browser):
    return browser.js("""
        const table = document.querySelector("#scores [data-of]:not([hidden])");
        return [...table.querySelectorAll("[data-case]")].filter((row) => !row.hidden).map((row) => row.dataset.case);
    """)


def sort_by(browser, title):
    browser.js(
        """const table = document.querySelector("#scores [data-of]:not([hidden])");
        [...table.querySelectorAll("thead button")].find((one) => one.textContent === arguments[0]).click();""",
        title,
    )


def test_the_table_sorts_and_is_searched(browser, report, hostile_name):
    browser.open(report / "report.html")
    worst_first = shown_cases(browser)
    assert worst_first[-1] == hostile_name
    sort_by(browser, "Mean Dice")
    assert shown_cases(browser) == worst_first[::-1]
    sort_by(browser, "Case")
    assert shown_cases(browser) == sorted(worst_first)
    browser.js("document.querySelector('[data-table=WT]').click()")
    sort_by(browser, "HD95, mm")
    assert shown_cases(browser)[-1] == hostile_name
    sort_by(browser, "HD95, mm")
    assert shown_cases(browser)[0] == hostile_name
    script = (
        "const box = document.getElementById('filter'); box.value = 'ONERROR'; box.dispatchEvent(new Event('input'))"
    )
    browser.js(script)
    assert shown_cases(browser) == [hostile_name]
    assert browser.js("return document.getElementById('shown').textContent") == "1 of 4 cases"
    browser.js("document.getElementById('filter').value = ''; document.getElementById('faulty').click()")
    faulty = shown_cases(browser)
    assert hostile_name not in faulty and worst_first[0] in faulty


def test_a_case_opens_from_the_table(browser, report, hostile_name):
    browser.open(report / "report.html")
    browser.js("[...document.querySelectorAll('[data-case]')].at(-1).querySelector('a').click()")
    browser.wait("return document.getElementById('viewer')?.dataset.ready")
    assert browser.js("return document.querySelector('h1').textContent") == hostile_name
    browser.js("document.querySelector('.crumbs a').click()")
    browser.wait("return document.getElementById('scores')")
    assert browser.js("return document.querySelector('h1').textContent") == "run <b>"


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("layer", ["truth", "prediction"])
def test_every_voxel_has_the_colour_of_its_label(browser, report, page_of, plane, layer):
    name = shown_worst(report)
    scene = scene_of(report, name)
    page_of(name)
    press(browser, f"[data-layer={'truth' if layer == 'prediction' else 'prediction'}]")
    browser.js("state.opacity = 1; goTo(arguments[0])", largest_slices(getattr(scene, layer)))
    drawn(browser)
    colours, point = voxel_colours(browser, plane)
    axes = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}[plane]
    labels = np.take(getattr(scene, layer), point[axes[2]], axes[2]).T
    # The crosshair lies over one row and one column.
    labels = labels.copy()
    labels[point[axes[1]], :] = labels[:, point[axes[0]]] = 0
    assert np.count_nonzero(labels) >= 5
    for down, across in np.argwhere(labels):
        np.testing.assert_allclose(colours[down, across], rgb(labels[down, across]), atol=2)


def test_the_image_is_drawn_below_and_its_window_can_be_changed(browser, report, page_of, hostile_name):
    scene = scene_of(report, hostile_name)
    page_of()
    press(browser, "[data-layer=truth]")
    press(browser, "[data-layer=prediction]")

    def greys():
        colours, point = voxel_colours(browser, "axial")
        assert np.ptp(colours, axis=-1).max() == 0
        away = np.ones(colours.shape[:2], bool)
        away[point[1], :] = away[:, point[0]] = False
        return colours[..., 0][away], point, away

    shown, point, away = greys()
    expected = scene.images[0][:, :, point[2]].T[away]
    black, white = scene.windows[0]
    expected = np.clip((expected - float(black)) / (white - black), 0, 1) * 255
    assert np.corrcoef(shown, expected)[0, 1] > 0.97
    browser.js("brightness.value = 0.4; setWindow()")
    drawn(browser)
    assert greys()[0].mean() > shown.mean() + 20
    press(browser, "#reset")
    np.testing.assert_array_equal(greys()[0], shown)
    browser.js("return showModality(1)")
    browser.wait("return Boolean(images[1])")
    drawn(browser)
    assert np.corrcoef(greys()[0], shown)[0, 1] < 0.999


def test_errors_are_shown_in_their_colours(browser, report, page_of):
    name = shown_worst(report)
    scene = scene_of(report, name)
    page_of(name)
    press(browser, "[data-layer=errors]")
    press(browser, "[data-layer=truth]")
    browser.js("state.opacity = 1")
    drawn(browser)
    colours, point = voxel_colours(browser, "axial")
    truth, prediction = (volume[:, :, point[2]].T > 0 for volume in (scene.truth, scene.prediction))
    away = np.ones(truth.shape, bool)
    away[point[1], :] = away[:, point[0]] = False
    for mask, colour in ((truth & ~prediction, [255, 79, 195]), (prediction & ~truth, [123, 227, 75])):
        assert (mask & away).any()
        np.testing.assert_allclose(colours[mask & away], np.broadcast_to(colour, (np.sum(mask & away), 3)), atol=2)


def test_the_planes_move_together(browser, page_of):
    page_of()
    shape, before = browser.js("return [scene.shape, state.point]")
    # A click at a quarter of the axial picture's place moves the other two planes.
    target = browser.js("""
        const { canvas } = pictures.axial;
        const place = placement("axial");
        const box = canvas.getBoundingClientRect();
        const at = [2, 3].map((index, side) => place.start[side] + (index + 0.5) * place.step[side]);
        const options = { clientX: box.left + at[0], clientY: box.top + at[1], bubbles: true };
        canvas.dispatchEvent(new MouseEvent("click", options));
        return state.point;""")
    assert target == [2, 3, before[2]]
    browser.js("pictures.axial.slider.value = 1; pictures.axial.slider.dispatchEvent(new Event('input'))")
    assert browser.js("return state.point") == [2, 3, 1]
    script = "pictures.coronal.canvas.dispatchEvent(new KeyboardEvent('keydown', { key: arguments[0] }))"
    for key in ("PageDown", "ArrowRight", "ArrowDown", "ArrowDown"):
        browser.js(script, key)
    assert browser.js("return state.point") == [3, 4, 3]
    drawn(browser)
    source = browser.js("return sourceVoxel([3, 4, 3])")
    told = browser.js("return document.getElementById('point').textContent")
    assert told.startswith(f"voxel {', '.join(map(str, source))} ·")
    browser.js("goTo([-5, 1e9, 2])")
    assert browser.js("return state.point") == [0, shape[1] - 1, 2]


def test_a_link_to_a_false_positive_shows_it(browser, report, page_of):
    links = re.findall(r'href="(report/[^"]*#show=[^"]*)"[^>]*>', (report / "report.html").read_text())
    path, lesion = links[0].split("#")
    name = urllib.parse.unquote(path).removeprefix("report/").removesuffix(".html")
    page_of(name, f"#{lesion}")
    region = lesion.removeprefix("show=").split("-")[0]
    assert browser.js("return state.region") == region
    told = browser.js("return document.getElementById('lesion').textContent")
    assert re.fullmatch(rf"{region} lesion 1 of \d+: (false positive|missed), [\d.]+ ml", told)
    both = browser.js("const [x, y, z] = state.point; return labels[x + scene.shape[0] * (y + scene.shape[1] * z)]")
    # One of the two has a label there that the other has not.
    assert (both & 3) != (both >> 2)
    assert browser.js("return document.querySelector('.current').id") == lesion.removeprefix("show=")


def test_pages_fit_a_telephone(browser, report, page_of):
    browser.resize(360, 740)
    browser.open(report / "report.html")
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert browser.js(width) == [360, 360]
    sizes = "[...document.querySelectorAll('p, td, th, dd')].map((one) => parseFloat(getComputedStyle(one).fontSize))"
    assert min(browser.js(f"return {sizes}")) >= 12
    page_of()
    assert browser.js(width) == [360, 360]
    sizes = browser.js("return Object.values(pictures).map(({ canvas }) => canvas.clientWidth)")
    assert min(sizes) > 300
