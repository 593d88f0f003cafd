"""Compiled programs are kept on disk, so that the second start of a run is stepping within seconds."""

import logging

import jax

from jaxbrats.system.cache import cache_folder


def keep_compiled_programs() -> None:
    """Points JAX's persistent compilation cache at the user's cache folder, unless one is configured already.

    `JAX_COMPILATION_CACHE_DIR` names another folder; entries are keyed by program, compiler version and processor
    (https://docs.jax.dev/en/latest/persistent_compilation_cache.html). Where there is none to write to, a warning says
    so.
    """
    if jax.config.jax_compilation_cache_dir is None:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))
        except OSError as error:
            logging.getLogger(__name__).warning("programs are compiled again at every start (%s)", error)
