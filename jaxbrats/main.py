"""The training program: `python -m jaxbrats.main --config=FILE [--workdir=RUN] [--config.KEY=VALUE ...]`.

From raw NIfTI files (or arrays already preprocessed) to a trained network with its scores and figures: it
preprocesses where that is not done, splits, trains or goes on training, evaluates the best checkpoint on the
validation cases and draws. `configs/unet3d.py` is the real recipe, `configs/quickstart.py` needs no data. Any setting
of the config file can be given on the command line: --config.learning_rate=3e-4 --config.data.raw_dir=/data/BraTS2023.

A run over several machines is this same command, started on each by srun or mpirun; or by hand, with
--coordinator=HOST:PORT (a free port of the machine of process 0), --processes=N and --process=I (0 to N - 1). All of
them need the same folders. `experiments/slurm/` has files for sbatch.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from jaxbrats.errors import InputError

_NO_DATA = """\
jaxbrats train: set --config.data.raw_dir=FOLDER (a BraTS cohort) or --config.data.dir=FOLDER (preprocessed arrays).
To see it work without any data: python -m jaxbrats.main --config=configs/quickstart.py"""


def run(arguments: Sequence[str]) -> int:
    """Runs the program on what follows its name on the command line; returns the exit code.

    0 all done, 1 something the user can solve (said in a line), 2 the command line is wrong, 128 + n stopped by
    signal n after saving.
    """
    from jaxbrats.commands import finish

    if not arguments or any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments):
        print((__doc__ or "").strip())
        return 0 if arguments else 2
    try:
        values = _parse(arguments)
    except InputError as error:
        print(f"jaxbrats train: {error}", file=sys.stderr)
        return 2
    return finish("jaxbrats train", lambda: _train(values))


def _parse(arguments: Sequence[str]) -> flags.FlagValues:
    """Reads the command line.

    Raises:
        InputError: a flag, a setting or the config file itself is wrong.
    """
    values = flags.FlagValues()
    program = ["jaxbrats train", *arguments]
    try:
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=program)
        flags.DEFINE_string(
            "workdir", None, "Folder of the run; default runs/ and the config's name.", flag_values=values
        )
        flags.DEFINE_string("coordinator", None, "HOST:PORT at which process 0 is reached.", flag_values=values)
        flags.DEFINE_integer("processes", None, "Processes of the run.", lower_bound=1, flag_values=values)
        flags.DEFINE_integer("process", None, "Which of them this is.", lower_bound=0, flag_values=values)
        extra = values(program)[1:]
        if values["config"].value is None:
            raise InputError("--config=FILE is needed, for example --config=configs/unet3d.py")
        values["config"].value.keys()  # a config file that cannot be loaded raises here
    except InputError:
        raise
    except OSError as error:
        path = next(argument for argument in arguments if argument.startswith(("--config=", "-config=")))
        raise InputError("cannot be read", file=path.partition("=")[2], cure="Give --config a config file") from error
    except Exception as error:
        # Flags and ml_collections raise many kinds for names and types, and the config file is Python: it raises any.
        text = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        raise InputError(f"the command line cannot be used: {text}", cure="See jaxbrats train --help") from error
    if extra:
        raise InputError(f"unexpected argument '{extra[0]}'; settings are written --config.NAME=VALUE")
    return values


def _train(values: flags.FlagValues) -> int:
    from jaxbrats.train.settings import from_config

    settings = from_config(values["config"].value)
    if not settings.data.dir and not settings.data.raw_dir:
        print(_NO_DATA, file=sys.stderr)
        return 2
    name = pathlib.Path(config_flags.get_config_filename(values["config"])).stem
    workdir = pathlib.Path(values["workdir"].value or pathlib.Path("runs") / name)
    # JAX reads this when it first looks for devices.
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(settings.gpu_memory_fraction)

    from jaxbrats import compilation, pipeline
    from jaxbrats.train import hosts

    cluster = hosts.find_cluster(values["coordinator"].value, values["processes"].value, values["process"].value)
    compilation.keep_compiled_programs()
    with hosts.joined(cluster):
        return pipeline.run(settings, workdir)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
