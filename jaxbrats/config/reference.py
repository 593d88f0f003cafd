"""The list of all settings with types, defaults and comments, as `jaxbrats train --help` prints it."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from jaxbrats.config import typed
from jaxbrats.config.settings import Settings


def comments(group: type) -> dict[str, str]:
    """Setting -> its comment in the 'Attributes' section of a group's docstring."""
    section = (inspect.getdoc(group) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = (entry.partition(":") for entry in re.split(r"\n(?=\S)", textwrap.dedent(section)))
    return {name: " ".join(text.split()) for name, _, text in entries}


def settings(group: type = Settings, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and comment with the type of every setting of a group and the groups in it."""
    texts, kinds = comments(group), typing.get_type_hints(group)
    for name, default in vars(group()).items():
        if dataclasses.is_dataclass(kinds[name]):
            yield from settings(kinds[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", default, f"{texts[name]} ({typed.describe(kinds[name]).removeprefix('of type ')})"


def help_text() -> str:
    """Every setting as the command line has it."""
    lines = ["Settings, with their defaults:"]
    for name, default, text in settings():
        lines += [f"  --config.{name}={as_text(default)}"]
        lines += textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def as_text(value: Any) -> str:
    """A value as the command line takes it: 4,8,16, 2x2x1,2x2x2 or dice:1.0,focal:1.0."""
    if isinstance(value, dict):
        return ",".join(f"{name}:{item}" for name, item in value.items())
    if isinstance(value, tuple):
        nested = ("x".join(map(as_text, item)) if isinstance(item, tuple) else as_text(item) for item in value)
        return ",".join(nested)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
