"""A training step under other settings of XLA and with other forms of its layers, beside the step as it is.

    JAX_PLATFORMS=cuda,cpu python experiments/gpu_variants.py --size=128 --batch=2 --out=FOLDER

The step of `benchmark_step.py`. XLA reads its flags when it starts, so that each variant has a process of its own,
which takes turns with one of the step as it is. What XLA does not know is left out with a line. The table is written
after every variant: stopped early, it has those that were done. Writes gpu_variants.json and .md.
"""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import benchmark_step
import benchmarking
import jax
import step_sides
from absl import flags
from benchmark_step import Process
from step_sides import OURS, Side

from jaxbrats import commands
from jaxbrats.model import conv, instance_norm, resample
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_SIZE = flags.DEFINE_integer("size", 128, "Edge of the volume in voxels.", flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch", 2, "Cases in a batch.", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds, both sides in turn.", 1, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", str(benchmarking.RESULTS), "Folder of the results.", flag_values=FLAGS)


class Variant(NamedTuple):
    """What differs from the step as it is: flags of XLA, or something to do in the process before."""

    flags: str = ""
    change: Callable[[], None] = lambda: None


def _flax_normalisation() -> None:
    instance_norm.few_passes = instance_norm.plain


def _pointwise_products() -> None:
    conv._pointwise_direct = conv._pointwise


def _transposed_products() -> None:
    resample._direct = resample._matrix_product


def _eight_channels() -> None:
    step_sides.CHANNELS = 8


# Most worth knowing first. The flags are explained in xla/debug_options_flags.cc of openxla/xla.
VARIANTS = {
    "convolutions with the channels last": Variant("--xla_gpu_force_conv_nhwc=true"),
    "input of 8 channels": Variant(change=_eight_channels),
    "both": Variant("--xla_gpu_force_conv_nhwc=true", _eight_channels),
    "deterministic kernels (config.deterministic)": Variant("--xla_gpu_exclude_nondeterministic_ops=true"),
    "normalisation as Flax has it": Variant(change=_flax_normalisation),
    "transposed convolutions as matrix products": Variant(change=_transposed_products),
    "pointwise convolutions as matrix products": Variant(change=_pointwise_products),
    "kernels launched one by one, without CUDA graphs": Variant("--xla_gpu_enable_command_buffer="),
    "convolutions fused with what follows": Variant("--xla_gpu_experimental_enable_conv_fusion=true"),
    "algorithms not tried when compiling": Variant("--xla_gpu_autotune_level=0"),
}


def begin(side: Side, name: str | None) -> float:
    """Makes the variant and compiles it; returns the first loss. Run in the side's process."""
    if name:
        VARIANTS[name].change()
    return benchmark_step.first_loss(side)


def start(process: Process, name: str | None) -> float:
    """Starts a process with the variant's flags; returns the first loss.

    Raises:
        Exception: the process ended, as with flags that XLA does not know, or the variant does not compile.
    """
    before = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{before} {VARIANTS[name].flags if name else ''}".strip()
    try:
        return process.call(begin, name)
    finally:
        os.environ["XLA_FLAGS"] = before


def compare(ours: Process, name: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step as it is and of the variant, in turn, and the variant's memory by XLA's account."""
    with Process(ours.side) as other:
        loss = start(other, name)
        for process in (ours, other):  # once more than what compiled
            process.call(benchmark_step.timed, "step")
        sides = {"as it is": ours, "variant": other}
        calls = {
            key: lambda process=process: process.call(benchmark_step.timed, "step") for key, process in sides.items()
        }
        times = benchmarking.in_turns(calls, rounds)
        return {
            "rounds": times,
            "faster": benchmarking.ratio(times, "as it is", "variant"),
            "loss": loss,
            "account": other.call(benchmark_step.account),
        }


def markdown(report: dict[str, Any]) -> str:
    """The table."""
    first = report["as it is"]
    rows = [
        f"| {name} | {1e3 * benchmarking.medians(of['rounds'])['variant']:.2f} | "
        f"{benchmarking.ratio_text(of['faster'])} | {of['account'] / 2**30:.2f} | {of['loss'] - first['loss']:.1e} |"
        for name, of in report["variants"].items()
    ]
    return "\n".join(
        [
            f"# A step at {report['size']}^3, batch {report['batch']}, {report['dtype']}, in variants",
            "",
            "| variant | ms | as it is / variant (range) | GiB by XLA's account | first loss differs by |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            f"As it is a step takes {first['account'] / 2**30:.2f} GiB. Above 1 the variant is faster. An input of 8 "
            "channels is another one, so its loss differs.",
            *(["", *(f"Left out: {name}: {why}." for name, why in report["left_out"].items())]),
            *benchmarking.footer(report, "gpu_variants"),
        ]
    )


def main() -> int:
    """Times, prints and writes; 1 if no variant could be timed."""
    side = Side(OURS, _SIZE.value, _BATCH.value)
    report = {"size": side.size, "batch": side.batch, "dtype": side.dtype, **benchmarking.machine(("jax",))}
    report |= {"device": jax.devices()[0].device_kind, "variants": {}, "left_out": {}}
    with Process(side) as ours:
        report["as it is"] = {"loss": start(ours, None), "account": ours.call(benchmark_step.account)}
        for name in VARIANTS:
            print(f"{name}:", flush=True)
            try:
                report["variants"][name] = compare(ours, name, _ROUNDS.value)
            except Exception as error:  # of XLA, or its process ended: the message is above
                report["left_out"][name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
                print(f"left out: {report['left_out'][name]}", flush=True)
            benchmarking.write("gpu_variants", report, markdown(report), pathlib.Path(_OUT.value))
    if not report["variants"]:
        raise InputError("no variant could be timed", hint="See the messages above")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the processes share a GPU
    sys.exit(commands.run_program(sys.modules[__name__], "gpu_variants", sys.argv[1:]))
