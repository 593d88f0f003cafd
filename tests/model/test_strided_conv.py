import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbrats.model.conv import conv3d
from jaxbrats.model.strided_conv import strided_conv3d

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("method", ["auto", "direct", "winograd"])
@pytest.mark.parametrize(
    ("kernel_size", "strides", "size"),
    [((3, 3, 3), (2, 2, 2), (4, 6, 8)), ((3, 3, 1), (2, 2, 1), (4, 6, 3)), ((1, 3, 3), (1, 2, 2), (3, 5, 4))],
)
def test_equals_pytorch_with_gradients(method, kernel_size, strides, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (*kernel_size, 3, 5))
    x_torch = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    weight = torch.tensor(np.transpose(kernel, (4, 3, 0, 1, 2)), requires_grad=True)
    padding = [length // 2 for length in kernel_size]
    expected = torch.nn.functional.conv3d(x_torch, weight, stride=strides, padding=padding)
    (expected**2).sum().backward()

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: strided_conv3d(x, kernel, strides, method), x, kernel)
        return y, *pull(2 * y)

    y, dx, dkernel = run(x, kernel)
    np.testing.assert_allclose(y, np.moveaxis(expected.detach().numpy(), 1, -1), atol=2e-5)
    np.testing.assert_allclose(dx, np.moveaxis(x_torch.grad.numpy(), 1, -1), atol=2e-3, rtol=1e-4)
    np.testing.assert_allclose(dkernel, np.transpose(weight.grad.numpy(), (2, 3, 4, 1, 0)), atol=2e-3, rtol=1e-4)


def test_is_every_second_voxel_of_the_convolution_of_stride_1():
    x = jax.random.normal(jax.random.key(0), (1, 6, 4, 8, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 2, 3))
    expected = conv3d(x, kernel, "direct")[:, ::2, ::2, ::2]
    np.testing.assert_allclose(strided_conv3d(x, kernel, (2, 2, 2)), expected, atol=1e-5)


def test_keeps_bfloat16():
    x = jnp.ones((1, 2, 2, 2, 1), jnp.bfloat16)
    y = strided_conv3d(x, jnp.ones((3, 3, 3, 1, 1)), (2, 2, 2))
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0, 0]) == 8  # of the 27 voxels around the first, those inside
