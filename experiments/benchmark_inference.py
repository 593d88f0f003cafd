"""How fast is one case segmented, files to file, beside MONAI's sliding window over the same network?

    [JAX_PLATFORMS=cuda,cpu] python experiments/benchmark_inference.py [--case=FOLDER] [--workdir=RUN] [--out=FOLDER]

Both sides read four modalities (a synthetic case of 240x240x155 voxels where no case is given), normalise them, cut out
the brain's box, go over it in windows of 128x128x128 with half overlap and Gaussian weights, take the most probable
label, and write a NIfTI file of the whole volume. Same U-Net (that of configs/unet3d.py with instance normalisation, or
a run's), same weights, same threads, each side in a process of its own:

- jaxbrats: `predict_cases`, as `jaxbrats predict` runs it;
- MONAI: nibabel, NumPy and `monai.inferers.sliding_window_inference` over the network in PyTorch, contiguous and
  channels_last_3d, of which the faster counts.

On a GPU both compute in bfloat16 (torch: autocast, cudnn.benchmark), MONAI's window is also tried with torch.compile,
and its image and sum of windows lie on the GPU, as ours do.

All sides set glibc's malloc to keep freed memory, as jaxbrats does: it helps PyTorch as much.
Labels must agree on 99.9 % of the voxels before anything is timed; in bfloat16 on 90 %, since random weights often give
two labels nearly the same probability (of noise, 97 % agree with float32). Then the sides take turns.
Needs the extra `bench`. Writes benchmark_inference.json and .md.
"""

import dataclasses
import functools
import math
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
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.boxes import CropBox
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.data.raw.cases import Case
from jaxbrats.data.raw.geometry import bounding_box
from jaxbrats.inference.network import Network, load_network
from jaxbrats.inference.predict import predict_cases
from jaxbrats.inference.predictor import Predictor
from jaxbrats.inference.sliding_window import window_starts
from jaxbrats.model.unet import UNet3D
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.processes import available_cpus

FLAGS = flags.FlagValues()
_CASE = flags.DEFINE_string("case", None, "Folder of a case; a synthetic one if not given.", flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string("workdir", None, "A run to take the network of.", flag_values=FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Times that each side is timed.", 1, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", str(benchmarking.RESULTS), "Folder of the results.", flag_values=FLAGS)
_SHAPE = flags.DEFINE_list("shape", ["240", "240", "155"], "Voxels of the synthetic case.", flag_values=FLAGS)
_WINDOW = flags.DEFINE_integer("window", 128, "Edge of a window, without a run.", flag_values=FLAGS)
MODALITIES = ("t2f", "t1c", "t2w", "t1n")
OVERLAP = 0.5
LEAST_AGREEMENT = {"float32": 0.999, "bfloat16": 0.9}
OURS, *PEERS = SIDES = ("jaxbrats", "MONAI contiguous", "MONAI channels_last_3d")
COMPILED = "MONAI channels_last_3d compiled"  # on a GPU


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
    """The best network of a run, whose labels nothing is done to, as MONAI does nothing."""
    record = read_record(workdir)
    return dataclasses.replace(load_network(workdir, record.settings, record.frame), postprocessing=Postprocessing())


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

    (result,) = predict_cases([job.case], timed, job.network, out)
    if isinstance(result, InputError):
        raise result
    return spent[0]


def segment_with_monai(job: Job, out: pathlib.Path, how: str) -> float:
    """The same with MONAI's sliding window; `how` is 'contiguous' or 'channels_last_3d', and 'compiled' after that."""
    import torch
    from monai.inferers import sliding_window_inference

    settings = job.network.preprocessing
    images, volumes, box = read(job)
    stacked = np.stack([_normalised(volume, box, settings.normalization) for volume in volumes])
    network, memory_format, device = _torch_network(job, how)
    half = torch.autocast(device, torch.bfloat16, enabled=job.network.model.dtype == jax.numpy.bfloat16)
    with torch.no_grad(), half:
        start = time.perf_counter()
        probabilities = sliding_window_inference(
            torch.from_numpy(stacked)[None].to(device),
            settings.crop,
            1,
            lambda windows: network(windows.contiguous(memory_format=memory_format)).softmax(1),
            OVERLAP,
            mode="gaussian",
        )
        if device == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
        labels = probabilities[0].argmax(0).to(torch.uint8).cpu().numpy()
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


def _torch_network(job: Job, how: str) -> tuple:
    """The network, its memory format and device; made once in a process, as a program that segments a cohort would."""
    import torch
    from torch_unet import TorchUNet

    if how not in _networks:
        torch.set_num_threads(available_cpus())
        torch.backends.cudnn.benchmark = True
        layout, *compiled = how.split()
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        memory_format = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}[layout]
        network = TorchUNet(job.network.model, job.network.variables).to(device, memory_format=memory_format)
        _networks[how] = torch.compile(network) if compiled else network, memory_format, device
    return _networks[how]


def run(side: str, job: Job) -> dict[str, float]:
    """Segments the case with one side: seconds files to file, and of the windows alone."""
    out = job.folder / side
    start = time.perf_counter()
    windows = segment_with_jaxbrats(job, out) if side == OURS else segment_with_monai(job, out, side.partition(" ")[2])
    return {"seconds": time.perf_counter() - start, "windows_seconds": windows}


def agreement(job: Job, side: str) -> float:
    """Share of the voxels that a side and jaxbrats give the same label."""
    ours, theirs = (np.asarray(nib.load(job.folder / one / f"{job.case.name}.nii.gz").dataobj) for one in (OURS, side))
    return float(np.mean(ours == theirs))


def measure(job: Job, repeats: int) -> dict[str, Any]:
    """Times all sides in turns, each in its own process, after one case to warm up."""
    sides = SIDES if jax.default_backend() == "cpu" else (*SIDES, COMPILED)
    peers = sides[1:]
    with benchmarking.processes(sides) as call:

        def timed(side: str) -> dict[str, float]:
            taken = call[side](run, side, job)
            print(f"{side}: {taken['seconds']:.2f} s", flush=True)
            return taken

        first = {side: timed(side)["seconds"] for side in sides}
        agreements = {side: agreement(job, side) for side in peers}
        for side, share in agreements.items():
            if share < LEAST_AGREEMENT[jax.numpy.dtype(job.network.model.dtype).name]:
                raise InputError(f"{side} gives {share:.4%} of the voxels the label of jaxbrats; nothing to time")
        rounds = [{side: timed(side) for side in sides} for _ in range(repeats)]
    medians = {
        side: {name: statistics.median(one[side][name] for one in rounds) for name in rounds[0][side]} for side in sides
    }
    peer = min(peers, key=lambda side: medians[side]["seconds"])
    seconds = [{side: taken["seconds"] for side, taken in one.items()} for one in rounds]
    return {
        "rounds": rounds,
        "median": medians,
        "first_seconds": first,
        "agreement": agreements,
        "peer": peer,
        "ratio": benchmarking.ratio(seconds, peer, OURS),
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
    return "\n".join(
        [
            "# Seconds to segment one case, files to file",
            "",
            "| | files to file | windows alone | first case of a process |",
            "|---|---:|---:|---:|",
            *lines,
            "",
            f"jaxbrats is {benchmarking.ratio_text(report['ratio'])} times as fast as {report['peer']}. Same label: "
            f"{report['agreement'][report['peer']]:.4%} of the voxels.",
            "",
            f"{report['case']['modalities']} modalities of {voxels} voxels, brain {brain}, {report['case']['windows']} "
            f"windows of {window}. Network: {report['network']}. Medians of {len(report['rounds'])} rounds, the sides "
            "taking turns; a first case includes compilation.",
            "",
            *benchmarking.footer(report, "benchmark_inference")[1:],
        ]
    )


def main() -> int:
    """Times, prints and writes the report."""
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    if _WORKDIR.value:
        network = trained_network(pathlib.Path(_WORKDIR.value))
    else:
        network = random_network((_WINDOW.value,) * 3)
    if jax.default_backend() != "cpu":
        network = dataclasses.replace(network, model=network.model.clone(dtype=jax.numpy.bfloat16))
    network = dataclasses.replace(network, variables=jax.tree.map(np.asarray, network.variables))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        modalities, shape = network.preprocessing.modalities, list(map(int, _SHAPE.value))
        job = Job(benchmarking.case_to_measure(_CASE.value, modalities, folder / "raw", shape), network, folder)
        report = {
            **benchmarking.machine(("jax", "numpy", "torch", "monai")),
            "network": f"features {', '.join(map(str, network.model.features))}, norm {network.model.norm}, "
            f"{jax.numpy.dtype(network.model.dtype)}",
            "case": {"synthetic": _CASE.value is None, **describe_case(job)},
            **measure(job, _REPEATS.value),
        }
    benchmarking.write("benchmark_inference", report, as_markdown(report), pathlib.Path(_OUT.value))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # of the processes too
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # which share a GPU
    sys.exit(commands.run_program(sys.modules[__name__], "benchmark_inference", sys.argv[1:]))
