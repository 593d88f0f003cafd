"""The compiled library and its cache, in processes of one device, as the programs have."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jaxbrats.model import native
from jaxbrats.model.native.library import load

pytestmark = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")

# Stands for the compiler: compiles once, for others that wait, and then gives what it made of the same code.
ONCE = """#!/bin/sh
for made; do :; done
until [ -e {kept} ]; do
    if mkdir {kept}.begun 2> /dev/null; then
        {compiler} "$@" && cp "$made" {kept}.part && mv {kept}.part {kept} || {{ rmdir {kept}.begun; exit 1; }}
    fi
    sleep 0.1
done
cp {kept} "$made"
"""

CONVOLVE = """
import logging, sys, jax, numpy as np
logging.basicConfig(format="%(message)s")
from jaxbrats.model import conv, native
registered = native.register()
x, kernel = np.ones((1, 16, 16, 16, 1), np.float32), np.ones((3, 3, 3, 1, 1), np.float32)
y = jax.jit(conv.conv3d)(x, kernel)
assert float(abs(y[0, 1:-1, 1:-1, 1:-1] - 27).max()) < 1e-3
print(registered, conv.describe("auto")["conv"])
"""


@pytest.fixture(scope="module", autouse=True)
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One run of the compiler for all tests, since they are of what is done with what it makes."""
    folder = tmp_path_factory.mktemp("compiler")
    (folder / "c++").write_text(ONCE.format(compiler=shutil.which("c++"), kept=folder / "library.so"))
    (folder / "c++").chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


def environment(home: pathlib.Path, **changes: str) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(home), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "CXX": ""} | changes


def run(program: str, home: pathlib.Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment(home, **changes), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A cache folder with the library, made by two processes at once."""
    home = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-c", CONVOLVE]
    processes = [subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["True native"] * 2
    assert [path.suffix for path in (home / "jaxbrats/native").iterdir()] == [".so"]
    return home


@pytest.fixture
def library(cached, tmp_path, monkeypatch) -> pathlib.Path:
    """The library in a cache folder of the test's own, which `load` looks into."""
    shutil.copytree(cached, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "")
    return next((tmp_path / "cache/jaxbrats/native").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "other library", "writable by others"])
def test_a_cached_library_that_is_not_whole_or_not_ours_is_made_again(library, damage, caplog):
    good = library.read_bytes()
    if damage == "writable by others":
        library.chmod(0o666)
    else:
        other = pathlib.Path(sys.modules["_ctypes"].__file__).read_bytes()
        library.write_bytes({"cut": good[: len(good) // 2], "empty": b"", "other library": other}[damage])
    before = library.stat().st_ino
    load()
    assert not caplog.records
    assert library.read_bytes() == good
    assert library.stat().st_ino != before
    assert library.stat().st_mode & 0o077 == 0


def test_a_whole_library_is_not_compiled_again_wherever_the_code_lies(library, tmp_path, monkeypatch):
    before = library.stat().st_ino
    load()
    shutil.copytree(pathlib.Path(native.__file__).parent, tmp_path / "elsewhere")
    monkeypatch.setattr("jaxbrats.model.native.library._SOURCE", tmp_path / "elsewhere" / "conv3d.cc")
    monkeypatch.setattr("jax.ffi.include_dir", lambda: str(tmp_path / "include"))
    load()
    assert library.stat().st_ino == before and list(library.parent.iterdir()) == [library]


def test_a_failing_compiler_is_followed_by_the_next(library, monkeypatch, caplog):
    library.unlink()
    monkeypatch.setenv("CXX", "/bin/false")
    load()
    assert library.exists()
    assert not caplog.records


def test_without_a_compiler_a_cpu_convolves_all_the_same(tmp_path):
    ran = run(CONVOLVE, tmp_path, PATH=str(tmp_path))
    assert ran.stdout.strip() == "False winograd"
    assert ran.stderr.count("\n") == 1
    assert "there is no C++ compiler" in ran.stderr
    asked = run(
        CONVOLVE.replace("conv.conv3d)(x, kernel)", "conv.conv3d, static_argnums=2)(x, kernel, 'native')"),
        tmp_path,
        PATH=str(tmp_path),
    )
    assert "conv='native' is not available in this process. It needs a C++ compiler" in asked.stderr


def test_importing_starts_no_compiler(tmp_path):
    program = """
import jax, numpy as np
from jaxbrats.model import conv, native, unet
jax.jit(conv.conv3d)(np.ones((1, 16, 16, 16, 1), np.float32), np.ones((3, 3, 3, 1, 1), np.float32))
print(conv.describe("auto")["conv"])
"""
    assert run(program, tmp_path).stdout.strip() == "winograd"
    assert not list(tmp_path.iterdir())


# Convolutions that need much memory besides what goes in and out, with none left for it.
SHORT = """
import resource, pathlib, jax, jax.numpy as jnp
from jaxbrats.model import conv, native
assert native.register()
x = jnp.ones((1, 16, 16, 16, {channels}))
function = jax.jit({function})
kernel = jnp.ones((3, 3, 3, {channels}, {channels}))
compiled = function.lower(x, kernel).compile()
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (40 << 20),) * 2)
try:
    jax.block_until_ready(compiled(x, kernel))
except Exception as error:
    print(type(error).__module__, type(error).__name__, error)
"""


@pytest.mark.parametrize(
    "function",
    ["conv.conv3d", "jax.grad(lambda x, k: conv.conv3d(x, k).sum(), 1)"],
    ids=["convolution", "kernel's gradient"],
)
def test_short_memory_is_an_error_that_says_so(cached, function):
    ran = run(SHORT.format(channels=384, function=function), cached)
    assert ran.returncode == 0, ran.stderr
    assert "JaxRuntimeError RESOURCE_EXHAUSTED: Out of memory allocating" in ran.stdout
    assert "bytes for a convolution" in ran.stdout


THREADS = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from jaxbrats.model import conv, native
assert native.register()
print(conv.describe("auto")["threads"])
loss = lambda a, b, k: jnp.sin(conv.conv3d((a, b), k))
for first, second, out in ((2, 4, 5), (16, 32, 33)):
    shapes = (1, 33, 26, 30, first), (1, 33, 26, 30, second), (3, 3, 3, first + second, out)
    a, b, kernel = (np.random.default_rng(0).normal(size=shape).astype("f") for shape in shapes)
    y, back = jax.vjp(jax.jit(loss), a, b, kernel)
    print(*(hashlib.sha256(v.tobytes()).hexdigest() for v in (y, *back(y))))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_one_thread_and_two_give_the_same_bits(cached):
    cpus = sorted(os.sched_getaffinity(0))
    pinned = [f"import os; os.sched_setaffinity(0, {cpus[:count]})\n{THREADS}" for count in (1, 2)]
    results = [run(text, cached).stdout.split() for text in pinned]
    assert [result[0] for result in results] == ["1", "2"]
    assert len(results[0]) == 9
    assert results[0][1:] == results[1][1:]
