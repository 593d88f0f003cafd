"""Writes a network as one file, for others to predict with.

    jaxbrats export --workdir=runs/brats --out=brats.npz
    jaxbrats export --workdir=runs/brats --out=brats.onnx
    jaxbrats export --model=demo --out=demo.stablehlo

The ending of the name, or --format, says what is written:

npz         The parameters in half precision, without the optimiser's state, for `jaxbrats predict --model=FILE.npz`;
            NumPy reads them.
onnx        A program for onnxruntime, Triton, 3D Slicer or C++, without jaxbrats and without JAX. Its metadata says how
            images are prepared and how probabilities become labels; experiments/onnx_window.py does both. Needs
            pip install '.[export]' in the clone.
stablehlo   A program for jax.export.deserialize, without jaxbrats; the same metadata is in FILE.stablehlo.json.

The programs take windows (batch, x, y, z, channel) of the size of the run's and give probabilities. All tell the
settings that prediction needs and how many cases were trained on, but no path and no case's name.
"""

import pathlib

from absl import flags

from jaxbrats.commands.startup import prepare_jax
from jaxbrats.inference.exported import read_about, read_model, write_model
from jaxbrats.inference.exported_programs import write_onnx, write_stablehlo
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError, printable

FORMATS = ("npz", "onnx", "stablehlo")
FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=FLAGS)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "In the place of a run: demo, which comes with the package, or a file FILE.npz that jaxbrats export wrote.",
    flag_values=FLAGS,
)
flags.mark_flags_as_mutual_exclusive(["workdir", "model"], required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string(
    "out", None, "The file to write, FILE.npz, .onnx or .stablehlo.", required=True, flag_values=FLAGS
)
_FORMAT = flags.DEFINE_enum(
    "format", None, FORMATS, "What to write; by default as the file's name ends.", flag_values=FLAGS
)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint of a run: best, latest or a step's number.", flag_values=FLAGS)


def main() -> int:
    """Writes the file and says how large it is."""
    out = pathlib.Path(_OUT.value)
    format = _FORMAT.value or out.suffix.removeprefix(".")
    if format not in FORMATS:
        raise InputError(
            "tells no format by its name", file=out, hint="Let it end with .npz, .onnx or .stablehlo, or give --format"
        )
    if format == "npz" and out.suffix != ".npz":  # by which predict --model knows it
        raise InputError("is not a name for such a model", file=out, hint="Give a file that ends with .npz")
    if _MODEL.value and format == "npz":
        raise InputError("--model is such a file already", file=out, hint="Copy it, or write .onnx or .stablehlo")
    if _MODEL.value and _STEP.present:
        raise InputError("--step is of a run, --model holds one step's network", hint="Leave --step out")
    prepare_jax()
    if _MODEL.value:
        network, about = read_model(_MODEL.value), read_about(_MODEL.value)
    else:
        record = read_record(_WORKDIR.value)
        network = run_network(record, _STEP.value)
        about = {"training_cases": len(record.split.train), "versions": record.content["versions"]}
    checked = ""
    if format == "npz":
        write_model(out, network, record.settings, about)
    elif format == "onnx":
        checked = f"; its probabilities differ from jaxbrats' by at most {write_onnx(out, network, about):.1g}"
    else:
        write_stablehlo(out, network, about)
    size = out.stat().st_size / 1e6
    print(f"{printable(str(out))}: {size:.1f} MB, step {network.step} of {network.workdir}{checked}")
    return 0
