"""What a run's numbers follow from besides its settings and its data: the code, the libraries, the machine."""

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

import jaxbrats
from jaxbrats.model import conv

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "nibabel")
_SOURCE = pathlib.Path(jaxbrats.__file__).parent


def provenance(method: str) -> dict[str, Any]:
    """JSON-able: `code` (version, commit, checksum), `versions` of the libraries, and `machine` (devices, processes,
    and what a convolution by this method is there, with how many threads).
    """
    return {
        "code": dict(code()),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "machine": {
            "devices": [device.device_kind for device in jax.devices()],
            "processes": jax.process_count(),
            **conv.describe(method),
        },
    }


@functools.cache
def code() -> dict[str, Any]:
    """Which code this is.

    Returns:
        `version`, `sha256` of all source files of the package, and `commit` of the git repository that the package is
        part of, with `modified` where its files differ from that commit. `commit` is None of an installed package, even
        where its environment lies inside some repository.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in _SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(path.relative_to(_SOURCE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    tracked = _git("ls-files", "--error-unmatch", "__init__.py") is not None
    status = _git("status", "--porcelain", "--", ".") if tracked else None
    return {
        "version": jaxbrats.__version__,
        "sha256": digest.hexdigest(),
        "commit": _git("rev-parse", "HEAD") if tracked else None,
        "modified": bool(status),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the package's folder; None where it is not part of a repository."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=_SOURCE, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
