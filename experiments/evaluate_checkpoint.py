"""Scores any number of checkpoints on one folder of preprocessed arrays and prints one table.

    python experiments/evaluate_checkpoint.py --checkpoints=runs/a,runs/b:latest,runs/b:1200 --data=data --out=table

Each checkpoint is RUN (its best) or RUN:STEP with STEP best, latest or a number. The same cases are scored of each: all
of the folder but those of patients, or with arrays, that one of the runs was trained on. Writes OUT.csv (a row for each
checkpoint, case and region) and OUT.md (the table).
"""

import csv
import io
import sys
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.commands.startup import prepare_jax
from jaxbrats.data.arrays import ArrayCase
from jaxbrats.data.dataset import Dataset
from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.evaluation.evaluate import score
from jaxbrats.evaluation.statistics import summarise
from jaxbrats.evaluation.tables import Row
from jaxbrats.inference.network import load_network
from jaxbrats.runs.evaluate import cases_to_score, dataset_to_score, predicted, raw_cases
from jaxbrats.runs.record import RunRecord, read_record
from jaxbrats.system.errors import InputError, printable
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
    checkpoints = [(workdir, step or "best") for workdir, _, step in (one.partition(":") for one in _CHECKPOINTS.value)]
    records = [read_record(workdir) for workdir, _ in checkpoints]
    dataset, *_ = [dataset_to_score(record, _DATA.value) for record in records]
    unread: list[InputError] = []
    cases = unseen_cases(records, dataset, unread)
    files_of = raw_cases(dataset, cases, unread)
    table: dict[str, list[Row]] = {}
    problems = dict.fromkeys(map(str, unread))
    for record, (workdir, step) in zip(records, tqdm(checkpoints, desc="checkpoints"), strict=True):
        network = load_network(record.workdir, record.settings, record.frame, step)
        rows = table.setdefault(printable(f"{workdir}:{network.step}"), [])
        for result in score(predicted(network, cases, files_of, folder=None)):
            if isinstance(result, InputError):
                problems[str(result)] = None  # the same with each checkpoint
            else:
                rows += result.rows
        if not rows:
            raise InputError(next(iter(problems)))
    text = markdown(table)
    print(text)
    if _OUT.value:
        write_text(f"{_OUT.value}.md", text + "\n")
        write_text(f"{_OUT.value}.csv", long_form(table))
    for problem in problems:
        print(f"not scored: {problem}", file=sys.stderr)
    return 1 if problems else 0


def unseen_cases(records: Sequence[RunRecord], dataset: Dataset, problems: list[InputError]) -> list[ArrayCase]:
    """The cases of patients that none of the runs was trained on; what cannot be used is added to `problems`.

    Raises:
        InputError: there is none.
    """
    seen: list[InputError] = []
    by_run = [cases_to_score(record, dataset, own=False, problems=seen) for record in records]
    problems += {str(problem): problem for problem in seen}.values()
    kept = [{case.name for case in cases} for cases in by_run]
    cases = [case for case in by_run[0] if all(case.name in names for names in kept)]
    if not cases:
        raise InputError("holds no case that none of the runs was trained on", file=dataset.folder)
    return cases


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
