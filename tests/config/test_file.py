import ast
import dataclasses
import json
import pathlib
import runpy

import pytest

from jaxbrats import config, main
from jaxbrats.config import Data, Loss, Mesh, Model, Settings, from_config, load_config
from jaxbrats.config.file import split_arguments
from jaxbrats.system.errors import InputError

CONFIGS = sorted(pathlib.Path(__file__).parents[2].glob("configs/*.py"))


def write(path, body):
    path.write_text(f"from jaxbrats import config\ndef get_config():\n  s = config.default()\n  {body}\n  return s\n")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_tells_what_it_is_for(path):
    from_config(load_config(path))
    doc = runpy.run_path(str(path))["__doc__"]
    assert f"\n    python -m jaxbrats.main --config=configs/{path.name}" in doc
    assert "\nExpect " in doc


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_states_only_what_it_changes(path):
    """Apart from the notebook's recipe, which spells out the defaults."""
    default = config.default()
    assigned = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assign)]
    stated = {ast.unparse(node.targets[0]): node.value for node in assigned}
    start = stated.pop("settings")
    if start.func.attr == "load_config":
        (base,) = (node.value for node in ast.walk(start) if isinstance(node, ast.Constant))
        default = load_config(path.with_name(base))
    for name, value in stated.items():
        before = default
        for part in name.split(".")[1:]:
            before = getattr(before, part)
        before = before.to_dict() if isinstance(before, type(default)) else before
        assert (ast.literal_eval(value) == before) == (path.stem == "unet3d"), name


def test_the_recipe_is_the_notebooks():
    settings = from_config(load_config("configs/unet3d.py"))
    assert settings == Settings()
    assert settings.model == Model((16, 32, 64, 128, 256), "none", "relu", (0.1, 0.1, 0.2, 0.2, 0.3))
    assert (settings.batch_size, settings.num_epochs, settings.learning_rate) == (2, 100, 1e-4)
    assert settings.data == Data(modalities=("t2f", "t1c", "t2w"), crop=(128, 128, 128), normalization="minmax")
    assert settings.loss == Loss({"dice": 1.0, "focal": 1.0}, (1.0, 1.0, 1.0, 1.0), alpha=0.25, gamma=2.0)


def test_the_quickstart_is_what_its_numbers_were_made_with():
    shape = (64, 64, 56)
    assert from_config(load_config("configs/quickstart.py")) == Settings(
        seed=0, batch_size=2, accumulate=1, num_epochs=16, learning_rate=5e-3, schedule="cosine", dtype="float32",
        remat=False, conv="auto", gpu_memory_fraction=0.9, skip_nonfinite=False, mesh=Mesh(-1, 1),
        data=Data("", "data/quickstart", 24, shape, ("t2f", "t1c", "t2w"), shape, "zscore", min_tumour=0.01, workers=0),
        model=Model((8, 16, 32, 64), "instance", "relu", (0.0,)),
        loss=Loss({"dice": 1.0, "focal": 1.0}, (1.0, 1.0, 1.0, 1.0), alpha=0.25, gamma=2.0),
    )  # fmt: skip


def test_a_file_may_start_from_another(tmp_path):
    write(tmp_path / "first.py", "s.model.norm = 'batch'; s.seed = 3; s.loss.terms = {'focal': 2}")
    second = tmp_path / "second.py"
    second.write_text(
        "import pathlib\nfrom jaxbrats import config\ndef get_config():\n"
        "  s = config.load_config(pathlib.Path(__file__).with_name('first.py'))\n  s.seed = 4\n  return s\n"
    )
    settings = from_config(load_config(second))
    assert settings == Settings(seed=4, model=Model(norm="batch"), loss=Loss({"focal": 2.0}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("s.sed = 1", "config.sed is not a setting. Did you mean config.seed?"),
        ("s.seed = 'one'", "config.seed must be of type int; it is 'one'"),
        ("s.data.val_fraction = '20 %'", "config.data.val_fraction must be of type float or none; it is '20 %'"),
        (
            "s.loss.terms = {'dise': 1.0}",
            "config.loss.terms.dise is not a setting. Did you mean config.loss.terms.dice?",
        ),
        ("s.model.norm = 'layer'", "config.model.norm must be one of none, instance, group, batch; it is 'layer'"),
        ("s.mesh = 4", "config.mesh is a group of settings; it cannot be 4"),
        ("s.data.crop = (64, 64)", "config.data.crop must be 3 values, each of type int, or brain; it is (64, 64)"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path, body, message):
    path = write(tmp_path / "wrong.py", body)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: {message}"


def test_arguments_name_settings_by_their_ends(tmp_path):
    path = write(tmp_path / "small.py", "s.seed = 1")
    settings = from_config(load_config(f"{path}:fold=1,seed=3,model.features=4,8,dropout=0.2,loss.terms.focal=0.5"))
    expected = Settings(3, data=Data(fold=1), model=Model((4, 8), dropout=(0.2,)), loss=Loss({"dice": 1, "focal": 0.5}))
    assert settings == expected
    assert from_config(load_config(f"{path}:seed=3", [("seed", "4")])).seed == 4
    assert split_arguments("a.py:terms=dice:1,focal:2,fold=none") == (
        pathlib.Path("a.py"),
        [("terms", "dice:1,focal:2"), ("fold", "none")],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fald=1", "config.fald is not a setting"),
        ("data.fald=1", "config.data.fald is not a setting. Did you mean config.data.fold?"),
        ("fold=one", "config.data.fold must be of type int or none; it is 'one'"),
        ("big", "expected arguments such as fold=1,seed=3 after the colon, found 'big'"),
    ],
)
def test_mistakes_in_arguments(tmp_path, arguments, message):
    path = write(tmp_path / "small.py", "s.seed = 1")
    with pytest.raises(InputError) as caught:
        load_config(f"{path}:{arguments}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.data.val_fraction=0.2"], {"data": {"val_fraction": 0.2}}),
        (["--config.data.fold=2", "--config.data.fold=none"], {}),
        (["--config.loss.terms.focal=0.5"], {"loss": {"terms": {"dice": 1.0, "focal": 0.5}}}),
        (["--config.loss.terms=focal:2"], {"loss": {"terms": {"focal": 2.0}}}),
        (["--config.loss.terms={'focal': 2, \"dice\": 1}"], {"loss": {"terms": {"focal": 2.0, "dice": 1.0}}}),
        (["--config.data.modalities=t2f,t1n"], {"data": {"modalities": ("t2f", "t1n")}}),
        (["--config.data.modalities=('t2f', 't1n')"], {"data": {"modalities": ("t2f", "t1n")}}),
        (["--config.data.crop=(32, 48,64)"], {"data": {"crop": (32, 48, 64)}}),
        (["--config.remat"], {"remat": True}),
        (["--config.remat", "--config.seed", "5"], {"remat": True, "seed": 5}),
        (["-config.remat=False", "--config.batch_size=4"], {"batch_size": 4}),
        (["--config.data.raw_dir=a=b,c"], {"data": {"raw_dir": "a=b,c"}}),
        (["--config.learning_rate=1"], {"learning_rate": 1.0}),
    ],
)
def test_the_command_line_changes_settings(tmp_path, flags, expected):
    path = write(tmp_path / "plain.py", "pass")
    assert from_config(main.parse([f"--config={path}", *flags])[0]) == from_config(expected)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.val_fraction=half", "config.data.val_fraction must be of type float or none; it is 'half'"),
        ("--config.seed=none", "config.seed must be of type int; it is 'none'"),
        ("--config.seed=1.5", "config.seed must be of type int; it is '1.5'"),
        ("--config.seed.x=1", "config.seed.x is not a setting"),
        ("--config.remat=maybe", "config.remat must be of type bool; it is 'maybe'"),
        ("--config.model.features=(4,x)", "config.model.features must be values, each of type int; it is '(4,x)'"),
        ("--config.conv=winogrand", "config.conv must be one of auto, direct, slices, winograd, native; it is"),
        (
            "--config.loss.terms.focl=1",
            "config.loss.terms.focl is not a setting. Did you mean config.loss.terms.focal?",
        ),
        (
            "--config.loss.terms=dice",
            "config.loss.terms must be a value for any of dice, tversky, boundary, ce, bce, topk, focal, each",
        ),
        ("--config.loss.terms=dise:1", "config.loss.terms.dise is not a setting. Did you mean config.loss.terms.dice?"),
        ("--config.data.crop=4,4", "config.data.crop must be 3 values, each of type int, or brain; it is '4,4'"),
        ("--config.data=x", "config.data is a group of settings; it cannot be 'x'"),
        ("--config.=1", "config. is not a setting"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, flag, message):
    path = write(tmp_path / "plain.py", "pass")
    with pytest.raises(InputError) as caught:
        main.parse([f"--config={path}", flag])
    assert message in str(caught.value)


def test_each_choice_of_arguments_is_a_run_of_its_own(tmp_path):
    path = write(tmp_path / "plain.py", "pass")
    assert main.parse([f"--config={path}"])[1] == pathlib.Path("runs/plain")
    assert main.parse([f"--config={path}:fold=1,seed=3"])[1] == pathlib.Path("runs/plain_fold=1_seed=3")
    assert main.parse([f"--config={path}:dir=/a/b"])[1] == pathlib.Path("runs/plain_dir=-a-b")


def test_a_record_is_a_config_and_takes_arguments(tmp_path):
    settings = dataclasses.replace(Settings(), seed=3)
    path = tmp_path / "run" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"settings": settings.to_dict(), "data": {"dir": str(tmp_path)}}))
    read = from_config(load_config(f"{path}:fold=1"))
    assert read == dataclasses.replace(settings, data=Data(dir=str(tmp_path), fold=1))
    assert main.parse([f"--config={path}"])[1] == path.parent
    # Another fold of the same division: what else drew the patients stays.
    drawn = {"fold": 0, "folds": 3, "split_seed": 7, "split": "elsewhere.json"}
    values = settings.to_dict() | {"data": settings.to_dict()["data"] | drawn}
    path.write_text(json.dumps({"settings": values, "data": {"dir": str(tmp_path)}}))
    data = load_config(path, [("data.fold", "1")]).data
    assert (data.fold, data.folds, data.split_seed, data.split) == (1, 3, 7, "")
    data = load_config(path, [("data.val_fraction", "0.3")]).data
    assert (data.fold, data.val_fraction, data.split_seed) == (None, 0.3, 7)
    data = load_config(path).data
    assert (data.fold, data.split_seed, data.split) == (None, None, str(path))
    path.write_text(json.dumps({"settings": {"data": {}, "momentum": 0.9}, "data": {"dir": ""}}))
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: config.momentum is not a setting. ")
