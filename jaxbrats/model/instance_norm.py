"""Instance normalisation with the activation after it (Ulyanov et al. 2016, arXiv:1607.08022), a form for each
processor.

On a CPU it is Flax's. Accelerators wait for memory, so there its gradient is written out: what lies between convolution
and convolution is read once for the statistics and once to be normalised; backwards once for both sums that the
gradient needs, and once for the gradient. What the activation lets through is computed again in each of these passes,
where XLA by itself would write it down in the first and read it in the second.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

_EPSILON = 1e-5
_SPACE = (1, 2, 3)

Activation = Callable[[jax.Array], jax.Array]


class InstanceNorm(nn.Module):
    """Each channel of each volume with mean 0 and variance 1, scaled and shifted by parameters, then activated."""

    activation: Activation
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, X, Y, Z, C)` to the same size, in `dtype`; statistics are float32."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return _by_processor(x, scale, bias, self.activation, self.dtype)


# Traced once for all layers of one size.
@functools.partial(jax.jit, static_argnames=("activation", "dtype"), inline=True)
def _by_processor(x: jax.Array, scale: jax.Array, bias: jax.Array, activation: Activation, dtype: Any) -> jax.Array:
    forms = (functools.partial(form, activation=activation, dtype=dtype) for form in (plain, few_passes))
    on_cpu, default = forms
    return lax.platform_dependent(x, scale, bias, cpu=on_cpu, default=default)


def plain(x: jax.Array, scale: jax.Array, bias: jax.Array, activation: Activation, dtype: Any) -> jax.Array:
    """Flax's normalisation, then the activation."""
    norm = nn.InstanceNorm(epsilon=_EPSILON, dtype=dtype)
    return activation(norm.apply({"params": {"scale": scale, "bias": bias}}, x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def few_passes(x: jax.Array, scale: jax.Array, bias: jax.Array, activation: Activation, dtype: Any) -> jax.Array:
    """The same up to rounding; the activation is of float32 numbers."""
    return _forward(x, scale, bias, activation, dtype)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, activation: Activation, dtype: Any) -> tuple:
    values = x.astype(jnp.float32)
    mean = values.mean(_SPACE, keepdims=True)
    variance = jnp.maximum(jnp.square(values).mean(_SPACE, keepdims=True) - jnp.square(mean), 0)
    reciprocal = lax.rsqrt(variance + _EPSILON)
    y = activation((values - mean) * (reciprocal * scale) + bias)
    return y.astype(dtype), (x, mean, reciprocal, scale, bias)


def _backward(activation: Activation, dtype: Any, saved: tuple, dy: jax.Array) -> tuple[jax.Array, ...]:
    del dtype
    x, mean, reciprocal, scale, bias = saved

    def before_activation(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalised values, and the gradient of what is activated."""
        values = (x.astype(jnp.float32) - mean) * reciprocal
        (gradient,) = jax.vjp(activation, values * scale + bias)[1](dy.astype(jnp.float32))
        return values, gradient

    values, gradient = before_activation(x)
    d_bias, d_scale = gradient.sum(_SPACE, keepdims=True), (gradient * values).sum(_SPACE, keepdims=True)
    # The second pass waits for the sums of the first, and must not be given what that one computed.
    x, d_bias, d_scale = lax.optimization_barrier((x, d_bias, d_scale))
    values, gradient = before_activation(x)
    size = x.size // d_bias.size
    dx = (reciprocal * scale) * (gradient - (d_bias + values * d_scale) / size)
    return dx.astype(x.dtype), d_scale.sum((0, *_SPACE)), d_bias.sum((0, *_SPACE))


few_passes.defvjp(_forward, _backward)
