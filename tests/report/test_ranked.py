"""The overlays of an evaluation: which cases, safe names, and one case's failure."""

import dataclasses

import numpy as np
import pytest

from jaxbrats.evaluation.volumes import Volumes
from jaxbrats.report import ranked
from jaxbrats.report.ranked import draw_overlays
from jaxbrats.system.errors import InputError


@dataclasses.dataclass(frozen=True)
class MadeCase:
    name: str
    error: Exception | None = None

    def read(self):
        if self.error:
            raise self.error
        truth = np.zeros((8, 8, 8), np.uint8)
        truth[2:6, 2:6, 2:6] = 2
        return Volumes(np.ones((8, 8, 8, 2), np.float32), truth, truth, np.eye(4))


@pytest.fixture
def dice():
    return lambda names: {name: {"WT": number / 100, "TC": 0.5} for number, name in enumerate(names)}


def test_cases_from_the_worst_to_the_best_replace_those_of_before(tmp_path, dice):
    (tmp_path / "overlay_001_old.png").write_bytes(b"")
    (tmp_path / "loss.png").write_bytes(b"")
    names = [f"case{number:02d}" for number in range(15)]
    assert draw_overlays(tmp_path, [MadeCase(name) for name in reversed(names)], dice(names), ["t2f", "t1c"]) == []
    drawn = sorted(path.name for path in tmp_path.glob("overlay_*"))
    assert drawn == [f"overlay_{2 * rank + 1:03d}_case{2 * rank:02d}.png" for rank in range(8)]
    assert (tmp_path / "loss.png").exists()


def test_the_first_modality_that_a_case_has_is_drawn(tmp_path, dice, monkeypatch):
    shown, case = [], MadeCase("a")
    volumes = case.read()
    volumes.image[..., 0] = 0
    monkeypatch.setattr(MadeCase, "read", lambda self: volumes)
    draw = ranked.overlay_figure
    monkeypatch.setattr(
        ranked, "overlay_figure", lambda *args, **texts: shown.append((args[0], texts["image_title"])) or draw(*args)
    )
    assert draw_overlays(tmp_path, [case], dice(["a"]), ["t2f", "t1c"]) == []
    ((image, title),) = shown
    assert title == "t1c" and image.all()


def test_names_of_any_length_stay_in_the_folder_and_a_failure_is_one_cases(tmp_path, dice):
    names = ["ü" * 100, "n" * 240, "../../escaped", "gone", "large"]
    errors = {"gone": InputError("is missing", case="gone"), "large": MemoryError()}
    folder = tmp_path / "deep" / "figures"
    problems = draw_overlays(folder, [MadeCase(name, errors.get(name)) for name in names], dice(names), ["t2f", "t1c"])
    assert [problem.case for problem in problems] == ["gone", "large"]
    assert len(list(folder.glob("overlay_*.png"))) == len(list(folder.iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_defect_is_not_taken_for_a_bad_case(tmp_path, dice, monkeypatch):
    monkeypatch.setattr(ranked, "overlay_figure", None)
    with pytest.raises(TypeError):
        draw_overlays(tmp_path, [MadeCase("a")], dice(["a"]), ["t2f", "t1c"])
