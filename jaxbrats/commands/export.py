"""Writes a run's network as one file, for others to predict with.

    jaxbrats export --workdir=runs/brats --out=brats.npz
    jaxbrats predict --model=brats.npz --input=BraTS-GLI-00001-000 --output=predictions

The parameters are in half precision, half the size of a checkpoint's and without the optimiser's state. The file holds
the settings that prediction needs and how many cases were trained on, but no path and no case's name. NumPy reads it.
"""

import pathlib

from absl import flags

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.inference.exported import write_model
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError, printable

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "The file to write, FILE.npz.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)


def main() -> int:
    """Writes the file and says how large it is."""
    out = pathlib.Path(_OUT.value)
    if out.suffix != ".npz":
        raise InputError("is no name for a model", file=out, hint="Give a file that ends with .npz")
    prepare_jax()
    record = read_record(_WORKDIR.value)
    network = run_network(record, _STEP.value)
    about = {"training_cases": len(record.split.train), "versions": record.content["versions"]}
    write_model(out, network, record.settings, about)
    print(f"{printable(str(out))}: {out.stat().st_size / 1e6:.1f} MB, step {network.step} of {record.workdir}")
    return 0
