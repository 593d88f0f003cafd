"""Going on with copies of the finished run."""

import pathlib
from collections.abc import Callable

import pytest

from jaxbrats import main
from jaxbrats.runs import job
from jaxbrats.train.loop import Outcome


@pytest.fixture
def train(tiny_config: pathlib.Path) -> Callable[..., int]:
    """The training program in a folder, with settings to change; data.dir=FOLDER and so on."""

    def train(workdir: pathlib.Path, **changes: object) -> int:
        flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in changes.items()]
        return main.run([f"--config={tiny_config}", f"--workdir={workdir}", *flags])

    return train


@pytest.fixture
def begun_only(training_alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training program up to where it would train."""
    monkeypatch.setattr(job, "train", lambda *_, **__: Outcome(0, 0, trained=False))
