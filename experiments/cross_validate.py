"""Cross-validation: trains every fold of a config, and pools the scores of the patients that each fold did not see.

    python experiments/cross_validate.py --config=configs/unet3d.py:raw_dir=/data/BraTS2023 --workdir=runs/unet3d_cv

The folds are runs like any other, DIR/fold_0 and so on, and share one folder of arrays: the config's data.dir, or
DIR/data. The same command again goes on where it was stopped; folds that are finished, here or by `jaxbrats train` with
--config.data.fold=K elsewhere, are not trained again. `jaxbrats predict --workdir=DIR/fold_0,DIR/fold_1,...` is their
ensemble.

{fold} in the config's arguments is the fold's number: --config='FILE:init_from=OTHER/fold_{fold}' begins each fold with
the network of that fold of another cross-validation, which has not learned from its validation patients.

    DIR/cases.csv      the score table of all cases, each by the fold that did not train on it
    DIR/summary.csv    each region and metric over the patients, of whom several scans count as one, their mean
    DIR/summary.md     the same as a table, with bootstrap 95 % intervals of the means, and the Dice of each fold
"""

import csv
import io
import math
import pathlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from benchmarking import interval

from jaxbrats import commands
from jaxbrats import main as train_program
from jaxbrats.config import load_config
from jaxbrats.data.labels import REGIONS, SCORED
from jaxbrats.evaluation import metrics, tables
from jaxbrats.evaluation.statistics import PRINTED, Summary, describe
from jaxbrats.evaluation.tables import Row
from jaxbrats.inference.postprocess import POSTPROCESSING
from jaxbrats.runs.record import RunRecord, changes_of_the_recipe, read_record
from jaxbrats.system.errors import InputError
from jaxbrats.system.files import write_text

FLAGS = flags.FlagValues()
_CONFIG = flags.DEFINE_string(
    "config", None, "Config file, with arguments: FILE[:KEY=VALUE,...].", required=True, flag_values=FLAGS
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the folds and the tables.", required=True, flag_values=FLAGS)
_FOLDS = flags.DEFINE_integer("folds", 5, "Folds.", lower_bound=2, flag_values=FLAGS)

# From fold to fold: the patients, and the run that each begins with.
OF_A_FOLD = {"data.fold", "init_from"}

MEAN = f"mean of {', '.join(REGIONS)}"


def main() -> int:
    """Trains what is not trained yet, pools and prints; 1 if a case could not be used."""
    folder = pathlib.Path(_WORKDIR.value)
    runs = [folder / f"fold_{fold}" for fold in range(_FOLDS.value)]
    arrays = load_config(_CONFIG.value).data.dir or folder / "data"
    codes = []
    for fold, run in enumerate(runs):
        arguments = [
            f"--config={_CONFIG.value.replace('{fold}', str(fold))}",
            f"--workdir={run}",
            f"--config.data.dir={arrays}",
            f"--config.data.folds={len(runs)}",
            f"--config.data.fold={fold}",
            "--processes=1",
        ]
        code = train_program.train(*train_program.parse(arguments))  # what is refused ends this program too
        if code > 1:
            return code  # it has said why
        codes.append(code)
    records = [read_record(run) for run in runs]
    check_folds(records)
    tables_of = [scores(record) for record in records]
    rows = [row for table in tables_of for row in table]
    summary = summarise(by_patient(rows, {name: case.patient for name, case in records[0].cases.items()}))
    text = "\n\n".join([pooled_markdown(summary), fold_markdown(runs, tables_of)])
    if any((run / POSTPROCESSING).exists() for run in runs):
        text += "\n\nThe post-processing was chosen on validation cases of these folds: the scores are optimistic."
    print(text)
    tables.write_csv(folder / "cases.csv", rows)
    write_text(folder / "summary.csv", as_csv(summary))
    write_text(folder / "summary.md", f"{text}\n")
    if missing := sorted(records[0].cases.keys() - {row["case"] for row in rows}):
        print(f"not scored: {', '.join(missing)}", file=sys.stderr)
    return int(bool(missing) or any(codes))


def check_folds(records: Sequence[RunRecord]) -> None:
    """Makes sure that every case is validated by one fold, and by one alone, of one recipe and scored in one way.

    Raises:
        InputError: the folds were trained on different arrays or with different settings, are not of one division,
            or were not all predicted and scored alike, such as some on whole volumes and others on arrays.
    """
    summaries = [tables.read_summary(record.workdir) for record in records]
    for record, summary in zip(records, summaries, strict=True):
        for what in ("scored", "inference", "postprocessing"):
            if (here := summary.get(what)) != (first := summaries[0].get(what)):
                problem = f"its evaluation has {what} = {here}, that of {records[0].workdir} has {first}"
                hint = "Run jaxbrats evaluate on all folds, where the cohort's files are"
                raise InputError(problem, file=record.workdir, hint=hint)
        for name, (first, here) in changes_of_the_recipe(records[0], record.settings).items():
            if name not in OF_A_FOLD:
                problem = f"was trained with config.{name} = {here}, {records[0].workdir} with {first}"
                hint = "Give the config that all folds were trained with, or another --workdir"
                raise InputError(problem, file=record.workdir, hint=hint)
    for record in records[1:]:
        if record.cases != records[0].cases:
            raise InputError(
                f"was trained with other arrays than {records[0].workdir}",
                file=record.workdir,
                hint="Train all folds on the same arrays, in another --workdir",
            )
    times = Counter(name for record in records for name in record.split.val)
    if wrong := sorted(name for name in records[0].cases if times[name] != 1):
        raise InputError(
            f"expected each case to be validated by one fold, found {wrong[0]} validated by {times[wrong[0]]}",
            file=records[0].workdir.parent,
        )


def scores(record: RunRecord) -> list[Row]:
    """The score table of a fold's validation cases."""
    own = set(record.split.val)
    return [row for row in tables.read_csv(record.workdir / "evaluation" / "cases.csv") if row["case"] in own]


def by_patient(rows: Sequence[Row], patient_of: Mapping[str, str]) -> dict[str, dict[str, list[float]]]:
    """Region -> metric -> a number for each patient: the mean over the patient's scans, NaN where none is defined."""
    scans: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        scans.setdefault((row["region"], patient_of[row["case"]]), []).append(row)
    patients = list(dict.fromkeys(patient for _, patient in scans))
    columns = [column for column in metrics.COLUMNS if any(column in row for row in rows)]
    numbers = {
        region: {
            column: [_mean(scans.get((region, patient), []), column) for patient in patients] for column in columns
        }
        for region in SCORED
    }
    together = {column: np.mean([numbers[region][column] for region in REGIONS], axis=0).tolist() for column in columns}
    return numbers | {MEAN: together}


def _mean(scans: Sequence[Row], column: str) -> float:
    values = [row[column] for row in scans if not math.isnan(row.get(column, math.nan))]
    return float(np.mean(values)) if values else math.nan


def summarise(numbers: Mapping[str, Mapping[str, Sequence[float]]]) -> Summary:
    """Describes every metric of every region over the patients."""
    return {
        region: {metric: describe(values) for metric, values in columns.items()} for region, columns in numbers.items()
    }


def as_csv(summary: Summary) -> str:
    """The summary with all digits, a line for each region and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["region", "metric", *describe([])])
    for region, columns in summary.items():
        for metric, described in columns.items():
            writer.writerow([region, metric, *described.values()])
    return text.getvalue()


def pooled_markdown(summary: Summary) -> str:
    """Mean and interval over all patients: a line for each region, a column for each of the printed metrics."""
    columns = [metric for metric in PRINTED if metric in summary[MEAN]]
    lines = [f"| region | patients | {' | '.join(columns)} |", "| --- | ---: |" + " ---: |" * len(columns)]
    for region, described in summary.items():
        cells = [interval(described[metric], 2 if metric.endswith("_mm") else 4) for metric in columns]
        lines.append(f"| {region} | {described[columns[0]]['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fold_markdown(runs: Sequence[pathlib.Path], tables_of: Sequence[Sequence[Row]]) -> str:
    """Mean Dice over the cases of each fold."""
    lines = [f"| fold | cases | {' | '.join(REGIONS)} |", "| --- | ---: |" + " ---: |" * len(REGIONS)]
    for run, rows in zip(runs, tables_of, strict=True):
        dice = [_mean([row for row in rows if row["region"] == region], "dice") for region in REGIONS]
        cases = len({row["case"] for row in rows})
        lines.append(f"| {run.name} | {cases} | {' | '.join(f'{value:.4f}' for value in dice)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "cross_validate", sys.argv[1:]))
