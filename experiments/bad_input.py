"""What comes back for each kind of malformed or odd input: refused in one line, or taken as it should be.

    python experiments/bad_input.py

Tries every kind of `malformed.corpus` with a sound case beside it; writes bad_input.md and bad_input.json.
Ends with 1 where something else came than what was expected, where a refusal is not one line with a file and a hint,
where the case beside it came out otherwise, or where `jaxbrats check` and `jaxbrats preprocess` disagree.
"""

import collections
import dataclasses
import pathlib
import platform
import sys

import nibabel
import numpy
from absl import flags
from tqdm import tqdm

from jaxbrats import commands
from jaxbrats.system import files

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))  # the corpus is the tests' own
from malformed.corpus import CORPUS, attempt, faults
from malformed.kinds import ODD

FLAGS = flags.FlagValues()
flags.DEFINE_string("out", "experiments/results", "Folder to write to.", flag_values=FLAGS)

_LONGEST = 300


def main() -> int:
    """Tries, writes, prints a summary."""
    rows = []
    kinds = [(group, kind) for group, kinds in CORPUS.items() for kind in kinds]
    for group, kind in tqdm(kinds, desc="kinds", unit="kind", disable=None):
        outcome = attempt(group, kind)
        outcome = dataclasses.replace(outcome, message=outcome.message.replace(ODD, "CASE"))
        about = {"group": group, "kind": kind.name, "expected": kind.expected, "faults": faults(kind, outcome)}
        rows.append(about | dataclasses.asdict(outcome) | {"seconds": round(outcome.seconds, 3)})
    out = pathlib.Path(FLAGS.out)
    versions = {"python": platform.python_version(), "numpy": numpy.__version__, "nibabel": nibabel.__version__}
    files.write_json(out / "bad_input.json", {"versions": versions, "kinds": rows})
    files.write_text(out / "bad_input.md", as_markdown(rows, versions))
    print(summary(rows))
    wrong = [row for row in rows if row["faults"]]
    for row in wrong:
        print(f"{row['kind']}: {'; '.join(row['faults'])}: {row['message']}", file=sys.stderr)
    return 1 if wrong else 0


def summary(rows: list[dict]) -> str:
    """A sentence on all kinds."""
    counts = collections.Counter(row["result"] for row in rows)
    wrong = sum(bool(row["faults"]) for row in rows)
    shown = "; ".join(f"{count} {result}" for result, count in counts.most_common())
    slowest = max(row["seconds"] for row in rows)
    return f"{len(rows)} kinds: {shown}; {wrong} not as they should be. The slowest took {slowest:.2f} s."


def as_markdown(rows: list[dict], versions: dict[str, str]) -> str:
    """The table for people."""
    lines = [
        "# Bad input",
        "",
        f"{summary(rows)} Made by `python experiments/bad_input.py`",
        f"({', '.join(f'{name} {version}' for name, version in versions.items())}).",
        "",
        "Each kind was tried with a sound case beside it, whose arrays stayed the same bit for bit. 'Same arrays' are",
        "those of the case before it was stored so. Of what is accepted or skipped, the line is what `jaxbrats check`",
        "warns of. The case that was spoilt is called CASE.",
    ]
    for group in CORPUS:
        lines += ["", f"## {group.capitalize()}", "", "| kind | result | what came back |", "| --- | --- | --- |"]
        for row in rows:
            if row["group"] == group:
                result = row["result"] if not row["faults"] else f"**{row['result']}**: {'; '.join(row['faults'])}"
                lines.append(f"| {row['kind']} | {result} | {_cell(row['message'])} |")
    return "\n".join(lines) + "\n"


def _cell(message: str) -> str:
    short = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."
    return f"`` {short.replace('|', chr(92) + '|')} ``" if short else ""


if __name__ == "__main__":
    sys.exit(commands.run_program(sys.modules[__name__], "bad_input", sys.argv[1:]))
