"""What a config's programs are on a GPU, without one: compiled by XLA for its description, not run.

    pip install '.[cuda]'
    python experiments/gpu_program.py --config=configs/unet3d.py [--config.KEY=VALUE ...] --device=h100 [--devices=N]

Training step, validation step (of arrays no larger than a window) and the network over a window of a whole volume go
through XLA's whole GPU pipeline: layouts, fusion, cuDNN calls, buffers. No driver is needed. For each: the memory of a
device by XLA's account; kernels and the bytes they move, by kind; FLOPs of convolutions and matrix products; the layout
of every convolution; collective operations; and the time below which no card of this kind can stay, each kernel taking
what its bytes take at the memory's full speed or its FLOPs at the full rate, whichever is longer. That is a bound and
not a measurement: cuDNN's choice of algorithm, its workspace and its own conversions are not in it.

--hlo=FILE writes the compiled text of the training step. Adds to experiments/results/gpu_program.json and .md.
"""

import dataclasses
import importlib.metadata
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import benchmarking
import jax
import numpy as np
from absl import flags
from hlo_text import Kernel, kernels
from jax.sharding import SingleDeviceSharding

from jaxbrats import commands
from jaxbrats.config.file import load_config
from jaxbrats.config.settings import Settings, from_config
from jaxbrats.inference.network import shapes_of
from jaxbrats.inference.predictor import probabilities_of
from jaxbrats.inference.sliding_window import padded_shape
from jaxbrats.inference.validation import jit_validation_step
from jaxbrats.model.losses import make_loss
from jaxbrats.system.files import read_json, write_json, write_text
from jaxbrats.system.gpus import compile_for_descriptions, described_gpus, published
from jaxbrats.train.compilation import TOTAL_STEPS, compile_step, start_shapes
from jaxbrats.train.mesh import batch_shapes, make_mesh
from jaxbrats.train.state import make_head, make_model
from jaxbrats.train.step import device_memory

SCAN = (240, 240, 155)  # voxels of a BraTS volume


@dataclasses.dataclass(frozen=True)
class Rates:
    """Published rates of a card, dense: FLOPs a second of tensor cores in bfloat16 and TF32 (XLA's default for float32
    convolutions), and bytes a second to its neighbours in each direction.
    """

    bf16: float
    tf32: float
    link: float


# NVIDIA's white papers of H100 (H200: the same processor), A100 and Ada; consumer cards with float32 sums, over PCIe 4
# x16 (x8 of the small one).
RATES = {
    "h100": Rates(989e12, 495e12, 450e9),
    "h200": Rates(989e12, 495e12, 450e9),
    "a100": Rates(312e12, 156e12, 300e9),
    "rtx4090": Rates(165e12, 82.6e12, 32e9),
    "8gb": Rates(30.2e12, 15.1e12, 16e9),
}

FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string(
    "config", None, "Config file, with arguments: FILE[:KEY=VALUE,...].", required=True, flag_values=FLAGS
)
_DEVICE = flags.DEFINE_enum("device", "h100", list(RATES), "The GPU.", flag_values=FLAGS)
_DEVICES = flags.DEFINE_integer("devices", 1, "How many of them.", lower_bound=1, flag_values=FLAGS)
_HLO = flags.DEFINE_string("hlo", None, "File for the text of the training step.", flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", str(benchmarking.RESULTS), "Folder of the results.", flag_values=FLAGS)


def training_step(settings: Settings, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The program that training runs at each step."""
    mesh = _mesh(settings, devices)
    return compile_step(settings, TOTAL_STEPS, mesh, *start_shapes(settings, mesh))


def validation_step(settings: Settings, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The program that validation runs for each batch of whole arrays."""
    mesh, head = _mesh(settings, devices), make_head(settings)
    step = jit_validation_step(mesh, make_model(settings), make_loss(settings.loss, head), head)
    shape = (*settings.data.window, len(settings.data.modalities))
    state, _ = start_shapes(settings, mesh)
    return step.lower(state, batch_shapes(mesh, settings.batch_size, shape)).compile()


def window_step(settings: Settings, device: jax.Device) -> tuple[jax.stages.Compiled, int]:
    """What prediction runs for each window, and with mirroring for each mirrored one; and the bytes that lie beside it
    for a volume of a BraTS scan's size: image, sum of the probabilities, weights, sum over mirrored windows.
    """
    place = SingleDeviceSharding(device)

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    window, mirror = settings.window, settings.inference.mirror
    channels, head = len(settings.data.modalities), make_head(settings)
    arrays = shapes_of(settings), np.empty((1, *window, channels), np.float32), np.empty(3, bool) if mirror else None
    program = probabilities_of.lower(make_model(settings), head, *jax.tree.map(placed, arrays)).compile()
    values = math.prod(padded_shape(SCAN, window)) * (channels + head.channels)
    return program, 4 * (values + math.prod(window) * (1 + mirror * head.channels))


def _mesh(settings: Settings, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    return make_mesh(settings.mesh.data, settings.mesh.space, settings.batch_size, settings.accumulate, devices)


def account(program: jax.stages.Compiled, device: str, beside: int = 0) -> dict[str, Any]:
    """What the module's docstring lists of a program; `beside` are bytes of memory that lie beside it."""
    found = kernels(program.as_text())
    groups = {
        "kinds": [(one.kind, one) for one in found],
        "convolutions": [(f"{', '.join(one.convolution)}, {one.dtype}", one) for one in found if one.convolution],
        "collectives": [(one.collective, one) for one in found if one.collective],
    }
    return {
        "memory_bytes": device_memory(program) + beside,
        **_sums(found),
        "bound_seconds": sum(bound(one, device) for one in found),
        **{
            group: {name: _sums([one for other, one in named if other == name]) for name in sorted(dict(named))}
            for group, named in groups.items()
        },
    }


def _sums(found: Sequence[Kernel]) -> dict[str, float]:
    return {
        "kernels": sum(one.runs for one in found),
        "bytes": round(sum(one.bytes for one in found)),
        "flops": round(sum(one.flops for one in found)),
    }


def bound(kernel: Kernel, device: str) -> float:
    """Seconds that all runs of a kernel take at least."""
    rates = RATES[device]
    if kernel.collective:
        return kernel.bytes / 2 / rates.link
    return max(
        kernel.bytes / published(device, "memory_bandwidth"),
        kernel.flops / (rates.tf32 if kernel.dtype == "f32" else rates.bf16),
    )


def markdown(results: dict[str, Any]) -> str:
    """A table with a line for each program."""
    programs = [(name, program, sums) for name, entry in results.items() for program, sums in entry["programs"].items()]
    kinds = sorted({kind for *_, sums in programs for kind in sums["kinds"]})
    columns = ["config, devices", "program", "GiB", "TFLOP", "ms, bound", "all kernels", *kinds, "layouts"]
    rows = [
        [
            name,
            program,
            f"{sums['memory_bytes'] / 2**30:.2f}",
            f"{sums['flops'] / 1e12:.2f}",
            f"{sums['bound_seconds'] * 1e3:.1f}",
            _cell(sums),
            *(_cell(sums["kinds"].get(kind)) for kind in kinds),
            "; ".join(f"{part['kernels']} {what}" for what, part in sums["convolutions"].items()),
        ]
        for name, program, sums in programs
    ]
    collectives = [
        f"- {name}, {program}: {kind}, {part['kernels']} times, {part['bytes'] / 2e6:.1f} MB"
        for name, program, sums in programs
        for kind, part in sums["collectives"].items()
    ]
    lines = [
        "# Programs for GPUs: compiled, not run",
        "",
        "Compiled by XLA for the card's description, without a card. GiB: memory of a device by XLA's account, without",
        "what cuDNN needs to work in; with a window of a volume also what lies beside it for 240x240x155 voxels.",
        "Kernels: GB that they read and write, and how many there are. ms: what follows at the card's published rates,",
        "a bound and not a measurement.",
        "",
        *(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows]),
        *(["", "Collective operations, as one device sees them:", "", *collectives] if collectives else []),
        "",
        *sorted({entry["versions"] for entry in results.values()}),
        "",
        "`python experiments/gpu_program.py --config=CONFIG --device=DEVICE --devices=N`",
        "",
    ]
    return "\n".join(lines)


def _cell(sums: dict[str, float] | None) -> str:
    return f"{sums['bytes'] / 1e9:.2f} ({sums['kernels']})" if sums else ""


def main() -> int:
    """Compiles, counts, prints and writes."""
    compile_for_descriptions()
    settings = from_config(load_config(_CONFIG.value))
    device, devices = _DEVICE.value, described_gpus(_DEVICE.value, _DEVICES.value)
    step = training_step(settings, devices)
    if _HLO.value:
        write_text(pathlib.Path(_HLO.value), step.as_text())
    window, beside = window_step(settings, devices[0])
    programs = {
        "training step": account(step, device),
        "validation step": account(validation_step(settings, devices), device),
        "window of a volume": account(window, device, beside),
    }
    packages = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    name, file = f"{_CONFIG.value}, {_DEVICES.value} x {device}", pathlib.Path(_OUT.value) / "gpu_program.json"
    entry = {name: {"versions": versions, "programs": programs}}
    print(markdown(entry))
    results = dict(sorted(((read_json(file) if file.exists() else {}) | entry).items()))
    write_json(file, results)
    write_text(file.with_suffix(".md"), markdown(results))
    return 0


def with_settings(arguments: Sequence[str]) -> list[str]:
    """Command line with every --config.KEY=VALUE moved behind the file of --config=FILE."""
    settings = [one.removeprefix("--config.") for one in arguments if one.startswith("--config.")]
    others = [one for one in arguments if not one.startswith("--config.")]
    return [
        one + (",:"[":" not in one] + ",".join(settings) if settings else "") if one.startswith("--config=") else one
        for one in others
    ]


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules["__main__"], "gpu_program", with_settings(sys.argv[1:])))
