"""The floors of the package: what each module imports, inside functions too, lies on its own floor or below."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "jaxbrats"
# From the top. On one floor, model, data and synthetic stand beside each other and know nothing of one another.
FLOORS = (
    {"commands"},
    {"runs"},
    {"report"},
    {"evaluation"},
    {"inference"},
    {"train"},
    {"model", "data", "synthetic"},
    {"config"},
    {"system"},
)
SUBPACKAGES = {
    "commands",
    "config",
    "data",
    "data/check",
    "data/raw",
    "evaluation",
    "inference",
    "model",
    "model/native",
    "report",
    "runs",
    "runs/planning",
    "synthetic",
    "system",
    "train",
}
# Labels are numbers with names, which every floor may know.
LABELS = "jaxbrats.data.labels"


def name_of(path, root):
    parts = ("jaxbrats", *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_package(root):
    """The syntax tree of every module by its dotted name."""
    return {name_of(path, root): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}


def imported(tree):
    """Dotted names that a module imports, of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(trees):
    """Which modules of the package each one imports; `from package import module` is the module's import alone."""
    graph = {}
    for name, tree in trees.items():
        found = {other for other in imported(tree) if other in trees}
        packages = {other for other in found if any(longer.startswith(f"{other}.") for longer in found)}
        graph[name] = found - packages - {name}
    return graph


def floor(name):
    part = name.split(".")[1]
    return next((number for number, floor in enumerate(FLOORS) if part in floor), None)


def wrong_imports(graph):
    """Each import that goes upwards, or sideways between model, data and synthetic, as 'from -> to'."""
    wrong = []
    for name, others in graph.items():
        for other in others:
            if "." not in name or name in ("jaxbrats.main", "jaxbrats.__main__", "jaxbrats.api"):
                continue  # the entries stand above all floors
            if "." not in other or floor(other) is None:
                allowed = other == "jaxbrats" or floor(name) == 0
            elif other == LABELS and floor(name) <= floor(LABELS):
                allowed = True
            elif floor(name) == floor(other):
                allowed = name.split(".")[1] == other.split(".")[1]
            else:
                allowed = floor(name) < floor(other)
            if not allowed:
                wrong.append(f"{name} -> {other}")
    return sorted(wrong)


def cycles(graph):
    """Import cycles, each as the modules along it."""
    found, done, path = [], set(), []

    def visit(name):
        if name in path:
            found.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        done.add(path.pop())

    for name in graph:
        visit(name)
    return found


@pytest.fixture(scope="module")
def trees():
    return read_package(PACKAGE)


def test_every_part_of_the_house_is_there(trees):
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")}
    assert folders >= SUBPACKAGES
    assert {name.split(".")[1] for name in trees if "." in name} == {
        *set().union(*FLOORS),
        "api",
        "main",
        "__main__",
    }
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert (folder / "__init__.py").exists()


def test_imports_go_down_the_floors(trees):
    assert wrong_imports(import_graph(trees)) == []


def test_there_are_no_import_cycles(trees):
    assert cycles(import_graph(trees)) == []


def test_nothing_imports_the_commands_or_the_entry(trees):
    allowed = ("jaxbrats.main", "jaxbrats.__main__", "jaxbrats.api", "jaxbrats.commands")
    top = {
        f"{name} -> {other}"
        for name, tree in trees.items()
        for other in imported(tree)
        if other.startswith(("jaxbrats.commands", "jaxbrats.main")) and not name.startswith(allowed)
    }
    assert top == set()


def test_private_names_of_jax_are_in_one_place(trees):
    users = {name for name, tree in trees.items() if any(other.startswith("jax._src") for other in imported(tree))}
    assert users <= {"jaxbrats.system.distributed"}


def test_the_check_finds_what_it_looks_for(tmp_path):
    """A small package with an upward import in a function, a neighbour, the labels, and a cycle."""
    files = {
        "__init__": "",
        "data/__init__": "",
        "data/labels": "import jaxbrats.system.files",
        "data/split": "from jaxbrats.data import loader",
        "data/loader": "def read():\n    from jaxbrats.data.split import sides",
        "model/__init__": "",
        "model/counts": "from jaxbrats.data.labels import REGIONS\nfrom jaxbrats.data.split import sides",
        "system/__init__": "",
        "system/files": "def work():\n    from jaxbrats.data import labels",
        "train/__init__": "",
        "train/loop": "from jaxbrats import main\nfrom jaxbrats.system import files",
        "main": "from jaxbrats.train import loop",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    graph = import_graph(read_package(tmp_path))
    assert wrong_imports(graph) == [
        "jaxbrats.model.counts -> jaxbrats.data.split",
        "jaxbrats.system.files -> jaxbrats.data.labels",
        "jaxbrats.train.loop -> jaxbrats.main",
    ]
    assert ["jaxbrats.data.loader", "jaxbrats.data.split", "jaxbrats.data.loader"] in cycles(graph)
    assert ["jaxbrats.main", "jaxbrats.train.loop", "jaxbrats.main"] in cycles(graph)
