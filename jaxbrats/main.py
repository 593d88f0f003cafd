"""The training program: `python -m jaxbrats.main --config=FILE [--workdir=RUN] [--config.KEY=VALUE ...]`.

From raw NIfTI files (or arrays already preprocessed) to a trained network with its scores and figures: it
preprocesses where that is not done, splits, trains or goes on training, evaluates the best checkpoint on the
validation cases and draws. `configs/unet3d.py` is the real recipe, `configs/quickstart.py` needs no data. Any setting
can be given on the command line: --config.learning_rate=3e-4 --config.data.raw_dir=/data/BraTS2023.

--workdir is runs/ and the config's name by default. The same command again goes on where a run stopped. A run's record
is a config too: --config=RUN/config.json --workdir=NEW runs it again.

A run over several machines is this same command, started on each by srun or mpirun; or by hand, with
--coordinator=HOST:PORT (a free port of the machine of process 0), --processes=N and --process=I (0 to N - 1). All of
them need the same folders. `experiments/slurm/` has files for sbatch.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxbrats.system.errors import InputError
from jaxbrats.system.gc_paused import gc_paused

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
        config, workdir, values = _parse(arguments)
    except InputError as error:
        print(f"jaxbrats train: {error}", file=sys.stderr)
        return 2
    return finish("jaxbrats train", lambda: _train(config, workdir, values))


def _parse(arguments: Sequence[str]) -> tuple[ConfigDict, pathlib.Path, flags.FlagValues]:
    """Reads the command line.

    Returns:
        The config file's settings with what the command line changes, the run's folder, and the other flags.

    Raises:
        InputError: a flag, a setting or the config file itself is wrong.
    """
    from jaxbrats.config.file import load_config
    from jaxbrats.config.settings import type_of

    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Config file, or the config.json of a run.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT at which process 0 is reached.", flag_values=values)
    flags.DEFINE_integer("processes", None, "Processes of the run.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "Which of them this is.", lower_bound=0, flag_values=values)
    values.set_gnu_getopt(True)
    changes = flags.FlagValues()
    try:
        rest = values(["jaxbrats train", *arguments], known_only=True)
        if values.config is None:
            raise InputError("--config=FILE is needed, for example --config=configs/unet3d.py")
        for argument in rest[1:]:
            if argument.startswith("--config."):
                type_of(argument.removeprefix("--").partition("=")[0])
        config_flags.DEFINE_config_dict("config", load_config(values.config), flag_values=changes, sys_argv=rest)
        extra = changes(rest)[1:]
    except flags.IllegalFlagValueError as error:
        raise _wrong_value(str(error)) from error
    except flags.Error as error:
        raise InputError(" ".join(str(error).split()), hint="See jaxbrats train --help") from error
    if extra:
        raise InputError(f"unexpected argument '{extra[0]}'; settings are written --config.NAME=VALUE")
    path = pathlib.Path(values.config)
    # A run's own config.json goes on with the run.
    default = path.parent if path.suffix == ".json" else pathlib.Path("runs") / path.stem
    return changes.config, pathlib.Path(values.workdir or default), values


def _wrong_value(message: str) -> InputError:
    """Says of which type a setting is, of which absl says how its conversion went."""
    from jaxbrats.config.settings import type_of

    name, _, value = message.removeprefix("flag --").partition(": ")[0].partition("=")
    kind = type_of(name)
    what = "a group of settings" if dataclasses.is_dataclass(kind) else f"of type {getattr(kind, '__name__', kind)}"
    return InputError(f"{name} is {what}; it cannot be {value!r}", hint="See jaxbrats train --help")


def _train(config: ConfigDict, workdir: pathlib.Path, values: flags.FlagValues) -> int:
    with gc_paused():
        from jaxbrats.commands.startup import prepare_jax
        from jaxbrats.config.settings import from_config
        from jaxbrats.runs import job
        from jaxbrats.system import distributed

    settings = from_config(config)
    if not settings.data.dir and not settings.data.raw_dir:
        print(_NO_DATA, file=sys.stderr)
        return 2
    # JAX reads this when it first looks for devices.
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(settings.gpu_memory_fraction)
    cluster = distributed.find_cluster(values.coordinator, values.processes, values.process)
    with distributed.joined(cluster):
        prepare_jax()
        return job.run(settings, workdir)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
