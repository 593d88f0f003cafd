"""The proposal as a config file, the reason beside each number."""

import textwrap

from jaxbrats.runs.planning.facts import Facts
from jaxbrats.runs.planning.proposal import (
    FEATURES,
    GIB,
    MOST_OF_CASES,
    RECIPE,
    SMALLEST_BATCH,
    Proposal,
    shape_text,
)
from jaxbrats.runs.planning.topology import COARSE, LEAST_EDGE
from jaxbrats.system.errors import printable
from jaxbrats.train.loop import PREFETCH

_WIDTH = 116


def config_text(facts: Facts, proposal: Proposal, name: str, asked: str) -> str:
    """The Python file.

    Args:
        facts: From `measure`.
        proposal: From `propose`.
        name: Of the file, for the command in its docstring.
        asked: The device as it was asked for: --memory=8GB or --card=rtx4090.
    """
    reasons = _reasons(facts, proposal)
    lines = [_docstring(facts, proposal, name, asked), "", "from ml_collections import ConfigDict", ""]
    lines += ["from jaxbrats import config", "", "", "def get_config() -> ConfigDict:"]
    lines += ['    """What differs from the defaults, and why."""', "    settings = config.default()"]
    for setting, value in proposal.settings.items():
        reason = reasons.get(setting, "")
        lines += textwrap.wrap(reason, _WIDTH, initial_indent="    # ", subsequent_indent="    # ")
        lines.append(f"    settings.{setting} = {value!r}")
    return "\n".join([*lines, "    return settings", ""])


def _docstring(facts: Facts, proposal: Proposal, name: str, asked: str) -> str:
    written_by = f"jaxbrats plan --raw={facts.raw_dir} {asked} --out={name}"
    account = (
        f"Compiled for a {proposal.platform.upper()} ({proposal.device}). By XLA's account of that program a training "
        f"step takes {proposal.step_bytes / GIB:.2f} GiB ({proposal.step_bytes:,} bytes), and "
        f"{proposal.needed_bytes / GIB:.2f} GiB with the {PREFETCH} batches that wait for it, of the "
        f"{proposal.limit_bytes / GIB:.2f} GiB that JAX may take (gpu_memory_fraction). Another platform's program "
        "takes another amount: plan on the machine that will train, or give its --card. Training prints what its own "
        "step takes."
    )
    recipe = (
        "What does not follow from the cohort is the recipe of configs/brats.py, at the end. The number of epochs is "
        "the default: give it the time you have."
    )
    expect = "Expect no score yet: this is a plan, nothing was trained."
    opening = f"A plan for {len(facts.boxes)} of {facts.found} cases of {facts.raw_dir.name}."
    paragraphs = ["\n".join(textwrap.wrap(text, 120, break_long_words=False)) for text in (account, recipe, expect)]
    command = f"    python -m jaxbrats.main --config={name}"
    text = "\n\n".join(
        [printable(opening), printable(command), "Written by:", f"    {printable(written_by)}", *paragraphs]
    )
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{escaped}\n"""'


def _reasons(facts: Facts, proposal: Proposal) -> dict[str, str]:
    """Setting -> why it has its value."""
    batch_size = proposal.candidate.batch_size
    spacing, frame = facts.frame.spacing_mm, facts.frame
    cases, small = len(facts.boxes), sum(share < 0.01 for share in facts.tumours)
    lacking = "; ".join(f"{count} cases have no {name}" for name, count in facts.lacking.items())
    lacking += ". To use what only some cases have, set data.incomplete and augment.modality_dropout" if lacking else ""
    ranges = " x ".join(f"{low:g} to {high:g}" if low < high else f"{low:g}" for low, high in facts.spacings)
    coarse = max(spacing) / min(spacing)
    uneven = f" One axis is {coarse:.1f} times as coarse as another." if coarse >= COARSE else ""
    largest = max(map(max, zip(*facts.boxes, strict=True)))
    voxels = f"{shape_text(facts.box)} voxels"
    batch = "nnU-Net's least: memory goes to a larger patch first"
    if batch_size > SMALLEST_BATCH:
        batch = f"Whole brains leave room for {batch_size} cases, no more than {MOST_OF_CASES:.0%} of all"
    return {
        "data.raw_dir": f"{facts.found} cases, of which {cases} can be trained on; jaxbrats check names the others.",
        "data.modalities": f"What every case with a segmentation has{f': {lacking}' if lacking else ''}.",
        "data.spacing": f"The median, in mm, of the cases in the orientation {frame.orientation}; they have {ranges}."
        + uneven,
        "data.crop": f"The box of the brain, {voxels} in the median case, the longest side {largest}: what lies beyond "
        "it is 0.",
        # The first of the recipe's lines; the others have no reason of their own but one.
        next(iter(RECIPE)): "The recipe of configs/brats.py, nnU-Net's but for the optimiser. MR images have no unit: "
        "each brain gets mean 0 and standard deviation 1.",
        "data.min_tumour": f"No case is left out for a small tumour. They take {min(facts.tumours):.2%} to "
        f"{max(facts.tumours):.2%} of the brain's box; in {small} of {cases} cases less than the default's 1 %.",
        "data.patch": _patch_reason(facts, proposal),
        "model.features": f"nnU-Net's channels, in as many levels as leave the deepest {LEAST_EDGE} voxels along each "
        f"axis that was halved; {len(FEATURES)} at most.",
        "model.deep_supervision": "The loss is taken at the decoder's smaller levels too, as in nnU-Net.",
        "model.strides": f"An axis is halved only while its voxels are less than {COARSE} times as large as the "
        f"smallest and {LEAST_EDGE} voxels are left.",
        "model.kernels": f"No convolution along an axis whose voxels are {COARSE} times as large as the smallest or "
        "more.",
        "mesh.data": "The memory is one device's. For n of them: -1 here, and n times the batch.",
        "batch_size": f"{batch}.",
        "dtype": "Half the memory of float32 for the activations; parameters stay float32.",
        "remat": "Activations are computed again in the backward pass: without that, not even a patch of half the "
        "brain's box along each axis fits.",
    }


def _patch_reason(facts: Facts, proposal: Proposal) -> str:
    topology = proposal.candidate.topology
    multiple = f"a multiple of {shape_text(topology.multiple)}, by which the network divides it"
    whole = all(length >= side for length, side in zip(topology.patch, facts.box, strict=True))
    if whole:
        return f"The whole box of the median brain, {shape_text(facts.box)}, rounded up to {multiple}."
    return (
        f"The largest that fits, made shorter from {shape_text(facts.box)} along the axis that is longest in mm; "
        f"{multiple}."
    )
