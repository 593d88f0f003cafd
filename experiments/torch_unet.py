"""The U-Net of `jaxbrats.model.unet` in PyTorch, made from its parameters: the peer of the benchmarks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxbrats.model.unet import UNet3D

# In place only where no gradient follows: what instance norm gives is a view, for which autograd would then copy.
_ACTIVATIONS = {
    "relu": lambda x: functional.relu(x, inplace=not x.requires_grad),
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.01, inplace=not x.requires_grad),
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": lambda x: functional.silu(x, inplace=not x.requires_grad),
}


class TorchUNet(nn.Module):
    """The same network, channels first: `(B, C, X, Y, Z)` to logits `(B, K, X, Y, Z)`, its parameters frozen.

    Args:
        model: Its shape.
        variables: `params` and `batch_stats` of the Flax network.
    """

    def __init__(self, model: UNet3D, variables: Mapping[str, Any]) -> None:
        super().__init__()
        params, stats = variables["params"], variables.get("batch_stats", {})
        self.levels = len(model.features) - 1

        def block(name: str) -> _Block:
            return _Block(params[name], stats.get(name, {}), model)

        self.encoder = nn.ModuleList(block(f"encoder_{index}") for index in range(self.levels))
        self.bottom = block("bottom")
        self.decoder = nn.ModuleList(block(f"decoder_{index}") for index in range(self.levels))
        self.upsample = nn.ModuleList(_Upsample(params[f"upsample_{index}"]) for index in range(self.levels))
        self.head = _Conv(params["head"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, X, Y, Z)` to logits."""
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
            x = functional.max_pool3d(x, 2)
        x = self.bottom(x)
        for index in reversed(range(self.levels)):
            x = self.decoder[index](torch.cat([self.upsample[index](x), skips[index]], dim=1))
        return self.head(x)


class _Block(nn.Module):
    def __init__(self, params: Mapping[str, Any], stats: Mapping[str, Any], model: UNet3D) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_Conv(params[f"conv_{index}"]) for index in range(2))
        norms = (f"norm_{index}" for index in range(2))
        self.norms = nn.ModuleList(_Norm(params.get(name), stats.get(name), model.norm) for name in norms)
        self.activation = _ACTIVATIONS[model.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.activation(norm(convolution(x)))
        return x


class _Conv(nn.Module):
    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.kernel = _parameter(params["kernel"].transpose(4, 3, 0, 1, 2))
        self.bias = _parameter(params["bias"]) if "bias" in params else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv3d(x, self.kernel, self.bias, padding="same")


class _Upsample(nn.Module):
    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.kernel = _parameter(params["kernel"].transpose(3, 4, 0, 1, 2))
        self.bias = _parameter(params["bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv_transpose3d(x, self.kernel, self.bias, stride=2)


class _Norm(nn.Module):
    def __init__(self, params: Mapping[str, Any] | None, stats: Mapping[str, Any] | None, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.scale, self.shift = (_parameter(params[name]) if params else None for name in ("scale", "bias"))
        self.mean, self.var = (_parameter(stats[name]) if stats else None for name in ("mean", "var"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "none":
            return x
        if self.kind == "batch":
            return functional.batch_norm(x, self.mean, self.var, self.scale, self.shift, eps=1e-5)
        if self.kind == "instance":
            return functional.instance_norm(x, weight=self.scale, bias=self.shift, eps=1e-5)
        groups = np.gcd(8, x.shape[1]).item()
        return functional.group_norm(x, groups, self.scale, self.shift, eps=1e-5)


def _parameter(array: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array, np.float32, order="C")), requires_grad=False)
