"""More devices: what splitting a batch or a volume costs here, and what to expect of 1 to 1024 GPUs.

    python experiments/scaling.py

Three parts, the first and the last of the network of configs/unet3d.py:

- memory: bytes that a training step takes on each device when a volume lies on 1, 2, 4 or 8 of them, by XLA's own
  account (`memory_analysis`) of the compiled program. Nothing is run, so this needs no GPU; XLA for GPUs takes more or
  less for its workspaces, but splits the same arrays.
- time: weak and strong scaling of a smaller network on virtual devices. They are threads that share one processor, so
  this tells what the splitting costs and whether the losses agree, not how GPUs scale.
- model: `scaling_model.py` from these counts, with the speed of a GPU and of links stated, not measured.

Writes scaling.json, .md and .png into experiments/results.
"""

import collections
import math
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from typing import Any

# Eight devices on one processor. JAX reads this when it first looks for devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import benchmarking
import jax
import numpy as np
from absl import flags
from scaling_model import CLUSTERS, CPU_CLUSTER, Step, efficiency, step_seconds

from jaxbrats import commands
from jaxbrats.config.settings import Model, Settings
from jaxbrats.model.losses import make_loss
from jaxbrats.report.figures import page, write_png
from jaxbrats.system.files import write_json, write_text
from jaxbrats.train.mesh import batch_shapes, make_mesh, put_batch, replicate, replicated
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import device_memory, jit_train_step

FLAGS = flags.FlagValues()
_FEATURES = flags.DEFINE_list("features", ["16", "32", "64", "128", "256"], "Of the network.", flag_values=FLAGS)
_VOLUMES = flags.DEFINE_list("volumes", ["128x128x128", "240x240x160"], "For the memory.", flag_values=FLAGS)
_TIMED = flags.DEFINE_list("timed_features", ["8", "16", "32"], "Of the network that is timed.", flag_values=FLAGS)
_EDGE = flags.DEFINE_integer("edge", 32, "Edge of the volumes of the timed steps.", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed steps of each kind.", flag_values=FLAGS)
_TFLOPS = flags.DEFINE_float("gpu_tflops", 30.0, "Sustained rate assumed of a GPU.", flag_values=FLAGS)
_OUT = flags.DEFINE_string(
    "out", str(pathlib.Path(__file__).parent / "results" / "scaling"), "Path without suffix.", flag_values=FLAGS
)
DEVICES = (1, 2, 4, 8)
CHANNELS = 3


def compiled_step(
    features: list[str], data: int, space: int, batch: int, shape: tuple[int, ...]
) -> tuple[Any, Any, Settings, int]:
    """The training step compiled for a mesh, that mesh, the settings and the bytes of the gradients."""
    network = Model(features=tuple(map(int, features)), dropout=(0.1,))
    settings = Settings(batch_size=batch, conv="direct", model=network)
    model, optimizer = make_model(settings), make_optimizer(1e-4, "constant", 10)
    mesh = make_mesh(data, space, batch)

    def described(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))

    state = jax.tree.map(described, jax.eval_shape(lambda: init_state(model, optimizer, 0, CHANNELS)))
    key = described(jax.eval_shape(lambda: jax.random.key(0)))
    step = jit_train_step(mesh, model, optimizer, make_loss(settings.loss))
    program = step.lower(state, batch_shapes(mesh, batch, (*shape, CHANNELS)), key).compile()
    return program, mesh, settings, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))


def sent(program: str) -> dict[str, dict[str, int]]:
    """Messages and bytes of each collective operation in a compiled program's text, as one device sees them."""
    found: dict[str, dict[str, int]] = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    operations = r"= (.+?) (all-reduce|all-gather|collective-permute|all-to-all)(?:-start)?\("
    for shapes, kind in re.findall(operations, program):
        for dtype, sizes in re.findall(r"(pred|[fsu]\d+|bf16)\[([\d,]*)\]", shapes):
            width = 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8
            found[kind]["bytes"] += width * math.prod(int(size) for size in sizes.split(",") if size)
        found[kind]["count"] += 1
    return dict(found)


def memory_rows(shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Memory and traffic of a step on one volume split over 1, 2, 4 and 8 devices."""
    rows = []
    for space in DEVICES:
        program, _, _, gradient_bytes = compiled_step(_FEATURES.value, 1, space, 1, shape)
        rows.append(
            {
                "shape": list(shape),
                "space": space,
                "bytes": device_memory(program),
                "activation_bytes": program.memory_analysis().temp_size_in_bytes,
                "flops": program.cost_analysis()["flops"],
                "sent": sent(program.as_text()),
                "gradient_bytes": gradient_bytes,
            }
        )
        rows[-1]["share"] = rows[-1]["activation_bytes"] / rows[0]["activation_bytes"]
        print(f"{shape} over {space}: {rows[-1]['bytes'] / 2**30:.2f} GiB a device", file=sys.stderr, flush=True)
    return rows


def timed(data: int, space: int, batch: int) -> dict[str, Any]:
    """Median seconds of a step on virtual devices, and the last loss."""
    shape = (_EDGE.value,) * 3
    program, mesh, settings, _ = compiled_step(_TIMED.value, data, space, batch, shape)
    model, optimizer = make_model(settings), make_optimizer(1e-4, "constant", 10)
    state = replicate(mesh, init_state(model, optimizer, 0, CHANNELS))
    key = replicate(mesh, jax.random.key(0))
    random = np.random.default_rng(0)
    image = random.normal(size=(batch, *shape, CHANNELS)).astype(np.float32)
    labels = random.integers(0, 4, image.shape[:-1]).astype(np.uint8)
    arrays = put_batch(mesh, {"image": image, "labels": labels})
    seconds = []
    for round_number in range(_ROUNDS.value + 1):
        begun = time.perf_counter()
        state, metrics = program(state, arrays, key)
        loss = float(metrics.loss)
        if round_number:  # the first warms up
            seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds)
    print(f"{data} x {space} devices, batch {batch}: {median:.3f} s", file=sys.stderr, flush=True)
    return {
        "data": data,
        "space": space,
        "batch": batch,
        "seconds": median,
        "range": [min(seconds), max(seconds)],
        "loss": loss,
        "flops": program.cost_analysis()["flops"],
    }


def timed_rows() -> dict[str, list[dict[str, Any]]]:
    """Strong scaling (a batch of 8 over more devices), weak (a case a device), and one volume over more devices."""
    return {
        "strong": [timed(devices, 1, 8) for devices in DEVICES],
        "weak": [timed(devices, 1, devices) for devices in DEVICES],
        "space": [timed(1, devices, 1) for devices in DEVICES],
    }


def model_rows(memory: list[dict[str, Any]], gpu_rate: float, cpu_rate: float) -> list[dict[str, Any]]:
    """The model's step time from 1 to 1024 devices, for whole volumes and volumes split over what a machine holds.

    Args:
        memory: From `memory_rows`.
        gpu_rate: FLOPs a second of a GPU, assumed.
        cpu_rate: FLOPs a second of this machine, measured.
    """
    rows = []
    for links in CLUSTERS:
        rate = cpu_rate if links is CPU_CLUSTER else gpu_rate
        for row in memory:
            if row["space"] > links.gpus:
                continue
            halos = row["sent"].get("collective-permute", {"count": 0, "bytes": 0})
            compute = memory[0]["flops"] / rate
            step = Step(compute, row["gradient_bytes"], row["space"], halos["bytes"], halos["count"])
            for gpus in (2**power for power in range(11)):
                if gpus < row["space"]:
                    continue
                seconds = step_seconds(step, gpus, links)
                rows.append(
                    {
                        "links": links.name,
                        "shape": row["shape"],
                        "space": row["space"],
                        "gpus": gpus,
                        "batch": gpus // row["space"],
                        "seconds": seconds,
                        "efficiency": efficiency(step, gpus, links),
                        "read_bytes_per_second": gpus / row["space"] * math.prod(row["shape"]) * 13 / seconds,
                    }
                )
    return rows


def main() -> int:
    """Measures, models, writes and prints."""
    from scaling_text import draw, write_up

    shapes = [tuple(map(int, volume.split("x"))) for volume in _VOLUMES.value]
    memory = [memory_rows(shape) for shape in shapes]
    times = timed_rows()
    cpu_rate = times["weak"][0]["flops"] / times["weak"][0]["seconds"]
    result = {
        "edge": _EDGE.value,
        "rounds": _ROUNDS.value,
        "features": list(map(int, _FEATURES.value)),
        "timed_features": list(map(int, _TIMED.value)),
        "load": os.getloadavg()[1],
        "gradient_bytes": memory[0][0]["gradient_bytes"],
        "cpu_flops_per_second": cpu_rate,
        "gpu_tflops": _TFLOPS.value,
        "memory": [row for rows in memory for row in rows],
        "time": times,
        "model": [row for rows in memory for row in model_rows(rows, _TFLOPS.value * 1e12, cpu_rate)],
        "machine": {
            "cores": os.cpu_count(),
            "processor": benchmarking.processor(),
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }
    text = write_up(result)
    write_text(f"{_OUT.value}.md", text)
    write_json(f"{_OUT.value}.json", result)
    figure = page(10, 3.6)
    draw(figure, result)
    write_png(figure, f"{_OUT.value}.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules["__main__"], "scaling", sys.argv[1:]))
