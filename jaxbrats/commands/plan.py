"""Writes a config file for a cohort: patch, network and batch as large as a device's memory allows.

    jaxbrats plan --raw=ASNR-MICCAI-BraTS2023-GLI --memory=11GB --out=configs/planned.py
    jaxbrats plan --raw=ASNR-MICCAI-BraTS2023-GLI --card=rtx4090 --out=configs/planned.py
    python -m jaxbrats.main --config=configs/planned.py

Reads every file, as `jaxbrats check` does: modalities that all cases have, voxel sizes, brains and tumours. Training
steps are then compiled (some seconds to a minute each; none is run), from a patch of the whole brain down, until one
needs no more than JAX may take of the memory by XLA's own account. Another platform's program takes another amount, so
plan on the machine that will train, or give --card: with JAX's CUDA plugin, pip install '.[cuda]', any machine
compiles for one that it does not have. The file says why each number is what it is; change it as you like.
"""

import pathlib
import re

import jax
from absl import flags

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.runs.planning.facts import measure
from jaxbrats.runs.planning.proposal import GIB, propose, shape_text
from jaxbrats.runs.planning.text import config_text
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.gpus import CARDS, compile_for_descriptions, described_gpus, published

FLAGS = flags.FlagValues()
_RAW = flags.DEFINE_string("raw", None, "Folder of the cohort.", required=True, flag_values=FLAGS)
_MEMORY = flags.DEFINE_string(
    "memory", None, "Memory of the device that will train: 8GB, 11GiB. By default that of --card.", flag_values=FLAGS
)
_CARD = flags.DEFINE_enum(
    "card", None, CARDS, "Card to compile for. By default the first device that there is.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", None, "Config file to write, FILE.py.", required=True, flag_values=FLAGS)
_WORKERS = flags.DEFINE_integer("workers", None, "Processes. By default one a CPU.", lower_bound=0, flag_values=FLAGS)

_UNITS = {"mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}


def main() -> int:
    """Measures, compiles and writes."""
    asked = [f"--{flag.name}={flag.value}" for flag in (_MEMORY, _CARD) if flag.value]
    if not asked:
        raise InputError("expected --memory=8GB, that of the device that will train, or --card with its name")
    memory = _bytes(_MEMORY.value) if _MEMORY.value else published(_CARD.value, "device_memory_size")
    out = pathlib.Path(_OUT.value)
    if out.suffix != ".py" or out.exists():
        found = f"{out.name}, which is there already" if out.exists() else out.name
        raise InputError(f"--out: expected the name of a new file, FILE.py, found {found}", hint="Give it another name")
    if _CARD.value:
        compile_for_descriptions()
        device = described_gpus(_CARD.value)[0]
    else:
        prepare_jax()
        device = jax.local_devices()[0]
    facts = measure(pathlib.Path(_RAW.value), _WORKERS.value)
    proposal = propose(facts, memory, device)
    files.write_text(out, config_text(facts, proposal, str(out), " ".join(asked)))
    print(
        f"{out}: patch {shape_text(proposal.candidate.topology.patch)}, {len(proposal.settings['model.features'])} "
        f"levels, batch {proposal.candidate.batch_size}; a step takes {proposal.step_bytes / GIB:.2f} GiB on a "
        f"{proposal.platform.upper()}"
    )
    return 0


def _bytes(text: str) -> int:
    """8GB, 11GiB or 900MB.

    Raises:
        InputError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MG]i?B)", text.strip(), re.IGNORECASE)
    if match is None:
        raise InputError(f"--memory: expected a size such as 8GB, 11GiB or 900MB, found {text!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])
