"""Trackers are told what metrics.jsonl is told, go on where they were, and can neither break nor hold up training."""

import importlib.machinery
import importlib.util
import io
import itertools
import json
import struct
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image

from jaxbrats.config.settings import Settings, from_config
from jaxbrats.data.dataset import read_dataset
from jaxbrats.report.slices import draw_case
from jaxbrats.runs.record import check_settings, read_record
from jaxbrats.system import distributed
from jaxbrats.system.errors import InputError
from jaxbrats.train import loop, tracking
from jaxbrats.train.logs import MetricsLog, read_metrics
from jaxbrats.train.plan import Plan

TRAIN = {"step": 3, "epoch": 1, "split": "train", "loss": 0.5, "dice": {"ET": 0.25, "ED": None}, "skipped": 0}
VAL = {"step": 3, "epoch": 1, "split": "val", "loss": 0.125}
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def track(workdir, settings, start=0):
    """What a start of a run writes."""
    log = MetricsLog(workdir, start, trackers=tracking.open_trackers(workdir, settings, start + 1))
    log.write(TRAIN)
    log.pictures(3, {"val/case": PICTURE})
    log.write(VAL)
    log.close()


def events_of(workdir):
    """The events of a run: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((workdir / "tensorboard").iterdir()):
        content = io.BytesIO(path.read_bytes())
        while head := content.read(12):
            yield Event.FromString(content.read(struct.unpack("<Q", head[:8])[0]))
            content.read(4)


def pictures_of(workdir):
    """(step, name) -> picture."""
    values = ((event.step, value) for event in events_of(workdir) for value in event.summary.value)
    return {
        (step, value.tag): np.array(Image.open(io.BytesIO(value.image.encoded_image_string)))
        for step, value in values
        if value.HasField("image")
    }


def test_tensorboard_has_scalars_and_pictures_and_hides_what_comes_again(tmp_path):
    track(tmp_path, Settings(tracking=("tensorboard",)), start=2)
    events = list(events_of(tmp_path))
    assert [event.step for event in events if event.session_log.status] == [3]
    scalars = {
        (event.step, value.tag): value.simple_value
        for event in events
        for value in event.summary.value
        if value.HasField("simple_value")
    }
    assert scalars == {(3, "train/loss"): 0.5, (3, "train/dice/ET"): 0.25, (3, "val/loss"): 0.125}
    ((place, picture),) = pictures_of(tmp_path).items()
    assert place == (3, "val/case")
    np.testing.assert_array_equal(picture, PICTURE)


def test_a_run_shows_the_first_two_validation_cases_at_each_validation(tiny_run):
    record, pictures = read_record(tiny_run), pictures_of(tiny_run)
    shown = record.split.val[:2]
    assert pictures.keys() == set(itertools.product((3, 6, 9), (f"val/{name}" for name in shown)))
    for case in read_dataset(tiny_run / "data").select(shown):
        blank = draw_case(case, np.zeros((16, 16), np.uint8))
        picture = pictures[9, f"val/{case.name}"]
        assert picture.shape == blank.shape == (16, 48, 3)
        np.testing.assert_array_equal(picture[:, :32], blank[:, :32])  # the image and the truth


class Fake(types.ModuleType):
    """A package that keeps what it is called with; what is called is its own answer, as wandb's run is."""

    info = types.SimpleNamespace(run_id="given")

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return call

    def named(self, name):
        return [(arguments, options) for called, arguments, options in self.calls if called == name]


@pytest.fixture
def fake(monkeypatch):
    def fake(name):
        monkeypatch.setitem(sys.modules, name, Fake(name))
        return sys.modules[name]

    return fake


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(tmp_path, fake):
    wandb, settings = fake("wandb"), Settings(tracking=("wandb",))
    track(tmp_path, settings)
    track(tmp_path, settings, start=2)
    one = ["Settings", "init", "define_metric", "log", "Image", "log", "log", "finish"]
    assert [name for name, _, _ in wandb.calls] == one * 2
    (_, first), (_, second) = wandb.named("init")
    assert first["id"] == second["id"]
    assert (first["resume"], first["dir"], first["name"]) == ("allow", tmp_path, tmp_path.name)
    assert first["config"] == settings.to_dict()
    assert wandb.named("define_metric")[0] == (("*",), {"step_metric": "step"})
    scalars, picture, validation = (arguments[0] for arguments, _ in wandb.named("log")[:3])
    assert scalars == {"step": 3, "train/loss": 0.5, "train/dice/ET": 0.25}
    assert picture == {"step": 3, "val/case": wandb}
    assert validation == {"step": 3, "val/loss": 0.125}


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(tmp_path, fake):
    mlflow, settings = fake("mlflow"), Settings(tracking=("mlflow",))
    track(tmp_path, settings)
    track(tmp_path, settings, start=2)
    one = ["set_experiment", "start_run", "log_metrics", "log_image", "log_metrics", "end_run"]
    assert [name for name, _, _ in mlflow.calls] == [*one[:2], "log_params", *one[2:], *one]
    assert [options["run_id"] for _, options in mlflow.named("start_run")] == [None, "given"]
    ((params,), _) = mlflow.named("log_params")[0]
    assert (params["data.crop"], params["loss.terms.focal"]) == ((128, 128, 128), settings.loss.terms["focal"])
    assert mlflow.named("log_metrics")[0] == (({"train/loss": 0.5, "train/dice/ET": 0.25},), {"step": 3})
    assert mlflow.named("log_image")[0][1] == {"key": "val/case", "step": 3}


class Failing:
    """A tracker that cannot do what its place in the table says."""

    def __init__(self, fails):
        self.fails = fails
        self("open")

    def __call__(self, method):
        if method == self.fails:
            raise ConnectionError("no\nserver")

    def scalars(self, record):
        self("scalars")

    def images(self, step, name, image):
        self("images")

    def close(self):
        self("close")


@pytest.mark.parametrize("fails", ["open", "scalars", "images", "close"])
def test_a_tracker_that_fails_ends_alone_and_says_so_once(fails, tmp_path, fake, monkeypatch, capsys):
    fake("wandb")
    monkeypatch.setitem(tracking.TRACKERS, "wandb", ("wandb", lambda *_: Failing(fails)))
    track(tmp_path, Settings(tracking=("wandb", "tensorboard")))
    assert capsys.readouterr().err == "tracking by wandb ends: ConnectionError: no\\nserver\n"
    assert read_metrics(tmp_path) == [TRAIN, VAL]
    assert pictures_of(tmp_path).keys() == {(3, "val/case")}


@pytest.mark.parametrize(("waiting", "reason"), [(9, "it is not done 0.01 seconds after training"), (1, "too slow")])
def test_a_tracker_that_waits_for_ever_holds_nothing_up(waiting, reason, tmp_path, fake, monkeypatch, capsys):
    fake("wandb")
    answer = threading.Event()
    monkeypatch.setattr(tracking, "_PATIENCE", 0.01)
    monkeypatch.setattr(tracking, "_WAITING", waiting)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", ("wandb", lambda *_: answer.wait(60)))
    track(tmp_path, Settings(tracking=("wandb",)))
    answer.set()
    error = capsys.readouterr().err
    assert error.startswith("tracking by wandb ends: ")
    assert error.endswith(f"{reason}\n")
    assert error.count("\n") == 1
    assert read_metrics(tmp_path) == [TRAIN, VAL]


def test_of_several_processes_the_first_alone_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with loop._progress(Settings(), Plan(4, 2, 1), [], tmp_path, 0) as progress:
        progress.validation(2, {"mean_region_dice": 0.5, "pictures": {"case": PICTURE}})
    assert list(tmp_path.iterdir()) == []


def test_what_the_setting_asks_for(monkeypatch):
    assert tracking.tracker_names(Settings()) == ("tensorboard",)
    assert tracking.tracker_names(from_config({"tracking": ["tensorboard", "tensorboard"]})) == ("tensorboard",)
    assert tracking.tracker_names(Settings(tracking=())) == ()
    with pytest.raises(InputError, match="must be auto, or values, each one of tensorboard, wandb, mlflow; it is 'wan"):
        from_config({"tracking": "wandbb"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tracking.tracker_names(Settings()) == ()
    with pytest.raises(InputError, match=r"needs the package tensorboardX, .* pip install '.\[tensorboard\]'"):
        tracking.tracker_names(Settings(tracking=("tensorboard",)))


def test_a_run_of_before_goes_on_with_any(tiny_run, tmp_path):
    content = json.loads((tiny_run / "config.json").read_text())
    assert content["settings"].pop("tracking") == "auto"
    (tmp_path / "config.json").write_text(json.dumps(content))
    for asked in ("auto", "wandb", ["mlflow", "tensorboard"], []):
        check_settings(read_record(tmp_path), from_config({**content["settings"], "tracking": asked}))
