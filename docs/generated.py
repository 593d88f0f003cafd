"""What is generated when the site is built, so that it cannot go stale: a hook of mkdocs.

README.md is the front page. The reference is made of the settings' own comments, the commands' own flags and the
docstrings, the walkthrough of the notebook as it was last executed. Files outside docs/ that a page links to become
pages too, so that each link does on the site what it does in the repository.
"""

import ast
import html
import importlib
import inspect
import pathlib
import posixpath
import re
from collections.abc import Iterable, Iterator

import nbconvert
from absl import flags
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from jaxbrats import commands
from jaxbrats.config import reference
from jaxbrats.config.settings import Settings

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = "docs/notebooks/walkthrough.ipynb"
# From what is nearest to the user down to the ground, as imports go.
PACKAGES = ("runs", "report", "evaluation", "inference", "train", "model", "data", "synthetic", "config", "system")
# A relative link's target, without what follows #.
_LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+")
_IMAGES = (".png", ".svg", ".gif")


def on_config(config: MkDocsConfig) -> None:
    """Completes the navigation."""
    section = next(entry for entry in config.nav if isinstance(entry, dict) and "Reference" in entry)["Reference"]
    section += [{"Python": ["reference/python.md", *({name: path} for path, name in _python_pages())]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what is generated, and what is linked to."""
    pages = {path: _python(name) for path, name in _python_pages()}
    body, resources = nbconvert.MarkdownExporter().from_filename(str(ROOT / NOTEBOOK))
    pages[_site_path(NOTEBOOK)] = body
    for name, content in resources["outputs"].items():
        files.append(File.generated(config, f"notebooks/{name}", content=content))
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    linked = ["README.md", *(f"docs/{file.src_uri}" for file in files.documentation_pages() if file.abs_src_path)]
    for path in linked:  # grows
        if path.endswith(".md"):
            linked += sorted(set(_links(path)) - set(linked))
    for path in linked:
        if path.startswith("docs/"):
            continue
        text = {"abs_src_path": str(ROOT / path)} if path.endswith((".md", *_IMAGES)) else {"content": _source(path)}
        files.append(File.generated(config, _site_path(path), **text))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Completes the reference, and turns links in the repository into links in the site."""
    if page.file.src_uri in _GENERATED:
        markdown += f"\n{_GENERATED[page.file.src_uri]()}"
    folder, here = posixpath.dirname(_repository_path(page.file.src_uri)), posixpath.dirname(page.file.src_uri)

    def target(link: re.Match[str]) -> str:
        if (ROOT / folder / link[0]).is_file():
            return posixpath.relpath(_site_path(posixpath.normpath(posixpath.join(folder, link[0]))), here or ".")
        return link[0]

    return _LINK.sub(target, markdown)


def configuration() -> str:
    """Every config file with what it is for, and every setting with its default and its comment."""
    lines = ["## Config files"]
    for path in sorted((ROOT / "configs").glob("*.py")):
        lines += [f"### {path.relative_to(ROOT)}", ast.get_docstring(ast.parse(path.read_text())) or ""]
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, default, text in reference.settings():
        groups.setdefault(name.rpartition(".")[0], []).append((name, reference.as_text(default), text))
    lines += ["## Settings"]
    for group, settings in groups.items():
        kind = type(getattr(Settings(), group)) if group else Settings
        lines += [f"### {group or 'The run'}", inspect.getdoc(kind).partition("\n\n")[0], _table("setting", settings)]
    return "\n\n".join(lines)


def command_line() -> str:
    """Every command with its docstring and its flags."""
    lines = [f"```text\n{commands.usage()}\n```"]
    for name in commands.COMMANDS:
        module = importlib.import_module("jaxbrats.main" if name == "train" else f"jaxbrats.commands.{name}")
        lines += [f"## jaxbrats {name}", inspect.getdoc(module) or ""]
        if name == "train":
            lines += ["Every [setting](configuration.md) is a flag, `--config.NAME=VALUE`."]
        else:
            defined = [module.FLAGS[flag] for flag in module.FLAGS]
            lines += [_table("flag", [(f"--{flag.name}", _default(flag), flag.help) for flag in defined])]
    return "\n\n".join(lines)


_GENERATED = {"reference/configuration.md": configuration, "reference/commands.md": command_line}


def _default(flag: flags.Flag) -> str:
    if any("other than None" in validator.message for validator in flag.validators):
        return "required"
    return reference.as_text(tuple(flag.default) if isinstance(flag.default, list) else flag.default)


def _table(first: str, rows: Iterable[tuple[str, str, str]]) -> str:
    """Rows of a name, a default and a text, as a table."""
    lines = [f"| {first} | default | |", "| --- | --- | --- |"]
    for name, default, text in rows:
        value = default if default in ("required", "none") else f"`{default}`" if default else "empty"
        lines += [f"| `{name}` | {value} | {html.escape(' '.join(text.split()))} |".replace("\n", " ")]
    return "\n".join(lines)


def _python_pages() -> Iterator[tuple[str, str]]:
    """Each page of the Python reference and the module that it is of."""
    yield from ((f"reference/python/{name}.md", f"jaxbrats.{name}") for name in PACKAGES)


def _python(package: str) -> str:
    """A page of all modules of a package."""
    folder = ROOT / package.replace(".", "/")
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted(folder.rglob("*.py")))
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    # The package's own docstring opens the page; names that it only hands on stand under the modules that they are of.
    opening = f"::: {package}\n    options: {{heading_level: 1, members: false}}"
    return "\n\n".join([opening, *(f"::: {module}" for module in modules if module != package)])


def _links(path: str) -> Iterator[str]:
    """Files of the repository that a page there links to."""
    for link in _LINK.findall((ROOT / path).read_text()):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if (ROOT / target).is_file():
            yield target


def _site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    if path == "README.md":
        return "index.md"
    path = path.removeprefix("docs/")
    return path if path.endswith((".md", *_IMAGES)) else f"{path.removesuffix('.ipynb')}.md"


def _repository_path(path: str) -> str:
    """Where the repository has what the site has at a path."""
    if path == "index.md":
        return "README.md"
    return path if (ROOT / path).is_file() else f"docs/{path}"


def _source(path: str) -> str:
    """A page that shows a file of code."""
    return f"# {path}\n\n~~~~{pathlib.Path(path).suffix.lstrip('.')}\n{(ROOT / path).read_text()}\n~~~~"
