"""What `pip install .` installs: every file of the package, data and sources of the compiled convolution among them."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MADE = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    source = tmp_path / "source"  # building leaves files behind
    shutil.copytree(ROOT / "jaxbrats", source / "jaxbrats", ignore=MADE)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--quiet", f"--wheel-dir={tmp_path}"]
    files = {path.relative_to(source).as_posix() for path in (source / "jaxbrats").rglob("*") if path.is_file()}
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("jaxbrats-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {name for name in inside if name.startswith("jaxbrats/")} == files
    for ending in (".npz", ".md", ".j2", ".css", ".js", ".cc", ".h"):
        assert any(name.endswith(ending) for name in files), ending
    # From there, and from nowhere else.
    code = "import jaxbrats, jaxbrats.inference.exported as e; e.read_model('demo'); print(jaxbrats.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "installed" / "jaxbrats" / "__init__.py"), done.stderr
