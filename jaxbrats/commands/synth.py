"""Writes a cohort of synthetic glioma patients as BraTS 2023 files, to try everything on without any data.

    jaxbrats synth --out=DIR --cases=24 --shape=96,96,80 --seed=0

Each case is a folder with t1n, t1c, t2w, t2f and seg. Some patients have two time points. The same seed and shape
write the same files; more --cases add cases and leave the others as they are. The folder must be empty or hold the
same cohort.

--hard makes a cohort for questions that a few patients can't answer: tumours from a few hundred mm^3 on, up to four
lesions, a third without enhancement, weak contrast on T2f, aged white matter; and two scanners. DIR/split.json trains
on the patients of the first and validates on those of the second.
"""

import pathlib
import statistics

from absl import flags

from jaxbrats.synthetic import cohort as synthetic

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", None, "Folder to write the cohort to.", required=True, flag_values=FLAGS)
flags.DEFINE_integer("cases", 24, "Number of scans.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_list(
    "shape",
    ["96", "96", "80"],
    "Voxels along x, y, z. BraTS has 240,240,155 of 1 mm; a smaller volume holds the same head in larger voxels.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("seed", 0, "The same seed writes the same cohort.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_bool("hard", False, "Small, several, faint tumours, and two scanners.", flag_values=FLAGS)
flags.DEFINE_integer("workers", None, "Processes. By default one a CPU.", lower_bound=1, flag_values=FLAGS)


@flags.validator("shape", "expected three whole numbers X,Y,Z from 16 to 1024", flag_values=FLAGS)
def _is_shape(values: list[str]) -> bool:
    smallest, largest = synthetic.SMALLEST_SHAPE, synthetic.LARGEST_SHAPE
    return len(values) == 3 and all(value.isdecimal() and smallest <= int(value) <= largest for value in values)


def main() -> int:
    """Writes the cohort and says what it holds."""
    shape = tuple(int(value) for value in FLAGS.shape)
    fractions = synthetic.write_cohort(FLAGS.out, FLAGS.cases, shape, FLAGS.seed, FLAGS.workers, FLAGS.hard)
    patients = len({synthetic.scan_at(index).patient for index in range(FLAGS.cases)})
    print(
        f"{FLAGS.out}: {len(fractions)} cases of {patients} patients, tumour {min(fractions.values()):.1%} to "
        f"{max(fractions.values()):.1%} of the volume, median {statistics.median(fractions.values()):.1%}"
    )
    if FLAGS.hard:
        split = pathlib.Path(FLAGS.out) / synthetic.SPLIT
        print(f"Train on scanner A, validate on B: --config.data.split={split} --config.data.min_tumour=0")
    return 0
