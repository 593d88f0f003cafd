"""What every program that computes with the network sets up before it does."""

import jax

from jaxbrats.model import native
from jaxbrats.system.compilation import keep_compiled_programs


def prepare_jax() -> None:
    """Keeps compiled programs on disk and makes the compiled convolution known.

    Looks for devices: a process of several joins the others before.
    """
    keep_compiled_programs()
    use_compiled_convolution()


def use_compiled_convolution() -> None:
    """Makes conv='auto' take the compiled convolution where this process computes on a CPU."""
    if jax.default_backend() == "cpu":
        native.register()
