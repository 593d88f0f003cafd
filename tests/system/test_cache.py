"""The cache folder: the user's own, closed to others, and somewhere else where there is no home."""

import os
import pathlib
import stat
import tempfile

import pytest

from jaxbrats.system.cache import cache_folder, is_private


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No cache of the machine's is touched."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_it_lies_in_the_users_cache_and_is_closed_to_others(tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    assert cache_folder("compiled") == tmp_path / ".cache" / "jaxbrats" / "compiled"
    assert mode(cache_folder("compiled")) == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("native") == tmp_path / "xdg" / "jaxbrats" / "native"


def test_without_a_home_and_a_known_user_it_is_a_temporary_one_of_the_user(tmp_path, monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", unknown)
    assert cache_folder("native") == tmp_path / "temporary" / f"jaxbrats-{os.getuid()}" / "native"


def test_a_home_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path / "file")
    assert cache_folder("native").is_relative_to(tmp_path / "temporary")


def test_a_folder_that_others_may_write_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    cache_folder("native").chmod(0o777)
    assert not is_private(tmp_path / ".cache" / "jaxbrats" / "native")
    assert mode(cache_folder("native")) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give folders away")
def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    os.chown(cache_folder("native").parent, 12345, 12345)
    assert cache_folder("native").is_relative_to(tmp_path / "temporary")
