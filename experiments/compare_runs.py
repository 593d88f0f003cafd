"""Is one run better than another? Two score tables of the same cases, compared case by case.

    python experiments/compare_runs.py --first=runs/a/evaluation/cases.csv --second=runs/b/evaluation/cases.csv

For each region and metric: the means, the mean difference (second - first) with its bootstrap 95 % interval, and p of
the paired two-sided Wilcoxon signed-rank test, not corrected for the number of rows. Prints a Markdown table; `--out`
also writes it as CSV.
"""

import csv
import io
import sys

from absl import flags

from jaxbrats import commands
from jaxbrats.evaluation import metrics, statistics, tables
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_string("first", None, "Score table, CSV.", required=True, flag_values=FLAGS)
flags.DEFINE_string("second", None, "Score table of another run, CSV.", required=True, flag_values=FLAGS)
flags.DEFINE_multi_enum(
    "metric", None, metrics.COLUMNS, "Metric to compare, may be given several times; default all.", flag_values=FLAGS
)
flags.DEFINE_string("out", None, "The comparison to write, CSV.", flag_values=FLAGS)

HEADINGS = ("region", "metric", "cases", "first", "second", "difference", "95 % interval", "p")


def as_markdown(compared: list[dict]) -> str:
    """The rows of `statistics.compare` as a table."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|" + "---:|" * (len(HEADINGS) - 2)]
    for row in compared:
        interval = "-" if row["ci_low"] is None else f"{row['ci_low']:+.4f} to {row['ci_high']:+.4f}"
        lines.append(
            f"| {row['region']} | {row['metric']} | {row['n']} | {row['mean_first']:.4f} | {row['mean_second']:.4f} "
            f"| {row['difference']:+.4f} | {interval} | {row['p']:.3g} |"
        )
    return "\n".join(lines)


def as_csv(compared: list[dict]) -> str:
    """The rows of `statistics.compare` with all digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(compared[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(compared)
    return text.getvalue()


def main() -> int:
    """Compares, prints, and says which cases only one run scored."""
    first, second = tables.read_csv(FLAGS.first), tables.read_csv(FLAGS.second)
    compared = [row for row in statistics.compare(first, second) if not FLAGS.metric or row["metric"] in FLAGS.metric]
    if not compared:
        raise InputError(f"has no case and metric in common with {FLAGS.first}", file=FLAGS.second)
    print(as_markdown(compared))
    cases = [{row["case"] for row in rows} for rows in (first, second)]
    for path, only in ((FLAGS.first, cases[0] - cases[1]), (FLAGS.second, cases[1] - cases[0])):
        if only:
            shown = ", ".join(sorted(only)[:5]) + (", ..." if len(only) > 5 else "")
            print(f"{len(only)} cases are in {path} alone and were left out: {shown}", file=sys.stderr)
    if FLAGS.out:
        files.write_text(FLAGS.out, as_csv(compared))
    return 0


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "compare_runs", sys.argv[1:]))
