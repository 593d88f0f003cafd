"""Writes a run's report, to be opened in a browser.

    jaxbrats report --workdir=runs/unet3d

RUN/report.html shows scores, box plots, curves and settings, and links to a page for each case (RUN/report/CASE.html)
with a viewer of image, truth and prediction. It needs no network. Run `jaxbrats evaluate` first; the end of training
does both. For research and education; not a medical device.
"""

import sys

from absl import flags

from jaxbrats.runs.report import report_run
from jaxbrats.system.errors import printable

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True, flag_values=FLAGS)
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Processes that make the cases' pages; by default one a processor, fewer for few cases.",
    lower_bound=1,
    flag_values=FLAGS,
)


def main() -> int:
    """Writes the report and prints where it is; 1 if a case could not be shown."""
    path, problems = report_run(_WORKDIR.value, _WORKERS.value)
    print(f"{printable(str(path))}: open it in a browser")
    for problem in problems:
        print(f"not shown: {problem}", file=sys.stderr)
    return 1 if problems else 0
