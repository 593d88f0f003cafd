"""What `benchmark_step.py` times: a training step and a forward pass of ours, of PyTorch and of MONAI, on one batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbrats.commands.startup import use_compiled_convolution
from jaxbrats.config.settings import Model, Settings
from jaxbrats.data.labels import DEFAULT_MODALITIES, NUM_CLASSES
from jaxbrats.model.losses import make_loss
from jaxbrats.system.processes import available_cpus
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import device_memory, jit_train_step

CHANNELS = len(DEFAULT_MODALITIES)
LEARNING_RATE = 1e-4
OURS = "jaxbrats"


class Side(NamedTuple):
    """What a process of its own computes: a library's step and forward pass on a batch of cubes."""

    name: str
    size: int
    batch: int

    @property
    def dtype(self) -> str:
        """Type of the activations."""
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"


class Calls(NamedTuple):
    """A side's calls, which return what may still be computed; `wait` waits for what a call returned.

    `account` are the bytes of memory that a step takes by XLA's account, None in PyTorch.
    """

    step: Callable[[], Any]
    forward: Callable[[], Any]
    wait: Callable[[Any], object]
    account: int | None = None


@functools.cache
def inputs(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """An image `(B, X, Y, Z, C)` and its labels."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, size, size, size, CHANNELS)).astype(np.float32)
    return image, rng.integers(0, NUM_CLASSES, image.shape[:-1]).astype(np.uint8)


def settings_of(side: Side) -> Settings:
    """The run that is timed."""
    return Settings(model=Model(norm="instance", dropout=(0.0,)), dtype=side.dtype, batch_size=side.batch)


def jax_calls(side: Side) -> Calls:
    """Our step, which returns the loss, and forward pass."""
    use_compiled_convolution()
    settings = settings_of(side)
    model, optimizer = make_model(settings), make_optimizer(LEARNING_RATE, "constant", 1)
    mesh = make_mesh(1, 1, side.batch)
    image, labels = inputs(side.size, side.batch)
    batch = put_batch(mesh, {"image": image, "labels": labels})
    apply = jax.jit(model.apply)
    key = replicate(mesh, jax.random.key(0))
    state = replicate(mesh, init_state(model, optimizer, settings.seed, CHANNELS))
    train = jit_train_step(mesh, model, optimizer, make_loss(settings.loss)).lower(state, batch, key).compile()

    def step() -> jax.Array:
        nonlocal state
        state, metrics = train(state, batch, key)
        return metrics.loss

    def forward() -> jax.Array:
        return apply({"params": state.params}, batch["image"])

    return Calls(step, forward, jax.block_until_ready, device_memory(train))


def torch_calls(side: Side) -> Calls:
    """The same in PyTorch; the side's name says how: 'torch compiled channels_last_3d', 'DynUNet ...' for MONAI's."""
    import torch
    from torch_unet import TorchUNet

    library, how, layout = side.name.split()
    settings = settings_of(side)
    model = make_model(settings)
    params = init_state(model, make_optimizer(LEARNING_RATE, "constant", 1), settings.seed, CHANNELS).params
    torch.set_num_threads(available_cpus())
    torch.backends.cudnn.benchmark = True
    on_gpu = jax.default_backend() != "cpu"
    device = "cuda" if on_gpu else "cpu"
    form = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}[layout]
    network = (
        dyn_unet(model) if library == "DynUNet" else TorchUNet(model, {"params": jax.tree.map(np.asarray, params)})
    )
    network = network.requires_grad_().to(device, memory_format=form)
    image, labels = inputs(side.size, side.batch)
    x = torch.from_numpy(image).movedim(-1, 1).to(device).contiguous(memory_format=form)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=on_gpu)
    function, loss_of = map(torch.compile, (network, torch_loss)) if how == "compiled" else (network, torch_loss)
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=on_gpu)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = loss_of(function(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def forward() -> torch.Tensor:
        with torch.no_grad(), autocast():
            return function(x)

    return Calls(step, forward, lambda _: torch.cuda.synchronize() if on_gpu else None)


def dyn_unet(model: Any) -> Any:
    """MONAI's DynUNet with the features of a U-Net of ours."""
    from monai.networks.nets import DynUNet

    levels = len(model.features)
    strides = [1] + [2] * (levels - 1)
    sizes = {"kernel_size": [3] * levels, "strides": strides, "upsample_kernel_size": strides[1:]}
    norm, relu = ("INSTANCE", {"affine": True}), ("RELU", {"inplace": True})
    return DynUNet(3, CHANNELS, NUM_CLASSES, filters=model.features, norm_name=norm, act_name=relu, **sizes)


def torch_loss(logits: Any, labels: Any) -> Any:
    """Dice plus focal loss of PyTorch tensors, as `jaxbrats.model.losses`."""
    from torch.nn import functional

    log_p = functional.log_softmax(logits.float(), 1)
    p = log_p.exp()
    mask = functional.one_hot(labels, NUM_CLASSES).movedim(-1, 1).float()
    space = (0, 2, 3, 4)
    dice = (2 * (p * mask).sum(space) + 1e-5) / (p.sum(space) + mask.sum(space) + 1e-5)
    own = (log_p * mask).sum(1)
    return 1 - dice.mean() + (-0.25 * (1 - own.exp()) ** 2 * own).mean() / NUM_CLASSES


@functools.cache
def calls_of(side: Side) -> Calls:
    """A side's calls, made once in its process."""
    return jax_calls(side) if side.name == OURS else torch_calls(side)
