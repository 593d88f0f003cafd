"""A cohort of real patients at a coarser spacing, on which whole experiments fit two CPU cores.

    python experiments/real_cohort.py --raw=/path/to/BraTS --out=data/real_3mm --factor=3

Every block of factor^3 voxels becomes one: its mean in the images, its most frequent label in the segmentation, of
equally frequent ones the lowest. 240x240x155 voxels of 1 mm become 80x80x52 of 3 mm; where a side is no multiple of
the factor, zeros are put at its end. Cases keep names and orientation; files and labels are as in BraTS 2023. The same
command again writes only what is missing. Tables made from such a cohort say its spacing.
"""

import functools
import gzip
import pathlib
import sys

import nibabel as nib
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.data.labels import MODALITIES, NUM_CLASSES
from jaxbrats.data.raw.cases import Case, find_cases
from jaxbrats.data.raw.nifti import read_channels, read_labels
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import replacing
from jaxbrats.system.processes import available_cpus, map_in_processes

FLAGS = flags.FlagValues()
_RAW = flags.DEFINE_string("raw", None, "The cohort, in any form jaxbrats takes.", required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True, flag_values=FLAGS)
_FACTOR = flags.DEFINE_integer("factor", 3, "Voxels along each side of a block.", 2, flag_values=FLAGS)


def blocks_of(array: np.ndarray, factor: int) -> np.ndarray:
    """The blocks of a volume `(X, Y, Z)`, each in a row: `(ceil(X / f), ceil(Y / f), ceil(Z / f), f^3)`."""
    padded = np.pad(array, [(0, -size % factor) for size in array.shape])
    x, y, z = (size // factor for size in padded.shape)
    blocks = padded.reshape(x, factor, y, factor, z, factor).transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(x, y, z, factor**3)


def most_frequent(blocks: np.ndarray) -> np.ndarray:
    """The most frequent label of each block, uint8; of equally frequent ones the lowest."""
    return np.argmax([np.count_nonzero(blocks == label, axis=-1) for label in range(NUM_CLASSES)], 0).astype(np.uint8)


def coarser_affine(affine: np.ndarray, factor: int) -> np.ndarray:
    """The affine `(4, 4)` of the blocks: a block's middle lies `(factor - 1) / 2` voxels from its first's."""
    return affine @ nib.affines.from_matvec(np.eye(3) * factor, np.full(3, (factor - 1) / 2))


def write_case(case: Case, out: pathlib.Path, factor: int) -> InputError | None:
    """Writes `OUT/CASE/CASE-{t1n,t1c,t2w,t2f,seg}.nii.gz`; returns what is wrong with a file that cannot be used."""
    try:
        _write_case(case, out, factor)
    except InputError as problem:
        return problem
    return None


def _write_case(case: Case, out: pathlib.Path, factor: int) -> None:
    folder = out / case.name
    for modality in MODALITIES:
        file = case.modalities[modality]
        (volume,) = read_channels(file.path, (file.channel,), case.name)
        _write(folder, modality, blocks_of(volume.data, factor).mean(-1, np.float64), volume.affine, factor)
    if case.labels is None:
        raise InputError("has no segmentation", case=case.name, hint="Leave it out of the cohort")
    labels, affine = read_labels(case.labels, case.name, case.label_map)
    # The segmentation comes last: a case that has one is whole.
    _write(folder, "seg", most_frequent(blocks_of(labels, factor)), affine, factor)


def _write(folder: pathlib.Path, part: str, voxels: np.ndarray, affine: np.ndarray, factor: int) -> None:
    image = nib.Nifti1Image(voxels if part == "seg" else voxels.astype(np.float32), coarser_affine(affine, factor))
    image.header.set_xyzt_units("mm")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{folder.name}-{part}.nii.gz") as temporary:
        # No time stamp, so that the same cohort gives the same bytes.
        temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def main() -> int:
    """Writes what is missing; 1 if a case could not be used."""
    out = pathlib.Path(_OUT.value)
    cohort = find_cases(_RAW.value, MODALITIES)
    todo, done = [], []
    for case in cohort.cases:
        (done if (out / case.name / f"{case.name}-seg.nii.gz").exists() else todo).append(case)
    for case in done[:1]:
        check_factor(case, out, _FACTOR.value)
    work = functools.partial(write_case, out=out, factor=_FACTOR.value)
    results = map_in_processes(work, todo, available_cpus(), name=lambda case: case.name)
    bar = tqdm(results, "coarsening", total=len(todo), unit="case", dynamic_ncols=True)
    problems = [*cohort.problems, *(problem for _, problem in bar if problem)]
    written = len(cohort.cases) + len(cohort.problems) - len(problems)
    print(f"{out}: {written} cases, each block of {_FACTOR.value}^3 voxels made one")
    for problem in problems:
        print(f"not used: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check_factor(case: Case, out: pathlib.Path, factor: int) -> None:
    """Refuses to add to a cohort that was made with another factor."""
    path = out / case.name / f"{case.name}-seg.nii.gz"
    fine, coarse = (nib.load(file).header.get_zooms() for file in (case.labels.path, path))
    if not np.allclose(np.multiply(fine[:3], factor), coarse[:3], rtol=0.01):
        raise InputError("was made with another --factor", case=case.name, file=path, hint="Choose another --out")


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "real_cohort", sys.argv[1:]))
