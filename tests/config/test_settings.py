import dataclasses
import json
import typing

import pytest

from jaxbrats import config
from jaxbrats.config import (
    Augment,
    Checkpoint,
    Data,
    Loss,
    Mesh,
    Model,
    Optimizer,
    Settings,
    from_config,
    reference,
    typed,
)
from jaxbrats.config import data as data_settings
from jaxbrats.config import model as model_settings
from jaxbrats.config import settings as root
from jaxbrats.data.labels import DEFAULT_MODALITIES, MODALITIES, NUM_CLASSES, REGIONS
from jaxbrats.data.normalization import NORMALIZATIONS
from jaxbrats.data.preprocessing import Preprocessing
from jaxbrats.model.blocks import ACTIVATIONS, BLOCKS, NORMS
from jaxbrats.model.conv import METHODS
from jaxbrats.system.errors import InputError
from jaxbrats.train.tracking import TRACKERS

REGIONS_HEAD = {"model": {"head": "regions"}}


@pytest.mark.parametrize(
    ("choices", "table"),
    [
        (data_settings.Modality, MODALITIES),
        (data_settings.Normalization, NORMALIZATIONS),
        (model_settings.Norm, NORMS),
        (model_settings.Activation, tuple(ACTIVATIONS)),
        (model_settings.Block, tuple(BLOCKS)),
        (root.ConvMethod, METHODS),
        (root.TrackerName, tuple(TRACKERS)),
    ],
)
def test_choices_are_those_that_there_are(choices, table):
    assert typing.get_args(choices) == table


def test_defaults_agree_with_what_they_are_for():
    assert Preprocessing.of(Data()) == Preprocessing()
    assert Data().modalities == DEFAULT_MODALITIES
    assert len(Loss().class_weights) == NUM_CLASSES
    assert len(Loss().region_weights) == len(Model().thresholds) == len(REGIONS)


@pytest.mark.parametrize("group", [Settings, Mesh, Data, Augment, Model, Loss, Optimizer, Checkpoint])
def test_every_setting_has_its_comment_once(group):
    own = [field.name for field in dataclasses.fields(group) if not dataclasses.is_dataclass(field.type)]
    assert list(reference.comments(group)) == own


def test_help_has_every_setting_with_default_and_type():
    text = reference.help_text()
    assert "  --config.data.val_fraction=none\n      Share of the patients drawn for validation;" in text
    assert "  --config.loss.terms=dice:1.0,focal:1.0\n" in text
    assert "  --config.model.features=16,32,64,128,256\n" in text
    assert "(one of none, instance, group, batch)" in text
    assert text.count("--config.") == len(list(reference.settings()))


def test_a_record_reads_back():
    settings = Settings(seed=3, data=Data(fold=1), loss=Loss({"dice": 0.5}))
    assert from_config(settings.to_dict()) == settings
    assert from_config(json.loads(json.dumps(settings.to_dict()))) == settings


def test_defaults_are_a_config():
    assert from_config(config.default()) == from_config({}) == Settings()
    config.default().loss.terms.dice = 5.0
    assert Settings().loss.terms == {"dice": 1.0, "focal": 1.0}


def test_values_that_pass_for_others():
    assert from_config({"model": {"dropout": 0.2}}).model.dropout == (0.2,)
    learning_rate = from_config({"learning_rate": 1}).learning_rate
    assert (learning_rate, type(learning_rate)) == (1.0, float)
    assert from_config({"data": {"crop": [32, 48, 64]}}).data.crop == (32, 48, 64)
    assert from_config({"data": {"val_fraction": 0.2}}).data.val_fraction == 0.2
    assert from_config({"data": {"val_fraction": None}}).data.val_fraction is None
    assert from_config({"loss": {"terms": {"focal": 1}}}).loss.terms == {"focal": 1.0}
    assert from_config({"loss": {"class_weights": "balanced"}}).loss.class_weights == "balanced"
    assert from_config({"loss": {"terms": {"bce": 0, "dice": 1}}}).loss.terms == {"bce": 0.0, "dice": 1.0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rte": 1e-3}, r"config.learning_rte is not a setting. Did you mean config.learning_rate\?"),
        ({"model": {"feature": (4,)}}, r"config.model.feature is not a setting. Did you mean config.model.features\?"),
        ({"model": 3}, "config.model is a group of settings; it cannot be 3"),
        ({"batch_size": 2.5}, "config.batch_size must be of type int; it is 2.5"),
        ({"batch_size": True}, "config.batch_size must be of type int; it is True"),
        ({"batch_size": None}, "config.batch_size must be of type int; it is None"),
        ({"remat": "yes"}, "config.remat must be of type bool; it is 'yes'"),
        ({"remat": 1}, "config.remat must be of type bool; it is 1"),
        ({"learning_rate": True}, "config.learning_rate must be of type float; it is True"),
        ({"learning_rate": "1e-4"}, "config.learning_rate must be of type float; it is '1e-4'"),
        ({"model": {"features": (4, "x")}}, r"config.model.features must be values, each of type int; it is \(4, 'x'"),
        ({"batch_size": 0}, "batch_size must be at least 1; it is 0"),
        ({"data": {"crop": (100, 128, 128)}}, r"data.crop must be divisible by 16x16x16, because 5 levels"),
        ({"data": {"crop": (128, 128)}}, r"data.crop must be 3 values, each of type int, or brain; it is \(128, 128\)"),
        ({"data": {"crop": "128,128,128"}}, "data.crop must be 3 values, each of type int, or brain; it is '128,128,1"),
        ({"data": {"crop": "brain"}}, "data.patch needs three sizes where data.crop is brain"),
        ({"data": {"crop": "brain", "patch": (24, 16, 16)}}, "data.patch must be divisible by 16x16x16"),
        ({"data": {"crop": (0, 128, 128)}}, "data.crop needs three sizes of 1 or more"),
        ({"data": {"modalities": ("flair",)}}, "modalities must be values, each one of t1n, t1c, t2w, t2f; it is"),
        ({"data": {"modalities": ()}}, "data.modalities needs at least one modality and none twice"),
        ({"data": {"modalities": ("t1c", "t1c")}}, "data.modalities needs at least one modality and none twice"),
        (
            {"data": {"derived": ("gradient_t1",)}},
            "'gradient_t1' is not .* Did you mean gradient_t1n?",
        ),
        ({"data": {"derived": ("x",)}}, "'x' is not a channel that can be derived. It has: brain, gradient_MODALITY"),
        ({"data": {"derived": ("brain", "brain")}}, "data.derived names no channel twice"),
        (
            {"data": {"derived": ("t1c-t1n",)}},
            "t1c-t1n needs t1n, config.data.modalities has only t2f, t1c, t2w. Add t1n to config.data.modalities",
        ),
        ({"data": {"modalities": ("t1n",), "derived": ("t2f-t1c",)}}, "t2f-t1c needs t2f and t1c, config.data.mod"),
        ({"data": {"normalization": "none"}}, "data.normalization must be one of minmax, zscore; it is 'none'"),
        ({"data": {"min_tumour": float("nan")}}, "data.min_tumour lies between 0 and 1; it is nan"),
        ({"model": {"dropout": (0.1, 0.2)}}, "model.dropout needs one rate, or one for each of the 5 levels"),
        ({"model": {"dropout": (1.0,)}}, "model.dropout needs rates from 0 to below 1"),
        ({"model": {"norm": "layer"}}, "model.norm must be one of none, instance, group, batch; it is 'layer'"),
        ({"model": {"activation": ["relu"]}}, "model.activation must be one of relu, leaky_relu, gelu, silu"),
        (
            {"loss": {"class_weights": (1.0, 1.0)}},
            "class_weights must be 4 values, each of type float, or balanced",
        ),
        ({"loss": {"class_weights": "equal"}}, "class_weights must be 4 values, each of type float, or balanced"),
        ({"loss": {"terms": {"bce": 1}}}, "loss.terms has bce, which needs model.head = regions; it is 'labels'"),
        ({"loss": {"terms": {"bce": 0}}}, "loss.terms needs finite weights of 0 or more, one of them above 0"),
        (
            REGIONS_HEAD | {"loss": {"terms": {"ce": 1}}},
            "loss.terms has ce, which needs model.head = labels; it is 'reg",
        ),
        (
            REGIONS_HEAD | {"loss": {"class_weights": (1, 2, 2, 2)}},
            "loss.class_weights is for model.head = labels, not",
        ),
        (
            REGIONS_HEAD | {"loss": {"class_weights": "balanced"}},
            "loss.class_weights is for model.head = labels, not reg",
        ),
        (REGIONS_HEAD | {"loss": {"dice_background": False}}, "loss.dice_background is for model.head = labels"),
        (REGIONS_HEAD | {"loss": {"alpha": 2.0}}, "loss.alpha is at most 1 with model.head = regions; it is 2.0"),
        ({"loss": {"region_weights": (1, 2, 2)}}, "loss.region_weights is for model.head = regions, not labels"),
        ({"loss": {"region_weights": (0, 0, 0)}}, "loss.region_weights needs finite weights of 0 or more"),
        (
            {"loss": {"class_weights": (1, 0, 0, 0), "dice_background": False}},
            "class_weights leaves nothing without loss",
        ),
        ({"loss": {"topk": 0}}, "loss.topk is above 0, up to 1; it is 0"),
        ({"loss": {"tversky_fn": -1}}, "loss.tversky_fn must be 0 or more; it is -1"),
        ({"loss": {"dice_per": "voxel"}}, "loss.dice_per must be one of batch, case; it is 'voxel'"),
        ({"model": {"head": "masks"}}, "model.head must be one of labels, regions; it is 'masks'"),
        ({"model": {"thresholds": (0.5, 0.4, 0.3)}}, "model.thresholds are for model.head = regions"),
        ({"model": {"head": "regions", "thresholds": (0.5, 1.0, 0.3)}}, "model.thresholds lie from 0 to below 1"),
        ({"model": {"block": "dense"}}, "model.block must be one of plain, single, residual; it is 'dense'"),
        ({"model": {"blocks_per_level": (1, 2)}}, "model.blocks_per_level needs one number, or one for each of the 5"),
        ({"model": {"blocks_per_level": (0,)}}, "model.blocks_per_level needs positive numbers"),
        ({"model": {"decoder_blocks_per_level": (1,) * 5}}, "decoder_blocks_per_level needs one number.* the 4 levels"),
        ({"model": {"strides": (2, 2, 2)}}, "model.strides must be values, each 3 values, each of type int"),
        ({"model": {"strides": ((2, 3, 2),)}}, "model.strides needs ones and twos"),
        ({"model": {"strides": ((2, 2, 2),) * 5}}, "model.strides needs one triple, or one for each of the 4 levels"),
        ({"model": {"kernels": ((3, 3, 2),)}}, "model.kernels needs odd sizes"),
        ({"model": {"dimensions": "2D"}}, "model.dimensions must be one of 3d, 2.5d, 2d; it is '2D'"),
        (
            {"model": {"dimensions": "2d"}},
            "data.patch needs 1 slice along Z, as 128,128,1, where model.dimensions = 2d",
        ),
        (
            {"data": {"patch": (64, 64, 1)}, "model": {"dimensions": "2.5d"}},
            r"data.patch needs several slices along Z, as 128,128,5, where .* = 2.5d; it is \(64, 64, 1\)",
        ),
        ({"inference": {"window": (64, 0, 64)}}, "inference.window needs three sizes of 1 or more, or none"),
        ({"inference": {"window": (64, 64, 40)}}, "inference.window must be divisible by 16x16x16"),
        (
            {"data": {"patch": (64, 64, 1)}},
            r"data.patch must be divisible by 16x16x16, .* \(see model.strides and model.dimensions\)",
        ),
        (
            {"data": {"patch": (64, 60, 1)}, "model": {"dimensions": "2d"}},
            "data.patch must be divisible by 16x16x1, because 5 levels",
        ),
        ({"model": {"stochastic_depth": 0.1}}, "model.stochastic_depth needs residual blocks"),
        ({"model": {"stochastic_depth": 1.0, "block": "residual"}}, "model.stochastic_depth is from 0 to below 1"),
        (
            {"model": {"features": (4, 4, 4), "dropout": 0.0, "deep_supervision": True}},
            "model.deep_supervision needs 4 levels of model.features or more, there are 3",
        ),
        ({"mesh": {"data": 0}}, "mesh.data is -1 or at least 1"),
        ({"mesh": {"space": 0}}, "mesh.space must be at least 1"),
        ({"conv": "fast"}, "config.conv must be one of auto, direct, slices, winograd, native; it is 'fast'"),
        ({"schedule": "linear"}, "config.schedule must be one of constant, cosine, polynomial; it is 'linear'"),
        ({"accumulate": 0}, "accumulate must be at least 1; it is 0"),
        ({"batch_size": 6, "accumulate": 4}, "batch_size must be divisible by config.accumulate, which is 4; it is 6"),
        ({"dtype": "float16"}, "config.dtype must be one of float32, bfloat16; it is 'float16'"),
        ({"batch_size": 3, "mesh": {"data": 2}}, "batch_size must be a multiple of the 2 devices of mesh.data"),
        (
            {"data": {"crop": (32, 32, 32)}, "mesh": {"space": 2}},
            "data.crop must leave each of the 2 devices of mesh.space 2 voxels of the deepest level along X",
        ),
        (
            {"data": {"crop": (48, 32, 32)}, "mesh": {"space": 5}},
            "crop must be divisible along its first axis by the 5",
        ),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"data": {"split_seed": -1}}, "data.split_seed must be 0 or more"),
        ({"data": {"split_seed": 1.5}}, "data.split_seed must be of type int or none; it is 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite"),
        ({"gpu_memory_fraction": 1.5}, "gpu_memory_fraction is above 0, up to 1"),
        ({"skip_nonfinite": 1}, "config.skip_nonfinite must be of type bool"),
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"early_stop": -1}, "early_stop must be 0 or more"),
        ({"ema": 1.0}, "ema is from 0 to below 1"),
        ({"loss": {"terms": {"dice": 0, "focal": 0}}}, "loss.terms needs finite weights of 0 or more, one of them"),
        ({"loss": {"terms": {}}}, "loss.terms needs finite weights of 0 or more, one of them above 0"),
        ({"loss": {"terms": {"dice": -1.0}}}, "loss.terms needs finite weights"),
        ({"loss": {"terms": {"dice": float("inf")}}}, "loss.terms needs finite weights"),
        (
            {"loss": {"terms": {"focall": 1.0}}},
            r"loss.terms.focall is not a setting. Did you mean config.loss.terms.foc",
        ),
        ({"loss": {"terms": {"focal": "1"}}}, "loss.terms.focal must be of type float; it is '1'"),
        ({"loss": {"terms": "dice"}}, "loss.terms is a group of settings; it cannot be 'dice'"),
        ({"loss": {"class_weights": (0, 0, 0, 0)}}, "loss.class_weights needs finite weights of 0 or more, one"),
        ({"loss": {"gamma": -1.0}}, "loss.gamma must be 0 or more"),
        ({"loss": {"alpha": float("inf")}}, "loss.alpha must be 0 or more"),
        ({"data": {"synthetic_shape": (8, 64, 64)}}, "synthetic_shape needs three sizes of 16 or more"),
        ({"data": {"synthetic_cases": -1}}, "synthetic_cases must be 0 or more"),
        ({"data": {"workers": -1}}, "workers must be 0 or more"),
        ({"data": {"val_fraction": 1.0}}, "val_fraction lies between 0 and 1"),
        ({"data": {"val_fraction": "none"}}, "data.val_fraction must be of type float or none; it is 'none'"),
        ({"data": {"fold": 5}}, "data.fold of 5 is from 0 to 4; it is 5"),
        ({"data": {"fold": -1}}, "data.fold of 5 is from 0 to 4; it is -1"),
        ({"data": {"incomplete": True}}, "modality_dropout is above 0 where data.incomplete is true; it is 0.0"),
        ({"data": {"folds": 1}}, "data.folds must be at least 2; it is 1"),
        ({"data": {"fold": 0, "val_fraction": 0.2}}, "data.val_fraction is none where data.fold is given, which is 0"),
        ({"model": {"features": ()}}, "model.features needs positive numbers"),
        ({"checkpoint": {"every_steps": -1}}, "checkpoint.every_steps must be 0 or more"),
        ({"colour": "red"}, "config.colour is not a setting. config has: seed, batch_size"),
        ({1: 2}, "config.1 is not a setting"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(InputError, match=message) as caught:
        from_config(config, "run/config.json")
    assert str(caught.value).startswith("run/config.json: config.")
    assert len(str(caught.value).splitlines()) == 1


def test_strides_say_what_sizes_are_possible():
    strides = ((2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    from_config({"model": {"strides": strides}, "data": {"crop": (32, 16, 8)}})
    with pytest.raises(InputError, match=r"data\.crop must be divisible by 16x16x8, because 5 levels"):
        from_config({"model": {"strides": strides}, "data": {"crop": (32, 16, 12)}})


def test_dimensions_say_what_is_done_along_z():
    strides, kernels = ((2, 2, 2), (1, 2, 2)), ((3, 3, 3), (5, 3, 3), (3, 3, 3))
    for dimensions, patch, strides_left, kernels_left in (
        ("3d", (8, 8, 8), strides, kernels),
        ("2.5d", (8, 8, 5), ((2, 2, 1), (1, 2, 1)), kernels),
        ("2d", (8, 8, 1), ((2, 2, 1), (1, 2, 1)), ((3, 3, 1), (5, 3, 1), (3, 3, 1))),
    ):
        model = Model((4, 4, 4), dropout=(0.0,), strides=strides, kernels=kernels, dimensions=dimensions)
        assert (model.network_strides, model.network_kernels) == (strides_left, kernels_left)
        assert Settings(data=Data(patch=patch), model=model).model.downsampling == (
            2,
            4,
            4 if dimensions == "3d" else 1,
        )


def test_triples_within_tuples_as_text():
    kind = typed.type_of(Settings, "model.strides")
    assert typed.read(kind, "2x2x1,2x2x2", "config.model.strides") == ((2, 2, 1), (2, 2, 2))
    assert reference.as_text(((2, 2, 1), (2, 2, 2))) == "2x2x1,2x2x2"
    with pytest.raises(InputError, match=r"config\.model\.strides must be values, each 3 values"):
        typed.read(kind, "2,2,2", "config.model.strides")
    record = json.loads(json.dumps(Settings(model=Model(strides=((2, 2, 1),))).to_dict()))
    assert from_config(record).model.strides == ((2, 2, 1),)


def test_settings_made_in_python_are_checked():
    with pytest.raises(InputError, match=r"model\.dropout needs one rate"):
        Model(features=(4, 6))
    with pytest.raises(InputError, match=r"data\.crop must be divisible by 16"):
        dataclasses.replace(Settings(), data=Data(crop=(8, 8, 8)))


def test_what_no_run_should_be_trained_with():
    def check(norm, crop, seed=0):
        model = {"features": (2, 3), "norm": norm, "dropout": (0.0,)}
        from_config({"seed": seed, "model": model, "data": {"crop": crop}}).check_training()

    for norm, crop in (("none", (2, 2, 2)), ("instance", (4, 2, 2))):
        check(norm, crop)
    with pytest.raises(InputError, match=r"data\.crop must leave 2 voxels of the deepest level.*; it is \(2, 2, 2\)"):
        check("instance", (2, 2, 2))
    with pytest.raises(InputError, match=r"seed must be below 2\*\*32"):
        check("none", (2, 2, 2), seed=2**32)
