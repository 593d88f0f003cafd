"""The page of a case: the viewer, its scores, and every lesion with a button that shows it."""

import collections
import dataclasses
import errno
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib

from jaxbrats.data.labels import LABEL_NAMES, LABEL_TITLES, REGIONS, region_mask
from jaxbrats.evaluation import metrics
from jaxbrats.evaluation.lesions import CHALLENGES
from jaxbrats.evaluation.volumes import ScoredCase, Volumes
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.figures import file_stem
from jaxbrats.report.lesions import FALSE_POSITIVE, MISSED, Lesion, find_lesions
from jaxbrats.report.orientation import Orientation
from jaxbrats.report.overlays import PLANES, largest_slices
from jaxbrats.report.pages.html import link_to, render
from jaxbrats.report.pages.score_table import CaseScores, score_cell, table_columns
from jaxbrats.report.pages.wording import MODALITY_TITLES, NOTHING, REGION_TITLES, millilitres, score
from jaxbrats.report.scene import Scene, make_scene, pack, thumbnail
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

_SCRIPTS = ("volume.js", "drawing.js", "viewer.js")
# What `metrics.score_case` counts lesions by unless told otherwise.
_CHALLENGE = CHALLENGES["GLI"]
# Listed for one region; only a network that has learnt little has more.
_MOST_LESIONS = 100
# In WT Dice. The table's may count voxels of the crop beyond the source's volume, which are in no file.
_TOLERANCE = 0.01
# Apart by lightness too, and unlike any grey of an image.
_ERROR_COLOURS = {"agreed": "#E8ECEF", "missed": "#FF4FC3", "extra": "#7BE34B"}
_ERROR_TITLES = {"agreed": "both agree", "missed": "missed: truth alone", "extra": "false positive: prediction alone"}
# These stop the pages of all cases, not of one.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclasses.dataclass(frozen=True)
class CaseTask:
    """What a case's page is made from.

    Attributes:
        workdir: The run's folder.
        case: Where its volumes are read.
        modalities: The images' channels.
        scores: The case in the score table.
        rank: 1 for the worst case.
        total: Number of cases.
        neighbours: Names of the cases before and after it, from the worst to the best.
    """

    workdir: pathlib.Path
    case: ScoredCase
    modalities: Sequence[str]
    scores: CaseScores
    rank: int
    total: int
    neighbours: tuple[str | None, str | None]


@dataclasses.dataclass(frozen=True)
class CasePage:
    """A page that was written.

    Attributes:
        case: The case's name.
        thumbnail: Picture of it, a data URI.
        lesions: WT, TC, ET -> those lesions that the page lists, in the page's order.
    """

    case: str
    thumbnail: str
    lesions: Mapping[str, Sequence[Lesion]]


def page_path(workdir: pathlib.Path, case: str) -> pathlib.Path:
    """Where a case's page is."""
    return workdir / "report" / f"{file_stem(case)}.html"


def lesion_id(region: str, number: int) -> str:
    """Names a lesion, counted from 0, in its page; the page shows it where its address ends with "#show=" and this."""
    return f"{region}-{number + 1}"


def write_case_page(task: CaseTask) -> CasePage | InputError:
    """Writes RUN/report/CASE.html; returns what is wrong where the case cannot be shown.

    Raises:
        OSError: nothing can be written, of this case or another.
    """
    name = task.case.name
    try:
        return _write(task)
    except InputError as problem:
        return problem if problem.case else InputError(problem.problem, case=name, file=problem.file, hint=problem.hint)
    except MemoryError:
        return InputError("does not fit in memory", case=name, hint="Use fewer --workers")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        # Whatever is odd about one case, the pages of the others are wanted.
        return InputError(f"cannot be shown ({type(error).__name__}: {error})", case=name)


def _write(task: CaseTask) -> CasePage:
    volumes = task.case.read()
    if volumes.image.shape[-1] != len(task.modalities):
        raise InputError(
            f"has {volumes.image.shape[-1]} channels, expected {', '.join(task.modalities)}",
            hint="Run jaxbrats evaluate again",
        )
    _check_is_what_was_scored(task, volumes)
    orientation = Orientation.of(volumes.affine)
    spacing = nib.affines.voxel_sizes(orientation.affine)
    lesions = find_lesions(volumes.prediction, volumes.truth, spacing, _CHALLENGE)
    present = volumes.present
    scene = make_scene(volumes.image[..., present], volumes.truth, volumes.prediction, orientation)
    shown = [task.modalities[channel] for channel in present]
    files.write_text(page_path(task.workdir, task.case.name), _page(task, scene, shown, lesions))
    return CasePage(task.case.name, thumbnail(scene), {name: all_[:_MOST_LESIONS] for name, all_ in lesions.items()})


def _check_is_what_was_scored(task: CaseTask, volumes: Volumes) -> None:
    """Refuses to show a prediction beside the scores of another, as an earlier page of it would."""
    prediction, truth = (region_mask(labels, "WT") for labels in (volumes.prediction, volumes.truth))
    in_table, found = task.scores.number("WT", "dice"), metrics.dice(prediction, truth)
    if abs(in_table - found) > _TOLERANCE:
        page_path(task.workdir, task.case.name).unlink(missing_ok=True)
        raise InputError(
            f"has a WT Dice of {in_table:.4f} here, but its prediction now agrees with the reference with {found:.4f}",
            case=task.case.name,
            file=task.workdir / "evaluation" / "cases.csv",
            hint="Run jaxbrats evaluate again",
        )


def _page(task: CaseTask, scene: Scene, modalities: Sequence[str], lesions: Mapping[str, Sequence[Lesion]]) -> str:
    columns = table_columns(list(task.scores.regions.values()))
    regions = [region for region in REGION_TITLES if region in task.scores.regions]
    return render(
        "case",
        _SCRIPTS,
        name=task.case.name,
        run=task.workdir.resolve().name,
        rank=task.rank,
        total=task.total,
        mean_dice=score(task.scores.mean_dice),
        neighbours=[
            (text, name, link_to(page_path(task.workdir, name).name) if name else None)
            for text, name in zip(("← worse", "better →"), task.neighbours, strict=True)
        ],
        columns=columns,
        scores=[(region, [score_cell(task.scores, region, column) for column in columns]) for region in regions],
        region_titles=REGION_TITLES,
        regions=list(REGIONS),
        lesions=[_lesion_list(region, found, scene) for region, found in lesions.items()],
        viewer=_viewer(scene, [MODALITY_TITLES.get(modality, modality) for modality in modalities]),
    )


def _lesion_list(region: str, lesions: Sequence[Lesion], scene: Scene) -> dict[str, Any]:
    kinds = collections.Counter(lesion.kind for lesion in lesions)
    told = [f"{number} {kind}{'s' * (kind == FALSE_POSITIVE and number > 1)}" for kind, number in kinds.items()]
    rows = [
        {
            "id": lesion_id(region, number),
            "index": ",".join(map(str, scene.index_of(lesion.voxel))),
            "kind": lesion.kind,
            "told": f"{lesion.kind}, {millilitres(lesion.volume_mm3)} ml",
            "numbers": (
                NOTHING if lesion.kind == FALSE_POSITIVE else millilitres(lesion.ref_mm3),
                NOTHING if lesion.kind == MISSED else millilitres(lesion.pred_mm3),
                score(lesion.dice) if lesion.ref_mm3 and lesion.pred_mm3 else NOTHING,
            ),
        }
        for number, lesion in enumerate(lesions[:_MOST_LESIONS])
    ]
    told = ", ".join(told) or "no lesion"
    return {"region": region, "told": told, "rows": rows, "left_out": len(lesions) - len(rows)}


def _viewer(scene: Scene, modalities: Sequence[str]) -> dict[str, Any]:
    """What the viewer's template and its script are given."""
    extent = [size * step for size, step in zip(scene.truth.shape, scene.spacing_mm, strict=True)]
    planes = {plane: (extent[across], extent[down]) for plane, (across, down, _) in PLANES.items()}
    begin = scene.truth if scene.truth.any() else scene.prediction
    meaning = {
        "start": largest_slices(begin),
        "colours": [COLOURS[name] for name in LABEL_NAMES],
        "labelTitles": LABEL_TITLES,
        "regions": REGIONS,
        "errors": _ERROR_COLOURS,
    }
    return {
        "modalities": list(enumerate(modalities)),
        "regions": [(region, region) for region in REGIONS],
        "planes": [(plane, f"{across:.0f}/{down:.0f}") for plane, (across, down) in planes.items()],
        # One scale for the three: widths in proportion to millimetres, heights that of the tallest.
        "columns": " ".join(f"{across:.0f}fr" for across, _ in planes.values()),
        "tallest": f"{sum(across for across, _ in planes.values()) / max(down for _, down in planes.values()):.3f}",
        "label_legend": [(COLOURS[name], title) for name, title in zip(LABEL_NAMES, LABEL_TITLES, strict=True)][1:],
        "error_legend": [(_ERROR_COLOURS[kind], title) for kind, title in _ERROR_TITLES.items()],
        "sides_known": scene.to_world is not None,
        "step": scene.step,
        "data": pack(scene, modalities) | meaning,
    }
