"""Views by name in the configuration."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from krepes.config import ViewsConfig, build_views
from krepes.data import ArraySource, GaussianNoise, Scarf, ShiftNoise, TableSchema, TableSource
from krepes.data.views import (
    BarlowViews,
    BYOLViews,
    Compose,
    FeatureDropout,
    Identity,
    ImageView,
    NumericNoise,
    Pair,
    SimCLRViews,
    SpanCrop,
    TableMixup,
    TokenDropout,
    TokenMask,
    VICRegViews,
)
from krepes.errors import ConfigError

FRAME = pd.DataFrame({"age": np.arange(20.0), "job": list("ab") * 10})
TABLE = TableSource(FRAME, TableSchema.fit(FRAME))
IMAGES = ArraySource(torch.zeros(5, 3, 4, 4))
TOKENS = ArraySource(torch.zeros(5, 8, dtype=torch.long))
VECTORS = ArraySource(torch.zeros(5, 8))
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]


def build(source, **settings):
    return build_views(ViewsConfig(**settings), source)


@pytest.mark.parametrize(
    ("source", "config", "expected"),
    [
        (VECTORS, {"name": "gaussian"}, GaussianNoise(0.1)),
        (IMAGES, {"name": "shift", "max_shift": 2, "contrast": 0.1}, ShiftNoise(2, 0.1, 0.1)),
        (TABLE, {"name": "scarf"}, Scarf.of_table(TABLE, 0.6)),
        (TABLE, {"name": "scarf", "both": False}, Pair(Identity(), Scarf.of_table(TABLE, 0.6))),
        (TABLE, {"name": "scarf", "rate": 0.5, "count": "exact"}, Scarf.of_table(TABLE, 0.5, "exact")),
        (VECTORS, {"pair": [{"name": "identity"}, {"name": "gaussian"}]}, Pair(Identity(), GaussianNoise())),
        (TABLE, {"name": "scarf", "convention": "pytorch-scarf"}, Scarf.of_table(TABLE, 0.4)),
        (TABLE, {"name": "scarf", "rate": 0.7, "convention": "pytorch-scarf"}, Scarf.of_table(TABLE, 0.3)),
        (TABLE, {"name": "feature_dropout", "rate": 0.3}, FeatureDropout(TABLE, 0.3)),
        (TABLE, {"name": "mixup", "alpha": 0.4}, TableMixup(TABLE, 0.4)),
        (TABLE, {"name": "numeric_noise", "std": 0.2}, NumericNoise(TABLE.schema, 0.2)),
        (IMAGES, {"name": "simclr", "small": True}, SimCLRViews(small=True)),
        (IMAGES, {"name": "simclr", "strength": 0.7, "mean": MEAN, "std": STD}, SimCLRViews(MEAN, STD, strength=0.7)),
        (IMAGES, {"name": "byol", "scale": [0.2, 1]}, BYOLViews(scale=(0.2, 1))),
        (IMAGES, {"name": "barlow_twins"}, BarlowViews()),
        (IMAGES, {"name": "vicreg", "mean": 0.5, "std": 0.5}, VICRegViews(0.5, 0.5)),
        (IMAGES, {"name": "image", "hue": 0.3}, ImageView(hue=0.3)),
        (TOKENS, {"name": "token_dropout", "rate": 0.1, "pad_id": 0}, TokenDropout(0.1, 0)),
        (TOKENS, {"name": "token_mask", "rate": 0.1, "mask_id": 4, "special_ids": [1]}, TokenMask(0.1, 4, None, (1,))),
        (TOKENS, {"name": "span_crop", "low": 0.1, "high": 0.2, "pad_id": 0}, SpanCrop(0.1, 0.2, 0)),
        (VECTORS, {"compose": [{"name": "gaussian"}, {"name": "gaussian", "std": 1}]},
         Compose([GaussianNoise(), GaussianNoise(1.0)])),
        (IMAGES, {"pair": [{"name": "image", "blur": 1}, {"name": "gaussian"}]},
         Pair(ImageView(blur=1.0), GaussianNoise())),
    ],
)  # fmt: skip
def test_a_name_with_its_settings_is_those_views(source, config, expected):
    found = build(source, **config)
    assert repr(found) == repr(expected)
    again = ViewsConfig.model_validate(ViewsConfig(**config).model_dump())
    assert repr(build_views(again, source)) == repr(expected)


def test_the_resolved_configuration_holds_the_defaults():
    assert ViewsConfig(name="shift").model_dump() == {"name": "shift", "max_shift": 1, "std": 0.1, "contrast": 0.2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "gaussian", "rate": 0.3}, "views.rate is no setting of gaussian; it has: std"),
        ({"name": "simclr", "crop": 1, "blurr": 1}, "views.blurr, views.crop is no setting of simclr"),
        ({"name": "simclrr"}, "views.name 'simclrr' is unknown; did you mean simclr"),
        ({"std": 1}, "views.name is missing"),
        ({"name": "gaussian", "std": "much"}, r"views.std: Input should be a valid number.* \(found 'much'\)"),
        ({"name": "token_dropout", "rate": 0.1}, "views.pad_id: Field required"),
        ({"name": "feature_dropout", "fill": "median"}, "views.fill: Input should be 'mean' or 'missing'"),
        ({"compose": []}, "views.compose: List should have at least 1 item"),
        ({"compose": [{"name": "gaussian", "rate": 1}]}, "views.rate is no setting of gaussian"),
        ({"pair": [{"name": "gaussian"}]}, "views.pair"),
        ({"name": "a.b:C", "rate": 1}, "views.rate is no setting of a.b:C; it has: args"),
    ],
)
def test_a_mistake_is_named(config, message):
    with pytest.raises(ValidationError, match=message):
        ViewsConfig(**config)


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [
        (VECTORS, {"name": "scarf"}, "views scarf are of a table's features; data is no table"),
        (VECTORS, {"name": "numeric_noise"}, "data is no table"),
        (TABLE, {"name": "byol"}, "views byol are of images; the samples are of kind 'table'"),
        (VECTORS, {"name": "token_mask", "rate": 0.1, "mask_id": 1}, r"of tokens \(T,\); the samples are torch.f"),
        (IMAGES, {"name": "simclr", "blur": 2}, "blur=2.0; expected 0 <= blur <= 1"),
        (TABLE, {"name": "mixup", "alpha": 0}, "alpha=0.0"),
    ],
)  # fmt: skip
def test_views_that_do_not_fit_are_refused(source, config, message):
    with pytest.raises(ConfigError, match=message):
        build(source, **config)


def with_preprocess(mean, std):
    source = ArraySource(torch.zeros(5, 3, 4, 4))
    source.preprocess = SimpleNamespace(mean=mean, std=std)
    return source


def test_the_normalisation_of_the_samples_is_known_to_their_views():
    source = with_preprocess(tuple(MEAN), tuple(STD))
    assert build(source, name="byol") == BYOLViews(MEAN, STD)
    assert build(source, name="byol", mean=MEAN, std=STD) == BYOLViews(MEAN, STD)
    assert build(with_preprocess(None, None), name="byol") == BYOLViews()


@pytest.mark.parametrize("mean", [tuple(MEAN), None])
def test_another_normalisation_than_the_samples_is_refused(mean):
    source = with_preprocess(mean, mean and tuple(STD))
    with pytest.raises(ConfigError, match=r"views.mean=\[0.1, 0.4, 0.3\], but data.preprocess.mean is"):
        build(source, name="simclr", mean=[0.1, 0.4, 0.3], std=STD)


@pytest.fixture
def path(monkeypatch):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "my_views"


def test_a_users_views_come_from_an_import_path(path):
    x = torch.ones(2)
    assert build(VECTORS, name=f"{path}:MyViews")(x, None).tolist() == [2, 2]
    assert build(VECTORS, name=f"{path}:MyViews", args={"by": 4})(x, None).tolist() == [5, 5]
    assert build(VECTORS, name=f"{path}:factory", args={"by": 2})(x, None).tolist() == [3, 3]
    assert build(VECTORS, name=f"{path}:twice")(x, None).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("no_such_module:X", None, "No module named 'no_such_module'. Expected an import path such as"),
        ("my_views:Nothing", None, "has no attribute 'Nothing'"),
        ("my_views:MyViews", {"of": 1}, "unexpected keyword argument 'of'"),
        ("my_views:NUMBER", None, "is a int; expected a callable"),
    ],
)
def test_an_import_path_that_leads_to_no_views_is_refused(path, name, args, message):
    with pytest.raises(ConfigError, match=message):
        build(VECTORS, name=name, args=args)
