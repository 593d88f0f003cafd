"""Score predicted segmentations against references, as the BraTS 2023 challenge does.

    jaxbrats score --pred=runs/unet3d/predictions --ref=/data/BraTS2023 --out=scores.csv

Files are paired by case: CASE.nii.gz or CASE-seg.nii.gz (CASE_seg.nii.gz) on either side, in subfolders too. Label 4
(BraTS 2021 and before) is the enhancing tumour, as is 3. The table has a row for each case and region (WT, TC, ET, NCR,
ED): Dice, IoU, sensitivity, specificity, volumes, HD95, average surface distance, surface Dice, lesion-wise Dice and
HD95, and counts of lesions found (tp), invented (fp) and missed (fn). Mean, sd and median are printed.

A case that cannot be scored is named, the others go on, and the exit code is 1.
"""

import pathlib
import sys

from absl import flags
from tqdm import tqdm

from jaxbrats.evaluation import statistics
from jaxbrats.evaluation.lesions import CHALLENGES
from jaxbrats.evaluation.pairs import find_pairs
from jaxbrats.evaluation.tables import score_pairs, write_csv
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_string("pred", None, "Folder of predicted segmentations.", required=True, flag_values=FLAGS)
flags.DEFINE_string("ref", None, "Folder of reference segmentations.", required=True, flag_values=FLAGS)
flags.DEFINE_string("out", None, "The table to write, CSV.", required=True, flag_values=FLAGS)
flags.DEFINE_enum(
    "challenge",
    "GLI",
    list(CHALLENGES),
    "Whose rules tell lesions apart: adult glioma, Sub-Saharan Africa, paediatric, meningioma, metastases.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "tolerance_mm", 1.0, "Distance at which surfaces still agree, for surface Dice.", lower_bound=0.0, flag_values=FLAGS
)
flags.DEFINE_integer("workers", None, "Processes; by default one a processor.", lower_bound=1, flag_values=FLAGS)


def main() -> int:
    """Scores, writes, prints; returns 0 only if every case was scored."""
    out = pathlib.Path(FLAGS.out)
    if out.is_dir():
        raise InputError("is a folder, expected the name of a table", file=out, hint="Add a name such as scores.csv")
    out.parent.mkdir(parents=True, exist_ok=True)  # a place that cannot be written shows before the work
    pairs, problems = find_pairs(FLAGS.pred, FLAGS.ref)
    rows = []
    results = score_pairs(pairs, FLAGS.challenge, FLAGS.tolerance_mm, FLAGS.workers)
    try:
        for _, result in tqdm(results, total=len(pairs), desc="scoring", unit="case", dynamic_ncols=True):
            if isinstance(result, InputError):
                problems.append(result)
            else:
                rows += result
    except InputError as error:
        # A worker died: what the others have done is written all the same.
        problems.append(error)
    if rows:
        rows.sort(key=lambda row: row["case"])
        write_csv(out, rows)
        scored = len({row["case"] for row in rows})
        print(f"{statistics.summary_table(statistics.summarise(rows))}\n\n{scored} cases scored: {out}")
    if problems:
        print(f"\n{len(problems)} could not be scored:", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    return 1 if problems else 0
