"""A traced JAX function as an ONNX graph.

jax2onnx, which translates most of JAX, has no 3-D convolutions (0.17) and brings a dozen packages. A U-Net needs some
forty of JAX's primitives, which are translated here one by one (https://onnx.ai/onnx/operators); whatever a network is
built from is either translated or refused by name. Operators are those of opset 17, which onnxruntime has known since
1.12 and TensorRT since 8.5.

What depends on no input is computed here and becomes a constant. A value that JAX broadcasts stays as small as it is,
because ONNX's operators broadcast by themselves; `_Graph.whole` makes it as large as JAX has it where one does not.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal

from jaxbrats.system.errors import InputError

OPSET, IR_VERSION = 17, 8
_ELEMENTWISE = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "erf": "Erf",
    "logistic": "Sigmoid",
    "and": "And",
    "or": "Or",
    "not": "Not",
    "eq": "Equal",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "lt": "Less",
    "le": "LessOrEqual",
}
# Those that take inputs of fewer elements than JAX says they have; all of _ELEMENTWISE do.
_BROADCASTING = ("broadcast_in_dim", "select_n", "integer_pow", "square", "rsqrt", "ne", "convert_element_type")
_UNCHANGED = ("stop_gradient", "copy", "name", "optimization_barrier")
# What a primitive calls its program: jit, remat and custom derivatives.
_PROGRAMS = ("jaxpr", "call_jaxpr")

Shape = Sequence[Any]  # sizes, numbers or JAX's symbol for the batch


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array of the graph.

    Attributes:
        content: Its name, or what it is where that is known.
        shape: Its own, by which it broadcasts to the one that JAX gives it.
    """

    content: str | np.ndarray
    shape: tuple[Any, ...]

    @property
    def is_known(self) -> bool:
        """Whether it depends on no input."""
        return isinstance(self.content, np.ndarray)

    @classmethod
    def known(cls, array: Any) -> "_Value":
        array = np.asarray(array)
        return cls(array, array.shape)


def to_onnx(function: Callable[[jax.Array], jax.Array], shape: Sequence[int], *, metadata: Mapping[str, str]) -> Any:
    """Translates a function of one array, 'image' in the graph, to one, 'probabilities'.

    Args:
        function: `(batch, *shape)` float32 to an array whose first axis is the batch too.
        shape: Of the input, without the batch, which may be of any size.
        metadata: What the file is to say of itself.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        InputError: onnx is not installed, or the function does something that is not translated.
    """
    onnx = import_onnx()
    (batch,) = jax.export.symbolic_shape("batch")
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *shape), np.float32))
    graph = _Graph(onnx)
    (output,) = graph.run(closed.jaxpr, closed.consts, [_Value("image", (batch, *shape))])
    graph.nodes.append(onnx.helper.make_node("Identity", [output.content], ["probabilities"]))
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *map(int, aval.shape[1:])])
        for name, aval in (("image", closed.in_avals[0]), ("probabilities", closed.out_avals[0]))
    ]
    body = onnx.helper.make_graph(graph.nodes, "jaxbrats", tensors[:1], tensors[1:], graph.constants)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(body, producer_name="jaxbrats", opset_imports=opsets, ir_version=IR_VERSION)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def import_onnx() -> Any:
    """The package onnx, which is optional."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise InputError("ONNX files need the package onnx", hint="pip install '.[export]' in the clone") from error
    return onnx


class _Graph:
    """Nodes and constants as they come; a method `_NAME` for each primitive that is no operator of ONNX by itself."""

    def __init__(self, onnx: Any) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._onnx, self._names = onnx, {}

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Value]) -> list[_Value]:
        """Adds a program, and returns its outputs."""
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        values |= {var: _Value.known(const) for var, const in zip(jaxpr.constvars, consts, strict=True)}

        def read(var: Any) -> _Value:
            return _Value.known(np.asarray(var.val, var.aval.dtype)) if isinstance(var, Literal) else values[var]

        for eqn in _needed(jaxpr):
            if _is_empty(eqn):
                outputs = [_Value.known(np.zeros(var.aval.shape, var.aval.dtype)) for var in eqn.outvars]
            else:
                outputs = self._equation(eqn, [read(var) for var in eqn.invars])
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(var) for var in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[_Value]) -> list[_Value]:
        name, shapes = eqn.primitive.name, [var.aval.shape for var in eqn.outvars]
        program = next((eqn.params[key] for key in _PROGRAMS if key in eqn.params), None)
        if eqn.params.get("name") == "leaky_relu" and len(inputs) == 2 and inputs[1].is_known:
            # By JAX's own name for it: the Where that it is made of takes as long as half the convolutions.
            return [self.node("LeakyRelu", inputs[:1], inputs[0].shape, alpha=inputs[1].content.item())]
        if program is not None:
            return self.run(getattr(program, "jaxpr", program), getattr(program, "consts", ()), inputs)
        if name == "platform_index":  # the plain form of what has one for each processor
            return [_Value.known(np.int32([p is None or "cpu" in p for p in eqn.params["platforms"]].index(True)))]
        if name == "cond" and inputs[0].is_known:
            branch = eqn.params["branches"][int(inputs[0].content)]
            return self.run(branch.jaxpr, branch.consts, inputs[1:])
        wholes = [var.aval.shape for var in eqn.invars]
        if name == "dim_as_value":
            raise _refused("the size of the batch as a number")
        if all(value.is_known for value in inputs) and all(map(_is_fixed, [*shapes, *wholes])):
            arrays = [np.broadcast_to(value.content, whole) for value, whole in zip(inputs, wholes, strict=True)]
            results = eqn.primitive.bind(*arrays, **eqn.params)
            return [_Value.known(one) for one in (results if eqn.primitive.multiple_results else [results])]
        if name in _UNCHANGED:
            return inputs
        if name in _ELEMENTWISE:
            return [self.elementwise(_ELEMENTWISE[name], *inputs)]
        if not hasattr(self, f"_{name}"):
            raise _refused(f"JAX's {name}")
        if name not in _BROADCASTING:
            inputs = [self.whole(value, whole) for value, whole in zip(inputs, wholes, strict=True)]
        result = getattr(self, f"_{name}")(eqn, *inputs)
        return result if isinstance(result, list) else [result]

    def node(self, kind: str, inputs: Sequence[_Value | np.ndarray], shape: Shape, **attributes: Any) -> _Value:
        """Adds an operator, and returns its output."""
        return self._nodes(kind, inputs, [shape], attributes)[0]

    def _nodes(self, kind: str, inputs: Sequence[Any], shapes: Sequence[Shape], attributes: Any) -> list[_Value]:
        outputs = [f"{kind.lower()}_{len(self.nodes)}" + (f"_{k}" if k else "") for k in range(len(shapes))]
        names = [self._name_of(value) for value in inputs]
        self.nodes.append(self._onnx.helper.make_node(kind, names, outputs, **attributes))
        return [_Value(output, tuple(shape)) for output, shape in zip(outputs, shapes, strict=True)]

    def _name_of(self, value: _Value | np.ndarray) -> str:
        content = value.content if isinstance(value, _Value) else value
        if isinstance(content, str):
            return content
        array = np.ascontiguousarray(content).reshape(content.shape)  # which makes a scalar (1,)
        key = (array.tobytes(), array.dtype.str, array.shape)
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names)}"
            self.constants.append(self._onnx.numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def elementwise(self, kind: str, *inputs: _Value) -> _Value:
        """Adds an operator that broadcasts its inputs."""
        return self.node(kind, inputs, _broadcast(value.shape for value in inputs))

    def whole(self, value: _Value, shape: Shape) -> _Value:
        """A value as large as it is said to be."""
        if value.shape == tuple(shape):
            return value
        if value.is_known and _is_fixed(shape):
            return _Value.known(np.broadcast_to(value.content, shape))
        if any(size != own and not _is_fixed([size]) for size, own in zip(shape, value.shape, strict=True)):
            raise _refused("an array that is repeated for each image of a batch")
        target = [size if _is_fixed([size]) else 1 for size in shape]  # Expand leaves what is larger
        return self.node("Expand", [value, np.array(target)], shape)

    def reshape(self, value: _Value, shape: Shape) -> _Value:
        """Adds a reshape, of which one size may depend on the batch."""
        if value.shape == tuple(shape):
            return value
        if value.is_known and _is_fixed(shape):
            return _Value.known(value.content.reshape(shape))
        target = [size if _is_fixed([size]) else -1 for size in shape]
        if target.count(-1) > 1:
            raise _refused("a reshape by which the batch divides in two axes")
        return self.node("Reshape", [value, np.array(target)], shape)

    def transpose(self, value: _Value, axes: Sequence[int]) -> _Value:
        """Adds a transpose."""
        if list(axes) == list(range(len(axes))):
            return value
        if value.is_known:
            return _Value.known(value.content.transpose(axes))
        return self.node("Transpose", [value], [value.shape[axis] for axis in axes], perm=list(axes))

    def cast(self, value: _Value, dtype: Any) -> _Value:
        """Adds a conversion to another type of numbers."""
        return self.node("Cast", [value], value.shape, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def slice(self, value: _Value, starts: Shape, limits: Shape, strides: Sequence[int] | None = None) -> _Value:
        """Adds a slice along the axes that are not taken whole."""
        strides = strides or [1] * len(starts)
        bounds = list(zip(starts, limits, strides, strict=True))
        axes = [a for a, bound in enumerate(bounds) if bound != (0, value.shape[a], 1)]
        cut = [bounds[axis] for axis in axes]
        if not all(map(_is_fixed, cut)):
            raise _refused("a slice of the batch")
        shape = list(value.shape)
        for axis, (start, limit, stride) in zip(axes, cut, strict=True):
            shape[axis] = -(-(limit - start) // stride)
        if not axes:
            return value
        starts, limits, strides = (np.array(column) for column in zip(*cut, strict=True))
        return self.node("Slice", [value, starts, limits, np.array(axes), strides], shape)

    def _broadcast_in_dim(self, eqn: Any, x: _Value) -> _Value:
        own = [1] * len(eqn.params["shape"])
        for axis, size in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
            own[axis] = size
        return self.reshape(x, own)

    def _reshape(self, eqn: Any, x: _Value) -> _Value:
        return self.reshape(x, eqn.params["new_sizes"])

    def _squeeze(self, eqn: Any, x: _Value) -> _Value:
        return self.reshape(x, eqn.outvars[0].aval.shape)

    def _transpose(self, eqn: Any, x: _Value) -> _Value:
        return self.transpose(x, eqn.params["permutation"])

    def _convert_element_type(self, eqn: Any, x: _Value) -> _Value:
        return self.cast(x, eqn.params["new_dtype"])

    def _slice(self, eqn: Any, x: _Value) -> _Value:
        return self.slice(x, eqn.params["start_indices"], eqn.params["limit_indices"], eqn.params["strides"])

    def _gather(self, eqn: Any, x: _Value, indices: _Value) -> _Value:
        """What `x[..., 2]` and `x[:, 1:3]` become where a size is not known: one slice at known places."""
        numbers, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], eqn.outvars[0].aval.shape
        if not indices.is_known or indices.content.ndim != 1 or numbers.operand_batching_dims:
            raise _refused("JAX's gather at places that depend on the image")
        starts = [0] * len(sizes)
        for axis, start in zip(numbers.start_index_map, indices.content.tolist(), strict=True):
            starts[axis] = start
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return self.reshape(self.slice(x, starts, ends), shape)

    def _concatenate(self, eqn: Any, *parts: _Value) -> _Value:
        parts = [part for part in parts if 0 not in part.shape]
        return self.node("Concat", parts, eqn.outvars[0].aval.shape, axis=eqn.params["dimension"])

    def _stack(self, eqn: Any, *parts: _Value) -> _Value:
        shape, axis = eqn.outvars[0].aval.shape, eqn.params["axis"]
        parts = [self.reshape(part, (*shape[:axis], 1, *shape[axis + 1 :])) for part in parts]
        return self.node("Concat", parts, shape, axis=axis)

    def _split(self, eqn: Any, x: _Value) -> list[_Value]:
        shapes = [var.aval.shape for var in eqn.outvars]
        return self._nodes("Split", [x, np.array(eqn.params["sizes"])], shapes, {"axis": eqn.params["axis"]})

    def _unstack(self, eqn: Any, x: _Value) -> list[_Value]:
        axis, count = eqn.params["axis"], len(eqn.outvars)
        whole = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        parts = self._nodes("Split", [x, np.ones(count, np.int64)], [whole] * count, {"axis": axis})
        return [self.reshape(part, var.aval.shape) for part, var in zip(parts, eqn.outvars, strict=True)]

    def _pad(self, eqn: Any, x: _Value, value: _Value) -> _Value:
        low, high, interior = zip(*eqn.params["padding_config"], strict=True)
        if any(interior) or min(*low, *high) < 0:
            raise _refused("JAX's pad between the elements, or by less than nothing")
        return self.node("Pad", [x, np.array([*low, *high]), value], eqn.outvars[0].aval.shape)

    def _select_n(self, eqn: Any, which: _Value, *cases: _Value) -> _Value:
        if len(cases) != 2 or eqn.invars[0].aval.dtype != bool:
            raise _refused("JAX's select_n among more than two")
        return self.elementwise("Where", which, cases[1], cases[0])

    def _integer_pow(self, eqn: Any, x: _Value) -> _Value:
        return self.elementwise("Pow", x, _Value.known(np.float32(eqn.params["y"])))

    def _square(self, eqn: Any, x: _Value) -> _Value:
        return self.elementwise("Mul", x, x)

    def _rsqrt(self, eqn: Any, x: _Value) -> _Value:
        return self.elementwise("Reciprocal", self.elementwise("Sqrt", x))

    def _ne(self, eqn: Any, x: _Value, y: _Value) -> _Value:
        return self.elementwise("Not", self.elementwise("Equal", x, y))

    def _reduce_sum(self, eqn: Any, x: _Value) -> _Value:
        # An axis at a time: the sum of a whole volume by one float32 would lose three digits.
        for axis in sorted(eqn.params["axes"], reverse=True):
            shape = (*x.shape[:axis], *x.shape[axis + 1 :])
            is_one = x.shape[axis] == 1
            x = self.reshape(x, shape) if is_one else self.node("ReduceSum", [x, np.array([axis])], shape, keepdims=0)
        return x

    def _reduce_max(self, eqn: Any, x: _Value) -> _Value:
        axes = list(eqn.params["axes"])
        return self.node("ReduceMax", [x], eqn.outvars[0].aval.shape, axes=axes, keepdims=0)

    def _reduce_or(self, eqn: Any, x: _Value) -> _Value:
        return self.cast(self._reduce_max(eqn, self.cast(x, np.float32)), bool)

    def _dot_general(self, eqn: Any, x: _Value, y: _Value) -> _Value:
        """A product with a matrix that is known, on either side."""
        (x_axes, y_axes), batched = eqn.params["dimension_numbers"]
        if batched != ((), ()) or len(x_axes) != 1 or not (x.is_known or y.is_known):
            raise _refused("JAX's dot_general of two arrays that both depend on the image")
        (x_axis,), (y_axis,) = x_axes, y_axes
        matrix_first = x.is_known
        if matrix_first:
            x, y, x_axis, y_axis = y, x, y_axis, x_axis
        rows = [axis for axis in range(len(x.shape)) if axis != x_axis]
        columns = [axis for axis in range(len(y.shape)) if axis != y_axis]
        matrix = self.transpose(y, [y_axis, *columns]).content.reshape(y.shape[y_axis], -1)
        left, right = [x.shape[axis] for axis in rows], [y.shape[axis] for axis in columns]
        product = self.node("MatMul", [self.transpose(x, [*rows, x_axis]), matrix], [*left, matrix.shape[1]])
        product = self.reshape(product, [*left, *right])
        if not matrix_first:
            return product
        places = range(len(left) + len(right))
        return self.transpose(product, [*places[len(left) :], *places[: len(left)]])

    def _conv_general_dilated(self, eqn: Any, x: _Value, kernel: _Value) -> _Value:
        params, numbers = eqn.params, eqn.params["dimension_numbers"]
        if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
            raise _refused("a convolution of a dilated image, or in groups of the batch")
        before, after = zip(*params["padding"], strict=True)
        out = [eqn.outvars[0].aval.shape[axis] for axis in numbers.out_spec]
        y = self.node(
            "Conv",
            [self.transpose(x, numbers.lhs_spec), self.transpose(kernel, numbers.rhs_spec)],
            out,
            strides=list(params["window_strides"]),
            pads=[*before, *after],
            dilations=list(params["rhs_dilation"]),
            group=params["feature_group_count"],
        )
        return self.transpose(y, np.argsort(numbers.out_spec).tolist())


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the outputs depend on; arrays of no elements depend on nothing."""
    needed, kept = {var for var in jaxpr.outvars if not isinstance(var, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if needed.isdisjoint(eqn.outvars):
            continue
        kept.append(eqn)
        if not _is_empty(eqn):
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
    return kept[::-1]


def _is_empty(eqn: Any) -> bool:
    return any(0 in var.aval.shape for var in eqn.outvars)


def _broadcast(shapes: Iterable[Shape]) -> Shape:
    """The shape of arrays broadcast to each other; a scalar has none."""
    longest = itertools.zip_longest(*(reversed(tuple(shape)) for shape in shapes), fillvalue=1)
    return tuple(next((size for size in sizes if not (_is_fixed([size]) and size == 1)), 1) for sizes in longest)[::-1]


def _is_fixed(sizes: Sequence[Any]) -> bool:
    """Whether no size depends on the batch."""
    return all(isinstance(size, int | np.integer) for size in sizes)


def _refused(what: str) -> InputError:
    hint = "Export with --format=stablehlo or npz, or translate it in jaxbrats/inference/onnx_graph.py"
    return InputError(f"the network has {what}, which is not translated to ONNX", hint=hint)
