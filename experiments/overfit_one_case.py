"""Can the network learn one case by heart? If it cannot, something between the files and the loss is wrong.

    python experiments/overfit_one_case.py [--case=FOLDER] [--out=experiments/results/overfit_one_case]

Preprocesses one case (a synthetic one of 240x240x155 voxels if none is given) and trains on it alone, with the
library's own pieces, until the mean Dice of WT, TC and ET on it is above --target or --steps are done. Every few steps
the case is predicted without dropout and scored; the exit code is 1 if --target was not reached.

The defaults are made for two CPU cores and ten minutes: the middle 96x96x96 voxels, z-scores, the network of
configs/quickstart.py (8 to 64 features, instance norm), Adam at 5e-3 with a cosine schedule, Dice and focal loss. Half
the features of configs/unet3d.py are plenty for one case, and instance norm lets the learning rate be that high.
"""

import pathlib
import sys
import tempfile
import time
from typing import Any

import benchmarking
import jax
import numpy as np
from absl import flags

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config import Data, Mesh, Model, Settings
from jaxbrats.data.labels import DEFAULT_MODALITIES, REGIONS
from jaxbrats.data.preprocessing import Preprocessing, preprocess_case
from jaxbrats.inference.validation import jit_validation_step
from jaxbrats.model import counts
from jaxbrats.model.losses import make_loss
from jaxbrats.system import files
from jaxbrats.system.errors import InputError
from jaxbrats.system.gc_paused import gc_paused
from jaxbrats.train.mesh import make_mesh, put_batch, replicate
from jaxbrats.train.optimizer import make_optimizer
from jaxbrats.train.state import init_state, make_model
from jaxbrats.train.step import jit_train_step

FLAGS = flags.FlagValues()
_CASE = flags.DEFINE_string("case", None, "Folder of a case; a synthetic one if not given.", flag_values=FLAGS)
_OUT = flags.DEFINE_string(
    "out", None, "Where to write OUT.json, OUT.md and OUT.png; nowhere if not given.", flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer("steps", 240, "Most steps.", 1, flag_values=FLAGS)
_EVERY = flags.DEFINE_integer("every", 10, "Steps between two scores.", 1, flag_values=FLAGS)
_TARGET = flags.DEFINE_float("target", 0.95, "Mean region Dice at which the case is learnt.", 0, 1, flag_values=FLAGS)
_CROP = flags.DEFINE_list("crop", ["96", "96", "96"], "Voxels to learn, about the centre.", flag_values=FLAGS)
_FEATURES = flags.DEFINE_list("features", ["8", "16", "32", "64"], "Of the network's levels.", flag_values=FLAGS)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 5e-3, "Adam's, at its peak.", 0, flag_values=FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "Of the parameters.", 0, flag_values=FLAGS)


def settings_of_flags() -> Settings:
    """The run as the command line describes it.

    Raises:
        InputError: a setting that cannot be.
    """
    try:
        crop, features = tuple(map(int, _CROP.value)), tuple(map(int, _FEATURES.value))
    except ValueError as error:
        raise InputError("--crop and --features take whole numbers such as 96,96,96") from error
    return Settings(
        seed=_SEED.value,
        batch_size=1,
        num_epochs=_STEPS.value,
        learning_rate=_LEARNING_RATE.value,
        schedule="cosine",
        mesh=Mesh(data=1),
        data=Data(modalities=DEFAULT_MODALITIES, crop=crop, normalization="zscore", min_tumour=0.0),
        model=Model(features=features, norm="instance", dropout=(0.0,)),
    )


def overfit(
    image: np.ndarray, labels: np.ndarray, settings: Settings, target: float, every: int
) -> list[dict[str, float]]:
    """Trains on one case.

    Args:
        image: `(X, Y, Z, C)`.
        labels: `(X, Y, Z)`.
        settings: The run; `num_epochs` is the most steps.
        target: Mean region Dice at which to stop.
        every: Steps between two scores.

    Returns:
        Of each scored step: step, seconds since the start (compilation among them), loss, WT, TC, ET and mean.
    """
    begun = time.perf_counter()
    mesh = make_mesh(1, 1, 1)
    model = make_model(settings)
    optimizer = make_optimizer(settings.learning_rate, settings.schedule, settings.num_epochs)
    loss = make_loss(settings.loss)
    batch = put_batch(mesh, {"image": image[None], "labels": labels[None]})
    with gc_paused():
        state = replicate(mesh, init_state(model, optimizer, settings.seed, image.shape[-1]))
    key = replicate(mesh, jax.random.key(settings.seed))
    train, validate = jit_train_step(mesh, model, optimizer, loss), jit_validation_step(mesh, model, loss)
    curve = []
    for step in range(1, settings.num_epochs + 1):
        state, _ = train(state, batch, key)
        if step % every and step != settings.num_epochs:
            continue
        result = jax.device_get(validate(state, batch))
        dice = {name: float(counts.region_dice(result.counts.confusion[0], region)) for name, region in REGIONS.items()}
        row = {"step": step, "seconds": time.perf_counter() - begun, "loss": float(result.loss[0]), **dice}
        row["mean"] = sum(dice.values()) / len(dice)
        curve.append(row)
        print(
            f"step {step:4d}  {row['seconds']:6.1f} s  loss {row['loss']:.4f}  "
            + "  ".join(f"{name} {value:.3f}" for name, value in dice.items())
            + f"  mean {row['mean']:.3f}",
            flush=True,
        )
        if row["mean"] > target:
            break
    return curve


def as_markdown(report: dict[str, Any]) -> str:
    """The report as a table of seven points of the curve, the last among them."""
    curve = report["curve"]
    shown = sorted({round(part * (len(curve) - 1) / 6) for part in range(7)})
    rows = [
        f"| {row['step']} | {row['seconds']:.0f} | {row['loss']:.3f} | "
        + " | ".join(f"{row[name]:.3f}" for name in (*REGIONS, "mean"))
        + " |"
        for row in (curve[place] for place in shown)
    ]
    reached = next((row for row in curve if row["mean"] > 0.9), None)
    above = f"Above 0.9 after {reached['seconds']:.0f} s. " if reached else "0.9 was not reached. "
    settings = report["settings"]
    return "\n".join(
        [
            "# One case learnt by heart",
            "",
            f"| step | seconds | loss | {' | '.join(REGIONS)} | mean |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"{above}Seconds since training began, compilation and scoring among them.",
            "",
            f"{'A synthetic' if report['synthetic'] else 'A real'} case, crop {'x'.join(map(str, settings['crop']))}. "
            "Features "
            f"{', '.join(map(str, settings['features']))}, instance norm, Adam at {settings['learning_rate']:g}, "
            f"cosine schedule over {settings['steps']} steps, float32.",
            "",
            benchmarking.machine_line(report["machine"]),
            "",
            "`python experiments/overfit_one_case.py`",
            "",
        ]
    )


def plot(curve: list[dict[str, float]], path: pathlib.Path) -> None:
    """Dice of the regions over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name in (*REGIONS, "mean"):
        style = {"color": "black", "linewidth": 2} if name == "mean" else {}
        axes.plot([row["step"] for row in curve], [row[name] for row in curve], label=name, **style)
    axes.axhline(0.9, color="grey", linestyle=":")
    axes.set(xlabel="step", ylabel="Dice", ylim=(0, 1), title="One case learnt by heart")
    axes.legend()
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> int:
    """Trains, prints the curve, and writes it where asked to."""
    prepare_jax()
    settings = settings_of_flags()
    modalities = settings.data.modalities
    with tempfile.TemporaryDirectory() as temporary:
        case = benchmarking.case_to_measure(_CASE.value, modalities, pathlib.Path(temporary))
        image, labels, record = preprocess_case(case, Preprocessing.of(settings.data))
    if image is None:
        raise InputError(record["reason"], case=case.name)
    curve = overfit(image, labels, settings, _TARGET.value, _EVERY.value)
    report = {
        "machine": benchmarking.machine(("jax", "flax", "optax", "numpy")),
        "synthetic": _CASE.value is None,
        "settings": {
            "crop": settings.data.crop,
            "features": settings.model.features,
            "learning_rate": settings.learning_rate,
            "steps": settings.num_epochs,
            "seed": settings.seed,
        },
        "curve": [{name: round(value, 4) for name, value in row.items()} for row in curve],
    }
    print(as_markdown(report))
    if _OUT.value:
        out = pathlib.Path(_OUT.value)
        files.write_json(out.with_suffix(".json"), report)
        files.write_text(out.with_suffix(".md"), as_markdown(report))
        plot(curve, out.with_suffix(".png"))
    return 0 if curve[-1]["mean"] > _TARGET.value else 1


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "overfit_one_case", sys.argv[1:]))
