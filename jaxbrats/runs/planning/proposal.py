"""The largest patch, network and batch whose training step fits a device's memory, by XLA's account of each."""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbrats.config.augment import NNUNET
from jaxbrats.config.settings import Settings, default, from_config
from jaxbrats.data.array_box import BRAIN
from jaxbrats.runs.planning.facts import Facts, Size
from jaxbrats.runs.planning.topology import Topology, shrinking
from jaxbrats.system.errors import InputError
from jaxbrats.train.compilation import step_memory
from jaxbrats.train.loop import PREFETCH

GIB = 2**30
# What does not follow from the cohort: the recipe of configs/brats.py, where the reasons are.
RECIPE: dict[str, Any] = {
    "data.normalization": "zscore",
    "data.min_tumour": 0.0,
    "model.norm": "instance",
    "model.activation": "leaky_relu",
    "model.dropout": (0.0,),
    "model.head": "regions",
    "loss.terms": {"dice": 1.0, "bce": 1.0},
    **{f"augment.{name}": probability for name, probability in NNUNET.items()},
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 1e-2,
    "optimizer.clip_norm": 1.0,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "ema": 0.999,
    "inference.mirror": True,
    "postprocessing.component_mm3": 1000.0,
    "postprocessing.core_mm3": 200.0,
}
# nnU-Net's channels; a network of fewer levels has the first of them.
FEATURES = (32, 64, 128, 256, 320, 320)
# Share of the brain's box along every axis that a patch keeps before activations are computed again to keep it larger,
# and that it keeps at least.
SHARE_BEFORE_REMAT, LEAST_SHARE = 0.5, 0.25
SMALLEST_BATCH = 2
# A batch of whole brains is no larger a share of the cases, as in nnU-Net.
MOST_OF_CASES = 0.05


class Candidate(NamedTuple):
    """What is tried: a network for a patch, whether activations are computed again, and the size of the batch."""

    topology: Topology
    remat: bool
    batch_size: int


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What fits.

    Attributes:
        candidate: Network, patch and batch.
        settings: Dotted name -> value of every setting that was chosen.
        step_bytes: Memory of the training step on the device.
        needed_bytes: With the batches that wait for it.
        limit_bytes: What JAX may take of the memory that was given.
        platform: What was compiled for: 'cpu' or 'gpu'.
        device: Its name.
    """

    candidate: Candidate
    settings: dict[str, Any]
    step_bytes: int
    needed_bytes: int
    limit_bytes: int
    platform: str
    device: str


def propose(facts: Facts, memory: int, device: jax.Device) -> Proposal:
    """Compiles training steps for a device, running none, until the largest is found.

    Patches shrink from the brain's box to half of it; where that does not fit either, activations are computed again,
    if that saves memory on this device, and patches shrink from the whole box to a quarter. A whole box that fits gets
    a larger batch.

    Args:
        facts: From `measure`.
        memory: Bytes of the device.
        device: What to compile for; one of `described_gpus` need not be there.

    Raises:
        InputError: the brain is too small for any network, or the memory for the smallest patch.
    """
    mesh = jax.sharding.Mesh(np.array([[device]]), ("data", "space"))
    limit = int(memory * Settings().gpu_memory_fraction)

    @functools.cache
    def account(candidate: Candidate) -> tuple[int, int]:
        settings = from_config(as_config(chosen_settings(facts, candidate, device.platform)))
        step = step_memory(settings, mesh)
        needed = step + PREFETCH * _batch_bytes(settings)
        again = ", activations computed again" if candidate.remat else ""
        tried = f"patch {shape_text(candidate.topology.patch)}, batch {candidate.batch_size}{again}"
        print(f"{tried}: {needed / GIB:.2f} of {limit / GIB:.2f} GiB", flush=True)
        return step, needed

    def fits(candidate: Candidate) -> bool:
        return account(candidate)[1] <= limit

    plain = _candidates(facts, False, SHARE_BEFORE_REMAT)
    if not plain:
        problem = f"expected brains of 8 voxels along an axis or more, found {shape_text(facts.box)} in the median case"
        raise InputError(problem, file=facts.raw_dir, hint="Are these images of the whole brain?")
    best = _first_fitting(plain, fits)
    if best is None:
        # Not on every device does it: XLA's programs for CPUs were found to take more.
        remat = account(plain[-1]._replace(remat=True)) < account(plain[-1])
        smaller = _candidates(facts, remat, LEAST_SHARE)
        best = _first_fitting(smaller, fits)
        if best is None:
            raise _too_little(memory, smaller[-1], account(smaller[-1])[1])
    if best == plain[0]:
        larger = best._replace(batch_size=2 * best.batch_size)
        while larger.batch_size <= MOST_OF_CASES * len(facts.boxes) and fits(larger):
            best, larger = larger, larger._replace(batch_size=2 * larger.batch_size)
    return Proposal(
        best,
        chosen_settings(facts, best, device.platform),
        *account(best),
        limit,
        device.platform,
        device.device_kind,
    )


def chosen_settings(facts: Facts, candidate: Candidate, platform: str) -> dict[str, Any]:
    """Dotted name -> value of every setting that follows from a cohort and a candidate; others keep their defaults."""
    (patch, strides, kernels), remat, batch_size = candidate
    features = FEATURES[: len(kernels)]
    settings = {
        "data.raw_dir": str(facts.raw_dir.resolve()),
        "data.modalities": facts.modalities,
        "data.spacing": facts.frame.spacing_mm,
        "data.crop": BRAIN,
        "data.patch": patch,
        "model.features": features,
        "mesh.data": 1,
        "batch_size": batch_size,
    }
    if len(features) > 3:
        settings["model.deep_supervision"] = True
    if any(stride != (2, 2, 2) for stride in strides):
        settings["model.strides"] = strides
    if any(kernel != (3, 3, 3) for kernel in kernels):
        settings["model.kernels"] = kernels
    if platform == "gpu":
        settings["dtype"] = "bfloat16"
    if remat:
        settings["remat"] = True
    return settings | RECIPE


def as_config(settings: Mapping[str, Any]) -> Any:
    """The defaults with these settings, `{"data.patch": (64, 64, 64)}`, changed."""
    config = default()
    config.update_from_flattened_dict(settings)
    return config


def shape_text(size: Size) -> str:
    """96x128x96."""
    return "x".join(map(str, size))


def _candidates(facts: Facts, remat: bool, least_share: float) -> list[Candidate]:
    topologies = shrinking(facts.frame.spacing_mm, facts.box, len(FEATURES), least_share)
    return [Candidate(topology, remat, SMALLEST_BATCH) for topology in topologies]


def _first_fitting(candidates: list[Candidate], fits: Callable[[Candidate], bool]) -> Candidate | None:
    """By bisection, for which each has to need less memory than the one before."""
    first = bisect.bisect_left(candidates, True, key=fits)
    return candidates[first] if first < len(candidates) else None


def _batch_bytes(settings: Settings) -> int:
    """Of images in float32 and labels in one byte."""
    return settings.batch_size * math.prod(settings.data.window) * (4 * len(settings.data.modalities) + 1)


def _too_little(memory: int, smallest: Candidate, needed: int) -> InputError:
    problem = (
        f"--memory: a training step on the smallest patch, {shape_text(smallest.topology.patch)}, needs "
        f"{needed / GIB:.2f} GiB, of {memory / GIB:.2f} GiB JAX takes {Settings().gpu_memory_fraction:.0%}"
    )
    return InputError(problem, hint="Use a device with more memory, or a network with fewer model.features")
