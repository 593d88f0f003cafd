import dataclasses
import json
import pathlib
import re

import jax
import nibabel
import numpy as np
import pytest

from jaxbrats import commands, main
from jaxbrats.commands import plan as command
from jaxbrats.config import from_config, load_config
from jaxbrats.data.raw.geometry import Frame
from jaxbrats.runs.planning import proposal
from jaxbrats.runs.planning.facts import Facts, measure
from jaxbrats.runs.planning.proposal import propose
from jaxbrats.runs.planning.text import config_text
from jaxbrats.system.errors import InputError
from jaxbrats.train.compilation import step_memory

FACTS = Facts(
    raw_dir=pathlib.Path("/data/brats"),
    found=101,
    modalities=("t2f", "t1c", "t2w"),
    lacking={"t1n": 2},
    frame=Frame("LPS", (1.0, 1.0, 1.0)),
    spacings=((1.0, 1.0), (1.0, 1.0), (0.9, 1.2)),
    boxes=((138, 173, 138),) * 100,
    tumours=(0.001, *(0.05,) * 99),
)
GB = 10**9


@pytest.fixture
def small_networks(monkeypatch):
    """Of two levels, for patches of the whole brain or nearly, with the convolution that compiles in a second."""

    def account(settings, mesh):
        return step_memory(dataclasses.replace(settings, conv="direct"), mesh)

    monkeypatch.setattr(proposal, "step_memory", account)
    monkeypatch.setattr(proposal, "FEATURES", (4, 6))
    short = ("data.normalization", "data.min_tumour", "model.norm", "model.dropout", "model.head", "loss.terms")
    monkeypatch.setattr(proposal, "RECIPE", {name: proposal.RECIPE[name] for name in short})
    monkeypatch.setattr(proposal, "SHARE_BEFORE_REMAT", 0.9)
    monkeypatch.setattr(proposal, "LEAST_SHARE", 0.8)


@pytest.fixture
def counted(monkeypatch):
    """An account of 600 bytes a voxel, half of it where activations are computed again; what was asked for."""
    asked = []

    def account(settings, mesh):
        asked.append(settings)
        voxels = settings.batch_size * np.prod(settings.data.patch)
        return int(voxels * (300 if settings.remat else 600))

    monkeypatch.setattr(proposal, "step_memory", account)
    return asked


def plan(raw, out, memory="8GB"):
    return commands.run(["plan", f"--raw={raw}", f"--memory={memory}", f"--out={out}", "--workers=1"])


@pytest.mark.slow
def test_a_plan_fits_and_trains(tiny_cohort, tmp_path, small_networks, training_alone, capsys):
    out = tmp_path / "planned.py"
    assert plan(tiny_cohort, out, "100MB") == 0
    assert "patch 18x22x18, 2 levels, batch 2; a step takes" in capsys.readouterr().out
    settings = from_config(load_config(out))
    assert settings.data.modalities == ("t2f", "t1c", "t2w", "t1n")
    assert (settings.data.crop, settings.data.patch) == ("brain", (18, 22, 18))
    assert settings.data.raw_dir == str(tiny_cohort)
    assert settings.model.features == (4, 6)
    # What the file rests on is what XLA says of what it proposes, and below what JAX may take.
    said = int(re.search(r"\(([\d,]+) bytes\)", out.read_text())[1].replace(",", ""))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "space"))
    assert said == step_memory(dataclasses.replace(settings, conv="direct"), mesh) < 0.9 * 100e6
    assert "Compiled for a CPU" in out.read_text()
    workdir = tmp_path / "run"
    flags = ["--config.num_epochs=1", "--config.conv=direct", "--config.data.workers=1"]
    assert main.run([f"--config={out}", f"--workdir={workdir}", *flags]) == 0
    steps = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in steps if record["split"] == "train"]
    assert len(losses) >= 2
    assert np.isfinite(losses).all()


def test_less_memory_gives_a_smaller_patch(tiny_cohort, small_networks):
    facts = measure(tiny_cohort, workers=1)
    whole = propose(facts, GB, jax.devices()[0])
    limit = whole.needed_bytes - 1
    smaller = propose(facts, int(limit / 0.9), jax.devices()[0])
    assert smaller.needed_bytes <= limit < whole.needed_bytes
    assert np.prod(smaller.settings["data.patch"]) < np.prod(whole.settings["data.patch"])


def test_what_is_measured_is_what_preprocessing_makes(tiny_cohort, tmp_path):
    facts = measure(tiny_cohort, workers=1)
    out = tmp_path / "data"
    assert commands.run(
        ["preprocess", f"--raw={tiny_cohort}", f"--out={out}", "--crop=brain", "--min_tumour=0", "--workers=1"]
    ) == 0  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    records = manifest["cases"]
    assert facts.frame == Frame.from_dict(manifest["frame"])
    assert facts.boxes == tuple(np.load(out / "masks" / f"{name}.npy").shape for name in records)
    assert facts.tumours == tuple(record["tumour_fraction"] for record in records.values())
    assert facts.box == tuple(np.ceil(np.median(facts.boxes, axis=0)))


@pytest.mark.parametrize(
    ("memory", "patch", "remat", "batch"),
    [
        (40, (160, 192, 160), False, 4),  # 4 are the most that 5 % of 100 cases allow with doubling
        (10, (160, 192, 160), False, 2),
        (4, (128, 128, 160), False, 2),
        (1.2, (80, 96, 96), False, 2),
        (0.9, (96, 112, 112), True, 2),
    ],
)
def test_the_patch_shrinks_then_activations_are_computed_again(counted, memory, patch, remat, batch):
    found = propose(FACTS, int(memory * GB), jax.devices()[0])
    assert found.settings["data.patch"] == patch
    assert found.settings.get("remat", False) == remat
    assert found.settings["batch_size"] == batch
    # Steps and the two batches that wait, in what JAX may take.
    voxels = batch * np.prod(patch)
    assert found.needed_bytes == found.step_bytes + 2 * 13 * voxels <= found.limit_bytes == int(0.9 * memory * GB)
    assert len(counted) <= 12


def test_a_device_where_it_saves_nothing_computes_nothing_again(counted, monkeypatch):
    monkeypatch.setattr(proposal, "step_memory", lambda settings, mesh: 600 * 2 * int(np.prod(settings.data.patch)))
    found = propose(FACTS, int(0.9 * GB), jax.devices()[0])
    assert found.settings["data.patch"] == (80, 80, 96)
    assert "remat" not in found.settings


def test_each_number_has_its_reason(counted, tmp_path):
    folder = pathlib.Path('/data/a """ \\ b\n')  # a name may hold anything
    thick = Frame("LPS", (1.0, 1.0, 5.0))
    facts = dataclasses.replace(FACTS, raw_dir=folder, frame=thick, boxes=((138, 173, 28),) * 100)
    found = propose(facts, int(0.5 * GB), jax.devices()[0])
    out = tmp_path / "planned.py"
    out.write_text(config_text(facts, found, "planned.py", "--memory=500MB"))
    settings = from_config(load_config(out))
    assert settings in counted
    assert settings.data.raw_dir == str(folder)
    assert settings.model.strides[:2] == ((2, 2, 1), (2, 2, 1))
    assert settings.model.kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    text = out.read_text()
    for reason in (
        "What every case with a segmentation has: 2 cases have no t1n. To use what only some cases have, set data.inc",
        "they have 1 x 1 x 0.9 to 1.2. One axis is 5.0 times as coarse as another.",
        "in 1 of 100 cases less than the default's 1 %.",
        "made shorter from 138x173x28 along the axis that is longest in mm; a multiple of 16x16x4, by which",
    ):
        assert reason in " ".join(text.replace("\n    #", " ").split())
    assert max(map(len, text.splitlines())) <= 120
    stated = [number for number, line in enumerate(text.splitlines()) if line.startswith("    settings.")]
    recipe = sum(f"settings.{name} = " in text for name in proposal.RECIPE)
    assert recipe == len(proposal.RECIPE)
    assert sum(text.splitlines()[number - 1].startswith("    # ") for number in stated) == len(stated) - recipe + 2


def test_the_recipe_is_that_of_the_config_for_real_cohorts():
    settings = load_config("configs/brats.py").to_dict()
    for name, value in proposal.RECIPE.items():
        found = settings
        for part in name.split("."):
            found = found[part]
        assert found == value, name


def test_a_device_that_is_too_small_is_told(counted):
    with pytest.raises(InputError, match=r"smallest patch, 40x48x48, needs 0\.\d+ GiB.*Use a device with more memory"):
        propose(FACTS, GB // 100, jax.devices()[0])
    with pytest.raises(InputError, match="brains of 8 voxels along an axis or more, found 5x5x5"):
        propose(dataclasses.replace(FACTS, boxes=((5, 5, 5),)), GB, jax.devices()[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"memory": "lots"}, "--memory: expected a size such as 8GB, 11GiB or 900MB, found 'lots'"),
        ({"memory": "8"}, "--memory: expected a size such as 8GB"),
        ({"raw": "/nowhere"}, "/nowhere: there is no such folder"),
        ({"out": "plan.txt"}, "--out: expected the name of a new file, FILE.py, found plan.txt"),
        ({"out": __file__}, "found test_plan.py, which is there already"),
    ],
)
def test_what_cannot_be_planned_is_one_line(tiny_cohort, tmp_path, capsys, flags, message):
    arguments = {"raw": tiny_cohort, "out": tmp_path / "planned.py"} | flags
    assert plan(**arguments) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_a_card_is_planned_for_by_its_description(tiny_cohort, tmp_path, small_networks, monkeypatch, capsys):
    """As far as that goes without JAX's CUDA plugin: a CPU stands in for what the description gives."""
    asked = []
    monkeypatch.setattr(command, "compile_for_descriptions", lambda: None)
    monkeypatch.setattr(command, "described_gpus", lambda card: asked.append(card) or jax.devices()[2:])
    out = tmp_path / "planned.py"
    arguments = ["plan", f"--raw={tiny_cohort}", "--card=rtx4090", f"--out={out}", "--workers=1"]
    assert commands.run(arguments) == 0
    assert asked == ["rtx4090"]
    assert f" of {0.9 * 25_757_220_864 / proposal.GIB:.2f} GiB" in capsys.readouterr().out
    assert f"plan --raw={tiny_cohort} --card=rtx4090 --out={out}\n" in out.read_text()


def test_without_memory_and_card_there_is_nothing_to_plan_for(tiny_cohort, tmp_path, capsys):
    assert commands.run(["plan", f"--raw={tiny_cohort}", f"--out={tmp_path / 'planned.py'}"]) == 1
    assert "expected --memory=8GB, that of the device that will train, or --card" in capsys.readouterr().err


def test_a_cohort_without_segmentations_is_refused(tmp_path, capsys):
    folder = tmp_path / "raw" / "BraTS-GLI-00000-000"
    folder.mkdir(parents=True)
    image = nibabel.Nifti1Image(np.ones((8, 8, 8), np.int16), np.eye(4))
    nibabel.save(image, folder / f"{folder.name}-t1c.nii.gz")
    assert plan(tmp_path / "raw", tmp_path / "planned.py") == 1
    assert "found no segmentation that can be read. jaxbrats check --raw=" in capsys.readouterr().err
