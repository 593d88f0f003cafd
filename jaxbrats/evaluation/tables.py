"""Score tables: the rows of a case, whole folders of cases scored in parallel, and their CSV.

A table is a list of rows, one for each case and region: `{"case": ..., "region": ..., "dice": ..., ...}`.
"""

import csv
import functools
import io
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from jaxbrats.data import labels as conventions
from jaxbrats.data.raw import nifti
from jaxbrats.data.raw.cases import VolumeFile
from jaxbrats.evaluation import metrics
from jaxbrats.evaluation.pairs import LabelFile, Pair
from jaxbrats.system import files, processes
from jaxbrats.system.errors import InputError

Row = dict[str, str | float]

# Read as they are; which of the two conventions a file follows shows only in all of its labels.
_ANY_BRATS = {label: label for label in range(5)}
_KEYS = ("case", "region")

# A cell that begins so is a formula to a spreadsheet, unless an apostrophe comes before it
# (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = re.compile(r"'*[=+\-@\t]")
# Python holds the bytes of a file's name that are not UTF-8 as lone surrogates (PEP 383), which no text file can hold;
# and a bare carriage return ends a line for csv, which does not quote it.
_NO_TEXT = re.compile(r"(\\*)([\r\udc80-\udcff])")
_ESCAPED = re.compile(r"(\\+)(u000d|udc[89a-f][0-9a-f])")


def case_rows(case: str, scores: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """The rows of one case from what `metrics.score_case` returns."""
    return [{"case": case, "region": region, **numbers} for region, numbers in scores.items()]


def read_summary(workdir: pathlib.Path) -> dict[str, Any]:
    """`evaluation/summary.json`; empty where the run was not evaluated.

    Raises:
        InputError: it is damaged.
    """
    path = workdir / "evaluation" / "summary.json"
    summary = files.read_json(path) if path.exists() else {}
    if not isinstance(summary, dict):
        raise InputError("is not as jaxbrats evaluate writes it", file=path, hint="Run jaxbrats evaluate again")
    return summary


def read_label_file(file: LabelFile, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a segmentation.

    Args:
        file: The file. Without a label map, the enhancing tumour may be label 3 or (BraTS 2021 and before) 4.
        case: Name for error messages.

    Returns:
        uint8 project labels (X, Y, Z), and the affine (4, 4).

    Raises:
        InputError: the file is unreadable, or holds something other than labels of one convention.
    """
    labels, affine = nifti.read_labels(VolumeFile(file.path), case, file.label_map or _ANY_BRATS)
    if file.label_map is None and (old_style := labels == 4).any():
        if (labels == conventions.ET).any():
            problem = "expected the enhancing tumour as label 3 or as label 4, found both"
            raise InputError(problem, case=case, file=file.path, hint="Map one of them away")
        labels[old_style] = conventions.ET
    return labels, affine


def score_pair(pair: Pair, challenge: str = "GLI", tolerance_mm: float = 1.0) -> list[Row]:
    """Reads and scores one pair of files.

    Args:
        pair: The files.
        challenge: One of `lesions.CHALLENGES`.
        tolerance_mm: Of the surface Dice.

    Raises:
        InputError: a file is unreadable or holds something other than labels, or the two lie on different grids.
    """
    try:
        ref, ref_affine = read_label_file(pair.ref, pair.case)
        pred, pred_affine = read_label_file(pair.pred, pair.case)
        ref_grid = nifti.Grid(pair.ref.path, ref.shape, ref_affine)
        nifti.check_geometry(pair.case, ref_grid, nifti.Grid(pair.pred.path, pred.shape, pred_affine))
        spacing = tuple(nib.affines.voxel_sizes(ref_affine).tolist())
        return case_rows(pair.case, metrics.score_case(pred, ref, spacing, challenge, tolerance_mm))
    except MemoryError as error:
        problem = "does not fit in memory"
        raise InputError(problem, case=pair.case, file=pair.pred.path, hint="Use fewer workers") from error


def score_pairs(
    pairs: Sequence[Pair], challenge: str = "GLI", tolerance_mm: float = 1.0, workers: int | None = None
) -> Iterator[tuple[Pair, list[Row] | InputError]]:
    """Scores many pairs of files in worker processes.

    Args:
        pairs: As `pairs.find_pairs` returns them.
        challenge: One of `lesions.CHALLENGES`.
        tolerance_mm: Of the surface Dice.
        workers: Processes; None for as many as there are processors. One works in this process.

    Yields:
        Each pair with its rows or with what is wrong with it, in the order in which they are done.

    Raises:
        InputError: a worker died.
    """
    work = functools.partial(_score_or_error, challenge=challenge, tolerance_mm=tolerance_mm)
    count = min(workers or processes.available_cpus(), len(pairs))
    yield from processes.map_in_processes(work, pairs, count, name=lambda pair: pair.case)


def write_csv(path: str | pathlib.Path, rows: Iterable[Row]) -> None:
    r"""Writes a score table, all of it or nothing: `case,region,dice` and the further columns that the rows have.

    Numbers are written so that they read back the same; a cell is empty where a number is missing or not finite. A name
    that a spreadsheet would take for a formula has an apostrophe before it, and a byte of a name that is not UTF-8 is
    written as `\udcXX`; `read_csv` undoes both.
    """
    rows = list(rows)
    columns = [*_KEYS, *(column for column in metrics.COLUMNS if any(column in row for row in rows))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(row.get(column)) for column in columns} for row in rows)
    files.write_text(path, text.getvalue())


def read_csv(path: str | pathlib.Path) -> list[Row]:
    """Reads a score table. Numbers are floats, NaN where a cell is empty; columns of other names are left out.

    Raises:
        InputError: the file is unreadable, or no score table.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # with the ends of lines as they are, which a name may hold
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or error})", file=path) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows: dict[tuple, Row] = {}
    try:
        found = reader.fieldnames or []
        if not {*_KEYS, "dice"} <= set(found):
            problem = f"expected the columns case, region, dice, found {', '.join(found) or 'none'}"
            raise InputError(problem, file=path, hint="Give a table written by jaxbrats score or evaluate")
        columns = [column for column in metrics.COLUMNS if column in found]
        for line in reader:
            row = _row(line, columns)
            if rows.setdefault((row["case"], row["region"]), row) is not row:
                raise ValueError(f"{row['region']} of case {row['case']} appears twice")
    except (ValueError, csv.Error) as error:
        raise InputError(f"line {reader.reader.line_num}: {error}", file=path) from error
    return list(rows.values())


def _score_or_error(pair: Pair, challenge: str, tolerance_mm: float) -> list[Row] | InputError:
    try:
        return score_pair(pair, challenge, tolerance_mm)
    except InputError as error:
        return error


def _row(line: Mapping[str, str | None], columns: Sequence[str]) -> Row:
    if None in line.values():
        raise ValueError("has fewer cells than the table has columns")
    row: Row = {key: _unescape(line[key]) for key in _KEYS}
    for column in columns:
        try:
            row[column] = float(line[column] or "nan")
        except ValueError:
            raise ValueError(f"expected a number for {column}, found '{line[column]}'") from None
    return row


def _cell(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return _escape(value or "")
    return repr(value if isinstance(value, int) else float(value)) if math.isfinite(value) else ""


def _escape(name: str) -> str:
    # Backslashes before what is, or looks like, an escape are doubled, so that every name reads back.
    name = _ESCAPED.sub(lambda match: 2 * match[1] + match[2], name)
    name = _NO_TEXT.sub(lambda match: f"{2 * match[1]}\\u{ord(match[2]):04x}", name)
    return "'" + name if _FORMULA.match(name) else name


def _unescape(cell: str) -> str:
    name = cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

    def original(match: re.Match) -> str:
        backslashes = match[1][: len(match[1]) // 2]
        return backslashes + (chr(int(match[2][1:], 16)) if len(match[1]) % 2 else match[2])

    return _ESCAPED.sub(original, name)
