"""HTML from the templates of this package, in which text can only be text.

Case names come from file names and settings from config files, so that either may hold `<script>`: Jinja2 escapes
whatever a template inserts. A page also forbids by its content security policy that anything but its own script runs,
and that anything is loaded from elsewhere.
"""

import base64
import functools
import hashlib
import importlib.resources
import os
import urllib.parse
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from jaxbrats.report.overlays import DISCLAIMER
from jaxbrats.system.errors import printable


def render(template: str, scripts: Sequence[str], **context: object) -> str:
    """A whole page that stands by itself.

    Args:
        template: Name of the template, without its suffix.
        scripts: Names of this package's scripts, in the order in which they run.
        **context: What the template inserts. Text is shown literally, what cannot be printed as an escape; only
            `Markup` is HTML already.
    """
    script = "\n".join(map(_asset, scripts))
    return (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(
            context,
            css=Markup(_asset("report.css")),
            script=Markup(script),
            # The browser runs the script of this digest and no other.
            digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            disclaimer=DISCLAIMER,
        )
    )


def link_to(*path: str) -> str:
    """A relative address of a file; any byte that a file name may hold is kept."""
    return "/".join(urllib.parse.quote(os.fsencode(part), safe="") for part in path)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        finalize=_literal,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _literal(value: Any) -> Any:
    """Text in one printable line; None is no text."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
