"""The report of a run: what is in it, what it weighs, and what happens where something is missing."""

import html.parser
import json
import pathlib
import re
import urllib.parse

import numpy as np
import pytest

from jaxbrats.data.arrays import ArrayCase
from jaxbrats.evaluation import metrics, tables
from jaxbrats.inference.predictions import write_prediction
from jaxbrats.report.pages.case_page import CaseTask, page_path, write_case_page
from jaxbrats.report.pages.wording import by_case, millilitres
from jaxbrats.report.pages.write import write_report
from jaxbrats.system.errors import InputError


class Page(html.parser.HTMLParser):
    """Elements, their attributes and the text in them, as a browser reads them."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.now = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, name, attributes):
        self.now.append(name)
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data):
        if self.now and self.now[-1] not in ("script", "style"):
            self.texts.append(data.strip())

    def all(self, name, attribute):
        return [found[attribute] for element, found in self.elements if element == name and attribute in found]


def scene_of(path):
    return json.loads(re.search('<script type="application/json" id="scene">(.*?)</script>', path.read_text())[1])


def test_the_report_tells_of_every_case_the_worst_first(report_run, hostile_name):
    path, problems = write_report(report_run)
    assert (path, problems) == (report_run / "report.html", [])
    page = Page(path)
    expected = [case.name for case in by_case(tables.read_csv(report_run / "evaluation" / "cases.csv"))]
    shown = page.all("tr", "data-case")
    assert shown[:4] == expected and len(shown) == 4 * 6  # the overview, and a table for each region
    # The farther a prediction was shifted, the worse it is; the shift by 0 has the hostile name.
    assert expected[-1] == hostile_name
    links = [link for link in page.all("a", "href") if link.startswith("report/") and "#" not in link]
    for link in links:
        assert (report_run / urllib.parse.unquote(link)).is_file()
    assert {pathlib.Path(urllib.parse.unquote(link)).stem for link in links} == set(expected)
    assert "For research and education; not a medical device." in page.texts
    assert {"learning_rate", "0.003"} <= set(page.texts)


def test_numbers_are_those_of_the_score_table(report_run):
    path, _ = write_report(report_run)
    rows = tables.read_csv(report_run / "evaluation" / "cases.csv")
    worst = by_case(rows)[0]
    texts = Page(path).texts
    start = texts.index(worst.name)
    cells = [text for text in texts[start + 1 :] if text][:12]
    assert cells[:4] == [
        f"{value:.3f}" for value in (worst.mean_dice, *(worst.number(region, "dice") for region in ("WT", "TC", "ET")))
    ]
    assert cells[7:9] == [millilitres(worst.number("WT", f"volume_{one}_mm3")) for one in ("ref", "pred")]
    counts = [int(worst.number(region, "lesions_fp")) for region in ("WT", "TC", "ET")]
    assert counts[0] >= 1  # the blob in the corner
    assert cells[10] == " · ".join(map(str, counts))
    mean = np.mean([row["dice"] for row in rows if row["region"] == "WT"])
    assert f"{mean:.3f}" in texts


def test_false_positives_are_listed_with_links_to_them(report_run):
    path, _ = write_report(report_run)
    links = [link for link in Page(path).all("a", "href") if "#show=" in link]
    assert links
    for link in links:
        file, lesion = link.split("#show=")
        rows = [row for name, row in Page(report_run / urllib.parse.unquote(file)).elements if name == "tr"]
        (row,) = [row for row in rows if row.get("id") == lesion]
        assert re.fullmatch(r"(missed|false positive), [\d.]+ ml", row["data-told"])
        x, y, z = map(int, row["data-index"].split(","))
        across, down, through = scene_of(report_run / urllib.parse.unquote(file))["shape"]
        assert 0 <= x < across and 0 <= y < down and 0 <= z < through


def test_nothing_of_others_becomes_markup(report_run, hostile_name):
    write_report(report_run)
    for path in [report_run / "report.html", *(report_run / "report").iterdir()]:
        page = Page(path)
        assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
        assert all(source.startswith("data:image/") for source in page.all("img", "src"))
        assert sum(name == "script" for name, _ in page.elements) == (1 if path.name == "report.html" else 2)
        assert "run <b>" not in path.read_text() and "<script>alert(2)" not in path.read_text()
    page = Page(report_run / "report.html")
    assert "run <b>" in page.texts and hostile_name in page.texts and "</script><script>alert(2)</script>" in page.texts


def test_thirty_cases_stay_below_60_mb(tmp_path):
    # Noise, which compresses least, in four modalities.
    rng = np.random.default_rng(0)
    image, mask = tmp_path / "image.npy", tmp_path / "mask.npy"
    np.save(image, rng.normal(0, 1, (80, 80, 80, 4)).astype(np.float32))
    truth = np.zeros((80, 80, 80), np.uint8)
    truth[20:60, 20:60, 20:60] = 2
    np.save(mask, truth)
    write_prediction(tmp_path / "predictions" / "noise.nii.gz", truth, None)
    rows = tables.case_rows("noise", metrics.score_case(truth, truth))
    case = ArrayCase("noise", "noise", image, mask)
    task = CaseTask(tmp_path, case, None, ("t1n", "t1c", "t2w", "t2f"), by_case(rows)[0], 1, 1, (None, None))
    assert not isinstance(write_case_page(task), InputError)
    assert 1_000_000 < page_path(tmp_path, "noise").stat().st_size < 2_000_000


def test_a_run_that_is_not_evaluated_has_curves_and_settings(report_run):
    for path in (report_run / "evaluation").iterdir():
        path.unlink()
    path, problems = write_report(report_run)
    page = Page(path)
    assert problems == [] and not (report_run / "report").exists()
    assert "jaxbrats evaluate --workdir=RUN" in page.texts
    assert "Loss" in page.texts and "learning_rate" in page.texts


def test_a_case_without_a_prediction_is_named_and_the_others_go_on(report_run, hostile_name):
    lost = report_run / "predictions" / f"{hostile_name}.nii.gz"
    lost.unlink()
    path, (problem,) = write_report(report_run)
    assert problem.case == hostile_name and problem.file == lost
    page = Page(path)
    assert len(set(page.all("tr", "data-case"))) == 4
    assert len(list((report_run / "report").glob("*.html"))) == 3
    assert "1 not shown" in page.texts and str(problem) in page.texts


def test_a_prediction_that_was_not_scored_is_not_shown(report_run):
    names = [case.name for case in by_case(tables.read_csv(report_run / "evaluation" / "cases.csv"))]
    worst, best = (report_run / "predictions" / f"{name}.nii.gz" for name in (names[0], names[-1]))
    records = json.loads((report_run / "data" / "manifest.json").read_text())["cases"]
    truth = np.load(report_run / "data" / "masks" / f"{names[-1]}.npy")
    write_report(report_run)
    assert page_path(report_run, names[-1]).exists()
    write_prediction(best, np.roll(truth, 4, axis=0), records[names[-1]])
    _, (problem,) = write_report(report_run)
    assert not page_path(report_run, names[-1]).exists()
    assert problem.file == best and "evaluation/cases.csv says 1.0000" in str(problem)
    assert worst.exists()


def test_arrays_that_are_gone_leave_the_scores(report_run):
    (report_run / "data").rename(report_run / "elsewhere")
    path, (problem,) = write_report(report_run)
    assert problem.file == report_run / "data"
    page = Page(path)
    assert len(set(page.all("tr", "data-case"))) == 4
    assert not [link for link in page.all("a", "href") if link.startswith("report/")]


def test_pages_of_an_earlier_evaluation_go(report_run):
    (report_run / "report").mkdir()
    (report_run / "report" / "old.html").write_text("")
    write_report(report_run)
    assert len(list((report_run / "report").iterdir())) == 4


def test_a_page_is_the_same_however_many_workers_make_it(report_run):
    write_report(report_run)
    before = {path.name: path.read_bytes() for path in (report_run / "report").iterdir()}
    write_report(report_run, workers=2)
    assert {path.name: path.read_bytes() for path in (report_run / "report").iterdir()} == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is no training run"):
        write_report(tmp_path)


def test_a_case_whose_affine_has_no_direction_is_named(report_run, hostile_name):
    manifest = json.loads((report_run / "data" / "manifest.json").read_text())
    record = manifest["cases"][hostile_name]
    record["affine"] = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    (report_run / "data" / "manifest.json").write_text(json.dumps(manifest))
    prediction = report_run / "predictions" / f"{hostile_name}.nii.gz"
    write_prediction(prediction, np.load(report_run / "data" / "masks" / f"{hostile_name}.npy"), record)
    _, (problem,) = write_report(report_run)
    assert problem.case == hostile_name and "three independent axes" in str(problem)
