"""Overlays of some cases of an evaluation, from the worst to the best."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxbrats.evaluation.volumes import ScoredCase
from jaxbrats.report.figures import file_stem, write_png
from jaxbrats.report.orientation import Orientation
from jaxbrats.report.overlays import overlay_figure
from jaxbrats.system.errors import InputError

# Enough to see good and bad cases, few enough for cohorts of thousands.
_OVERLAYS = 8


def draw_overlays(
    folder: pathlib.Path, cases: Sequence[ScoredCase], dice: Mapping[str, Mapping[str, float]], titles: Sequence[str]
) -> list[InputError]:
    """Draws cases spread evenly from the worst mean region Dice to the best, `overlay_RANK_CASE.png`.

    Those of an earlier evaluation are removed when the new ones are there.

    Args:
        folder: Where the overlays go.
        cases: Where the volumes are read.
        dice: Case -> region -> Dice.
        titles: What the channels of the images are; the first that a case has is shown.

    Returns:
        What was wrong with each case that could not be drawn.

    Raises:
        OSError: nothing can be written.
    """
    ranked = sorted((case for case in cases if case.name in dice), key=lambda case: sum(dice[case.name].values()))
    drawn, problems = set(), []
    for rank in sorted({round(place) for place in np.linspace(0, len(ranked) - 1, _OVERLAYS)}) if ranked else ():
        case = ranked[rank]
        path = folder / f"overlay_{rank + 1:03d}_{file_stem(case.name)}.png"
        try:
            volumes = case.read()
            shown = volumes.present[0]
            figure = overlay_figure(
                volumes.image[..., shown],
                [("truth", volumes.truth), ("prediction", volumes.prediction)],
                Orientation.of(volumes.affine),
                title=case.name,
                subtitle="Dice   " + "   ".join(f"{name} {value:.3f}" for name, value in dice[case.name].items()),
                image_title=titles[shown],
            )
            write_png(figure, path)
        except InputError as problem:
            problems.append(problem)
        except MemoryError:
            problems.append(InputError("does not fit in memory to be drawn", case=case.name))
        else:
            drawn.add(path)
    for old in folder.glob("overlay_*.png"):
        if old not in drawn:
            old.unlink()
    return problems
