"""HTML made of Python calls, in which text can only be text: whatever is not `Markup` is escaped.

Case names come from file names and settings from config files, so that either may hold `<script>`; a page also forbids
by its content security policy that anything but its own scripts run, and that anything is loaded from elsewhere.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import os
import urllib.parse
from collections.abc import Iterable
from typing import Any

_NEVER_CLOSED = {"br", "hr", "img", "input", "meta"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """`str(text)` as HTML that shows it literally, and what cannot be printed, such as a newline, as an escape."""
    if isinstance(text, Markup):
        return text
    literal = "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(text))
    return Markup(html.escape(literal))


def join(parts: Iterable[object]) -> Markup:
    """Escaped parts, one after the other; None is left out and nested iterables are joined."""
    pieces = []
    for part in parts:
        if isinstance(part, str) or not isinstance(part, Iterable):
            pieces.append("" if part is None else escape(part))
        else:
            pieces.append(join(part))
    return Markup("".join(pieces))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Args:
        name: Such as "td"; by place, because an element may have an attribute of that name.
        *children: As `join` takes them.
        **attributes: `class_` is written class and `data_sort` data-sort. True writes a bare attribute, None and False
            none.
    """
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written += " " + key.rstrip("_").replace("_", "-")
        if value is not True:
            written += f'="{escape(value)}"'
    inside = "" if name in _NEVER_CLOSED else f"{join(children)}</{name}>"
    return Markup(f"<{name}{written}>{inside}")


def json_block(identity: str, value: Any) -> Markup:
    """Data for a script, which reads it with `JSON.parse`; no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="{escape(identity)}">{text}</script>')


def data_uri(data: bytes, kind: str) -> str:
    """`data` as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def link_to(*path: str) -> str:
    """A relative address of a file; any byte that a file name may hold is kept."""
    return "/".join(urllib.parse.quote(os.fsencode(part), safe="") for part in path)


def page(title: str, body: Markup, scripts: Iterable[str]) -> str:
    """A whole page that stands by itself.

    Args:
        title: Of the window.
        body: What is in it.
        scripts: Names of this package's scripts, in the order in which they run.
    """
    script = "\n".join(_asset(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        tag("meta", charset="utf-8"),
        # The policy's own quotes are not to be escaped: no text of others is in it.
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(_asset("report.css"))),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{join(head)}</head>\n<body>\n{body}\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
