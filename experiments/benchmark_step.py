"""One training step and one forward pass against PyTorch: the network of configs/unet3d.py with instance norm.

    pip install '.[bench]' && python experiments/benchmark_step.py --size=64 --out=experiments/results/benchmark_step_64

Both sides get the same weights and the same data, and must agree on parameter count and loss (1e-3) before anything is
timed. PyTorch runs contiguous and channels_last_3d, eager and (with a compiler on the machine) torch.compile, and its
fastest counts. On a CPU both sides compute in float32 on the same threads; on a GPU in bfloat16 (torch: autocast,
cudnn.benchmark). The sides take turns, and medians are compared. The floor is the larger of FLOPs over the measured
rate of a matrix product and of bytes over the measured bandwidth.
"""

import functools
import itertools
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from jaxbrats.allocator import keep_freed_memory

keep_freed_memory()  # before either library takes memory: both get it

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812

from jaxbrats.files import write_json, write_text  # noqa: E402
from jaxbrats.train.mesh import make_mesh, put_batch, replicate  # noqa: E402
from jaxbrats.train.settings import Model, Settings  # noqa: E402
from jaxbrats.train.state import init_state, make_model, make_optimizer  # noqa: E402
from jaxbrats.train.step import jit_train_step, make_loss  # noqa: E402

FEATURES = (16, 32, 64, 128, 256)
CHANNELS, CLASSES = 3, 4

FLAGS = flags.FlagValues()
_SIZE = flags.DEFINE_integer("size", 64, "Edge of the volume in voxels.", flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch", 1, "Cases in a batch.", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed rounds, the sides in turn.", flag_values=FLAGS)
_COMPILE = flags.DEFINE_bool("compile", True, "Whether torch.compile is tried too.", flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "Where to write OUT.json and OUT.md.", flag_values=FLAGS)


class Block(torch.nn.Module):
    """Two 3x3x3 convolutions, each with instance norm and ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList([torch.nn.Conv3d(c, c_out, 3, padding=1, bias=False) for c in (c_in, c_out)])
        self.norms = torch.nn.ModuleList([torch.nn.InstanceNorm3d(c_out, affine=True) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, X, Y, Z) to (B, c_out, X, Y, Z)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        return x


class TorchUNet(torch.nn.Module):
    """The same network, as one writes it in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.ModuleList(
            [Block(c_in, c) for c_in, c in zip((CHANNELS, *FEATURES[:-1]), FEATURES, strict=True)]
        )
        pairs = list(itertools.pairwise(FEATURES))
        self.up = torch.nn.ModuleList([torch.nn.ConvTranspose3d(below, c, 2, stride=2) for c, below in pairs])
        self.decoder = torch.nn.ModuleList([Block(2 * c, c) for c, _ in pairs])
        self.head = torch.nn.Conv3d(FEATURES[0], CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, X, Y, Z) to logits (B, 4, X, Y, Z)."""
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool3d(x, 2))
            skips.append(x)
        for level in reversed(range(len(FEATURES) - 1)):
            x = self.decoder[level](torch.cat([self.up[level](x), skips[level]], 1))
        return self.head(x)


def torch_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Dice plus focal loss, as `jaxbrats.model.losses`."""
    log_p = F.log_softmax(logits.float(), 1)
    p = log_p.exp()
    mask = F.one_hot(labels, CLASSES).movedim(-1, 1).float()
    space = (0, 2, 3, 4)
    dice = (2 * (p * mask).sum(space) + 1e-5) / (p.sum(space) + mask.sum(space) + 1e-5)
    own = (log_p * mask).sum(1)
    focal = (-0.25 * (1 - own.exp()) ** 2 * own).mean() / CLASSES
    return 1 - dice.mean() + focal


def copy_weights(params: Any, network: TorchUNet) -> None:
    """Gives the PyTorch network our parameters."""

    def put(target: torch.Tensor, array: Any, axes: tuple[int, ...] | None = None) -> None:
        array = np.array(array if axes is None else np.transpose(array, axes))
        target.data.copy_(torch.from_numpy(array))

    def put_block(block: Block, ours: Any) -> None:
        for index in range(2):
            put(block.convs[index].weight, ours[f"conv_{index}"]["kernel"], (4, 3, 0, 1, 2))
            put(block.norms[index].weight, ours[f"norm_{index}"]["scale"])
            put(block.norms[index].bias, ours[f"norm_{index}"]["bias"])

    depth = len(FEATURES)
    for level in range(depth):
        put_block(network.encoder[level], params["bottom" if level == depth - 1 else f"encoder_{level}"])
    for level in range(depth - 1):
        put_block(network.decoder[level], params[f"decoder_{level}"])
        put(network.up[level].weight, params[f"upsample_{level}"]["kernel"], (3, 4, 0, 1, 2))
        put(network.up[level].bias, params[f"upsample_{level}"]["bias"])
    put(network.head.weight, params["head"]["kernel"], (4, 3, 0, 1, 2))
    put(network.head.bias, params["head"]["bias"])


def jax_side(image: np.ndarray, labels: np.ndarray, dtype: str) -> tuple[dict[str, Callable[[], float]], Any]:
    """Our step and forward pass as calls that return when done, and the parameters they begin with."""
    model_settings = Model(features=FEATURES, norm="instance", dropout=(0.0,))
    settings = Settings(model=model_settings, dtype=dtype, batch_size=len(image))
    model, optimizer = make_model(settings), make_optimizer(1e-4, "constant", 1)
    mesh = make_mesh(1, 1, len(image))
    state = replicate(mesh, init_state(model, optimizer, 0, CHANNELS))
    params = jax.tree.map(np.asarray, state.params)
    batch = put_batch(mesh, {"image": image, "labels": labels})
    train = jit_train_step(mesh, model, optimizer, make_loss(settings.loss))
    key = replicate(mesh, jax.random.key(0))
    apply = jax.jit(model.apply)
    box = {"state": state}

    def step() -> float:
        box["state"], metrics = train(box["state"], batch, key)
        return float(metrics.loss)

    def forward() -> float:
        return float(jax.block_until_ready(apply({"params": box["state"].params}, batch["image"]))[0, 0, 0, 0, 0])

    return {"step": step, "forward": forward}, params


def torch_side(
    image: np.ndarray, labels: np.ndarray, params: Any, channels_last: bool, compiled: bool, device: str
) -> dict[str, Callable[[], float]]:
    """PyTorch's step and forward pass, likewise."""
    form = torch.channels_last_3d if channels_last else torch.contiguous_format
    network = TorchUNet()
    copy_weights(params, network)
    network = network.to(device, memory_format=form)
    x = torch.from_numpy(image).movedim(-1, 1).to(device).contiguous(memory_format=form)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=device == "cuda")
    function = torch.compile(network) if compiled else network
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=device == "cuda")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss = torch_loss(function(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def forward() -> float:
        with torch.no_grad(), autocast():
            return float(function(x)[0, 0, 0, 0, 0])

    return {"step": step, "forward": forward}


def network_flops(size: int, batch: int) -> float:
    """FLOPs of a forward pass, convolutions alone, counted as the direct algorithm does them."""
    total, c_in = 0.0, CHANNELS
    for level, c in enumerate(FEATURES):
        voxels = batch * (size / 2**level) ** 3
        total += 2 * 27 * voxels * (c_in * c + c * c)
        if level < len(FEATURES) - 1:
            total += 2 * voxels * (27 * (2 * c * c + c * c) + FEATURES[level + 1] * c)
        c_in = c
    return total + 2 * batch * size**3 * FEATURES[0] * CLASSES


def matmul_rate(dtype: Any) -> float:
    """FLOP/s of a large matrix product, the best of five."""
    edge = 8192 if jax.default_backend() == "gpu" else 2048
    a = jnp.ones((edge, edge), dtype) * 0.5
    product = jax.jit(lambda a: a @ a)
    return 2 * edge**3 / min(seconds_of(lambda: jax.block_until_ready(product(a))) for _ in range(6))


def bandwidth() -> float:
    """Bytes/s read and written by a large copy, the best of five."""
    a = jnp.ones((1 << 26,), jnp.float32)
    copy = jax.jit(lambda a: a * 1.0001)
    return 2 * a.nbytes / min(seconds_of(lambda: jax.block_until_ready(copy(a))) for _ in range(6))


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> int:
    """Checks, times, prints and writes."""
    size, batch = _SIZE.value, _BATCH.value
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    torch.backends.cudnn.benchmark = True
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, size, size, size, CHANNELS)).astype(np.float32)
    labels = rng.integers(0, CLASSES, image.shape[:-1]).astype(np.uint8)
    ours, params = jax_side(image, labels, dtype)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    sides = {"jaxbrats": ours}
    for compiled in (False, True) if _COMPILE.value else (False,):
        for channels_last in (True,) if device == "cuda" else (False, True):
            name = (
                f"torch {'compiled' if compiled else 'eager'} {'channels_last_3d' if channels_last else 'contiguous'}"
            )
            sides[name] = torch_side(image, labels, params, channels_last, compiled, device)
    losses = {}
    for name, calls in list(sides.items()):
        try:
            losses[name] = calls["step"]()
        except Exception as error:  # torch.compile needs a C++ compiler, which the machine may lack
            print(f"{name}: left out ({type(error).__name__})", file=sys.stderr)
            del sides[name]
    torch_count = sum(p.numel() for p in TorchUNet().parameters())
    if count != torch_count or max(losses.values()) - min(losses.values()) > 1e-3:
        print(f"the sides differ: parameters {count} and {torch_count}, losses {losses}", file=sys.stderr)
        return 1
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in sides} for what in ("step", "forward")}
    for what, of_side in times.items():
        for round_number in range(_ROUNDS.value + 1):
            for name, calls in sides.items():
                taken = seconds_of(calls[what])
                if round_number:  # the first warms up
                    of_side[name].append(taken)
    flops = network_flops(size, batch)
    rate, bytes_per_second = matmul_rate(jnp.dtype(dtype)), bandwidth()
    rows, result = [], {}
    for what, factor in (("step", 3), ("forward", 1)):
        medians = {name: statistics.median(values) for name, values in times[what].items()}
        peer = min((name for name in medians if name != "jaxbrats"), key=medians.get)
        pairs = [b / a for a, b in zip(times[what]["jaxbrats"], times[what][peer], strict=True)]
        floor = factor * flops / rate
        result[what] = {"seconds": medians, "peer": peer, "ratio": statistics.median(pairs), "floor_seconds": floor}
        rows.append(
            f"| {what} | {medians['jaxbrats']:.3f} | {medians[peer]:.3f} ({peer}) | {statistics.median(pairs):.2f}x "
            f"({min(pairs):.2f} to {max(pairs):.2f}) | {medians['jaxbrats'] / floor:.2f} |"
        )
    machine = {
        "processor": platform.processor() or platform.machine(),
        "device": jax.devices()[0].device_kind,
        "threads": torch.get_num_threads(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matmul_gflops": rate / 1e9,
        "bandwidth_gb_per_second": bytes_per_second / 1e9,
        "peak_resident_mib_both_sides": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    text = "\n".join(
        [
            f"{size}^3, batch {batch}, {dtype}, {count} parameters, {_ROUNDS.value} rounds in turn.",
            "",
            "| what | jaxbrats, s | fastest torch, s | torch / jaxbrats, median of pairs (range) | over the floor |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"Floor: direct FLOPs at the {machine['matmul_gflops']:.0f} GFLOP/s of a large matrix product; a step "
            f"counts three forward passes. Winograd does fewer. jax {machine['jax']}, torch {machine['torch']}, Python "
            f"{machine['python']}, {machine['device']}, {machine['threads']} threads.",
        ]
    )
    print(text)
    if _OUT.value:
        write_text(f"{_OUT.value}.md", text + "\n")
        write_json(
            f"{_OUT.value}.json",
            {"size": size, "batch": batch, "dtype": dtype, "losses": losses, "machine": machine, **result},
        )
    return 0


if __name__ == "__main__":
    FLAGS(sys.argv)
    sys.exit(main())
