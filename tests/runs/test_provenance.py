"""Which code a run was made with: the commit of the package's own repository, never of another around it."""

import pathlib
import shutil
import subprocess

import jax
import pytest

from jaxbrats.runs import provenance
from jaxbrats.system.processes import available_cpus


def git(folder: pathlib.Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def package(tmp_path, monkeypatch) -> pathlib.Path:
    """A package of some files in a folder that is a git repository with one commit, of other files."""
    source, repository = provenance._SOURCE, tmp_path / "repository"
    package = repository / "lib" / "jaxbrats"
    package.mkdir(parents=True)
    for name in ("__init__.py", "main.py"):
        shutil.copy(source / name, package)
    (repository / "README").write_text("")
    git(repository, "init")
    git(repository, "add", "README")
    git(repository, "commit", "-m", "one")
    monkeypatch.setattr(provenance, "_SOURCE", package)
    provenance.code.cache_clear()
    yield package
    provenance.code.cache_clear()


def code() -> dict:
    provenance.code.cache_clear()
    return provenance.code()


def test_a_repository_that_does_not_track_the_package_is_none_of_it(package):
    assert (code()["commit"], code()["modified"]) == (None, False)
    (package.parents[1] / ".gitignore").write_text("lib\n")
    assert (code()["commit"], code()["modified"]) == (None, False)


def test_the_commit_of_a_tracked_package_and_whether_it_is_modified(package):
    repository = package.parents[1]
    git(repository, "add", "lib")
    git(repository, "commit", "-m", "two")
    commit = git(repository, "rev-parse", "HEAD").strip()
    first = code()
    assert (first["commit"], first["modified"]) == (commit, False)
    (repository / "README").write_text("changed, but no part of the package")
    assert code() == first
    (package / "main.py").write_text("changed")
    changed = code()
    assert (changed["commit"], changed["modified"]) == (commit, True)
    assert changed["sha256"] != first["sha256"]
    git(repository, "checkout", "lib")
    assert code() == first
    (package / "new.py").write_text("")
    assert code()["modified"]
    assert code()["sha256"] != first["sha256"]


def test_no_git_and_no_repository(package, monkeypatch, tmp_path):
    sha256 = code()["sha256"]
    shutil.rmtree(package.parents[1] / ".git")
    assert (code()["commit"], code()["modified"], code()["sha256"]) == (None, False, sha256)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (code()["commit"], code()["modified"], code()["sha256"]) == (None, False, sha256)


def test_caches_of_python_are_no_code(package):
    before = code()
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "main.pyc").write_bytes(b"1")
    assert code() == before
    (package / "main.py").rename(package / "other.py")
    assert code()["sha256"] != before["sha256"]


def test_versions_and_machine(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    found = provenance.provenance("direct")
    assert found["versions"]["jax"] == jax.__version__
    assert found["machine"] == {
        "devices": ["cpu"] * 8,
        "processes": 1,
        "conv": "direct",
        "threads": available_cpus(),
    }
    assert provenance.provenance("auto")["machine"]["conv"] in ("winograd", "native")
