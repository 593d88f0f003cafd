"""Values as the types that settings declare, from config files, JSON and text.

A setting is a bool, int, float or str, a `Literal` of strings, a tuple, or a union of these; a group of settings is a
dataclass or a mapping whose keys are a `Literal`. `ml_collections.config_flags` knows no `Literal`, no `none` for an
optional value, no new keys in a mapping and no types within tuples, so this is our own.
"""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxbrats.system.errors import InputError

_WORDS = {bool: {"true": True, "1": True, "false": False, "0": False}, types.NoneType: {"none": None}}


def type_of(group: type, name: str) -> Any:
    """The type of a setting by its dotted name below 'config.', such as 'data.crop'; of a group, its class.

    Raises:
        InputError: there is no such setting; names the nearest.
    """
    kind, path = group, "config"
    for part in name.split("."):
        kind = _member(kind, part, path)
        path = f"{path}.{part}"
    return kind


def complete(kind: Any, value: Any, path: str) -> Any:
    """Checks names and types and adds the defaults that are left out.

    Args:
        kind: What is expected: a group of settings or the type of one.
        value: What was given.
        path: Its dotted name, for errors.

    Returns:
        For a group a dict of all its settings, for a setting its value; integers pass for floats, lists and single
        values for tuples.

    Raises:
        InputError: an unknown name or a wrong type.
    """
    if not _members(kind):
        try:
            return _convert(kind, value)
        except ValueError as error:
            raise InputError(f"{path} must be {describe(kind)}; it is {value!r}") from error
    if not isinstance(value, Mapping):
        raise InputError(f"{path} is a group of settings; it cannot be {value!r}")
    given = {name: complete(_member(kind, name, path), item, f"{path}.{name}") for name, item in value.items()}
    return (dataclasses.asdict(kind()) if dataclasses.is_dataclass(kind) else {}) | given


def build(group: type, values: Mapping[str, Any]) -> Any:
    """The dataclass of what `complete` gave, checked by its own rules."""
    parts = {name: kind for name, kind in _members(group).items() if dataclasses.is_dataclass(kind)}
    return group(**{name: build(parts[name], value) if name in parts else value for name, value in values.items()})


def read(kind: Any, text: str, path: str) -> Any:
    """The value that a text on the command line stands for: 3, true, none, 4,8,16, 2x2x1,2x2x2 or dice:1,focal:0.5.

    Raises:
        InputError: it stands for no value of this type.
    """
    if dataclasses.is_dataclass(kind):
        raise InputError(f"{path} is a group of settings; it cannot be {text!r}")
    try:
        value = _parse(kind, text)
    except ValueError as error:
        raise InputError(f"{path} must be {describe(kind)}; it is {text!r}") from error
    return complete(kind, value, path)


def describe(kind: Any) -> str:
    """A type in words, to follow 'must be'."""
    arguments = typing.get_args(kind)
    if _is_union(kind):
        words = list(map(describe, arguments))
        return (", or " if any("," in word for word in words) else " or ").join(words)
    if _members(kind):
        names = _members(kind)
        return f"a value for any of {', '.join(names)}, each {describe(next(iter(names.values())))}"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(arguments)}" if len(arguments) > 1 else arguments[0]
    if arguments:
        count = "" if arguments[-1] is ... else f"{len(arguments)} "
        return f"{count}values, each {describe(arguments[0])}"
    return "none" if kind is types.NoneType else f"of type {kind.__name__}"


@functools.cache
def _members(kind: Any) -> dict[str, Any]:
    """Name -> type of what a group of settings has; empty for a setting."""
    if dataclasses.is_dataclass(kind):
        return typing.get_type_hints(kind)
    if typing.get_origin(kind) is Mapping:
        names, item = typing.get_args(kind)
        return dict.fromkeys(typing.get_args(names), item)
    return {}


def _member(kind: Any, name: str, path: str) -> Any:
    members = _members(kind)
    if name not in members:
        near = difflib.get_close_matches(str(name), members, n=1, cutoff=0.5)
        hint = f"Did you mean {path}.{near[0]}?" if near else f"{path} has: {', '.join(members) or 'no parts'}"
        raise InputError(f"{path}.{name} is not a setting", hint=hint)
    return members[name]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _items(kind: Any, values: tuple) -> zip:
    """The types of a tuple's items beside them."""
    items = typing.get_args(kind)
    return zip(items[:1] * len(values) if items[-1] is ... else items, values, strict=True)


def _convert(kind: Any, value: Any) -> Any:
    """A setting's value; ValueError for one of another type."""
    if _is_union(kind):
        return _first(_convert, kind, value)
    if typing.get_origin(kind) is tuple:
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        return tuple(_convert(item, part) for item, part in _items(kind, values))
    if typing.get_origin(kind) is typing.Literal:
        right = isinstance(value, str) and value in typing.get_args(kind)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    else:
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right:
        raise ValueError
    return value


def _parse(kind: Any, text: str, separator: str = ",") -> Any:
    """What a text stands for; ValueError where it stands for nothing. Tuples within tuples are separated by x."""
    if _is_union(kind):
        return _first(_parse, kind, text)
    if typing.get_origin(kind) is Mapping:
        item = typing.get_args(kind)[1]
        pairs = [part.partition(":") for part in text.strip("{} ").split(",") if part.strip()]
        return {name.strip(" '\""): _parse(item, value) for name, _, value in pairs}
    if typing.get_origin(kind) is tuple:
        values = tuple(part.strip(" '\"") for part in text.strip("()[] ").split(separator) if part.strip())
        return tuple(_parse(item, part, "x") for item, part in _items(kind, values))
    if kind in _WORDS:
        if text.lower() not in _WORDS[kind]:
            raise ValueError
        return _WORDS[kind][text.lower()]
    return _convert(kind, kind(text) if kind in (int, float) else text)


def _first(function: Any, union: Any, value: Any) -> Any:
    """What `function` makes of a value for the first type of a union that takes it; None comes before str."""
    for kind in sorted(typing.get_args(union), key=lambda kind: kind is not types.NoneType):
        try:
            return function(kind, value)
        except ValueError:
            continue
    raise ValueError
