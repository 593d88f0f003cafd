"""From the notebook's recipe to that of configs/brats_3mm.py, one change at a time, cross-validated on real patients.

    python experiments/ablation.py --raw=/path/to/BraTS --workdir=runs/ablation [--folds=4] [--epochs=167] [--rungs=3]

Each rung of `LADDER` keeps what those before changed. It is a cross-validation of its own, DIR/RUNG, trained for the
same number of epochs; what changes prediction alone is not trained again but evaluated on copies of the rung before.
`ASIDE` are changes to the last rung that was trained, each by itself. The same command again goes on where it was
stopped; --rungs ends after so many, for pieces of an evening.

    DIR/RUNG.py           the rung as a config, with all that it changes from configs/unet3d.py
    DIR/RUNG/             its folds and their tables, see cross_validate.py
    DIR/ablation.md       a line for each rung: mean over WT, TC and ET with 95 % intervals over patients, what changed
                          from the rung before (of ASIDE, from the last that was trained), patient by patient,
                          seconds a step and parameters
"""

import dataclasses
import itertools
import pathlib
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import cross_validate
import jax
import numpy as np
from absl import flags
from benchmarking import interval

from jaxbrats import commands
from jaxbrats.config import augment
from jaxbrats.config.settings import Settings
from jaxbrats.evaluation import tables
from jaxbrats.evaluation.statistics import describe
from jaxbrats.inference.network import shapes_of
from jaxbrats.runs.evaluate import evaluate_run, is_evaluated
from jaxbrats.runs.record import read_record
from jaxbrats.system.files import read_json, replacing_folder, write_json, write_text
from jaxbrats.train.checkpoints import choose_step
from jaxbrats.train.logs import read_metrics

FLAGS = flags.FlagValues()
_RAW = flags.DEFINE_string("raw", None, "The cohort.", required=True, flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the rungs.", required=True, flag_values=FLAGS)
_BASE = flags.DEFINE_string("base", "configs/unet3d.py", "Config that the ladder begins with.", flag_values=FLAGS)
_FOLDS = flags.DEFINE_integer("folds", 4, "Folds.", 2, flag_values=FLAGS)
_EPOCHS = flags.DEFINE_integer("epochs", 167, "Epochs of each run; of 15 patients 1,253 steps.", 1, flag_values=FLAGS)
_RUNGS = flags.DEFINE_integer("rungs", None, "End after so many rungs.", 1, flag_values=FLAGS)

METRICS = ("dice", "lesion_dice", "hd95_mm")


@dataclasses.dataclass(frozen=True)
class Rung:
    """One change.

    Attributes:
        name: Of its folder.
        settings: Dotted name -> value.
        trains: Whether the network has to be trained for it.
    """

    name: str
    settings: Mapping[str, Any]
    trains: bool = True


def _augment(*names: str) -> dict[str, float]:
    return {f"augment.{name}": augment.NNUNET[name] for name in names}


LADDER = (
    Rung(
        "00_notebook",
        {
            "data.spacing": (3.0, 3.0, 3.0),
            "data.crop": (48, 64, 48),
            "data.min_tumour": 0.0,
            "model.features": (16, 32, 64, 128, 160),
            "validate_every": 25,
        },
    ),
    Rung("01_zscore", {"data.normalization": "zscore"}),
    Rung("02_four_modalities", {"data.modalities": ("t2f", "t1c", "t2w", "t1n")}),
    Rung("03_instance_norm", {"model.norm": "instance", "model.activation": "leaky_relu", "model.dropout": (0.0,)}),
    Rung(
        "04_adamw_cosine",
        {"learning_rate": 1e-3, "schedule": "cosine", "optimizer.name": "adamw", "optimizer.weight_decay": 1e-2}
        | {"optimizer.clip_norm": 1.0},
    ),
    Rung("05_brain_patches", {"data.crop": "brain", "data.patch": (48, 64, 48)}),
    Rung("06_mirrored", _augment("mirror")),
    Rung("07_rotated_scaled", _augment("rotation", "scaling")),
    Rung("08_intensities", _augment(*augment.NNUNET.keys() - {"mirror", "rotation", "scaling"})),
    Rung(
        "09_more_augmentation",
        {"augment.rotation": 0.4, "augment.scaling": 0.4, "augment.elastic": 0.2, "augment.bias_field": 0.2}
        | {"augment.brightness": 0.3, "augment.contrast": 0.3},
    ),
    Rung("10_regions", {"model.head": "regions", "loss.terms": {"dice": 1.0, "bce": 1.0}}),
    Rung("11_deep_supervision", {"model.deep_supervision": True}),
    Rung("12_ema", {"ema": 0.99}),
    Rung("13_soft_labels", {"data.soft_labels": True}),
    Rung("14_mirrored_prediction", {"inference.mirror": True}, trains=False),
    Rung("15_postprocessing", {"postprocessing.component_mm3": 1000.0, "postprocessing.core_mm3": 200.0}, False),
    Rung("16_threshold", {"model.thresholds": (0.5, 0.5, 0.3)}, trains=False),
)
ASIDE = (
    Rung("aside_dice_per_case", {"loss.dice_per": "case"}),
    Rung("aside_residual", {"model.block": "residual", "model.decoder_block": "single", "model.downsample": "conv"}),
    Rung("aside_attention", {"model.attention_gates": True}),
)


def main() -> int:
    """Trains or evaluates what is not done yet, and prints the table."""
    folder = pathlib.Path(_WORKDIR.value)
    rungs = [*LADDER, *ASIDE][: _RUNGS.value]
    changed: dict[str, Any] = {"data.raw_dir": _RAW.value, "num_epochs": _EPOCHS.value}
    trained, before, last_trained, lines, codes = {}, None, None, [], []
    for rung in rungs:
        on_ladder = rung in LADDER
        values = (changed if on_ladder else trained) | rung.settings
        print(f"== {rung.name}", flush=True)
        code = train(folder, rung, values) if rung.trains else evaluate(folder, rung, before)
        if code > 1 or not (folder / rung.name / "cases.csv").exists():
            return code or 1  # it has said why
        codes.append(code)
        lines.append(line(folder, rung, before if on_ladder else last_trained))
        if on_ladder:
            changed, before = values, rung
            if rung.trains:
                trained, last_trained = values, rung
        write_text(folder / "ablation.md", table(lines))
    print(table(lines))
    return int(any(codes))


def train(folder: pathlib.Path, rung: Rung, values: Mapping[str, Any]) -> int:
    """Cross-validates a rung, or goes on with that; returns the exit code."""
    write_text(folder / f"{rung.name}.py", config_text(values))
    arguments = [f"--config={folder / f'{rung.name}.py'}", f"--workdir={folder / rung.name}", f"--folds={_FOLDS.value}"]
    return commands.run_program(cross_validate, "cross_validate", arguments)


def config_text(values: Mapping[str, Any]) -> str:
    """A config file with these settings changed from the base."""
    lines = ["from jaxbrats import config", "", "", "def get_config():"]
    lines.append(f"    settings = config.load_config({str(pathlib.Path(_BASE.value).resolve())!r})")
    lines += [f"    settings.{name} = {value!r}" for name, value in values.items()]
    return "\n".join([*lines, "    return settings", ""])


def evaluate(folder: pathlib.Path, rung: Rung, before: Rung) -> int:
    """Evaluates copies of the rung before with other settings of prediction."""
    rows, problems = [], []
    for fold in range(_FOLDS.value):
        source, run = folder / before.name / f"fold_{fold}", folder / rung.name / f"fold_{fold}"
        if not run.is_dir() or _network_of(run) != _network_of(source):
            _copy(source, run, rung.settings)
        record = read_record(run)
        if not is_evaluated(record, choose_step(run, "best")):
            problems += evaluate_run(run, data_dir=folder / _arrays_of(before) / "data")[1]
        rows += cross_validate.scores(record)
    tables.write_csv(folder / rung.name / "cases.csv", rows)
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return int(bool(problems))


def _network_of(run: pathlib.Path) -> tuple[int, Any]:
    """The step of the best checkpoint, and its checksums."""
    step = choose_step(run, "best")
    return step, read_json(run / "checkpoints" / str(step) / "checksums.json")


def _copy(source: pathlib.Path, run: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """A run with other settings of prediction in its record; whole or not there."""
    left_out = shutil.ignore_patterns("evaluation", "figures", "predictions")
    with replacing_folder(run) as new:
        shutil.copytree(source, new, ignore=left_out, dirs_exist_ok=True)
        record = read_json(new / "config.json")
        for name, value in settings.items():
            group, setting = name.split(".")
            record["settings"][group][setting] = value
        write_json(new / "config.json", record)


def _arrays_of(rung: Rung) -> str:
    """The rung at or before this one that was trained, whose arrays it has."""
    place = LADDER.index(rung)
    return next(one.name for one in reversed(LADDER[: place + 1]) if one.trains)


def line(folder: pathlib.Path, rung: Rung, before: Rung | None) -> list[str]:
    """The cells of a rung."""
    patients, numbers = of_patients(folder, rung)
    cells = []
    for metric in METRICS:
        cell = interval(describe(numbers[metric]), 1 if metric.endswith("_mm") else 3)
        if before is not None and metric == "dice":
            others, then = of_patients(folder, before)
            alike = others == patients  # else a case could not be scored
            cell += f" | {interval(describe(np.subtract(numbers[metric], then[metric])), 3, '+') if alike else '-'}"
        elif metric == "dice":
            cell += " | "
        cells.append(cell)
    run = folder / rung.name / "fold_0"
    settings = read_record(run).settings
    return [rung.name, *cells, f"{seconds_a_step(run):.2f}" if rung.trains else "", f"{parameters(settings) / 1e6:.2f}"]


def of_patients(folder: pathlib.Path, rung: Rung) -> tuple[list[str], dict[str, list[float]]]:
    """The patients, and metric -> mean over the regions of each."""
    record = read_record(folder / rung.name / "fold_0")
    rows = sorted(tables.read_csv(folder / rung.name / "cases.csv"), key=lambda row: str(row["case"]))
    patients = {name: case.patient for name, case in record.cases.items()}
    names = list(dict.fromkeys(patients[str(row["case"])] for row in rows))
    return names, cross_validate.by_patient(rows, patients)[cross_validate.MEAN]


def seconds_a_step(run: pathlib.Path) -> float:
    """Median of the times between steps of one epoch, as the log has them."""
    steps = [entry for entry in read_metrics(run) if entry["split"] == "train"]
    pairs = itertools.pairwise(steps)
    times = [later["seconds"] - sooner["seconds"] for sooner, later in pairs if later["epoch"] == sooner["epoch"]]
    return statistics.median(times) if times else float("nan")


def parameters(settings: Settings) -> int:
    """Numbers that are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(settings)["params"]))


def table(lines: Sequence[Sequence[str]]) -> str:
    """All rungs."""
    head = "| rung | Dice | change | lesion-wise Dice | HD95, mm | s a step | million parameters |"
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- | --- |", *rows, ""])


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "ablation", sys.argv[1:]))
