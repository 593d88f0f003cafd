"""Packs predicted segmentations as a BraTS challenge takes them on Synapse.

    jaxbrats submit --pred=predictions --challenge=brats2023 --input=/data/BraTS2023-Validation --out=submission.zip

The zip holds CASE.nii.gz for each case, on the voxels of its images: with the enhancing tumour as label 4 for BraTS
2021, as 3 after it, whichever the predictions have. With --input every case of that cohort has to be there, no other,
and each on the voxels of its own images; without it, on as many voxels as the challenge's images have. The challenge
itself would score what is there and not say what is missing.

brats2024 is of treated gliomas, whose resection cavities (label 4) no network of jaxbrats predicts. Nothing is written
where anything is wrong. For research and education; not a medical device.
"""

import pathlib
import sys
import tempfile
import zipfile

from absl import flags
from tqdm import tqdm

from jaxbrats.data.raw.cases import find_cases
from jaxbrats.evaluation.submission import CHALLENGES, find_entries, prepare
from jaxbrats.system.errors import InputError, printable
from jaxbrats.system.files import replacing

FLAGS = flags.FlagValues()
_PRED = flags.DEFINE_string("pred", None, "Folder of predicted segmentations.", required=True, flag_values=FLAGS)
_CHALLENGE = flags.DEFINE_enum("challenge", None, list(CHALLENGES), "Which.", required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "The file to write, FILE.zip.", required=True, flag_values=FLAGS)
_INPUT = flags.DEFINE_string("input", None, "Folder of the cohort that was predicted.", flag_values=FLAGS)


def main() -> int:
    """Checks and packs; 1 if a case is missing or cannot be submitted."""
    out, challenge = pathlib.Path(_OUT.value), CHALLENGES[_CHALLENGE.value]
    if out.suffix != ".zip":
        raise InputError("is not a name for a submission", file=out, hint="Give a file that ends with .zip")
    cohort = find_cases(_INPUT.value) if _INPUT.value else None
    entries, problems = find_entries(_PRED.value, challenge, cohort and cohort.cases)
    problems += cohort.unusable(pathlib.Path(_INPUT.value)).values() if cohort else []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for entry in tqdm(entries, desc="checking", unit="case", dynamic_ncols=True):
            try:
                prepare(entry, challenge, folder)
            except InputError as problem:
                problems.append(problem)
        if not problems:
            # Not compressed again: the files are.
            with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
                for path in sorted(folder.iterdir()):
                    archive.write(path, path.name)
    if challenge.note:
        print(f"note: {challenge.note}", file=sys.stderr)
    for problem in problems:
        print(f"cannot be submitted: {problem}", file=sys.stderr)
    if not problems:
        print(f"{printable(str(out))}: {len(entries)} cases, {out.stat().st_size / 1e6:.1f} MB")
    return 1 if problems else 0
