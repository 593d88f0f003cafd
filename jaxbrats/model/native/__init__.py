"""The 3×3×3 convolution on a CPU as compiled code: `conv3d.cc`, called through XLA's foreign function interface.

XLA's CPU backend cannot express a Winograd convolution whose transformed data stay in the cache: each transform and
each product is a pass over memory of its own. The C++ code goes tile by tile. `register` compiles it with the machine's
own compiler for its own processor and makes it known to `jaxbrats.model.conv`; the programs call it when they start.
Importing does nothing, and without a compiler `conv` has the same convolution in XLA's terms.
"""

import functools
import logging

import jax

from jaxbrats.model import conv
from jaxbrats.model.native import convolution, library

_log = logging.getLogger(__name__)


@functools.cache
def register() -> bool:
    """Makes conv='native' available in this process and 'auto' take it on a CPU; call it before anything is traced.

    Compiles the C++ code where the user's cache folder does not hold it (some seconds). 'auto' takes it in a process
    of one device: the partitioner of programs for several does not look into foreign functions.

    Returns:
        Whether it could be compiled and loaded; if not, a line of the log says why, and 'auto' takes 'winograd'.
    """
    try:
        functions = library.load()
    except OSError as error:
        _log.warning("convolutions on the CPU will be slower, their C++ code could not be compiled (%s)", error)
        return False
    for target, symbol in (("jaxbrats_convolve", "Convolve"), ("jaxbrats_correlate", "Correlate")):
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(functions, symbol)), platform="cpu")
    conv.register("native", conv.Algorithm(convolution.convolve, convolution.fits, lambda: jax.device_count() == 1))
    return True
