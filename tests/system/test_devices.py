import os

import jax
import pytest

from jaxbrats import commands
from jaxbrats.system.devices import is_out_of_memory, set_up_gpus

MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.\nBufferAssignment: much"
CUDNN = "INTERNAL: Failed to determine best cudnn algorithm for:\n%cudnn-conv = ..."


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            MEMORY,
            "the device's memory is too small (RESOURCE_EXHAUSTED: Out of memory while",
        ),
        (
            CUDNN,
            "cuDNN found no algorithm for a convolution, most often for want of free memory",
        ),
    ],
)
def test_a_device_that_fails_is_one_line_with_what_to_do(capsys, said, told):
    def work():
        raise jax.errors.JaxRuntimeError(said)

    assert commands.finish("jaxbrats train", work) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"jaxbrats train: {told}")
    assert "jaxbrats plan proposes sizes" in error


@pytest.mark.parametrize("said", ["INTERNAL: a defect", "UNKNOWN: XLA FFI call failed: an assertion"])
def test_other_errors_keep_their_traceback(said):
    def work():
        raise jax.errors.JaxRuntimeError(said)

    with pytest.raises(jax.errors.JaxRuntimeError):
        commands.finish("jaxbrats train", work)


def test_out_of_memory_is_said_by_jax_alone():
    assert is_out_of_memory(jax.errors.JaxRuntimeError("UNKNOWN: XLA FFI call failed: std::bad_alloc"))
    assert not is_out_of_memory(ValueError(MEMORY))


def test_what_jax_is_told_of_gpus(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--one")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "")
    set_up_gpus(0.5, deterministic=False)
    assert (os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"], os.environ["XLA_FLAGS"]) == ("0.5", "--one")
    set_up_gpus(0.5, deterministic=True)
    assert os.environ["XLA_FLAGS"] == "--one --xla_gpu_exclude_nondeterministic_ops=true"
