"""Importing jaxbrats changes nothing in the process that imports it."""

import json
import os
import pathlib
import subprocess
import sys

import jaxbrats

# What the libraries do is theirs, so they are imported first.
PROGRAM = """
import importlib, json, logging, multiprocessing, os, pkgutil, signal, sys, threading, warnings
import absl.flags, absl.logging, cc3d, flax.linen, grain, jax, matplotlib.pyplot, ml_collections.config_flags, nibabel
import optax, orbax.checkpoint, scipy.ndimage, scipy.optimize, scipy.stats, tqdm

def state():
    loggers = [logging.getLogger(), *map(logging.getLogger, sorted(logging.root.manager.loggerDict))]
    return {
        "hooks": [sys.unraisablehook, sys.excepthook, sys.displayhook, threading.excepthook],
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "loggers": {
            logger.name: [logger.level, logger.disabled, list(logger.filters), list(logger.handlers), logger.propagate]
            for logger in loggers
            if not logger.name.startswith("jaxbrats")
        },
        "warnings": list(warnings.filters),
        "flags": [absl.flags.FLAGS.is_parsed(), sorted(absl.flags.FLAGS)],
        "environment": dict(os.environ),
        "jax": dict(jax.config.values),
        "path": list(sys.path),
        "rc": dict(matplotlib.rcParams),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "devices": jax._src.xla_bridge.backends_are_initialized(),
    }

before = state()
import jaxbrats
names = [name for _, name, _ in pkgutil.walk_packages(jaxbrats.__path__, "jaxbrats.") if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
after = state()
# A logger that somebody asked for, and left as it came, is no change.
after["loggers"] = {name: value for name, value in after["loggers"].items() if name in before["loggers"]}
changed = [name for name in before if before[name] != after[name]]
print(json.dumps([len(names), changed]))
"""


def test_imports_change_nothing_in_their_host():
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(jaxbrats.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False
    )
    assert process.returncode == 0, process.stderr
    count, changed = json.loads(process.stdout.splitlines()[-1])
    assert count > 50
    assert changed == []
