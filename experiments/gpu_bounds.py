"""A step and a forward pass as `benchmark_step.py` measured them on a card, beside what the card's rates allow.

    python experiments/gpu_bounds.py --measured=FOLDER/benchmark_step_128.json,... --out=FOLDER

The same programs are compiled for the card's description, and each kernel takes what its bytes or FLOPs take at the
published rates, as in `gpu_program.py`, which needs JAX's CUDA plugin and no card. Writes gpu_bounds.json and .md.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import benchmarking
import gpu_program
import jax
from absl import flags
from jax.sharding import SingleDeviceSharding
from step_sides import OURS, Side, settings_of

from jaxbrats import commands
from jaxbrats.config.settings import Settings
from jaxbrats.inference.network import shapes_of
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json
from jaxbrats.system.gpus import compile_for_descriptions, described_gpus
from jaxbrats.train.state import make_model

FLAGS = flags.FlagValues()
_DEVICE = flags.DEFINE_enum("device", None, list(gpu_program.RATES), "Not the card measured on.", flag_values=FLAGS)
_MEASURED = flags.DEFINE_list("measured", None, "Files of benchmark_step.py.", required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", str(benchmarking.RESULTS), "Folder of the results.", flag_values=FLAGS)


def described(card: str) -> str:
    """The name of the description of a card as its driver calls it, 'NVIDIA H100 80GB HBM3'.

    Raises:
        InputError: there is none.
    """
    for name in gpu_program.RATES:
        if name in card.replace(" ", "").lower():
            return name
    hint = "Add jaxbrats/system/gpus/NAME.txtpb and its rates to gpu_program.py, or give --device"
    raise InputError(
        f"no description of a card is named in {card!r}; there are {', '.join(gpu_program.RATES)}", hint=hint
    )


def forward_pass(settings: Settings, device: jax.Device) -> jax.stages.Compiled:
    """The network over a batch."""
    place, data = SingleDeviceSharding(device), settings.data
    image = jax.ShapeDtypeStruct((settings.batch_size, *data.window, len(data.modalities)), "float32")
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), (shapes_of(settings), image)
    )
    return jax.jit(make_model(settings).apply).lower(*shapes).compile()


def beside_bounds(report: dict[str, Any], device: str, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """What was measured, in PyTorch too, and the bounds, for step and forward pass."""
    side = Side(OURS, report["size"], report["batch"])
    settings = dataclasses.replace(settings_of(side), dtype=report["dtype"])
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, crop=(side.size,) * 3))
    programs = {
        "step": gpu_program.training_step(settings, devices),
        "forward": forward_pass(settings, devices[0]),
    }
    return {
        what: {
            "ours": report[what]["seconds"][OURS],
            "torch": report[what]["seconds"][report[what]["peer"]],
            "ratio": report[what]["ratio"],
            **gpu_program.account(program, device),
        }
        for what, program in programs.items()
    }


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The table."""
    rows = [
        f"| {name}, {what} | {1e3 * of['ours']:.2f} | {1e3 * of['torch']:.2f} | "
        f"{benchmarking.ratio_text(of['ratio'])} | {1e3 * of['bound_seconds']:.2f} | "
        f"{of['ours'] / of['bound_seconds']:.2f} | {of['kernels']} |"
        for name, programs in results.items()
        for what, of in programs.items()
    ]
    return "\n".join(
        [
            "# Measured on a card, and bounds of its published rates",
            "",
            "| size, card, bound of | jaxbrats, ms | PyTorch, ms | PyTorch / jaxbrats (range) | bound, ms | jaxbrats / "
            "bound | kernels |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "Bounds: of the program compiled for the card's description, see gpu_program.py.",
            "",
        ]
    )


def main() -> int:
    """Compiles, compares and writes."""
    compile_for_descriptions()
    results = {}
    for report in map(read_json, map(pathlib.Path, _MEASURED.value)):
        device = _DEVICE.value or described(report["device"])
        name = f"{report['size']}^3, batch {report['batch']}, {report['dtype']}, {report['device']}, {device}"
        results[name] = beside_bounds(report, device, described_gpus(device))
    benchmarking.write("gpu_bounds", results, markdown(results), pathlib.Path(_OUT.value))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "gpu_bounds", sys.argv[1:]))
