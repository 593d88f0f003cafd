"""How many cases a second are preprocessed on one core, beside MONAI's transforms?

    python experiments/benchmark_preprocess.py [--case=FOLDER] [--normalization=zscore]

Both sides read four modalities and the segmentation of a case from gzipped NIfTI (a synthetic one of 240x240x155 voxels
where no case is given), normalise over the whole volume, cut 128x128x128 about the centre and write one array of the
images and one of the labels as .npy files. Each in a process of its own, bound to the same core and to one thread:

- jaxbrats: `preprocess_cohort`, which is what `jaxbrats preprocess` runs, with its checks, checksums, files flushed to
  the disk, and manifest;
- MONAI: LoadImaged, Orientationd (to the orientation that the files have), ScaleIntensityd or NormalizeIntensityd,
  CenterSpatialCropd, ConcatItemsd, and `numpy.save`, channels first, as they are there.

The arrays must agree before anything is timed; then the sides take turns. Needs the extra `bench`. Writes
benchmark_preprocess.json and .md into experiments/results.
"""

import functools
import pathlib
import shutil
import sys
import tempfile
import time
from typing import Any

import benchmarking
import nibabel as nib
import numpy as np
from absl import flags

from jaxbrats import commands
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.manifest import image_path, mask_path
from jaxbrats.data.preprocessing import NORMALIZATIONS, Preprocessing
from jaxbrats.data.raw.cases import Case
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_CASE = flags.DEFINE_string("case", None, "Folder of a case; a synthetic one if not given.", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds, the sides in turn.", 1, flag_values=FLAGS)
_NORMALIZATION = flags.DEFINE_enum("normalization", "minmax", NORMALIZATIONS, "Which.", flag_values=FLAGS)
NAME = "benchmark_preprocess"
OURS, PEER = SIDES = ("jaxbrats", "MONAI")
MODALITIES = ("t2f", "t1c", "t2w", "t1n")
TOLERANCE = {"minmax": 1e-6, "zscore": 1e-4}


def with_jaxbrats(case: Case, settings: Preprocessing, out: pathlib.Path) -> float:
    """Preprocesses the case into `out`, which is emptied first; returns the seconds it took."""
    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    manifest = preprocess_cohort(case.labels.path.parent, out, settings, workers=1, progress=False)
    taken = time.perf_counter() - begun
    if manifest["cases"][case.name]["status"] != "kept":
        raise InputError(manifest["cases"][case.name]["reason"], case=case.name)
    return taken


@functools.cache
def monai_transforms(settings: Preprocessing, orientation: str) -> Any:
    """The chain of transforms, made once, as a program that goes through a cohort would."""
    import torch
    from monai import transforms

    torch.set_num_threads(1)
    images = list(settings.modalities)
    everything = [*images, "seg"]
    if settings.normalization == "minmax":
        normalise = transforms.ScaleIntensityd(images, minv=0.0, maxv=1.0)
    else:
        normalise = transforms.NormalizeIntensityd(images, nonzero=True)
    return transforms.Compose(
        [
            transforms.LoadImaged(everything, ensure_channel_first=True),
            transforms.Orientationd(everything, axcodes=orientation, labels=None),
            normalise,
            transforms.CenterSpatialCropd(everything, roi_size=settings.crop),
            transforms.ConcatItemsd(images, name="image"),
        ]
    )


def with_monai(case: Case, settings: Preprocessing, orientation: str, out: pathlib.Path) -> float:
    """The same with MONAI."""
    chain = monai_transforms(settings, orientation)
    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    files = {name: case.modalities[name].path for name in settings.modalities} | {"seg": case.labels.path}
    done = chain(files)
    arrays = {image_path: done["image"].numpy(), mask_path: done["seg"][0].numpy().astype(np.uint8)}
    for path_of, array in arrays.items():
        path_of(out, case.name).parent.mkdir(parents=True, exist_ok=True)
        np.save(path_of(out, case.name), array)
    return time.perf_counter() - begun


def largest_difference(case: Case, ours: pathlib.Path, theirs: pathlib.Path) -> float:
    """The largest difference of the images that two folders hold.

    Raises:
        InputError: the labels or the shapes differ.
    """
    one, other = (np.load(mask_path(folder, case.name)) for folder in (ours, theirs))
    if not np.array_equal(one, other):
        raise InputError("both sides give different labels; nothing to time", case=case.name)
    one, other = (np.load(image_path(folder, case.name)) for folder in (ours, theirs))
    other = np.moveaxis(other, 0, -1)
    if one.shape != other.shape:
        raise InputError(f"the sides give images of {one.shape} and {other.shape}; nothing to time", case=case.name)
    return float(np.abs(one - other).max())


def measure(case: Case, settings: Preprocessing, rounds: int, folder: pathlib.Path) -> dict[str, Any]:
    """Times both sides in turns, after a case each to warm up, whose arrays must agree."""
    header = nib.load(case.labels.path).header
    orientation = "".join(nib.aff2axcodes(header.get_best_affine()))
    with benchmarking.processes(SIDES, one_core=True) as run:
        sides = {
            OURS: lambda: run[OURS](with_jaxbrats, case, settings, folder / OURS),
            PEER: lambda: run[PEER](with_monai, case, settings, orientation, folder / PEER),
        }
        for side in sides.values():
            side()
        difference = largest_difference(case, folder / OURS, folder / PEER)
        if difference > TOLERANCE[settings.normalization]:
            raise InputError(f"the images differ by up to {difference:g}; nothing to time", case=case.name)
        taken = benchmarking.in_turns(sides, rounds)
    return {
        "voxels": [int(size) for size in header.get_data_shape()],
        "largest_difference": difference,
        "seconds": taken,
        "ratio": benchmarking.ratio(taken, PEER, OURS),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    rows = [
        f"| {side} | {1 / benchmarking.medians(report['seconds'])[side]:.2f} | "
        f"{benchmarking.range_of(report['seconds'], side, 3)} |"
        for side in SIDES
    ]
    voxels = "x".join(map(str, report["voxels"]))
    return "\n".join(
        [
            "# Cases preprocessed a second on one core",
            "",
            "| | cases/s | seconds a case, median (range) |",
            "|---|---:|---:|",
            *rows,
            "",
            f"jaxbrats is {benchmarking.ratio_text(report['ratio'])} times as fast. Largest difference of the images: "
            f"{report['largest_difference']:.1g}; labels equal.",
            "",
            f"{'A synthetic' if report['synthetic'] else 'A real'} case of {len(MODALITIES)} modalities and a "
            f"segmentation, {voxels} voxels, gzipped NIfTI, warm; {report['normalization']}, crop 128x128x128, written "
            f"as .npy. {len(report['seconds'])} rounds in turn, one core, one thread.",
            *benchmarking.footer(report["machine"], NAME),
        ]
    )


def main() -> int:
    """Times, prints and writes the report."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        case = benchmarking.case_to_measure(_CASE.value, MODALITIES, folder / "raw")
        settings = Preprocessing(MODALITIES, normalization=_NORMALIZATION.value, min_tumour=0.0)
        report = {
            "machine": benchmarking.machine(("numpy", "nibabel", "isal", "monai", "torch")),
            "synthetic": _CASE.value is None,
            "normalization": settings.normalization,
            **measure(case, settings, _ROUNDS.value, folder),
        }
    benchmarking.write(NAME, report, as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], NAME, sys.argv[1:]))
