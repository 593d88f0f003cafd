"""Says what is wrong with a cohort of NIfTI files, before anything is trained.

    jaxbrats check --raw=ASNR-MICCAI-BraTS2023-GLI --config=configs/brats.py --json=check.json

Reads every file as `jaxbrats preprocess` does with the same flags, and training with the same config. Errors are what
it would refuse, and too few patients to train on: with one the exit code is 1. Warnings are for you to look at: a
background that is not 0, volumes that are there twice, orientations unlike the others', and more. Nothing is written
but the file of --json, which holds everything measured and found.
"""

import pathlib

from absl import flags

from jaxbrats.commands import preprocessing_flags
from jaxbrats.data.check.cohort import check_cohort
from jaxbrats.data.check.text import as_text
from jaxbrats.system import files
from jaxbrats.system.errors import InputError

FLAGS = flags.FlagValues()
_RAW = flags.DEFINE_string("raw", None, "Folder of the cohort.", required=True, flag_values=FLAGS)
_JSON = flags.DEFINE_string("json", None, "File to write everything to.", flag_values=FLAGS)
preprocessing_flags.define(FLAGS)
_WORKERS = flags.DEFINE_integer("workers", None, "Processes. By default one a CPU.", lower_bound=0, flag_values=FLAGS)


def main() -> int:
    """Checks and prints; 1 if something would stop a case or the training."""
    settings = preprocessing_flags.settings(FLAGS)
    if _JSON.value:
        # A place that cannot be written shows before the work.
        path = pathlib.Path(_JSON.value)
        if path.is_dir():
            raise InputError("is a folder, expected a file to write", file=path, hint="Add a name such as check.json")
        path.parent.mkdir(parents=True, exist_ok=True)
    report = check_cohort(_RAW.value, settings, _WORKERS.value)
    if _JSON.value:
        files.write_json(_JSON.value, report.to_dict())
    print(as_text(report, everything_in=_JSON.value))
    return 1 if report.errors else 0
