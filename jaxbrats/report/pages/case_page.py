"""The page of a case: the viewer, its scores, and every lesion with a button that shows it."""

import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from jaxbrats.data.arrays import ArrayCase, read_image, read_labels
from jaxbrats.data.labels import LABEL_NAMES, REGIONS, region_mask
from jaxbrats.data.raw.geometry import frame_of
from jaxbrats.evaluation import metrics
from jaxbrats.evaluation.lesions import CHALLENGES
from jaxbrats.inference.predictions import read_prediction
from jaxbrats.report.colours import COLOURS
from jaxbrats.report.orientation import Orientation
from jaxbrats.report.overlays import DISCLAIMER, largest_slices
from jaxbrats.report.pages.lesion_list import FALSE_POSITIVE, MISSED, Lesion, find_lesions
from jaxbrats.report.pages.markup import Markup, data_uri, link_to, page, tag
from jaxbrats.report.pages.scene import Scene, make_scene
from jaxbrats.report.pages.viewer import SCRIPTS, viewer
from jaxbrats.report.pages.wording import (
    FAULTS,
    MODALITY_TITLES,
    NOTHING,
    REGION_TITLES,
    CaseScores,
    Column,
    kind_badge,
    millilitres,
    score,
    table_columns,
)
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

# What `metrics.score_case` counts lesions by unless told otherwise.
_CHALLENGE = CHALLENGES["GLI"]
# Listed for one region; only a network that has learnt little has more.
_MOST_LESIONS = 100
# In WT Dice. The table's may count voxels of the crop beyond the source's volume, which are in no file.
_TOLERANCE = 0.01
_THUMBNAIL = 112
_LESION_NUMBERS = ("Truth, ml", "Predicted, ml", "Dice")


@dataclasses.dataclass(frozen=True)
class CaseTask:
    """What a case's page is made from.

    Attributes:
        workdir: The run.
        case: Its arrays.
        record: The manifest's of the case; None where there is no manifest.
        modalities: The arrays' channels.
        scores: The score table's of the case.
        place: From the worst case, which is 1.
        total: Cases there are.
        neighbours: Names of the cases before and after it, from the worst to the best.
    """

    workdir: pathlib.Path
    case: ArrayCase
    record: Mapping[str, Any] | None
    modalities: tuple[str, ...]
    scores: CaseScores
    place: int
    total: int
    neighbours: tuple[str | None, str | None]


@dataclasses.dataclass(frozen=True)
class CasePage:
    """A page that was written.

    Attributes:
        case: Name.
        thumbnail: Picture of it, a data URI.
        lesions: WT, TC, ET -> those lesions that the page lists, in the page's order.
    """

    case: str
    thumbnail: str
    lesions: dict[str, list[Lesion]]


def page_path(workdir: pathlib.Path, case: str) -> pathlib.Path:
    """Where a case's page is."""
    return workdir / "report" / f"{case}.html"


def prediction_path(workdir: pathlib.Path, case: str) -> pathlib.Path:
    """Where `jaxbrats evaluate` leaves what was predicted for a case."""
    return workdir / "predictions" / f"{case}.nii.gz"


def lesion_id(region: str, number: int) -> str:
    """Names a lesion, counted from 0, in its page; the page shows it where its address ends with "#show=" and this."""
    return f"{region}-{number + 1}"


def write_case_page(task: CaseTask) -> CasePage | InputError:
    """Writes RUN/report/CASE.html; returns what is wrong where the case cannot be shown."""
    name, record = task.case.name, task.record
    prediction_file = prediction_path(task.workdir, name)
    try:
        image, truth = read_image(task.case), read_labels(task.case)
        if image.shape[-1] != len(task.modalities):
            problem = f"has {image.shape[-1]} channels, expected {', '.join(task.modalities)}"
            raise InputError(problem, case=name, file=task.case.image, hint="Run jaxbrats evaluate again")
        prediction = read_prediction(prediction_file, name, truth.shape, record)
        _check_is_what_was_scored(prediction, truth, task.scores, prediction_file)
        orientation = _orientation(task)
    except InputError as problem:
        # An earlier page would show what no longer holds.
        page_path(task.workdir, name).unlink(missing_ok=True)
        return problem
    origin = tuple(record["crop_origin"]) if record else (0, 0, 0)
    lesions = find_lesions(prediction, truth, nib.affines.voxel_sizes(orientation.affine), _CHALLENGE)
    scene = make_scene(image, truth, prediction, orientation, origin)
    files.write_text(page_path(task.workdir, name), _page(task, scene, lesions, origin))
    listed = {region: found[:_MOST_LESIONS] for region, found in lesions.items()}
    return CasePage(name, thumbnail(scene), listed)


def _orientation(task: CaseTask) -> Orientation:
    """How the arrays of a case lie in the patient."""
    if not task.record:
        return Orientation.unknown((1, 1, 1))
    affine = np.array(task.record["affine"], float)
    try:
        frame_of(affine)
    except InputError as error:
        raise InputError(error.problem, case=task.case.name, hint=error.hint) from error
    return Orientation(affine @ nib.affines.from_matvec(np.eye(3), task.record["crop_origin"]))


def thumbnail(scene: Scene) -> str:
    """The axial slice with the most tumour, the prediction over the first image; a data URI."""
    shown = scene.truth if scene.truth.any() else scene.prediction
    index = largest_slices(shown)[2]
    black, white = scene.windows[0]
    grey = (np.clip(scene.images[0][:, :, index].T, black, white) - black) / (white - black) * 255
    colour = np.repeat(grey[..., None], 3, axis=-1)
    labels = scene.prediction[:, :, index].T
    palette = np.array([[int(COLOURS[name][place : place + 2], 16) for place in (1, 3, 5)] for name in LABEL_NAMES])
    colour = np.where(labels[..., None] > 0, 0.45 * colour + 0.55 * palette[labels], colour)
    extent = np.array(labels.shape[::-1]) * scene.spacing_mm[:2]
    size = np.maximum(1, np.rint(extent * _THUMBNAIL / extent.max())).astype(int)
    file = io.BytesIO()
    Image.fromarray(colour.astype(np.uint8)).resize(tuple(size.tolist())).save(file, "WEBP", quality=80)
    return data_uri(file.getvalue(), "image/webp")


def _check_is_what_was_scored(
    prediction: np.ndarray, truth: np.ndarray, scores: CaseScores, file: pathlib.Path
) -> None:
    """Refuses to show a prediction beside the scores of another."""
    in_table, found = scores.number("WT", "dice"), metrics.dice(region_mask(prediction, "WT"), region_mask(truth, "WT"))
    if abs(in_table - found) > _TOLERANCE:
        raise InputError(
            f"agrees with the reference with a WT Dice of {found:.4f}; evaluation/cases.csv says {in_table:.4f}",
            case=scores.name,
            file=file,
            hint="Run jaxbrats evaluate again",
        )


def _page(task: CaseTask, scene: Scene, lesions: Mapping[str, Sequence[Lesion]], origin: tuple[int, ...]) -> str:
    name, run = task.case.name, task.workdir.resolve().name
    titles = [MODALITY_TITLES[modality] for modality in task.modalities]
    place = f"Case {task.place} of {task.total}, counted from the worst mean Dice of WT, TC and ET"
    body = tag(
        "main",
        tag("nav", tag("a", f"← Report of {run}", href="../report.html"), *_neighbours(task), class_="crumbs"),
        tag("h1", name),
        tag("p", f"{place} ({score(task.scores.mean_dice)}).", class_="quiet"),
        viewer(scene, titles),
        tag("section", tag("h2", "Scores"), _scores(task.scores)),
        tag(
            "section",
            tag("h2", "Lesions"),
            _region_buttons(),
            [_lesion_table(region, found, scene, origin) for region, found in lesions.items()],
        ),
        tag("footer", DISCLAIMER),
        class_="case",
    )
    return page(f"{name} · {run}", body, SCRIPTS)


def _neighbours(task: CaseTask) -> list[Markup]:
    texts = ("← worse", "better →")
    return [
        tag("a", text, href=link_to(f"{name}.html"), title=name) if name else tag("span", text, class_="off")
        for name, text in zip(task.neighbours, texts, strict=True)
    ]


def _scores(scores: CaseScores) -> Markup:
    columns = table_columns(list(scores.regions.values()))
    head = tag("tr", tag("th", "Region"), [tag("th", column.title, title=column.meaning) for column in columns])
    rows = [
        tag(
            "tr",
            tag("th", REGION_TITLES[region], scope="row", class_="region"),
            [_score_cell(scores.number(region, column.metric), column) for column in columns],
        )
        for region in REGION_TITLES
        if region in scores.regions
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll", tabindex=0)


def _score_cell(value: float, column: Column) -> Markup:
    return tag("td", column.write(value), class_="fault" if column.metric in FAULTS and value > 0 else None)


def _region_buttons() -> Markup:
    buttons = [
        tag("button", region, type="button", data_region=region, aria_pressed="true" if region == "WT" else "false",
            title=REGION_TITLES[region])
        for region in REGIONS
    ]  # fmt: skip
    return tag("div", buttons, class_="segments light", role="group", aria_label="Region")


def _lesion_table(region: str, lesions: Sequence[Lesion], scene: Scene, origin: Sequence[int]) -> Markup:
    counts = {
        kind: sum(lesion.kind == kind for lesion in lesions) for kind in dict.fromkeys(one.kind for one in lesions)
    }
    told = ", ".join(f"{number} {_plural(kind, number)}" for kind, number in counts.items()) or "no lesion"
    head = [tag("th"), tag("th", "Lesion", class_="text"), *(tag("th", title) for title in _LESION_NUMBERS)]
    rows = []
    for number, lesion in enumerate(lesions[:_MOST_LESIONS]):
        index = scene.index_of(np.add(lesion.voxel, origin))
        numbers = (
            NOTHING if lesion.kind == FALSE_POSITIVE else millilitres(lesion.ref_mm3),
            NOTHING if lesion.kind == MISSED else millilitres(lesion.pred_mm3),
            score(lesion.dice) if lesion.ref_mm3 and lesion.pred_mm3 else NOTHING,
        )
        cells = [
            tag("td", tag("button", "Show", type="button", class_="show")),
            tag("td", kind_badge(lesion.kind), class_="text"),
            *(tag("td", number) for number in numbers),
        ]
        identity = lesion_id(region, number)
        rows.append(tag("tr", cells, id=identity, data_index=",".join(map(str, index)), data_told=_in_words(lesion)))
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    left_out = len(lesions) - len(rows)
    return tag(
        "div",
        tag("p", f"{REGION_TITLES[region]}: {told}."),
        tag("div", table, class_="scroll narrow") if rows else None,
        tag("p", f"And {left_out} more.", class_="quiet") if left_out else None,
        data_lesions=region,
    )


def _in_words(lesion: Lesion) -> str:
    return f"{lesion.kind}, {millilitres(lesion.volume_mm3)} ml"


def _plural(kind: str, number: int) -> str:
    return f"{kind}s" if kind == FALSE_POSITIVE and number != 1 else kind
