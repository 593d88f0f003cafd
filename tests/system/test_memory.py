import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from jaxbrats.system.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
for _ in range(3):
    np.ones(64 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(64 << 20, np.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)], capture_output=True, text=True, check=True
    ).stdout.split()
    return output[0] == "True", int(output[1])


def test_freed_memory_is_not_faulted_in_again():
    kept, with_it = faults(True)
    if not kept:
        pytest.skip("the C library is not glibc")
    _, without = faults(False)
    assert with_it < 0.05 * without


HOLE = """
import pathlib
import numpy as np
from jaxbrats.system.memory import keep_freed_memory, release_freed_memory

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

kept = keep_freed_memory()
large = np.ones(256 << 20, np.uint8)
above = np.ones(8 << 20, np.uint8)  # keeps the heap from shrinking
del large
before = resident()
release_freed_memory()
print(kept, before - resident())
"""


def test_freed_memory_can_be_given_back():
    kept, released = subprocess.run(
        [sys.executable, "-c", HOLE], capture_output=True, text=True, check=True
    ).stdout.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert int(released) > 240 << 20
