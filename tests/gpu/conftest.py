"""Tests that need a GPU:

    JAX_PLATFORMS=cuda,cpu python -m pytest -n 0 tests/gpu

Without one they are skipped. `GPU_DRY_RUN=1 python -m pytest -n 0 tests/gpu` has a second CPU device stand for the GPU,
with the forms that accelerators compute and TensorFloat-32 rounded by hand: the tests themselves are then tried.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import jax
import pytest
from jax import lax

ON_GPU = os.environ["JAX_PLATFORMS"] != "cpu"
DRY_RUN = os.environ.get("GPU_DRY_RUN") == "1" and not ON_GPU
if ON_GPU:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes that tests start share the GPU


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips where there is no GPU to test on."""
    here = pathlib.Path(__file__).parent
    for item in items if not ON_GPU and not DRY_RUN else ():
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="needs a GPU: JAX_PLATFORMS=cuda,cpu; or GPU_DRY_RUN=1"))


class Processor:
    """Where a function is computed: a device, and on which terms."""

    def __init__(self, device: jax.Device, stands_for_gpu: bool = False) -> None:
        self.device, self.stands_for_gpu = device, stands_for_gpu

    @contextlib.contextmanager
    def computing(self, precision: str | None = None) -> Iterator[None]:
        """What is jitted within is computed there; products of float32 numbers with this precision of JAX's."""
        with contextlib.ExitStack() as stack:
            if self.stands_for_gpu:
                stack.enter_context(_as_on_a_gpu(rounded=precision == "default"))
            stack.enter_context(jax.default_device(self.device))
            stack.enter_context(jax.default_matmul_precision(precision))
            yield


@contextlib.contextmanager
def _as_on_a_gpu(rounded: bool) -> Iterator[None]:
    """Accelerators' forms, and where asked for the operands of products rounded to TensorFloat-32's ten bits."""

    def to_ten_bits(function):
        def call(lhs, rhs, *rest, **options):
            lhs, rhs = (lax.reduce_precision(one, 8, 10) for one in (lhs, rhs))
            return function(lhs, rhs, *rest, **options)

        return call

    jax.clear_caches()  # of what was traced in the other form
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lax, "platform_dependent", lambda *arguments, cpu, default: default(*arguments))
        if rounded:
            patch.setattr(lax, "conv_general_dilated", to_ten_bits(lax.conv_general_dilated))
        yield
    jax.clear_caches()


@pytest.fixture
def cpu() -> Processor:
    """What is compared with."""
    return Processor(jax.devices("cpu")[0])


@pytest.fixture
def gpu() -> Processor:
    """The GPU, or what stands for it."""
    return Processor(jax.devices("cpu")[1], stands_for_gpu=True) if DRY_RUN else Processor(jax.devices()[0])
