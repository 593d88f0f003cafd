"""How fast are a training step and a forward pass beside PyTorch on the same network, and what memory do they take?

    pip install '.[bench]'
    python experiments/benchmark_step.py --size=64 --out=experiments/results/benchmark_step_64

The network of configs/unet3d.py with instance normalisation, Dice + focal loss, Adam. Both sides get the same weights
and the same batch, and must agree on the number of parameters and on the loss (1e-3) before anything is timed. Each
side runs in a process of its own. PyTorch runs contiguous and channels_last_3d, eager and (with a compiler on the
machine) torch.compile; its fastest for the step and its fastest for the forward pass then take turns with jaxbrats.
On a CPU both compute in float32 on the same threads; on a GPU in bfloat16 (torch: autocast, cudnn.benchmark), and a
time is the mean of ten calls in a row, of which only the last is waited for, as in training. --monai tries MONAI's
DynUNet too, with as many channels, levels and convolutions: another network (strides instead of pooling), so for its
speed alone.

The floor is the time that the direct convolutions' FLOPs take at the measured rate of a large matrix product, or that
the activations take to be written and read once at the measured bandwidth, whichever is longer. Winograd does fewer
FLOPs than the direct algorithm, so a step may come close to it or below.
"""

import concurrent.futures
import itertools
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import benchmarking
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from step_sides import CHANNELS, LEARNING_RATE, OURS, Side, calls_of, settings_of

from jaxbrats import commands
from jaxbrats.config.settings import Model
from jaxbrats.data.labels import NUM_CLASSES
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.memory import keep_freed_memory, release_freed_memory
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model

FLAGS = flags.FlagValues()
_SIZE = flags.DEFINE_integer("size", 64, "Edge of the volume in voxels.", flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch", 1, "Cases in a batch.", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds, the sides in turn.", 1, flag_values=FLAGS)
_COMPILE = flags.DEFINE_bool("compile", True, "Whether torch.compile is tried too.", flag_values=FLAGS)
_MONAI = flags.DEFINE_bool("monai", False, "Whether MONAI's DynUNet is timed too.", flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "Where to write OUT.json and OUT.md.", flag_values=FLAGS)

LAYOUTS = ("contiguous", "channels_last_3d")
# The peer with the same weights gives the same loss up to rounding, which half precision makes coarser.
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}


def seconds_of(call: Callable[[], Any], wait: Callable[[Any], object]) -> float:
    """Wall seconds of one call; on a GPU the mean of ten, since alone it is over before Python has asked for it."""
    count = 1 if jax.default_backend() == "cpu" else 10
    begun = time.perf_counter()
    for _ in range(count):
        result = call()
    wait(result)
    return (time.perf_counter() - begun) / count


def first_loss(side: Side) -> float:
    """The loss before any update; run in the side's process."""
    return float(calls_of(side).step())


def account(side: Side) -> int:
    """Bytes of memory of our step by XLA's account; run in the side's process."""
    return calls_of(side).account


def timed(side: Side, what: str) -> float:
    """Seconds of one step or forward pass; run in the side's process."""
    calls = calls_of(side)
    return seconds_of(getattr(calls, what), calls.wait)


def peak_memory(side: Side) -> int:
    """Bytes at the peak of a step: of the device on a GPU, resident in the process on a CPU; run in the process."""
    calls = calls_of(side)

    def step() -> None:
        calls.wait(calls.step())

    if jax.default_backend() != "cpu":
        if side.name == OURS:
            step()
            return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
        import torch

        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    release_freed_memory()  # what earlier steps left; the training loop does so too
    step()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: man proc_pid_clear_refs
    step()
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Process:
    """A side in a process of its own."""

    def __init__(self, side: Side) -> None:
        self.side = side
        context = multiprocessing.get_context("spawn")
        self.pool = concurrent.futures.ProcessPoolExecutor(1, context, keep_freed_memory)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(side, *arguments)` there."""
        return self.pool.submit(function, self.side, *arguments).result()


def try_torch(library: str, size: int, batch: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Seconds of the step and of the forward pass of every variant of PyTorch, and its first loss."""
    ways = ("eager", "compiled") if _COMPILE.value else ("eager",)
    seconds: dict[str, dict[str, float]] = {"step": {}, "forward": {}}
    losses = {}
    for name in map(" ".join, itertools.product([library], ways, LAYOUTS)):
        try:
            with Process(Side(name, size, batch)) as process:
                losses[name] = process.call(first_loss)
                for what, of_variant in seconds.items():
                    of_variant[name] = min(process.call(timed, what) for _ in range(4))
        except Exception as error:  # torch.compile needs a C++ compiler, which the machine may lack
            print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[0]})", file=sys.stderr)
            continue
        print(f"{name}: " + ", ".join(f"{what} {seconds[what][name]:.4f} s" for what in seconds), flush=True)
    return seconds, losses


def measure(size: int, batch: int, rounds: int) -> dict[str, Any]:
    """Times both sides in turn, in processes of their own, after they agreed on the loss."""
    variants, losses = try_torch("torch", size, batch)
    peers = {what: min(of_variant, key=of_variant.get) for what, of_variant in variants.items()}
    report = {"variants": variants}
    if _MONAI.value:
        report["DynUNet"], _ = try_torch("DynUNet", size, batch)
    with Process(Side(OURS, size, batch)) as ours:
        losses[OURS] = ours.call(first_loss)
        if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE[ours.side.dtype]:
            raise InputError(f"the sides' losses differ, nothing to time: {losses}")
        for what, peer in peers.items():
            with Process(Side(peer, size, batch)) as theirs:
                sides = (ours, theirs)
                for side in sides:  # the first call compiles
                    side.call(timed, what)
                times = [[side.call(timed, what) for side in sides] for _ in range(rounds)]
                if what == "step":
                    memory = compare_memory(ours, theirs)
            pairs = [dict(zip((OURS, peer), pair, strict=True)) for pair in times]
            report[what] = {
                "seconds": benchmarking.medians(pairs),
                "peer": peer,
                "ratio": benchmarking.ratio(pairs, peer, OURS),
                "rounds": times,
            }
    return {"losses": losses, **report, "memory": memory}


def compare_memory(ours: Process, theirs: Process) -> dict[str, Any]:
    """Peaks of both sides, and XLA's account."""
    if ours.side.dtype == "float32":
        peaks = {side.side.name: side.call(peak_memory) for side in (ours, theirs)}
    else:
        # JAX cannot forget a peak, and that of compiling is cuDNN's algorithms being tried: a process that reads the
        # compiled program from the cache has not tried any. PyTorch forgets.
        with Process(ours.side) as fresh:
            peaks = {OURS: fresh.call(peak_memory), theirs.side.name: theirs.call(peak_memory)}
    return {"bytes": peaks, "ratio": peaks[OURS] / peaks[theirs.side.name], "account": ours.call(account)}


def count_parameters(size: int, batch: int) -> int:
    """Parameters of the network, which must be as many on both sides."""
    from torch_unet import TorchUNet

    settings = settings_of(Side(OURS, size, batch))
    model = make_model(settings)
    params = init_state(model, make_optimizer(LEARNING_RATE, "constant", 1), 0, CHANNELS).params
    ours = sum(leaf.size for leaf in jax.tree.leaves(params))
    theirs = sum(p.numel() for p in TorchUNet(model, {"params": jax.tree.map(np.asarray, params)}).parameters())
    if ours != theirs:
        raise InputError(f"the sides differ: {ours} parameters here, {theirs} in PyTorch")
    return ours


def network_work(size: int, batch: int, bytes_per_value: int) -> tuple[float, float]:
    """FLOPs of a forward pass, convolutions alone and direct, and the bytes of what goes in and out of them."""
    features = Model().features
    flops = values = 0.0

    def convolution(voxels: float, taps: int, c_in: int, c_out: int) -> None:
        nonlocal flops, values
        flops += 2 * taps * voxels * c_in * c_out
        values += voxels * (c_in + c_out)

    for level, c in enumerate(features):
        voxels = batch * (size / 2**level) ** 3
        convolution(voxels, 27, features[level - 1] if level else CHANNELS, c)
        convolution(voxels, 27, c, c)
        if level < len(features) - 1:
            convolution(voxels, 1, features[level + 1], c)
            convolution(voxels, 27, 2 * c, c)
            convolution(voxels, 27, c, c)
    convolution(batch * size**3, 1, features[0], NUM_CLASSES)
    return flops, values * bytes_per_value


def matmul_rate(dtype: str) -> float:
    """FLOP/s of a large matrix product, the best of six."""
    edge = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (edge, edge), dtype)  # equal numbers are multiplied with less power
    product = jax.jit(lambda a: a @ a)
    return 2 * edge**3 / min(seconds_of(lambda: product(a), jax.block_until_ready) for _ in range(7))


def bandwidth() -> float:
    """Bytes/s read and written by a large copy, the best of six."""
    a = jnp.ones((1 << 26 if jax.default_backend() == "cpu" else 1 << 29,), jnp.float32)
    copy = jax.jit(lambda a: a * 1.0001)
    return 2 * a.nbytes / min(seconds_of(lambda: copy(a), jax.block_until_ready) for _ in range(7))


def floors(side: Side) -> dict[str, Any]:
    """The least seconds of a step (three times the work of a forward pass) and a forward pass, and the rates used."""
    flops, moved = network_work(side.size, side.batch, jnp.dtype(side.dtype).itemsize)
    rate, bytes_per_second = matmul_rate(side.dtype), bandwidth()
    forward = max(flops / rate, moved / bytes_per_second)
    return {
        "seconds": {"forward": forward, "step": 3 * forward},
        "matmul_gflops": rate / 1e9,
        "bandwidth_gb_per_second": bytes_per_second / 1e9,
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    digits = 3 if report["device"] == "cpu" else 5
    lines = []
    for what in ("step", "forward"):
        row, floor = report[what], report["floor"]["seconds"][what]
        ours, theirs = row["seconds"][OURS], row["seconds"][row["peer"]]
        lines.append(
            f"| {what}, seconds | {ours:.{digits}f} | {theirs:.{digits}f} ({row['peer']}) | "
            f"{benchmarking.ratio_text(row['ratio'])} times as fast | {ours / floor:.2f} |"
        )
    peaks = report["memory"]["bytes"]
    peer = next(name for name in peaks if name != OURS)
    kind = "resident" if report["device"] == "cpu" else "on the device"
    lines.append(
        f"| peak {kind} in a step, GiB | {peaks[OURS] / 2**30:.2f} | {peaks[peer] / 2**30:.2f} ({peer}) | "
        f"{report['memory']['ratio']:.2f}x the memory | |"
    )
    size, floor = report["size"], report["floor"]
    others = [
        f"{name}: {what} {seconds:.{digits}f} s"
        for of_library in (report["variants"], report.get("DynUNet", {}))
        for what, variants in of_library.items()
        for name, seconds in variants.items()
    ]
    return "\n".join(
        [
            f"# A training step and a forward pass at {size}^3, batch {report['batch']}, {report['dtype']}",
            "",
            "| what | jaxbrats | fastest PyTorch | jaxbrats is, median of pairs (range) | times the floor |",
            "| --- | --- | --- | --- | --- |",
            *lines,
            "",
            f"{report['parameters']} parameters; losses of the first step within "
            f"{max(report['losses'].values()) - min(report['losses'].values()):.1e}; medians of {report['rounds']} "
            "rounds, the sides taking turns in processes of their own. Floor: the direct convolutions' FLOPs at the "
            f"{floor['matmul_gflops']:.0f} GFLOP/s of a large matrix product, or their values moved once at "
            f"{floor['bandwidth_gb_per_second']:.0f} GB/s; a step counts three forward passes. By XLA's account a step "
            f"takes {report['memory']['account'] / 2**30:.2f} GiB.",
            "",
            f"Each variant tried, the best of four: {'; '.join(others)}.",
            "",
            benchmarking.machine_line(report),
            "",
        ]
    )


def main() -> int:
    """Checks, times, prints and writes."""
    size, batch = _SIZE.value, _BATCH.value
    side = Side(OURS, size, batch)
    if side.dtype != "float32":
        compiled = tempfile.TemporaryDirectory()  # until the program ends
        os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    report = {
        "size": size,
        "batch": batch,
        "dtype": side.dtype,
        "parameters": count_parameters(size, batch),
        **benchmarking.machine(("jax", "torch", "monai") if _MONAI.value else ("jax", "torch")),
        "device": jax.devices()[0].device_kind,
        "floor": floors(side),
        **measure(size, batch, _ROUNDS.value),
        "rounds": _ROUNDS.value,
    }
    print(as_markdown(report))
    if _OUT.value:
        files.write_json(f"{_OUT.value}.json", report)
        files.write_text(f"{_OUT.value}.md", as_markdown(report))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes share a GPU
    sys.exit(commands.run_program(sys.modules[__name__], "benchmark_step", sys.argv[1:]))
