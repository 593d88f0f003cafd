"""How fast is one case segmented, files to file, beside MONAI's sliding window over the same network?

    python experiments/benchmark_inference.py [--case=FOLDER] [--workdir=RUN]

Both sides read four modalities (a synthetic case of 240x240x155 voxels where no case is given), normalise them, cut out
the brain's box, go over it in windows of 128x128x128 with half overlap and Gaussian weights, take the most probable
label, and write a NIfTI file of the whole volume. Same U-Net (that of configs/unet3d.py with instance normalisation, or
a run's), same weights, same threads, each side in a process of its own:

- jaxbrats: `predict_cases`, as `jaxbrats predict` runs it;
- MONAI: nibabel, NumPy and `monai.inferers.sliding_window_inference` over the network in PyTorch, contiguous and
  channels_last_3d, of which the faster counts.

All sides set glibc's malloc to keep freed memory, as jaxbrats does: it helps PyTorch as much.
Labels must agree on 99.9 % of the voxels before anything is timed; then the sides take turns. Needs the extra `bench`.
Writes benchmark_inference.json and .md into experiments/results.
"""

import concurrent.futures
import dataclasses
import functools
import math
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import benchmarking
import jax
import nibabel as nib
import numpy as np
from absl import flags

from jaxbrats import commands
from jaxbrats.commands.startup import use_compiled_convolution
from jaxbrats.data.boxes import CropBox
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import Case, find_cases
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.inference.network import Network, load_network
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.predictor import Predictor
from jaxbrats.inference.sliding_window import window_starts
from jaxbrats.model.unet import UNet3D
from jaxbrats.runs.record import read_record
from jaxbrats.synthetic.cohort import write_cohort
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.memory import keep_freed_memory
from jaxbrats.system.processes import available_cpus

FLAGS = flags.FlagValues()
_CASE = flags.DEFINE_string("case", None, "Folder of a case; a synthetic one if not given.", flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string("workdir", None, "A run to take the network of.", flag_values=FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Times that each side is timed.", 1, flag_values=FLAGS)
RESULTS = pathlib.Path(__file__).parent / "results"
MODALITIES = ("t2f", "t1c", "t2w", "t1n")
OVERLAP = 0.5
LEAST_AGREEMENT = 0.999
OURS, *PEERS = SIDES = ("jaxbrats", "MONAI contiguous", "MONAI channels_last_3d")


@dataclasses.dataclass(frozen=True)
class Job:
    """What both sides do."""

    case: Case
    network: Network
    folder: pathlib.Path


def random_network(window: tuple[int, int, int] = (128, 128, 128), **changes: Any) -> Network:
    """The network of configs/unet3d.py with instance normalisation and random weights."""
    model = UNet3D(**{"norm": "instance", **changes})
    edge = 2 ** (len(model.features) - 1)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, edge, edge, edge, len(MODALITIES)), np.float32))
    settings = Preprocessing(MODALITIES, window)
    variables = jax.tree.map(np.asarray, variables)
    return Network(pathlib.Path("random weights"), 0, settings, model, variables, settings.crop)


def trained_network(workdir: pathlib.Path) -> Network:
    """The best network of a run."""
    record = read_record(workdir)
    return load_network(workdir, record.settings, record.frame)


def segment_with_jaxbrats(job: Job, out: pathlib.Path) -> float:
    """Segments the case into `out`; returns the seconds that the windows took."""
    use_compiled_convolution()
    spent = []
    predict = Predictor([job.network], job.network.window, OVERLAP)

    def timed(image: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        probabilities = predict(image)
        spent.append(time.perf_counter() - start)
        return probabilities

    (result,) = predict_cases([job.case], timed, job.network.preprocessing, out, frame=job.network.frame)
    if isinstance(result, InputError):
        raise result
    return spent[0]


def segment_with_monai(job: Job, out: pathlib.Path, layout: str) -> float:
    """The same with MONAI's sliding window; `layout` is 'contiguous' or 'channels_last_3d'."""
    import torch
    from monai.inferers import sliding_window_inference

    settings = job.network.preprocessing
    images, volumes, box = read(job)
    stacked = np.stack([_normalised(volume, box, settings.normalization) for volume in volumes])
    network, memory_format = _torch_network(job, layout)
    with torch.inference_mode():
        start = time.perf_counter()
        probabilities = sliding_window_inference(
            torch.from_numpy(stacked)[None],
            settings.crop,
            1,
            lambda windows: network(windows.contiguous(memory_format=memory_format)).softmax(1),
            OVERLAP,
            mode="gaussian",
        )
        spent = time.perf_counter() - start
        labels = probabilities[0].argmax(0).to(torch.uint8).numpy()
    whole = np.zeros(volumes[0].shape, np.uint8)
    whole[box] = labels
    written = nib.Nifti1Image(whole, images[0].affine, images[0].header, dtype=np.uint8)
    out.mkdir(parents=True, exist_ok=True)
    nib.save(written, out / f"{job.case.name}.nii.gz")
    return spent


def read(job: Job) -> tuple[list[nib.Nifti1Image], list[np.ndarray], tuple[slice, slice, slice]]:
    """The case as nibabel reads it: images, their voxels, and the brain's box, a window large at least."""
    settings = job.network.preprocessing
    images = [nib.load(job.case.modalities[name].path) for name in settings.modalities]
    volumes = [np.asarray(image.dataobj) for image in images]
    brain = bounding_box(functools.reduce(np.logical_or, (volume != 0 for volume in volumes)))
    return images, volumes, CropBox.about(brain, volumes[0].shape, settings.crop).in_volume


def _normalised(volume: np.ndarray, box: tuple[slice, slice, slice], normalization: str) -> np.ndarray:
    inside = volume[box].astype(np.float32)
    if normalization == "minmax":
        return (inside - volume.min()) / np.float32(float(volume.max()) - float(volume.min()))
    brain = volume[volume != 0]
    return np.where(inside != 0, (inside - np.float32(brain.mean())) / np.float32(brain.std()), np.float32(0))


_networks: dict[str, tuple] = {}


def _torch_network(job: Job, layout: str) -> tuple:
    """The network and its memory format; made once in a process, as a program that segments a cohort would."""
    import torch
    from torch_unet import TorchUNet

    if layout not in _networks:
        torch.set_num_threads(available_cpus())
        memory_format = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}[layout]
        network = TorchUNet(job.network.model, job.network.variables).to(memory_format=memory_format)
        _networks[layout] = network, memory_format
    return _networks[layout]


def run(side: str, job: Job) -> dict[str, float]:
    """Segments the case with one side: seconds files to file, and of the windows alone."""
    out = job.folder / side
    start = time.perf_counter()
    windows = segment_with_jaxbrats(job, out) if side == OURS else segment_with_monai(job, out, side.split()[1])
    return {"seconds": time.perf_counter() - start, "windows_seconds": windows}


def agreement(job: Job, side: str) -> float:
    """Share of the voxels that a side and jaxbrats give the same label."""
    ours, theirs = (np.asarray(nib.load(job.folder / one / f"{job.case.name}.nii.gz").dataobj) for one in (OURS, side))
    return float(np.mean(ours == theirs))


def measure(job: Job, repeats: int) -> dict[str, Any]:
    """Times all sides in turns, each in its own process, after one case to warm up."""
    context = multiprocessing.get_context("spawn")
    pools = {side: concurrent.futures.ProcessPoolExecutor(1, context, keep_freed_memory) for side in SIDES}

    def timed(side: str) -> dict[str, float]:
        taken = pools[side].submit(run, side, job).result()
        print(f"{side}: {taken['seconds']:.2f} s", flush=True)
        return taken

    try:
        first = {side: timed(side)["seconds"] for side in SIDES}
        agreements = {side: agreement(job, side) for side in PEERS}
        for side, share in agreements.items():
            if share < LEAST_AGREEMENT:
                raise InputError(f"{side} gives {share:.4%} of the voxels the label of jaxbrats; nothing to time")
        rounds = [{side: timed(side) for side in SIDES} for _ in range(repeats)]
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
    medians = {
        side: {name: statistics.median(one[side][name] for one in rounds) for name in rounds[0][side]} for side in SIDES
    }
    peer = min(PEERS, key=lambda side: medians[side]["seconds"])
    ratios = [one[peer]["seconds"] / one[OURS]["seconds"] for one in rounds]
    return {
        "rounds": rounds,
        "median": medians,
        "first_seconds": first,
        "agreement": agreements,
        "peer": peer,
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)},
    }


def describe_case(job: Job) -> dict[str, Any]:
    """Sizes for the table."""
    _, volumes, box = read(job)
    window = job.network.window
    brain = [side.stop - side.start for side in box]
    return {
        "modalities": len(volumes),
        "voxels": list(volumes[0].shape),
        "brain": brain,
        "window": list(window),
        "windows": math.prod(len(window_starts(*sizes, OVERLAP)) for sizes in zip(brain, window, strict=True)),
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    voxels, brain, window = ("x".join(map(str, report["case"][name])) for name in ("voxels", "brain", "window"))
    lines = [
        f"| {side} | {median['seconds']:.2f} | {median['windows_seconds']:.2f} | {report['first_seconds'][side]:.2f} |"
        for side, median in report["median"].items()
    ]
    ratio = report["ratio"]
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    return "\n".join(
        [
            "# Seconds to segment one case, files to file",
            "",
            "| | files to file | windows alone | first case of a process |",
            "|---|---:|---:|---:|",
            *lines,
            "",
            f"jaxbrats is {ratio['median']:.2f} times as fast as {report['peer']} ({ratio['least']:.2f} to "
            f"{ratio['greatest']:.2f}). Same label: {report['agreement'][report['peer']]:.4%} of the voxels.",
            "",
            f"{report['case']['modalities']} modalities of {voxels} voxels, brain {brain}, {report['case']['windows']} "
            f"windows of {window}. Network: {report['network']}. Medians of {len(report['rounds'])} rounds, the sides "
            "taking turns; a first case includes compilation.",
            "",
            f"{report['processor']}, {report['cpus']} cores. Python {report['python']}, {versions}.",
            "",
            "`python experiments/benchmark_inference.py`",
            "",
        ]
    )


def main() -> int:
    """Times, prints and writes the report."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the processes
    jax.config.update("jax_platforms", "cpu")
    network = trained_network(pathlib.Path(_WORKDIR.value)) if _WORKDIR.value else random_network()
    network = dataclasses.replace(network, variables=jax.tree.map(np.asarray, network.variables))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        source = _CASE.value
        if source is None:
            write_cohort(folder / "raw", 1, (240, 240, 155), seed=0, workers=1)
            source = folder / "raw"
        cohort = find_cases(source, network.preprocessing.modalities)
        if not cohort.cases:
            raise cohort.problems[0]
        job = Job(cohort.cases[0], network, folder)
        report = {
            **benchmarking.machine(("jax", "numpy", "torch", "monai")),
            "network": f"features {', '.join(map(str, network.model.features))}, norm {network.model.norm}",
            "case": {"synthetic": _CASE.value is None, **describe_case(job)},
            **measure(job, _REPEATS.value),
        }
    files.write_json(RESULTS / "benchmark_inference.json", report)
    files.write_text(RESULTS / "benchmark_inference.md", as_markdown(report))
    print(as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "benchmark_inference", sys.argv[1:]))
