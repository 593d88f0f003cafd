"""The command line: one module a command, each with its flags (`FLAGS`) and a `main() -> exit code`.

`run(["synth", "--out=DIR"])` is what the shell's `jaxbrats synth --out=DIR` does. It alone turns exceptions into
messages and exit codes: 0 all of it worked, 1 something did not, 2 the command line is wrong, 130 or 143 stopped by
SIGINT or SIGTERM.
"""

import importlib
import pathlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from absl import flags

from jaxbrats.system.devices import describe_device_error
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import describe_disk_error, disk_error
from jaxbrats.system.memory import keep_freed_memory
from jaxbrats.system.signals import Terminated, signal_of, sigterm_raises

COMMANDS = {
    "synth": "write a synthetic cohort of brain phantoms as BraTS 2023 files",
    "check": "say what is wrong with a cohort, before anything is trained",
    "preprocess": "turn a cohort of NIfTI files into training arrays",
    "plan": "write a config file for a cohort and a device's memory",
    "train": "train (and preprocess, evaluate, draw) as a config file says",
    "evaluate": "score a checkpoint on the validation cases",
    "predict": "segment patients' NIfTI files with a trained run",
    "export": "write a network as one file: for jaxbrats, as ONNX or as StableHLO",
    "score": "score segmentations against references, as the BraTS challenge does",
    "submit": "pack segmentations as a BraTS challenge takes them on Synapse",
    "report": "write a run's report, to be opened in a browser",
}


def usage() -> str:
    """The text of `jaxbrats --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        ["usage: jaxbrats COMMAND [--flag=value ...]", "", *lines, "", "jaxbrats COMMAND --help explains its flags."]
    )


def describe(error: BaseException) -> str | None:
    """The line to show for an error that is the user's to solve; None for a defect, whose traceback is wanted."""
    if isinstance(error, InputError | flags.Error):
        return str(error)
    trouble = disk_error(error, " ".join(str(error).split()))
    return describe_device_error(error) if trouble is None else describe_disk_error(trouble)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code.

    Args:
        arguments: What follows `jaxbrats` on the command line.
    """
    if not arguments or arguments[0] in ("help", "--help", "-h"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"jaxbrats: there is no command '{name}'.\n\n{usage()}", file=sys.stderr)
        return 2
    if name == "train":
        from jaxbrats import main as train_program

        return train_program.run(rest)
    return run_program(importlib.import_module(f"jaxbrats.commands.{name}"), f"jaxbrats {name}", rest)


def run_program(program: ModuleType, name: str, arguments: Sequence[str]) -> int:
    """Runs a module that has `FLAGS` and `main() -> exit code`: a command, or a script of `experiments/`.

    Args:
        program: The module.
        name: What to call it in messages.
        arguments: Its command line.
    """
    if any(argument in ("--help", "-h", "-help") for argument in arguments):
        print(f"{(program.__doc__ or '').strip()}\n\n{program.FLAGS.get_help()}")
        return 0
    try:
        program.FLAGS.unparse_flags()
        for flag in program.FLAGS:
            program.FLAGS[flag].unparse()
        extra = program.FLAGS([name, *arguments])[1:]
        if extra:
            raise flags.IllegalFlagValueError(f"unexpected argument '{extra[0]}'; flags are written --name=value")
        for flag in map(program.FLAGS.__getitem__, program.FLAGS):
            if flag.present and flag.value == "":
                raise flags.IllegalFlagValueError(f"--{flag.name}= is empty. Is a variable of the command not set?")
            flag.value = at_home(flag.value)
    except flags.Error as error:
        print(f"{name}: {error}\nSee: {name} --help", file=sys.stderr)
        return 2
    return finish(name, program.main)


def at_home(value: Any) -> Any:
    """What a flag was given, with ~/ as the home folder: after a = a shell leaves it as it is."""
    if isinstance(value, list):
        return [at_home(one) for one in value]
    return str(pathlib.Path(value).expanduser()) if isinstance(value, str) and value.startswith("~/") else value


def finish(name: str, work: Callable[[], int]) -> int:
    """Does the work and returns its exit code, with a line in the place of an exception that is the user's to solve."""
    keep_freed_memory()
    try:
        with sigterm_raises():
            return work()
    except (KeyboardInterrupt, Terminated) as stopped:
        number = signal_of(stopped)
        print(f"{name}: stopped by {number.name}; run the same command again to resume", file=sys.stderr)
        return 128 + number
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        print(f"{name}: {message}", file=sys.stderr)
        return 1
