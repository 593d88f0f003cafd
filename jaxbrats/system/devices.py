"""Accelerators: what is set before JAX looks for them, and what XLA says when one fails."""

import os

# How XLA says that memory ran out: by its own allocator, and where a call into compiled code throws.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "bad_alloc")
_SMALLER = (
    "For training take a smaller config.batch_size or config.data.patch, config.accumulate or config.remat; jaxbrats "
    "plan proposes sizes for a memory"
)


def set_up_gpus(memory_fraction: float, deterministic: bool) -> None:
    """Sets what JAX reads when it first looks for devices; has no effect on a CPU.

    Args:
        memory_fraction: Share of each GPU's memory that JAX may take.
        deterministic: Whether only kernels are used that give the same bits each time. Which ones is measured when a
            program is compiled, so compiled again it may have others (https://openxla.org/xla/determinism).
    """
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(memory_fraction)
    if deterministic:
        flags = (os.environ.get("XLA_FLAGS", ""), "--xla_gpu_exclude_nondeterministic_ops=true")
        os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX's runtime says that memory ran out."""
    return _is_of_jax(error) and any(words in str(error) for words in _OUT_OF_MEMORY)


def describe_device_error(error: BaseException) -> str | None:
    """The line to show for trouble with a device that the user can solve; None for any other error."""
    if _is_of_jax(error) and "determine best cudnn algorithm" in str(error).lower():
        return (
            "cuDNN found no algorithm for a convolution, most often for want of free memory. See "
            f"with nvidia-smi whether another process has it, or lower config.gpu_memory_fraction. {_SMALLER}"
        )
    if is_out_of_memory(error):
        return f"the device's memory is too small ({str(error).splitlines()[0]}). {_SMALLER}"
    return None


def _is_of_jax(error: BaseException) -> bool:
    # By name, so that a command that computes nothing need not import JAX.
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
