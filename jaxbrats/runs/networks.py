"""Trained networks by what the user calls them: a run, an exported file, a model that ships with the package."""

import dataclasses
import pathlib

from jaxbrats.inference.exported import read_model
from jaxbrats.inference.network import Network, load_network
from jaxbrats.inference.postprocess import read_postprocessing
from jaxbrats.runs.record import RunRecord, read_record


def find_network(place: str | pathlib.Path) -> Network:
    """The network of a run (its best checkpoint), of a file FILE.npz, or of a model that ships with the package.

    What a folder is called does not matter; a name that is not a folder is one of the package's.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = pathlib.Path(place)
    return run_network(read_record(path)) if path.is_dir() else read_model(place)


def run_network(record: RunRecord, step: str = "best") -> Network:
    """The network of a run with the post-processing that it was tuned for, by default that of its settings.

    Raises:
        InputError: there is no such checkpoint, or one that cannot be read.
    """
    network = load_network(record.workdir, record.settings, record.frame, step)
    return dataclasses.replace(network, postprocessing=read_postprocessing(record.workdir, network.postprocessing))
