"""The flags that say how arrays are made, for every command that makes them or asks what would be made."""

import dataclasses
import typing

from absl import flags

from jaxbrats.config import Data, from_config, load_config, reference
from jaxbrats.config.typed import read
from jaxbrats.data.preprocessing import Preprocessing

_NAMES = tuple(field.name for field in dataclasses.fields(Preprocessing))


def define(flag_values: flags.FlagValues) -> None:
    """Adds a flag for each setting of the data that decides what the arrays hold, with its default and comment, and one
    for a config that has them.
    """
    flags.DEFINE_string(
        "config", None, "Config, FILE[:KEY=VALUE,...], instead of the defaults below.", flag_values=flag_values
    )
    for name, default, text in reference.settings(Data):
        if name in _NAMES:
            flags.DEFINE_string(name, reference.as_text(default), text, flag_values=flag_values)


def settings(flag_values: flags.FlagValues) -> Preprocessing:
    """What the flags say.

    Raises:
        InputError: a value is not allowed, or the config cannot be read.
    """
    kinds, config = typing.get_type_hints(Data), flag_values["config"].value
    data = from_config(load_config(config)).data if config else Data()
    given = {
        name: read(kinds[name], flag_values[name].value, f"--{name}") for name in _NAMES if flag_values[name].present
    }
    return dataclasses.replace(Preprocessing.of(data), **given)
