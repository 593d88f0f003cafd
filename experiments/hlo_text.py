"""What the text of a compiled XLA program for a GPU says: its kernels, what they move and compute, and for which part.

Pure functions of `jax.stages.Compiled.as_text()`. Each kernel is taken to read its operands and write its results once;
of an operand that it only slices, and of one that it updates in place, the slice counts. The body of a loop counts as
often as XLA knows it to run, of the branches of a condition the one that moves most.
"""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+)(?:e\w+)?\[([\d,]*)\](?:\{([\d,]*))?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.+?) ([\w\-]+)\((.*)")
# What moves nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "collective-broadcast",
)
_CONVOLUTIONS = {
    "__cudnn$convForward": "forward",
    "__cudnn$convBiasActivationForward": "forward",
    "__cudnn$convBackwardInput": "input gradient",
    "__cudnn$convBackwardFilter": "kernel gradient",
}
# Kinds by the scope of the model that a kernel belongs to, before what it does.
_SCOPES = {
    "augmentation": "augmentation",
    "optimizer": "optimiser",
    "loss": "loss and scores",
    "scores": "loss and scores",
}


class Instruction(NamedTuple):
    """A line: `%name = shape opcode(%operand, ...), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Kernel(NamedTuple):
    """Something that the GPU is asked to run, and all its runs together.

    Attributes:
        name: XLA's.
        kind: What for.
        runs: How often a step runs it.
        bytes: Read and written.
        flops: Of convolutions and matrix products; of the rest none are counted.
        dtype: Type of its (first) result.
        convolution: 'forward', 'input gradient' or 'kernel gradient', and the order of the axes of its arrays in
            memory, such as NCDHW; None for other kernels.
        collective: Which collective operation it is; None for other kernels.
    """

    name: str
    kind: str
    runs: int
    bytes: float
    flops: float
    dtype: str
    convolution: tuple[str, str] | None = None
    collective: str | None = None


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation by its name, and the name of the entry."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif (match := _INSTRUCTION.match(line)) and current is not None:
            name, shape, opcode, rest = match.groups()
            operands, _, attributes = rest.partition(")")
            # A parameter has its number there.
            names = tuple(re.findall(r"%([\w.\-]+)", operands)) or tuple(operands.split())
            current.append(Instruction(name, shape, opcode, names, attributes))
    return found, entry


def shape_bytes(shape: str) -> float:
    """Bytes of an array or of all arrays of a tuple."""
    return sum(math.prod(sizes) * _width(dtype) for dtype, sizes, _ in _arrays(shape))


def kernels(text: str) -> list[Kernel]:
    """All kernels of a program, in the order of its text."""
    program, entry = computations(text)
    return _kernels(program, entry, 1)


def _kernels(program: Mapping[str, Sequence[Instruction]], computation: str, runs: int) -> list[Kernel]:
    shapes = {line.name: line.shape for line in program[computation]}
    found = []
    for line in program[computation]:
        called = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", line.attributes)
        if line.opcode == "while":
            times = re.search(r'known_trip_count":\{"n":"(\d+)"', line.attributes)
            found += _kernels(program, called[0], runs * (int(times[1]) if times else 1))
        elif line.opcode == "conditional":
            named = re.findall(r"(?:branch_computations=\{[^}]*|(?:true|false)_computation=\S+)", line.attributes)
            branches = [_kernels(program, name, runs) for name in re.findall(r"%([\w.\-]+)", " ".join(named))]
            found += max(branches, key=lambda branch: sum(kernel.bytes for kernel in branch))
        elif line.opcode in ("call", "async-start"):
            found += _kernels(program, called[0], runs)
        elif line.opcode not in _FREE and not line.opcode.endswith(("-done", "-update")):
            inside = program[called[0]] if line.opcode == "fusion" else ()
            found.append(_kernel(line, inside, shapes, runs))
    return found


def _kernel(line: Instruction, inside: Sequence[Instruction], shapes: Mapping[str, str], runs: int) -> Kernel:
    target = re.search(r'custom_call_target="([^"]+)"', line.attributes)
    phase = _CONVOLUTIONS.get(target[1]) if target else None
    collective = next((name for name in _COLLECTIVES if line.opcode.startswith(name)), None)
    if phase:
        flops = _convolution_flops(line, phase, shapes)
    else:
        known = shapes | {part.name: part.shape for part in inside}
        flops = sum(_dot_flops(part, known) for part in (inside or (line,)) if part.opcode == "dot")
    if collective:  # a started one has its operands in its result too
        moved = sum(shape_bytes(shapes[name]) for name in line.operands) * 2
    else:
        moved = _bytes(line, inside, shapes)
    layout = (phase, _layout(line, shapes)) if phase else None
    kind = "collective" if collective else "convolution" if phase else _kind(line, inside, flops)
    dtype = _arrays(line.shape)[0][0] if _arrays(line.shape) else ""
    return Kernel(line.name, kind, runs, runs * moved, runs * flops, dtype, layout, collective)


def _kind(line: Instruction, inside: Sequence[Instruction], flops: float) -> str:
    """By the scope that most instructions of a fusion have where it is one of `_SCOPES`, else by what it does."""
    texts = [part.attributes for part in inside] or [line.attributes]
    names = [found[1] for text in texts if (found := re.search(r'op_name="([^"]*)"', text))]
    scopes = collections.Counter(_scope(name) for name in names)
    scope = scopes.most_common(1)[0][0] if scopes else ""
    if scope in _SCOPES.values():
        return scope
    if flops:
        return "matrix product"
    if "transpose" in line.name or line.opcode in ("copy", "transpose"):
        return "transpose, copy"
    return "normalisation, reduction" if scope == "norm" or "reduce" in line.name else "elementwise"


def _scope(name: str) -> str:
    parts = re.findall(r"\w+", name)
    kind = next((_SCOPES[part] for part in parts if part in _SCOPES), "")
    return kind or ("norm" if any("norm_" in part or "_norm" in part for part in parts) else "")


def _arrays(shape: str) -> list[tuple[str, list[int], list[int]]]:
    """Type, sizes, and axes from the quickest in memory to the slowest, of each array of a shape."""
    return [
        (dtype, *([int(number) for number in part.split(",") if number] for part in (sizes, order)))
        for dtype, sizes, order in _SHAPE.findall(shape)
    ]


def _width(dtype: str) -> float:
    return _WIDTHS.get(dtype) or int(re.sub(r"\D", "", dtype)) / 8


def _bytes(line: Instruction, inside: Sequence[Instruction], shapes: Mapping[str, str]) -> float:
    written = shape_bytes(line.shape)
    if not inside:
        return written + sum(shape_bytes(shapes.get(name, "")) for name in line.operands)
    parameters = {part.operands[0]: part.name for part in inside if part.opcode == "parameter"}
    read = sum(
        _read(parameters[str(number)], inside, shape_bytes(shapes[name])) for number, name in enumerate(line.operands)
    )
    sizes = {part.name: shape_bytes(part.shape) for part in inside}
    updates = [part for part in inside if part.opcode == "dynamic-update-slice"]
    return read + max(written - sum(sizes[part.name] - sizes[part.operands[1]] for part in updates), 0)


def _read(name: str, inside: Sequence[Instruction], whole: float) -> float:
    """Bytes that a fusion reads of its parameter."""
    total = 0.0
    for user in (part for part in inside if name in part.operands):
        if user.opcode == "bitcast":
            total += _read(user.name, inside, whole)
        elif user.opcode in ("slice", "dynamic-slice", "gather") and user.operands[0] == name:
            total += shape_bytes(user.shape)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return whole
    return min(total, whole)


def _dot_flops(dot: Instruction, shapes: Mapping[str, str]) -> float:
    """Two for each product: the result's elements times the sizes that are summed over."""
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)[1]
    (_, sizes, _), *_ = _arrays(shapes[dot.operands[0]])
    (_, result, _), *_ = _arrays(dot.shape)
    return 2 * math.prod(result) * math.prod(sizes[int(axis)] for axis in axes.split(",") if axis)


def _convolution_arrays(line: Instruction, phase: str, shapes: Mapping[str, str]) -> tuple[str, str]:
    """Shapes of the convolution's output (or its gradient) and of its kernel."""
    result = line.shape
    first, second = (shapes[name] for name in line.operands[:2])
    return {"forward": (result, second), "input gradient": (first, second), "kernel gradient": (second, result)}[phase]


def _convolution_flops(line: Instruction, phase: str, shapes: Mapping[str, str]) -> float:
    """Two for each product: each output element meets the kernel's elements of its channel."""
    output, kernel = _convolution_arrays(line, phase, shapes)
    labels = re.search(r"dim_labels=\w+_(\w+)->", line.attributes)[1]
    (_, sizes, _), *_ = _arrays(output)
    (_, taps, _), *_ = _arrays(kernel)
    return 2 * math.prod(sizes) * math.prod(taps) / taps[labels.index("o")]


def _layout(line: Instruction, shapes: Mapping[str, str]) -> str:
    """Order in memory of the axes of what a convolution reads first, from the slowest: NCDHW, NDHWC."""
    labels = re.search(r"dim_labels=(\w+)_", line.attributes)[1]
    (_, sizes, order), *_ = _arrays(shapes[line.operands[0]])
    space = dict(zip("012", "DHW" if len(sizes) == 5 else "HW", strict=False))
    names = {"b": "N", "f": "C"} | space
    return "".join(names[labels[axis]] for axis in reversed(order))
