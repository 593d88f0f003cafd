"""Fine-tuning: what fits of a trained network's variables takes the place of a fresh network's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxbrats.model.unet import UNet3D
from jaxbrats.train.state import smallest_image

# Collection, names of the modules from the outermost, name of the array: such as params, encoder_0, conv_0, kernel.
Key = tuple[str, ...]


class Transfer(NamedTuple):
    """What a network begins with.

    Attributes:
        variables: Parameters and batch statistics.
        loaded: Modules, such as 'encoder_0/conv_0', that have all that the trained network has there.
        by_channel: Those whose kernels were copied for each input channel that both networks have.
        fresh: The others, and why.
        unused: Modules of the trained network that this one does not have.
    """

    variables: dict[str, Any]
    loaded: list[str]
    by_channel: list[str]
    fresh: dict[str, str]
    unused: list[str]


def transfer(
    fresh: Mapping[str, Any],
    trained: Mapping[str, Any],
    channels: Sequence[str],
    trained_channels: Sequence[str],
    input_kernels: set[Key],
) -> Transfer:
    """Takes over what fits, module by module: all arrays of a module, or none.

    Args:
        fresh: `{"params", "batch_stats"}` of the network that begins; not changed.
        trained: Those of the trained one.
        channels: Names of the input channels of the network that begins, in order.
        trained_channels: Those of the trained one.
        input_kernels: From `find_input_kernels`: of these, whose last axis but one is the input channels, those of
            channels that both have are copied, and the others stay fresh.
    """
    new, old = _by_module(fresh), _by_module(trained)
    found = Transfer({}, [], [], {}, [name for name in old if name not in new])
    values: dict[Key, Any] = {}
    same_channels = list(channels) == list(trained_channels)
    for name, arrays in new.items():
        by_channel = set() if same_channels else input_kernels & arrays.keys()
        shapes = _shapes(arrays, by_channel)
        shapes_there = _shapes(old.get(name, {}), by_channel)
        if shapes != shapes_there:
            there = ", ".join(f"{leaf} {shape}" for leaf, shape in shapes_there.items()) or "nothing"
            here = ", ".join(f"{leaf} {shape}" for leaf, shape in shapes.items())
            found.fresh[name] = f"{here}, there {there}"
        elif by_channel and not set(channels) & set(trained_channels):
            found.fresh[name] = f"the input channels there are {', '.join(trained_channels)}"
        else:
            (found.by_channel if by_channel else found.loaded).append(name)
            arrays = {
                key: _copy_channels(array, old[name][key], channels, trained_channels)
                if key in by_channel
                else np.asarray(old[name][key])
                for key, array in arrays.items()
            }
        values |= arrays
    # Without normalisation the batch statistics are an empty collection.
    return found._replace(variables={"batch_stats": {}, **unflatten_dict(values)})


def find_input_kernels(model: UNet3D, channels: int) -> set[Key]:
    """The arrays that grow with the number of input channels: the kernels of the convolutions that see the image.

    Args:
        model: The network.
        channels: How many it has, derived ones among them.
    """
    model = model.clone(derived=())

    def shapes(count: int) -> dict[Key, tuple[int, ...]]:
        variables = jax.eval_shape(model.init, jax.random.key(0), smallest_image(model, count))
        return {key: leaf.shape for key, leaf in flatten_dict(variables).items()}

    # Of as many as a level has, a residual block would have no projection.
    larger = shapes(max(channels, model.features[0]) + 1)
    return {key for key, shape in shapes(channels).items() if shape != larger[key]}


def _by_module(variables: Mapping[str, Any]) -> dict[str, dict[Key, Any]]:
    modules: dict[str, dict[Key, Any]] = {}
    for key, array in flatten_dict(variables).items():
        modules.setdefault("/".join(key[1:-1]), {})[key] = array
    return modules


def _shapes(arrays: Mapping[Key, Any], by_channel: set[Key]) -> dict[str, str]:
    """Shapes in words, without the number of input channels where that may differ."""
    shapes = {key: [str(size) for size in array.shape] for key, array in arrays.items()}
    for key in by_channel & shapes.keys():
        shapes[key][-2] = "C"
    return {key[-1]: "x".join(shape) for key, shape in shapes.items()}


def _copy_channels(kernel: Any, trained: Any, channels: Sequence[str], trained_channels: Sequence[str]) -> np.ndarray:
    copied = np.array(kernel)
    for index, name in enumerate(channels):
        if name in trained_channels:
            copied[..., index, :] = trained[..., list(trained_channels).index(name), :]
    return copied
