"""The report of a run: what is in it, what it weighs, and what happens where something is missing."""

import dataclasses
import errno
import html.parser
import json
import pathlib
import re
import urllib.parse

import numpy as np
import pytest

from jaxbrats.evaluation import tables
from jaxbrats.evaluation.volumes import Volumes
from jaxbrats.inference.predictions import write_prediction
from jaxbrats.report.pages.case_page import page_path
from jaxbrats.report.pages.score_table import by_case
from jaxbrats.report.pages.wording import millilitres
from jaxbrats.report.pages.write import write_report
from jaxbrats.runs.report import report_run as write
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
    path, problems = write(report_run)
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
    path, _ = write(report_run)
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
    path, _ = write(report_run)
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
    write(report_run)
    for path in [report_run / "report.html", *(report_run / "report").iterdir()]:
        page = Page(path)
        assert not [attributes for _, attributes in page.elements if "onerror" in attributes]
        assert all(source.startswith("data:image/") for source in page.all("img", "src"))
        assert sum(name == "script" for name, _ in page.elements) == (1 if path.name == "report.html" else 2)
        assert "run <b>" not in path.read_text() and "<script>alert(2)" not in path.read_text()
    page = Page(report_run / "report.html")
    assert "run <b>" in page.texts and hostile_name in page.texts and "</script><script>alert(2)</script>" in page.texts


@dataclasses.dataclass(frozen=True)
class MadeCase:
    """A case whose volumes are made, or cannot be read."""

    name: str
    seed: int = 0
    error: Exception | None = None

    def read(self):
        if self.error:
            raise self.error
        # Noise, which compresses least, in four modalities.
        image = np.random.default_rng(self.seed).normal(0, 1, (80, 80, 80, 4)).astype(np.float32)
        truth = np.zeros((80, 80, 80), np.uint8)
        truth[20:60, 20:60, 20:60] = 2
        return Volumes(image, truth, truth, np.diag([-1.0, -1, 1, 1]))


CONFIG = {"settings": {"data": {"modalities": ["t1n", "t1c", "t2w", "t2f"]}}}
PERFECT = {region: {"dice": 1.0} for region in ("WT", "TC", "ET")}


def write_made(run, cases):
    tables.write_csv(
        run / "evaluation" / "cases.csv", [row for case in cases for row in tables.case_rows(case.name, PERFECT)]
    )
    return write_report(run, CONFIG, cases, workers=1)


def test_thirty_cases_stay_below_60_mb(tmp_path):
    write_made(tmp_path, [MadeCase("noise")])
    assert 1_000_000 < page_path(tmp_path, "noise").stat().st_size < 2_000_000


def test_the_failure_of_one_case_is_that_cases(tmp_path, capsys):
    errors = {
        "array": InputError("is cut short", file="x.npy"),
        "memory": MemoryError(),
        "name": OSError(errno.ENAMETOOLONG, "File name too long", "y"),
        "\x1b[31mvalue": ValueError("odd\x1b[0m"),
    }
    cases = [MadeCase(name, error=error) for name, error in errors.items()] + [MadeCase("good")]
    path, problems = write_made(tmp_path, cases)
    assert {problem.case for problem in problems} == set(errors)
    assert [page.name for page in (tmp_path / "report").iterdir()] == ["good.html"]
    text = path.read_text()
    assert "4 not shown" in text and "does not fit in memory" in text and "x.npy: is cut short" in text
    assert all(str(problem).isprintable() for problem in problems) and "\x1b" not in text


def test_a_full_disk_is_not_one_cases(tmp_path):
    with pytest.raises(OSError, match="No space"):
        write_made(tmp_path, [MadeCase("a", error=OSError(errno.ENOSPC, "No space left on device")), MadeCase("b")])


@pytest.mark.parametrize("name", ["ü" * 100, "n" * 240, "../../../escaped", "/escaped", "..", "a/b"])
def test_no_name_is_too_long_or_leaves_the_folder(tmp_path, name):
    run = tmp_path / "deep" / "run"
    path, problems = write_made(run, [MadeCase(name)])
    assert problems == []
    (page,) = (run / "report").iterdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["deep"] and [
        entry.name for entry in run.parent.iterdir()
    ] == ["run"]
    links = {link for link in Page(path).all("a", "href") if link.startswith("report/")}
    assert {(run / urllib.parse.unquote(link)).resolve() for link in links} == {page.resolve()}
    assert name in Page(page).texts


def test_two_names_that_are_shortened_alike_have_two_pages(tmp_path):
    write_made(tmp_path, [MadeCase("n" * 230 + end) for end in "ab"])
    assert len(list((tmp_path / "report").iterdir())) == 2


def test_a_damaged_summary_is_refused_and_nothing_is_touched(report_run):
    path, _ = write(report_run)
    before = path.read_bytes()
    (report_run / "evaluation" / "summary.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="not as jaxbrats evaluate writes it"):
        write(report_run)
    assert path.read_bytes() == before


def test_box_plots_are_left_as_pictures(report_run):
    write(report_run)
    names = ("scores_dice.png", "scores_hd95.png")
    assert all((report_run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_damaged_metrics_are_passed_over(report_run):
    lines = ["5", "[1]", '"x"', '{"split": "train"}', '{"split": "val", "step": "a", "epoch": [], "loss": {}}']
    lines.append('{"split": "train", "step": 10000, "epoch": 9, "loss": "low", "iou": [1]}')
    with (report_run / "metrics.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    path, problems = write(report_run)
    assert problems == [] and "Loss" in Page(path).texts


def test_a_run_that_is_not_evaluated_has_curves_and_settings(report_run):
    for path in (report_run / "evaluation").iterdir():
        path.unlink()
    path, problems = write(report_run)
    page = Page(path)
    assert problems == [] and not (report_run / "report").exists()
    assert "jaxbrats evaluate --workdir=RUN" in page.texts
    assert "Loss" in page.texts and "learning_rate" in page.texts


def test_the_settings_are_those_that_the_scores_were_made_with(report_run):
    summary = json.loads((report_run / "evaluation" / "summary.json").read_text())
    summary["postprocessing"] = {"component_mm3": 1234.5}
    (report_run / "evaluation" / "summary.json").write_text(json.dumps(summary))
    path, _ = write(report_run)
    assert "1234.5" in Page(path).texts


def test_a_case_without_a_prediction_is_named_and_the_others_go_on(report_run, hostile_name):
    lost = report_run / "predictions" / f"{hostile_name}.nii.gz"
    lost.unlink()
    path, (problem,) = write(report_run)
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
    write(report_run)
    assert page_path(report_run, names[-1]).exists()
    write_prediction(best, np.roll(truth, 4, axis=0), records[names[-1]])
    _, (problem,) = write(report_run)
    assert not page_path(report_run, names[-1]).exists()
    assert problem.case == names[-1] and "cases.csv: has a WT Dice of 1.0000" in str(problem)
    assert worst.exists()


def test_where_the_arrays_are_gone_nothing_is_touched(report_run):
    write(report_run)
    pages = [report_run / "report.html", *(report_run / "report").iterdir()]
    before = {path: path.read_bytes() for path in pages}
    (report_run / "data").rename(report_run / "elsewhere")
    with pytest.raises(InputError) as raised:
        write(report_run)
    assert raised.value.file == report_run / "data"
    assert len(before) == 5 and {path: path.read_bytes() for path in pages} == before


def test_a_case_that_cannot_be_read_now_keeps_its_page_and_its_scores(report_run, hostile_name):
    write(report_run)
    mask = report_run / "data" / "masks" / f"{hostile_name}.npy"
    mask.write_bytes(mask.read_bytes()[:-8])
    path, (problem,) = write(report_run)
    assert problem.file == mask and problem.case == hostile_name
    assert page_path(report_run, hostile_name).exists()
    page = Page(path)
    assert (
        hostile_name in page.texts
        and len({link for link in page.all("a", "href") if link.startswith("report/") and "#" not in link}) == 3
    )


def test_pages_of_an_earlier_evaluation_go(report_run):
    (report_run / "report").mkdir()
    (report_run / "report" / "old.html").write_text("")
    write(report_run)
    assert len(list((report_run / "report").iterdir())) == 4


def test_a_page_is_the_same_however_many_workers_make_it(report_run):
    write(report_run)
    before = {path.name: path.read_bytes() for path in (report_run / "report").iterdir()}
    write(report_run, workers=2)
    assert {path.name: path.read_bytes() for path in (report_run / "report").iterdir()} == before
