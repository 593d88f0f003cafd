"""The training program: `python -m jaxbrats.main --config=FILE[:KEY=VALUE,...] [--workdir=RUN] [--config.KEY=VALUE]`.

From raw NIfTI files (or arrays already preprocessed) to a trained network with its scores and figures: it preprocesses
where that is not done, splits, trains or goes on training, evaluates the best checkpoint on the validation cases and
draws. `configs/brats.py` is the recipe for patients, `configs/quickstart.py` needs no data. Any setting can be given on
the command line, --config.learning_rate=3e-4 --config.data.raw_dir=/data/BraTS2023, or as an argument of the file,
which is then part of the run's name: --config=configs/unet3d.py:fold=1,seed=3.

--workdir is runs/ and the config's name and arguments by default. The same command again goes on where a run stopped. A
run's record is a config too: --config=RUN/config.json --workdir=NEW runs it again.

A run over several machines is this same command, started on each by srun or mpirun; or by hand, with
--coordinator=HOST:PORT (a free port of the machine of process 0), --processes=N and --process=I (0 to N - 1). All of
them need the same folders. `experiments/slurm/` has files for sbatch.
"""

import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from jaxbrats.system.devices import set_up_gpus
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
    from jaxbrats.config.reference import help_text

    if not arguments or any(argument in ("--help", "-h", "-help", "--helpfull") for argument in arguments):
        print(f"{(__doc__ or '').strip()}\n\n{help_text()}" if arguments else (__doc__ or "").strip())
        return 0 if arguments else 2
    try:
        parsed = parse(arguments)
    except InputError as error:
        print(f"jaxbrats train: {error}", file=sys.stderr)
        return 2
    return finish("jaxbrats train", lambda: train(*parsed))


def parse(arguments: Sequence[str]) -> tuple[ConfigDict, pathlib.Path, flags.FlagValues]:
    """Reads the command line.

    Returns:
        The config file's settings with what the command line changes, the run's folder, and the other flags.

    Raises:
        InputError: a flag, a setting or the config file itself is wrong.
    """
    from jaxbrats.commands import at_home
    from jaxbrats.config.file import load_config, split_arguments

    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Config file, or the config.json of a run.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT at which process 0 is reached.", flag_values=values)
    flags.DEFINE_integer("processes", None, "Processes of the run.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "Which of them this is.", lower_bound=0, flag_values=values)
    values.set_gnu_getopt(True)
    changes, others = _take_changes(arguments)
    try:
        extra = values(["jaxbrats train", *others])[1:]
    except flags.Error as error:
        raise InputError(" ".join(str(error).split()), hint="See jaxbrats train --help") from error
    if values.config is None:
        raise InputError("--config=FILE is needed, for example --config=configs/unet3d.py")
    if values.workdir == "":
        raise InputError("--workdir= names no folder", hint="Is a variable of the command not set?")
    if extra:
        raise InputError(f"unexpected argument '{extra[0]}'; settings are written --config.NAME=VALUE")
    config = at_home(values.config)
    path, named = split_arguments(config)
    # A run's own config.json goes on with the run; each choice of arguments is a run of its own.
    default = pathlib.Path("runs") / "_".join([path.stem, *("=".join(pair).replace("/", "-") for pair in named)])
    if path.suffix == ".json" and not named:
        default = path.parent
    return load_config(config, changes), pathlib.Path(at_home(values.workdir) or default), values


def _take_changes(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Settings to change, --config.NAME=VALUE or --config.NAME VALUE, apart from the other arguments.

    A bool may be given as --config.NAME alone.

    Raises:
        InputError: a name is not a setting, or has no value.
    """
    from jaxbrats.commands import at_home
    from jaxbrats.config.settings import Settings
    from jaxbrats.config.typed import type_of

    changes, others, rest = [], [], iter(arguments)
    for argument in rest:
        setting = re.fullmatch(r"--?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if setting is None:
            others.append(argument)
            continue
        name, text = setting.groups()
        kind = type_of(Settings, name)
        if text is None:
            text = "true" if kind is bool else next(rest, None)
        if text is None:
            raise InputError(f"Missing value for flag --config.{name}", hint="See jaxbrats train --help")
        changes.append((name, at_home(text)))
    return changes, others


def train(config: ConfigDict, workdir: pathlib.Path, values: flags.FlagValues) -> int:
    """Does what a command line asks for, as `parse` gives it; returns the exit code.

    Raises:
        InputError: settings or data that cannot be used.
    """
    with gc_paused():
        from jaxbrats.commands.startup import prepare_jax
        from jaxbrats.config.settings import from_config
        from jaxbrats.runs import job
        from jaxbrats.system import distributed

    settings = from_config(config)
    if not settings.data.dir and not settings.data.raw_dir:
        print(_NO_DATA, file=sys.stderr)
        return 2
    set_up_gpus(settings.gpu_memory_fraction, settings.deterministic)
    cluster = distributed.find_cluster(values.coordinator, values.processes, values.process)
    with distributed.joined(cluster):
        prepare_jax()
        return job.run(settings, workdir)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
