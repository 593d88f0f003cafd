"""Compiled programs are kept on disk, so that the second start of a run is stepping within seconds."""

import logging
import pathlib

import jax

from jaxbrats.system.cache import cache_folder


def keep_compiled_programs() -> pathlib.Path | None:
    """Points JAX's persistent compilation cache at the user's cache folder, unless one is configured already.

    `JAX_COMPILATION_CACHE_DIR` names another folder; entries are keyed by program, compiler version and processor
    (https://docs.jax.dev/en/latest/persistent_compilation_cache.html).

    Returns:
        The folder in use; None, with a warning, where there is none to write to.
    """
    if jax.config.jax_compilation_cache_dir is None:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))
        except OSError as error:
            logging.getLogger(__name__).warning("programs are compiled again at every start (%s)", error)
            return None
    return pathlib.Path(jax.config.jax_compilation_cache_dir)
