"""Names and colours of the labels, in the files that 3D Slicer and ITK-SNAP read beside a segmentation.

3D Slicer's colour table: https://slicer.readthedocs.io/en/5.6/developer_guide/modules/colors.html. ITK-SNAP's label
descriptions: Segmentation > Import Label Descriptions, whose files say their format in their first lines.
"""

import pathlib
from collections.abc import Mapping

from jaxbrats.data.labels import BACKGROUND, LABEL_NAMES, LABEL_TITLES
from jaxbrats.report.colours import COLOURS
from jaxbrats.system.files import write_text

SLICER, ITK_SNAP = "labels.ctbl", "labels_itksnap.txt"


def write_label_tables(folder: pathlib.Path, label_map: Mapping[int, int]) -> None:
    """Writes `labels.ctbl` for 3D Slicer and `labels_itksnap.txt` for ITK-SNAP.

    Args:
        folder: Where the segmentations are.
        label_map: Number in the files -> label of the project, such as `BRATS_2023`.
    """
    write_text(folder / SLICER, slicer_table(label_map))
    write_text(folder / ITK_SNAP, itk_snap_table(label_map))


def slicer_table(label_map: Mapping[int, int]) -> str:
    """Number, name, red, green, blue and opacity of each label, each colour 0 to 255."""
    lines = [f"# Color table file {SLICER}", f"# {len(label_map)} values"]
    for number, label in label_map.items():
        name = LABEL_TITLES[label].replace(" ", "_")
        lines.append(f"{number} {name} {_spaced(label)} {0 if label == BACKGROUND else 255}")
    return "\n".join(lines) + "\n"


def itk_snap_table(label_map: Mapping[int, int]) -> str:
    """Number, red, green, blue, opacity, visibility in slices and in 3-D, and name of each label."""
    lines = ["# ITK-SnAP Label Description File", "# IDX -R- -G- -B- -A- VIS MSH LABEL"]
    for number, label in label_map.items():
        shown = int(label != BACKGROUND)
        lines.append(f'{number} {_spaced(label)} {shown} {shown} {shown} "{LABEL_TITLES[label]}"')
    return "\n".join(lines) + "\n"


def _spaced(label: int) -> str:
    """Red, green and blue, black for the background."""
    colour = "#000000" if label == BACKGROUND else COLOURS[LABEL_NAMES[label]]
    return " ".join(str(channel) for channel in bytes.fromhex(colour[1:]))
