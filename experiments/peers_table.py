"""The tables of ours beside a peer's, on the same patients."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import benchmarking
import numpy as np
from peers_steps import OURS, our_settings

from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.statistics import describe

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
    settings = our_settings("", pathlib.Path())
    mine = {
        "network": f"U-Net, features {', '.join(map(str, settings.model.features))}",
        "patch and batch": f"{' x '.join(map(str, settings.data.patch))}, {settings.batch_size}",
        "training": "configs/brats_3mm.py: AdamW, cosine, Dice + BCE of regions, deep supervision, averaged weights",
        "prediction": "mirrored in eight ways",
        "parameters": f"{times['parameters']:,}",
    }
    return {
        "peer": peer,
        "folds": sorted(scored),
        "of_folds": len(ours["trained_on"]),
        "patients": len(ours["cases"]),
        "trained_on": sorted({ours["trained_on"][fold] for fold in scored}),
        "facts": {OURS: mine, peer: dict(facts)},
        "peer_steps": sorted({fold["steps"] for fold in scored.values()}),
        "times": times,
        "cases": [
            {"case": one["case"], "fold": one["run"], OURS: one["as predicted"], peer: theirs[one["case"]]}
            for one in ours["cases"]
            if one["case"] in theirs
        ],
    }


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
        "the files' own voxels. The last checkpoint of both, without post-processing. Means with bootstrap 95 % "
        "intervals over patients; the difference is ours less the peer's, patient by patient.",
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
