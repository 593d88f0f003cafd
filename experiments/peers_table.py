"""The tables of ours beside a peer's, on the same patients.

    python experiments/peers_table.py --table=compare_nnunet --ours=experiments/results/real_patients_1253_soft.json

makes results/compare_nnunet.md and .json again with scores of other networks of ours, of the same folds and as many
steps, when the recipe has changed and its steps take as long. The peers' scores and all times stay.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import benchmarking
import numpy as np
from absl import flags
from peers_steps import OURS, our_settings

from jaxbrats import commands
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.statistics import describe
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import read_json

FLAGS = flags.FlagValues()
_TABLE = flags.DEFINE_string("table", None, "Name of the files in --results.", required=True, flag_values=FLAGS)
_OURS = flags.DEFINE_string("ours", None, "As real_patients.py writes it.", required=True, flag_values=FLAGS)
_RESULTS = flags.DEFINE_string("results", str(benchmarking.RESULTS), "Folder of the tables.", flag_values=FLAGS)

_NAMES = {"dice": "Dice", "lesion_dice": "lesion-wise Dice (BraTS 2023)"}


def comparison(
    peer: str, ours: Mapping[str, Any], scored: Mapping[int, Any], facts: Mapping[str, str], times: Mapping[str, Any]
) -> dict[str, Any]:
    """Both sides' scores of the patients of the folds that are finished, and what was trained.

    Args:
        peer: Its name.
        ours: As real_patients.py writes it.
        scored: Finished fold -> `scores.json` of the peer.
        facts: What the table says of the peer.
        times: As `peers_steps.measure_steps` returns it.
    """
    theirs = {case: scores for fold in scored.values() for case, scores in fold["cases"].items()}
    return {
        "peer": peer,
        "folds": sorted(scored),
        "of_folds": len(ours["trained_on"]),
        "patients": len(ours["cases"]),
        "trained_on": sorted({ours["trained_on"][fold] for fold in scored}),
        "facts": {OURS: our_facts(times), peer: dict(facts)},
        "peer_steps": sorted({fold["steps"] for fold in scored.values()}),
        "times": times,
        "cases": [
            {"case": one["case"], "fold": one["run"], OURS: one["as predicted"], peer: theirs[one["case"]]}
            for one in ours["cases"]
            if one["case"] in theirs
        ],
    }


def our_facts(times: Mapping[str, Any]) -> dict[str, str]:
    """What the table says of ours; `times` as `peers_steps.measure_steps` returns it."""
    settings = our_settings("", pathlib.Path())
    labels = "soft labels" if settings.data.soft_labels else "single labels"
    thresholds = ", ".join(f"{one:g}" for one in settings.model.thresholds)
    return {
        "network": f"U-Net, features {', '.join(map(str, settings.model.features))}",
        "patch and batch": f"{' x '.join(map(str, settings.data.patch))}, {settings.batch_size}",
        "training": f"configs/brats_3mm.py: AdamW, cosine, Dice + BCE of regions, {labels}, deep supervision, averaged "
        "weights",
        "prediction": f"mirrored in eight ways, thresholds {thresholds}",
        "parameters": f"{times['parameters']:,}",
    }


def with_ours(report: Mapping[str, Any], ours: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A report of comparisons with our side's scores taken from another file.

    Args:
        report: As `peers.compare` writes it.
        ours: As real_patients.py writes it.
        source: Name of its file.

    Raises:
        InputError: these are of other patients, folds or numbers of steps.
    """
    mine = {(one["case"], one["run"]): one["as predicted"] for one in ours["cases"]}
    steps, comparisons = sorted(set(ours["steps"])), []
    for one in report["comparisons"]:
        others = [case for case in one["cases"] if (case["case"], case["fold"]) not in mine]
        if steps != [one["our_steps"]] or others:
            asked = f"{one['our_steps']} steps of the folds that {one['peer']} was trained on"
            raise InputError(f"expected {asked}, found {steps} steps, {len(others)} cases in other folds", file=source)
        cases = [case | {OURS: mine[case["case"], case["fold"]]} for case in one["cases"]]
        facts = {**one["facts"], OURS: our_facts(one["times"])}
        comparisons.append({**one, "cases": cases, "facts": facts, "ours": pathlib.Path(source).name})
    return {**report, "comparisons": comparisons}


def as_markdown(name: str, report: Mapping[str, Any]) -> str:
    """The tables of all comparisons."""
    peers = dict.fromkeys(one["peer"] for one in report["comparisons"])
    lines = [f"# {', '.join(peers)} and {OURS} on the same patients"]
    for one in report["comparisons"]:
        lines += _section(one)
    equal = dict.fromkeys(f"--equal={one['equal']}" for one in report["comparisons"])
    commands = (f"`python experiments/{name}.py --raw=COHORT --workdir=DIR {flag}`" for flag in equal)
    return "\n".join([*lines, "", benchmarking.machine_line(report["machine"]), "", ", ".join(commands), ""])


def _section(one: Mapping[str, Any]) -> list[str]:
    peer, times, facts = one["peer"], one["times"], one["facts"]
    sides, cases = (OURS, peer), one["cases"]
    trained = " or ".join(map(str, one["trained_on"]))
    spacing = " x ".join(f"{size:g}" for size in one["spacing_mm"])
    lines = [
        "",
        f"## {peer}, equal {one['equal']}",
        "",
        f"{_folds(one)}, each predicted by networks trained on the same {trained} others at {spacing} mm, scored on "
        "the files' own voxels. The last checkpoint of both, without post-processing; ours are of "
        f"{one['ours']}. Means with bootstrap 95 % intervals over patients; the difference is ours less the peer's, "
        "patient by patient.",
        "",
        f"| | {' | '.join(REGIONS)} | mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric, title in _NAMES.items():
        values = {side: with_mean([case[side][metric] for case in cases]) for side in sides}
        lines += [f"| {title}, {side} | {_cells(values[side])} |" for side in sides]
        lines.append(f"| difference | {_cells(values[OURS] - values[peer], '+')} |")
    lines += ["", f"| | {OURS} | {peer} |", "| --- | --- | --- |"]
    lines += [f"| {fact} | {facts[OURS][fact]} | {facts[peer][fact]} |" for fact in facts[OURS]]
    lines.append(f"| steps | {one['our_steps']:,} | {' or '.join(f'{steps:,}' for steps in one['peer_steps'])} |")
    lines.append(f"| seconds a step | {' | '.join(benchmarking.range_of(times['rounds'], side) for side in sides)} |")
    return [
        *lines,
        "",
        f"Seconds a step: median (range) of {len(times['rounds'])} rounds of {times['steps_a_round']} steps, loaders "
        f"included, the two in turns. A step of ours takes {benchmarking.ratio_text(times['ratio'])} times the time of "
        "the peer's in the same round. Preparing data, validation and checkpoints are not counted of either.",
    ]


def _folds(one: Mapping[str, Any]) -> str:
    patients = f"{len(one['cases'])} of {one['patients']} patients"
    if len(one["folds"]) == one["of_folds"]:
        return f"{one['of_folds']}-fold cross-validation: {patients}"
    plural = "s" if len(one["folds"]) > 1 else ""
    return f"Fold{plural} {', '.join(map(str, one['folds']))} of {one['of_folds']}, counted from 0: {patients}"


def with_mean(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """WT, TC, ET and their mean of each patient, `(patients, 4)`."""
    values = np.array(scores, float)
    return np.column_stack([values, values.mean(axis=1)])


def _cells(values: np.ndarray, sign: str = "") -> str:
    return " | ".join(benchmarking.interval(describe(column), 3, sign) for column in values.T)


def main() -> int:
    """Makes the tables again."""
    folder = pathlib.Path(_RESULTS.value)
    report = with_ours(read_json(folder / f"{_TABLE.value}.json"), read_json(_OURS.value), _OURS.value)
    benchmarking.write(_TABLE.value, report, as_markdown(_TABLE.value, report), folder)
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "peers_table", sys.argv[1:]))
