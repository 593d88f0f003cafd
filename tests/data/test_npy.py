"""Headers of arrays: read in any number of threads, and only what is one."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxbrats.data import npy
from jaxbrats.system.errors import InputError

# What a training process is: threads that read headers on one CPU, and a callback of the garbage collector (JAX has
# one), at which threads change places in the midst of NumPy's parser.
MANY_THREADS = """
import concurrent.futures, gc, os, pathlib, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.setswitchinterval(1e-5)
gc.callbacks.append(lambda *_: [None for _ in range(100)])
gc.set_threshold(10)
from jaxbrats.data import npy
path = pathlib.Path(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    headers = set(pool.map(lambda _: npy.read_header(path, "case", lambda header: None), range(5000)))
print(headers)
"""


def anything(header):
    return None


def test_threads_on_one_cpu_do_not_disturb_each_other(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6, 3), np.float32))
    run = subprocess.run(
        [sys.executable, "-c", MANY_THREADS, str(tmp_path / "a.npy")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-500:]
    assert run.stdout == "{Header(shape=(4, 5, 6, 3), dtype=dtype('float32'), fortran=False)}\n"


@given(
    shape=st.lists(st.integers(1, 4), max_size=5).map(tuple),
    dtype=st.sampled_from(["<f4", ">f8", "<f2", "|u1", "|b1", ">i4", "<c8", "<U3", "|S5"]),
    fortran=st.booleans(),
    version=st.sampled_from([(1, 0), (2, 0)]),
)
def test_what_numpy_writes_is_read(tmp_path_factory, shape, dtype, fortran, version):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    array = np.zeros(shape, dtype, order="F" if fortran else "C")
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version)
    found = npy.read_header(path, "case", anything)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert found.fortran == (array.flags.f_contiguous and not array.flags.c_contiguous)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
        '{"shape": (2L, 3L), "descr": "<f4", "fortran_order": False, }  ',
    ],
)
def test_what_other_programs_write_is_read(text):
    assert npy.parse_header(text) == npy.Header((2, 3), np.dtype("<f4"), False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, --3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': (2,), 'shape': (2, 3)}",
        "{'descr': '<q99', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} or 1",
    ],
)
def test_what_is_no_header_is_refused(text):
    with pytest.raises(ValueError, match=r"expected descr, fortran_order and shape|unknown number type"):
        npy.parse_header(text)


@pytest.mark.parametrize("content", [b"", b"\x93NUM", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"])
def test_a_file_that_is_cut_or_claims_a_huge_header_is_one_line(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"case c: .*a.npy: is not an array in NumPy's \.npy format \(.*\)\. Write"):
        npy.read_header(tmp_path / "a.npy", "c", anything)
