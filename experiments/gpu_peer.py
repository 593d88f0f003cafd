"""What a training step of PyTorch moves through a GPU's memory, estimated from its operators: `gpu_program.py`'s peer.

    pip install '.[bench]'
    python experiments/gpu_peer.py

Without compilation PyTorch runs a kernel for each operator. Here the step that `benchmark_step.py` times on a GPU
(bfloat16 by autocast, fused Adam) runs on tensors that have shapes and no numbers, and every operator counts as one
pass: the bytes of its inputs and its outputs. No kernel does with less, and some read an input twice. The gradients of
a convolution are a pass each; views and empty memory are none. Beside them stand the bytes of our compiled program,
from experiments/results/gpu_program.json.

Estimated, not measured, and by the operators that autocast turns to bfloat16 on a CPU. Writes
experiments/results/gpu_peer.json and .md.
"""

import collections
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import benchmarking
import jax
import numpy as np
import torch
from absl import flags
from step_sides import CHANNELS, LEARNING_RATE, OURS, Side, dyn_unet, settings_of, torch_loss
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch_unet import TorchUNet

from jaxbrats import commands
from jaxbrats.inference.network import shapes_of
from jaxbrats.system.files import read_json
from jaxbrats.train.state import make_model

FLAGS = flags.FlagValues()
_OUT = flags.DEFINE_string("out", str(benchmarking.RESULTS), "Folder of the results.", flag_values=FLAGS)

SIZE, BATCH = 128, 2
# Our program of this step, as gpu_program.py names it.
PROGRAM = "configs/unet3d.py:dtype=bfloat16,model.norm=instance,model.dropout=0.0, 1 x h100"
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last_3d}
NETWORKS = {"the same network": TorchUNet, "MONAI's DynUNet": lambda model, _: dyn_unet(model)}
# Part of an operator's name -> its kind; the first that fits.
KINDS = {"convolution": "convolution", "norm": "normalisation, reduction", "adam": "optimiser"}
KINDS |= dict.fromkeys(("copy", "clone", "cat", "repeat"), "transpose, copy")
OTHER = "elementwise, pooling, loss and scores"
OF_OURS = {"elementwise": OTHER, "loss and scores": OTHER}


class Passes(TorchDispatchMode):
    """Counts the operators that run within it, and the bytes that each moves.

    Attributes:
        bytes: By kind.
        kernels: How many, by kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: collections.Counter[str] = collections.Counter()
        self.kernels: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See `TorchDispatchMode`."""
        result = func(*args, **(kwargs or {}))
        name = func.__name__
        for given, made in _passes(func, (args, kwargs), result):
            kind = next((kind for part, kind in KINDS.items() if part in name), OTHER)
            self.bytes[kind] += _size(given) + _size(made)
            self.kernels[kind] += 1
        return result


def _passes(func: Any, given: tuple, result: Any) -> Iterator[tuple[Any, Any]]:
    """The inputs and the outputs of each kernel of an operator."""
    name = func.__name__
    if func.namespace != "aten" or func.is_view or "empty" in name or name.startswith("detach"):
        return
    if name.startswith("convolution_backward"):
        gradient, image, kernel, *_ = given[0]
        for read, made in zip(((gradient, kernel), (gradient, image), gradient), result, strict=True):
            if made is not None:
                yield read, made
    elif name.startswith(("copy_", "fill_", "zero_")):  # what was there before is not read
        yield given[0][1:], result
    elif name.startswith("_fused_adam_"):  # changes parameters and both moments, and gives nothing back
        parameters, _, first, second, *_ = given[0]
        yield given, (parameters, first, second)
    else:
        yield given, result


def _size(tree: Any) -> int:
    tensors = [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    # An expanded axis, of stride 0, is one element in memory.
    sizes = (math.prod(n for n, stride in zip(one.shape, one.stride(), strict=True) if stride) for one in tensors)
    return sum(size * one.element_size() for size, one in zip(sizes, tensors, strict=True))


def estimate(
    network_of: Callable[[Any, Any], torch.nn.Module], layout: torch.memory_format, size: int, batch: int
) -> dict[str, dict[str, int]]:
    """Bytes and kernels of a training step, by kind.

    Args:
        network_of: From our network and its variables to the peer's.
        layout: Of the activations.
        size: Edge of the volumes in voxels.
        batch: Volumes in a batch.
    """
    settings = settings_of(Side(OURS, size, batch))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes_of(settings))
    with FakeTensorMode():
        network = network_of(make_model(settings), variables).requires_grad_()
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)
        x = torch.empty((batch, CHANNELS, size, size, size), memory_format=layout)
        y = torch.empty((batch, size, size, size), dtype=torch.int64)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch_loss(network(x), y)
            loss.backward()
            optimizer.step()

        step()  # makes the optimiser's moments
        with Passes() as passes:
            step()
    return {"bytes": dict(passes.bytes), "kernels": dict(passes.kernels)}


def ours(programs: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The same of our training step, from what gpu_program.py wrote."""
    kinds = programs[PROGRAM]["programs"]["training step"]["kinds"]
    sums: dict[str, dict[str, int]] = {"bytes": collections.Counter(), "kernels": collections.Counter()}
    for name, of in kinds.items():
        for what, total in sums.items():
            total[OF_OURS.get(name, name)] += of[what]
    return {what: dict(total) for what, total in sums.items()}


def markdown(report: Mapping[str, Any]) -> str:
    """A table with a line for each side."""
    kinds = sorted({kind for side in report["sides"].values() for kind in side["bytes"]})
    our_bytes = sum(report["sides"][OURS]["bytes"].values())
    rows = []
    for name, side in report["sides"].items():
        whole = sum(side["bytes"].values())
        cells = [f"{side['bytes'].get(kind, 0) / 1e9:.2f} ({side['kernels'].get(kind, 0)})" for kind in kinds]
        rows.append([name, f"{whole / 1e9:.2f} ({sum(side['kernels'].values())})", *cells, f"{whole / our_bytes:.2f}"])
    columns = ["step", "all", *kinds, "to ours"]
    return "\n".join(
        [
            f"# Bytes of a training step on a GPU, {SIZE}^3, batch {BATCH}, bfloat16, instance norm: not run",
            "",
            "GB that kernels read and write, and how many kernels there are. Ours: of the program compiled for an H100",
            "(gpu_program.md). PyTorch without compilation, estimated: an operator reads and writes everything once.",
            "Convolutions here are without what cuDNN converts inside.",
            "",
            *(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows]),
            "",
            report["versions"],
            "",
            "`python experiments/gpu_peer.py`",
            "",
        ]
    )


def main() -> int:
    """Estimates and writes."""
    out = pathlib.Path(_OUT.value)
    sides = {OURS: ours(read_json(out / "gpu_program.json"))}
    for name, network_of in NETWORKS.items():
        for layout, form in LAYOUTS.items():
            sides[f"PyTorch, {name}, {layout}"] = estimate(network_of, form, SIZE, BATCH)
    report = {"sides": sides, "versions": f"torch {torch.__version__}, jax {jax.__version__}"}
    benchmarking.write("gpu_peer", report, markdown(report), out)
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "gpu_peer", sys.argv[1:]))
