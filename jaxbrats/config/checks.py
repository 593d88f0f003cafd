"""How a group of settings refuses a value."""

from typing import Any

from jaxbrats.system.errors import InputError


def need(right: bool, rule: str, value: Any) -> None:
    """Raises an `InputError` with the rule, 'data.workers must be 0 or more', unless the value keeps it."""
    if not right:
        raise InputError(f"config.{rule}; it is {value!r}")
