"""Compiled programs are kept on disk, so that the second start of a run is stepping within seconds."""

import os
import pathlib

import jax


def keep_compiled_programs() -> pathlib.Path:
    """Points JAX's persistent compilation cache at the user's cache folder, unless one is configured already.

    `JAX_COMPILATION_CACHE_DIR` names another folder; entries are keyed by program, compiler version and processor
    (https://docs.jax.dev/en/latest/persistent_compilation_cache.html).

    Returns:
        The folder in use.
    """
    if jax.config.jax_compilation_cache_dir is None:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxbrats" / "compiled"))
    return pathlib.Path(jax.config.jax_compilation_cache_dir)
