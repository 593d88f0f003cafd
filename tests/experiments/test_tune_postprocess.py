import functools
import json
import shutil

import numpy as np
import pytest

from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import ED, ET
from jaxbrats.evaluation.metrics import score_case
from jaxbrats.inference.postprocess import postprocess, read_postprocessing


@pytest.fixture(scope="module")
def tune():
    import tune_postprocess

    return tune_postprocess


def prediction(tune, speck=0, enhancing=0):
    """A tumour predicted right but for a speck beside it and enhancing voxels in it that are none, at 2 mm."""
    truth = np.zeros((16, 15, 14), np.uint8)
    truth[2:9, 2:9, 2:9] = ED
    labels = truth.copy()
    labels[12, 12, 2 : 2 + speck] = ED
    labels[4, 4, 4 : 4 + enhancing] = ET
    return tune.Predicted("case", labels, truth, (2.0, 2.0, 2.0))


def by_lesion(tune):
    return functools.partial(tune.measure, metric="lesion_dice", challenge="GLI")


def setting(tune, **volumes):
    return tune.GRID.index(Postprocessing(**volumes))


@pytest.mark.parametrize("metric", ["dice", "lesion_dice"])
def test_scores_of_every_setting(tune, metric):
    case = prediction(tune, speck=3, enhancing=2)
    scores = tune.score(case, functools.partial(tune.measure, metric=metric, challenge="GLI"))
    assert scores.shape == (len(tune.GRID), 3)
    for settings in (Postprocessing(), Postprocessing(0, 50, 0, 20), Postprocessing(1000, 100, 20, 500)):
        labels = postprocess(case.labels, case.spacing_mm, settings)
        expected = score_case(labels, case.truth, case.spacing_mm)
        np.testing.assert_array_equal(
            scores[tune.GRID.index(settings)], [expected[region][metric] for region in ("WT", "TC", "ET")]
        )


def test_the_gentlest_of_the_best_is_chosen(tune):
    # 24 mm^3 of speck are removed from 50 mm^3 on; 16 mm^3 of enhancing tumour are edema from 20 mm^3 on, which helps
    # ET and TC, as necrosis they would help ET alone.
    scores = tune.score(prediction(tune, speck=3, enhancing=2), by_lesion(tune))
    assert tune.GRID[tune.choose(scores, 0.001)] == Postprocessing(component_mm3=50, core_mm3=20)
    scores = tune.score(prediction(tune, speck=3), by_lesion(tune))
    assert tune.GRID[tune.choose(scores, 0.001)] == Postprocessing(component_mm3=50)


def test_nothing_is_chosen_that_gains_too_little(tune):
    right = tune.score(prediction(tune), by_lesion(tune))
    assert tune.choose(right, 0) == 0
    scores = np.zeros((len(tune.GRID), 3))
    better = setting(tune, component_mm3=50)
    scores[better] = 0.003
    assert tune.choose(scores, 0.002) == better
    assert tune.choose(scores, 0.004) == 0


def test_the_choice_is_written_into_every_run(tune, tiny_run, tmp_path, capsys):
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        shutil.copytree(tiny_run, run)
    tune.FLAGS(["tune_postprocess", f"--workdir={runs[0]},{runs[1]}", "--metric=dice", "--least_gain=0", "--workers=1"])
    assert tune.main() == 0
    chosen, other = (read_postprocessing(run, Postprocessing(1, 2, 3, 4)) for run in runs)
    assert chosen == other
    written = json.loads((runs[1] / "postprocess.json").read_text())
    assert written["settings"] == {name: getattr(chosen, name) for name in written["settings"]}
    names = json.loads((tiny_run / "config.json").read_text())["data"]["val"]
    assert written["chosen_by"]["cases"] == sorted(names * 2)
    # Phantoms of 2 epochs: the scores are those that evaluation gave without post-processing.
    summary = json.loads((tiny_run / "evaluation" / "summary.json").read_text())
    for region, value in written["chosen_by"]["without"].items():
        assert value == pytest.approx(summary["regions"][region]["dice"]["mean"])
    gain = sum(written["chosen_by"]["with"].values()) - sum(written["chosen_by"]["without"].values())
    assert gain >= 0
    assert "| dice | without | with | gain |" in capsys.readouterr().out
