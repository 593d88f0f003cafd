import dataclasses
import runpy

import pytest

from jaxbrats.config.settings import Settings, from_config, type_of
from jaxbrats.system.errors import InputError


@pytest.mark.parametrize("name", ["unet3d", "quickstart"])
def test_configs_give_every_setting(name, request):
    config = runpy.run_path(str(request.config.rootpath / "configs" / f"{name}.py"))["get_config"]()
    settings = from_config(config)
    given = config.to_dict()
    expected = settings.to_dict()
    if name == "unet3d":  # the synthetic cohort is the quickstart's alone
        expected["data"].pop("synthetic_cases")
        expected["data"].pop("synthetic_shape")
    assert given == expected


def test_the_recipe_is_the_notebooks():
    config = runpy.run_path("configs/unet3d.py")["get_config"]()
    settings = from_config(config)
    assert settings == Settings()
    assert settings.model.features == (16, 32, 64, 128, 256)
    assert settings.model.dropout == (0.1, 0.1, 0.2, 0.2, 0.3)
    assert (settings.batch_size, settings.num_epochs, settings.learning_rate) == (2, 100, 1e-4)
    assert settings.data.modalities == ("t2f", "t1c", "t2w")


def test_a_record_reads_back():
    settings = dataclasses.replace(Settings(), seed=3)
    assert from_config(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("name", "kind"),
    [("config.seed", int), ("config.data.crop", tuple[int, ...]), ("config.mesh.data", int), ("config.remat", bool)],
)
def test_types_of_settings(name, kind):
    assert type_of(name) == kind


def test_names_on_the_command_line_arrive_as_one_string():
    assert from_config({"data": {"modalities": ("t2f,t1n",)}}).data.modalities == ("t2f", "t1n")
    assert from_config({"model": {"dropout": 0.2}}).model.dropout == (0.2,)
    assert from_config({"learning_rate": 1}).learning_rate == 1.0
    assert from_config({"data": {"crop": ("32, 48,64",)}}).data.crop == (32, 48, 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rte": 1e-3}, r"config.learning_rte is not a setting. Did you mean config.learning_rate\?"),
        ({"model": {"feature": (4,)}}, r"config.model.feature is not a setting. Did you mean config.model.features\?"),
        ({"model": 3}, "config.model is a group of settings"),
        ({"batch_size": 2.5}, "config.batch_size must be of type int; it is 2.5"),
        ({"batch_size": True}, "config.batch_size must be of type int"),
        ({"remat": "yes"}, "config.remat must be of type bool"),
        ({"model": {"features": (4, "x")}}, "config.model.features must be of type int"),
        ({"batch_size": 0}, "batch_size must be at least 1; it is 0"),
        ({"data": {"crop": (100, 128, 128)}}, r"data.crop must be divisible by 16, because 5 levels"),
        ({"data": {"crop": (128, 128)}}, "crop: expected three sizes"),
        ({"data": {"modalities": ("flair",)}}, "modalities: expected some of t1n, t1c, t2w, t2f, found flair"),
        ({"model": {"dropout": (0.1, 0.2)}}, "model.dropout needs one rate, or one for each of the 5 levels"),
        ({"model": {"norm": "layer"}}, "model.norm is one of none, instance, group, batch; it is 'layer'"),
        ({"loss": {"class_weights": (1.0, 1.0)}}, "loss.class_weights needs 4 weights"),
        ({"mesh": {"data": 0}}, "mesh.data is -1 or at least 1"),
        ({"conv": "fast"}, "conv is one of auto, direct"),
        ({"accumulate": 0}, "accumulate must be at least 1; it is 0"),
        ({"batch_size": 6, "accumulate": 4}, "batch_size must be divisible by config.accumulate, which is 4; it is 6"),
        ({"dtype": "float16"}, "dtype is float32 or bfloat16"),
        ({"batch_size": 3, "mesh": {"data": 2}}, "batch_size must be a multiple of the 2 devices of mesh.data"),
        (
            {"data": {"crop": (48, 32, 32)}, "mesh": {"space": 5}},
            "crop must be divisible along its first axis by the 5",
        ),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"data": {"split_seed": -1}}, "data.split_seed must be 0 or more"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite"),
        ({"skip_nonfinite": 1}, "config.skip_nonfinite must be of type bool"),
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"loss": {"dice_weight": 0, "focal_weight": 0}}, "loss needs one weight above 0"),
        ({"loss": {"class_weights": (0, 0, 0, 0)}}, "loss.class_weights needs 4 weights, 0 or more and not all 0"),
        ({"data": {"synthetic_shape": (8, 64, 64)}}, "synthetic_shape needs three sizes of 16 or more"),
        ({"data": {"val_fraction": 1.0}}, "val_fraction lies between 0 and 1"),
        ({"model": {"features": ()}}, "model.features needs positive numbers"),
        ({"colour": "red"}, "config.colour is not a setting"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(InputError, match=message):
        from_config(config)
