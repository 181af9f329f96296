"""The configuration's encoder: a recipe, or a factory with its weights."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from krepes.config import EncoderConfig, build_encoder
from krepes.config.encoder import load_recipe, recipe_objective
from krepes.encoders import Recipe, convert
from krepes.errors import ConfigError, EncoderError, KrepesWarning
from tests.encoders.small import images, mlp, prefixed, projector, resnet, save

ARGS = {"n_in": 6, "hidden": [12], "n_out": 5}


@pytest.fixture
def converted(tmp_path):
    save(tmp_path / "w.ckpt", {"state_dict": prefixed(backbone=resnet(), projection_head__layers=projector())})
    recipe = Recipe(preset="lightly", checkpoint="w.ckpt", objective={"name": "vicreg", "variance": 10.0})
    return convert(recipe, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["out", "out/recipe.yaml"])
def test_a_recipe_is_an_encoder(name, converted, tmp_path):
    network = build_encoder(EncoderConfig(recipe=name), tmp_path)
    with torch.no_grad():
        assert torch.equal(network(images()), converted.loaded.module(images()))
    assert not network.training


def test_a_recipes_account_can_be_had(converted, tmp_path):
    assert load_recipe(EncoderConfig(recipe="out"), tmp_path).account.complete


def test_a_recipes_objective_comes_with_its_presets_constants(converted, tmp_path):
    objective = recipe_objective(EncoderConfig(recipe="out"), tmp_path) or {}
    assert objective["variance"] == 10.0
    assert objective["covariance"] == 1.0


def test_an_objective_with_unknown_constants_names_the_recipe(tmp_path):
    Recipe(checkpoint="w.pt", objective={"name": "simclr", "tau": 0.1}).save(tmp_path / "r.yaml")
    with pytest.raises(ConfigError, match=r"r\.yaml: objective .*tau"):
        recipe_objective(EncoderConfig(recipe="r.yaml"), tmp_path)


def test_a_backbone_alone_warns_that_it_is_off_the_training_space(tmp_path):
    save(tmp_path / "w.ckpt", {"state_dict": prefixed(backbone=resnet())})
    Recipe(preset="lightly", checkpoint="w.ckpt").save(tmp_path / "r.yaml")
    with pytest.warns(KrepesWarning, match="objective applied off its training space"):
        build_encoder(EncoderConfig(recipe="r.yaml"), tmp_path)


def test_a_factory_with_weights_is_an_encoder(tmp_path):
    save_file(mlp().state_dict(), tmp_path / "w.safetensors")
    network = build_encoder(EncoderConfig(factory="krepes.encoders:MLP", args=ARGS, weights="w.safetensors"), tmp_path)
    x = torch.randn(2, 6)
    assert torch.equal(network(x), mlp()(x))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected 'recipe', or 'factory'"),
        ({"factory": "krepes.encoders:MLP"}, "expected 'recipe', or 'factory'"),
        ({"recipe": "r.yaml", "weights": "w"}, "do not go with it"),
        ({"recipe": "r.yaml", "args": {"a": 1}}, "do not go with it"),
    ],
)
def test_exactly_one_way_is_taken(fields, message):
    with pytest.raises(ValidationError, match=message):
        EncoderConfig(**fields)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none\.yaml"):
        build_encoder(EncoderConfig(recipe="none.yaml"), tmp_path)


CALLS = []


def factory():
    CALLS.append(1)
    return nn.Linear(2, 2)


@pytest.mark.parametrize("part", ["arch", "head"])
def test_a_strangers_recipe_never_calls_a_function(part, tmp_path):
    save(tmp_path / "w.pt", prefixed(e=nn.Linear(2, 2), h=nn.Linear(2, 2)))
    arch = {"name": "torch.nn:Linear", "args": {"in_features": 2, "out_features": 2}}
    fields = {"arch": arch, part: f"{__name__}:factory"}
    Recipe(checkpoint="w.pt", encoder_prefix="e.", head_prefix="h.", **fields).save(tmp_path / "r.yaml")
    with pytest.raises(ConfigError, match="not called unseen"):
        build_encoder(EncoderConfig(recipe="r.yaml"), tmp_path, modules_only=True)
    assert not CALLS


def test_a_strangers_pickle_never_runs(tmp_path):
    import os

    class Runs:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    save(tmp_path / "w.pt", {"state_dict": mlp().state_dict(), "x": Runs()})
    Recipe(checkpoint="w.pt", container="state_dict", arch={"name": "krepes:MLP", "args": ARGS}).save(
        tmp_path / "r.yaml"
    )
    with pytest.raises(EncoderError, match="would import"):
        build_encoder(EncoderConfig(recipe="r.yaml"), tmp_path, modules_only=True)
    assert not (tmp_path / "ran").exists()


def test_a_module_class_of_a_strangers_factory_is_called(tmp_path):
    save_file(mlp().state_dict(), tmp_path / "w.safetensors")
    config = EncoderConfig(factory="krepes.encoders:MLP", args=ARGS, weights="w.safetensors")
    assert isinstance(build_encoder(config, tmp_path, modules_only=True), nn.Module)
