"""A run's validation patients on whole volumes, as predicted and post-processed: the README's real patients.

    python -m jaxbrats.main --config=configs/brats_3mm.py --config.data.raw_dir=COHORT --workdir=RUN
    python experiments/real_patients.py --workdir=RUN

Each patient is predicted once, as the run's settings say, and scored without the run's post-processing and with it.
Writes results/real_patients.md and .json. The run's best checkpoint was chosen on the same patients, and so may its
post-processing have been; the table says so.
"""

import dataclasses
import sys
from typing import Any

import benchmarking
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.config.inference import Postprocessing
from jaxbrats.data.labels import REGIONS
from jaxbrats.evaluation.evaluate import Predicted
from jaxbrats.evaluation.metrics import score_case
from jaxbrats.evaluation.statistics import describe
from jaxbrats.inference.postprocess import postprocess
from jaxbrats.runs.evaluate import cases_to_score, dataset_to_score, predicted, raw_cases
from jaxbrats.runs.networks import run_network
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True, flag_values=FLAGS)
_STEP = flags.DEFINE_string("step", "best", "Checkpoint: best, latest or a step's number.", flag_values=FLAGS)

METRICS = ("dice", "lesion_dice")
WAYS = ("as predicted", "post-processed")


def score(prediction: Predicted, processing: Postprocessing) -> dict[str, Any]:
    """Way -> metric -> a number for WT, TC and ET; and mm^3 of enhancing tumour, reference and predicted."""
    truth, spacing = prediction.truth, prediction.spacing_mm
    labels = (prediction.labels, postprocess(prediction.labels, spacing, processing))
    both = [score_case(one, truth, spacing) for one in labels]
    scores = {
        way: {metric: [found[region][metric] for region in REGIONS] for metric in METRICS}
        for way, found in zip(WAYS, both, strict=True)
    }
    volumes = [both[0]["ET"][f"volume_{side}_mm3"] for side in ("ref", "pred")]
    return {"case": prediction.case, **scores, "enhancing_mm3": volumes}


def main() -> int:
    """Predicts, scores, prints and writes; 1 if a case could not be used."""
    prepare_jax()
    record = read_record(_WORKDIR.value)
    network = run_network(record, _STEP.value)
    dataset, problems = dataset_to_score(record, None), []
    cases = cases_to_score(record, dataset, own=True, problems=problems)
    plain = dataclasses.replace(network, postprocessing=Postprocessing())
    scored = []
    results = predicted(plain, cases, raw_cases(dataset, cases, problems), folder=None)
    for result in tqdm(results, "scoring", total=len(cases), unit="case", dynamic_ncols=True):
        if isinstance(result, InputError):
            problems.append(result)
        else:
            scored.append(score(result, network.postprocessing))
    report = {
        "machine": benchmarking.machine(("jax",)),
        "step": network.step,
        "trained_on": len(record.split.train),
        "frame": network.frame and network.frame.to_dict(),
        "inference": dataclasses.asdict(network.inference),
        "postprocessing": dataclasses.asdict(network.postprocessing),
        "cases": scored,
    }
    benchmarking.write("real_patients", report, as_markdown(report))
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0


def as_markdown(report: dict[str, Any]) -> str:
    """The tables."""
    cases, done = report["cases"], report["postprocessing"]
    lines = ["# Real patients", ""]
    spacing = " x ".join(f"{size:g}" for size in report["frame"]["spacing_mm"])
    lines += [
        f"Trained on {report['trained_on']} patients, scored on {len(cases)} others, whole volumes on the files' own "
        f"voxels; the network sees voxels of {spacing} mm. Step {report['step']}, the best by Dice on these same "
        f"{len(cases)} patients" + (", mirrored in eight ways." if report["inference"]["mirror"] else "."),
        "",
        f"Post-processing, chosen on them too: components under {done['component_mm3']:g} mm^3 removed, enhancing "
        f"tumour under {done['enhancing_mm3']:g} mm^3 made necrosis. Means with bootstrap 95 % intervals, over "
        "patients.",
        "",
        f"| | {' | '.join(REGIONS)} | mean |",
        "| --- | --- | --- | --- | --- |",
    ]
    for metric, name in zip(METRICS, ("Dice", "lesion-wise Dice (BraTS 2023)"), strict=True):
        for way in WAYS:
            values = np.array([case[way][metric] for case in cases])
            columns = [*values.T, values.mean(axis=1)]
            lines.append(f"| {name}, {way} | {' | '.join(map(_interval, columns))} |")
    lines += ["", f"| patient | {' | '.join(REGIONS)} | ET post-processed | ET in the reference, mm^3 | predicted |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for case in cases:
        dice = " | ".join(f"{value:.3f}" for value in case["as predicted"]["dice"])
        reference, found = case["enhancing_mm3"]
        after = case["post-processed"]["dice"][-1]
        lines.append(f"| {case['case']} | {dice} | {after:.3f} | {reference:,.0f} | {found:,.0f} |")
    return "\n".join([*lines, *benchmarking.footer(report["machine"], "real_patients")])


def _interval(values: np.ndarray) -> str:
    described = describe(values.tolist())
    mean = f"{described['mean']:.3f}"
    return mean if described["ci_low"] is None else f"{mean} ({described['ci_low']:.3f} to {described['ci_high']:.3f})"


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "real_patients", sys.argv[1:]))
