"""What does nnU-Net's augmentation add to a training step?

    python experiments/benchmark_augment.py

Training steps on batches of two 64^3 volumes, with and without `jaxbrats.config.augment.NNUNET`, for the network of
configs/quickstart.py and for features from 16 to 128. The sides take turns in processes of their own; a round is the
mean of several steps, because what a step draws decides what it costs. The augmentation is also timed alone: its
share of the plain step is what the ratio should be. A further side augments and learns from soft labels.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import benchmarking
import jax
import numpy as np
from absl import flags

from jaxbrats import commands
from jaxbrats.commands.startup import use_compiled_convolution
from jaxbrats.config import Augment, Model, Settings
from jaxbrats.config.augment import NNUNET
from jaxbrats.data.labels import DEFAULT_MODALITIES, NUM_CLASSES, SHARES, WHOLE
from jaxbrats.model.augment import make_augmentation
from jaxbrats.model.losses import make_loss
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import jit_train_step

FLAGS = flags.FlagValues()
_SIZE = flags.DEFINE_integer("size", 64, "Edge of the volume in voxels.", flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch", 2, "Cases in a batch.", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds, the sides in turn.", 1, flag_values=FLAGS)
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of a round.", 1, flag_values=FLAGS)

NETWORKS = {"quickstart": (8, 16, 32, 64), "16 to 128": (16, 32, 64, 128)}
PLAIN, AUGMENTED, ALONE, SOFT = "plain step", "augmented step", "augmentation alone", "soft labels"


@functools.cache
def batch_of(size: int, batch: int) -> dict[str, np.ndarray]:
    """An image of a brain-like share of voxels that are not zero, and labels."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, size, size, size, len(DEFAULT_MODALITIES))).astype(np.float32)
    image[:, : size // 4] = 0
    return {"image": image, "labels": rng.integers(0, NUM_CLASSES, image.shape[:-1]).astype(np.uint8)}


@functools.cache
def call_of(side: str, features: tuple[int, ...], size: int, batch: int) -> Callable[[], Any]:
    """A side's next step, each with a draw of its own; made once in its process."""
    mesh = make_mesh(1, 1, batch)
    arrays = batch_of(size, batch)
    if side == SOFT:
        parts = (arrays["labels"][..., None] == np.array(SHARES)) * np.uint8(WHOLE)
        arrays = arrays | {"labels": parts}
    on_device = put_batch(mesh, arrays)
    augment = make_augmentation(Augment(**NNUNET))
    if side == ALONE:
        compiled, count = jax.jit(augment), iter(range(10**9))
        return lambda: compiled(jax.random.split(jax.random.key(next(count)), batch), *on_device.values())
    use_compiled_convolution()
    settings = Settings(model=Model(features=features, norm="instance", dropout=(0.0,)), batch_size=batch)
    model, optimizer = make_model(settings), make_optimizer(1e-4, "constant", 1)
    state = replicate(mesh, init_state(model, optimizer, 0, len(DEFAULT_MODALITIES)))
    chosen = None if side == PLAIN else augment
    compiled = jit_train_step(mesh, model, optimizer, make_loss(settings.loss), augment=chosen)
    key = replicate(mesh, jax.random.key(0))

    def step() -> Any:
        nonlocal state
        state, metrics = compiled(state, on_device, key)
        return metrics

    return step


def seconds(side: str, features: tuple[int, ...], size: int, batch: int, steps: int) -> float:
    """Mean wall seconds of some steps; run in the side's process."""
    call = call_of(side, features, size, batch)
    begun = time.perf_counter()
    for _ in range(steps):
        jax.block_until_ready(call())
    return (time.perf_counter() - begun) / steps


def measure(features: tuple[int, ...]) -> dict[str, Any]:
    """Times the sides in turn, after a step each that compiles."""
    size, batch, steps = _SIZE.value, _BATCH.value, _STEPS.value
    with benchmarking.processes((PLAIN, AUGMENTED, ALONE, SOFT)) as run:
        sides = {side: functools.partial(call, seconds, side, features, size, batch) for side, call in run.items()}
        for side in sides.values():
            side(1)
        turns = {side: functools.partial(call, steps) for side, call in sides.items()}
        rounds = benchmarking.in_turns(turns, _ROUNDS.value)
    pairs = {"ratio": (AUGMENTED, PLAIN), "soft": (SOFT, AUGMENTED)}
    return {"seconds": rounds} | {name: benchmarking.ratio(rounds, *pair) for name, pair in pairs.items()}


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"# Cost of nnU-Net's augmentation in a training step, {report['size']}^3, batch {report['batch']}",
        "",
        "| network | plain step, s | augmented step, s | augmentation alone, s | predicted ratio | measured ratio "
        "| soft labels to one label a voxel, both augmented |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, of in report["networks"].items():
        median = benchmarking.medians(of["seconds"])
        columns = [benchmarking.range_of(of["seconds"], side, 3) for side in (PLAIN, AUGMENTED, ALONE)]
        predicted = 1 + median[ALONE] / median[PLAIN]
        ratios = [f"{predicted:.2f}", *(benchmarking.ratio_text(of[name]) for name in ("ratio", "soft"))]
        lines.append(f"| {name} | {' | '.join([*columns, *ratios])} |")
    rounds = len(next(iter(report["networks"].values()))["seconds"])
    how = f"Medians (least to greatest) of {rounds} rounds of {report['steps']} steps, the sides in turn; float32."
    return "\n".join([*lines, "", how, *benchmarking.footer(report["machine"], "benchmark_augment")])


def main() -> int:
    """Times, prints and writes."""
    report = {
        "machine": benchmarking.machine(("jax",)),
        "size": _SIZE.value,
        "batch": _BATCH.value,
        "steps": _STEPS.value,
        "networks": {name: {"features": features, **measure(features)} for name, features in NETWORKS.items()},
    }
    benchmarking.write("benchmark_augment", report, as_markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "benchmark_augment", sys.argv[1:]))
