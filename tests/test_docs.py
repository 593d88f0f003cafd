"""What README.md and docs/ name exists, files, commands, flags and settings; the examples of own code work."""

import dataclasses
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from jaxbrats import commands
from jaxbrats.config.settings import Settings
from jaxbrats.config.typed import type_of
from jaxbrats.system.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "docs").rglob("*.ipynb"))]
EXTEND = ROOT / "docs" / "howto" / "extend.md"
WALKTHROUGH = ROOT / "docs" / "notebooks" / "walkthrough.ipynb"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def page(request):
    return request.param


@pytest.fixture
def text(page):
    """Of a notebook that of its cells, without their output."""
    if page.suffix == ".md":
        return page.read_text()
    return "\n".join("".join(cell["source"]) for cell in json.loads(page.read_text())["cells"])


@pytest.fixture
def spans(text):
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def test_links_lead_to_files(page, text):
    links = re.findall(r"\]\((?!\w+:)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_files_that_are_named_exist(text):
    named = re.findall(r"\b(?:configs|experiments|jaxbrats|tests)/[\w/]+\.(?:py|sbatch|md|png)\b", text)
    assert sorted({name for name in named if not (ROOT / name).is_file()}) == []


def test_commands_and_their_flags_exist(text, spans):
    lines = [line for _, block in BLOCK.findall(text) for line in block.splitlines()] + spans
    wrong = []
    for name, rest in (use for line in lines for use in re.findall(r"\bjaxbrats ([a-z]+)\b(.*)", line)):
        if name not in commands.COMMANDS:
            wrong.append(name)
        elif name != "train":
            known = importlib.import_module(f"jaxbrats.commands.{name}").FLAGS
            wrong += [f"{name} --{flag}" for flag in re.findall(r"--(\w+)", rest) if flag not in (*known, "help")]
    assert wrong == []


def test_settings_exist(text, spans):
    groups = "|".join(name for name, value in vars(Settings()).items() if dataclasses.is_dataclass(value))
    named = re.findall(r"--config\.([a-z][\w.]*\w)", text)
    named += [name for span in spans for name in re.findall(rf"^((?:{groups})\.[a-z]\w+)(?:=|$)", span)]
    added = re.findall(r"^\+ {4}(\w+): ", text, re.MULTILINE)  # by an example
    wrong = []
    for name in named:
        try:
            type_of(Settings, name)
        except InputError as error:
            wrong += [] if name.rpartition(".")[2] in added else [str(error)]
    assert wrong == []


TRY_EXTENSIONS = """
import jax, jax.numpy as jnp, numpy as np
from jaxbrats.config import from_config
from jaxbrats.model.augment.intensity import TRANSFORMS
from jaxbrats.model.losses import make_loss, soft_dice_loss
from jaxbrats.train.state import make_head, make_model

settings = from_config({
    "conv": "direct", "loss": {"terms": {"dice": 0.0, "focal": 0.0, "log_cosh_dice": 1.0}},
    "augment": {"spike": 0.5}, "data": {"modalities": ["t2f"]},
    "model": {"features": [4, 6], "dropout": [0.0], "block": "dense", "head": "nested"},
})
rng = np.random.default_rng(0)
logits = rng.normal(size=(1, 2, 3, 2, 3)).astype(np.float32)
labels = rng.integers(0, 4, (1, 2, 3, 2))
head, loss = make_head(settings), make_loss(settings.loss, make_head(settings))

@jax.jit
def everything(logits, labels, volume):
    p = head.probabilities(logits)
    dice = soft_dice_loss(p, head.targets(labels))
    likelihood = head.log_likelihood(logits, labels)
    spike = TRANSFORMS["spike"].apply(jax.random.key(1), volume, 0.5)
    again, inside = head.probabilities(head.logits(p)), head.targets(labels) > 0
    return p, again, likelihood, inside, dice, loss(logits, labels), spike

volume = rng.normal(size=(16, 16, 16)).astype(np.float32)
p, again, likelihood, inside, dice, total, spike = map(np.asarray, everything(logits, labels, volume))
assert (np.diff(p, axis=-1) <= 0).all()
np.testing.assert_allclose(again, p, rtol=1e-5)
np.testing.assert_allclose(likelihood, np.log(np.where(inside, p, 1 - p)), rtol=1e-4)
np.testing.assert_allclose(total, np.log(np.cosh(dice)), rtol=1e-5)
assert 0.2 < (spike - volume).std() < 0.5
image = jax.ShapeDtypeStruct((1, 8, 8, 8, 1), jnp.float32)
model = make_model(settings)
out, variables = jax.eval_shape(lambda image: model.init_with_output(jax.random.key(0), image, False), image)
assert out.shape == (1, 8, 8, 8, 3)
kernels = {name: leaf["kernel"].shape for name, leaf in variables["params"]["encoder_0"].items()}
assert kernels["conv_1"][-2:] == (4 + 1, 4), kernels
"""


def test_examples_of_own_code_work(tmp_path):
    """Each applies to the code as it is, and all together do what they say."""
    shutil.copytree(ROOT / "jaxbrats", tmp_path / "jaxbrats", ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    patches = [block for kind, block in BLOCK.findall(EXTEND.read_text()) if kind == "diff"]
    assert len(patches) == 4
    for patch in patches:
        subprocess.run(["git", "apply", "-"], input=patch, text=True, cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-c", TRY_EXTENSIONS], cwd=tmp_path, check=True)


def test_walkthrough_is_committed_as_it_was_executed():
    cells = [cell for cell in json.loads(WALKTHROUGH.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 7


@pytest.mark.slow
def test_walkthrough_runs(tmp_path, monkeypatch):
    """Where the extra docs is installed: jupyter execute --inplace docs/notebooks/walkthrough.ipynb does it again."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("XLA_FLAGS", "")  # as a reader's process has it, not the suite's
    notebook = nbformat.read(WALKTHROUGH, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    table = notebook.cells[-2].outputs[0]["text"].splitlines()
    assert float(next(line for line in table if line.startswith("WT")).split()[1]) > 0.6
