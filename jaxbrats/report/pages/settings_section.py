"""The settings of a run, group by group as its config file has them, and what it was made with."""

from collections.abc import Mapping
from typing import Any

from jaxbrats.report.pages.markup import Markup, tag

# Lists of every case: named by number.
_LISTS = ("train", "val")


def settings_section(config: Mapping[str, Any]) -> Markup:
    """What config.json holds.

    Args:
        config: Of the run; groups that it lacks are left out.
    """
    settings = config.get("settings", {})
    groups = {"Training": {name: value for name, value in settings.items() if not isinstance(value, Mapping)}}
    groups |= {name.capitalize(): value for name, value in settings.items() if isinstance(value, Mapping)}
    data = config.get("data", {})
    arrays = {name: value for name, value in data.items() if name not in _LISTS}
    arrays |= {f"{name} cases": len(data[name]) for name in _LISTS if name in data}
    made_with = {"commit": config.get("commit") or "unknown", "devices": config.get("devices", [])}
    groups |= {"Arrays": arrays, "Made with": made_with | config.get("versions", {})}
    return tag("div", [_group(title, values) for title, values in groups.items() if values], class_="settings")


def _group(title: str, values: Mapping[str, Any]) -> Markup:
    lines = [(tag("dt", name), tag("dd", _text(value))) for name, value in values.items()]
    return tag("div", tag("h3", title), tag("dl", lines))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
