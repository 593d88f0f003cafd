"""Scores any number of checkpoints on one folder of preprocessed arrays and prints one table.

    python experiments/evaluate_checkpoint.py --checkpoints=runs/a,runs/b:latest,runs/b:1200 --data=data --out=table

Each checkpoint is RUN (its best) or RUN:STEP with STEP best, latest or a number. The validation cases of the folder's
split are scored, or all of its cases where it has none. Writes OUT.csv (a row for each checkpoint, case and region) and
OUT.md (the table).
"""

import csv
import io
import pathlib
import sys

from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.evaluation.statistics import summarise
from jaxbrats.evaluation.tables import Row
from jaxbrats.inference.network import load_network
from jaxbrats.inference.predictor import Predictor
from jaxbrats.runs.evaluate import case_records, score_cases, validation_cases
from jaxbrats.runs.record import read_record
from jaxbrats.system.errors import printable
from jaxbrats.system.files import write_text

FLAGS = flags.FlagValues()
_CHECKPOINTS = flags.DEFINE_list(
    "checkpoints", None, "RUN or RUN:STEP, separated by commas.", required=True, flag_values=FLAGS
)
_DATA = flags.DEFINE_string("data", None, "Preprocessed arrays.", required=True, flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", None, "Where to write OUT.csv and OUT.md.", flag_values=FLAGS)


def main() -> int:
    """Scores and prints; 1 if a case could not be read."""
    prepare_jax()
    data_dir = pathlib.Path(_DATA.value)
    cases = validation_cases(data_dir)
    table: dict[str, list[Row]] = {}
    problems = []
    for checkpoint in tqdm(_CHECKPOINTS.value, desc="checkpoints"):
        workdir, _, step = checkpoint.partition(":")
        record = read_record(pathlib.Path(workdir))
        network = load_network(workdir, record.settings, record.frame, step or "best")
        predict = Predictor([network], network.preprocessing.crop).labels
        rows, unread = score_cases(cases, predict, case_records(data_dir, network.preprocessing))
        table[printable(f"{workdir}:{network.step}")] = rows
        problems += [problem for problem in unread if str(problem) not in map(str, problems)]
    text = markdown(table)
    print(text)
    if _OUT.value:
        write_text(f"{_OUT.value}.md", text + "\n")
        write_text(f"{_OUT.value}.csv", long_form(table))
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0


def markdown(table: dict[str, list[Row]]) -> str:
    """Mean Dice (and standard deviation) of each checkpoint: a column for each region and the mean of WT, TC and ET."""
    lines = [
        f"| checkpoint | cases | {' | '.join(SCORED)} | mean of {', '.join(REGIONS)} |",
        "|" + " --- |" * (len(SCORED) + 3),
    ]
    for name, rows in table.items():
        dice = {region: numbers["dice"] for region, numbers in summarise(rows).items()}
        cells = [f"{dice[region]['mean']:.4f} ({dice[region]['sd'] or 0:.4f})" for region in SCORED]
        mean = sum(dice[region]["mean"] for region in REGIONS) / len(REGIONS)
        lines.append(f"| {name} | {dice['WT']['n']} | {' | '.join(cells)} | {mean:.4f} |")
    return "\n".join(lines)


def long_form(table: dict[str, list[Row]]) -> str:
    """CSV with the columns checkpoint, case, region and every metric."""
    text = io.StringIO()
    rows = [{"checkpoint": name, **row} for name, rows in table.items() for row in rows]
    writer = csv.DictWriter(text, rows[0].keys() if rows else ["checkpoint"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "evaluate_checkpoint", sys.argv[1:]))
