"""Recipes and run folders of strangers run no code of their own."""

import sys

import pytest
from safetensors.torch import save_file
from torch import nn

from krepes.config import EncoderConfig, build_encoder
from krepes.encoders import Recipe, build, convert
from krepes.encoders.names import network
from krepes.encoders.recipe import Architecture
from krepes.errors import ConfigError, EncoderError, KrepesWarning
from tests.encoders.small import mlp, prefixed, save

EVIL = "from pathlib import Path\nfrom torch import nn\nPath({!r}).touch()\nclass Net(nn.Linear):\n    pass\n"


@pytest.mark.parametrize("trusted", [False, True])
def test_a_recipes_function_is_never_called(trusted, tmp_path):
    save(tmp_path / "w.pt", mlp().state_dict())
    recipe = Recipe(checkpoint="w.pt", arch={"name": "os:system", "args": {"command": f"touch {tmp_path / 'ran'}"}})
    with pytest.raises(ConfigError, match="--trust-recipe" if not trusted else "not called unseen"):
        build(recipe, tmp_path, trust_code=trusted)
    assert not (tmp_path / "ran").exists()


def module(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text(EVIL.format(str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    save(tmp_path / "w.pt", nn.Linear(2, 2).state_dict())
    arch = {"name": f"{name}:Net", "args": {"in_features": 2, "out_features": 2}}
    Recipe(checkpoint="w.pt", arch=arch).save(tmp_path / "r.yaml")


def test_a_recipes_own_module_needs_the_users_word(tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "recipe_network")
    with pytest.raises(ConfigError, match=r"encoder\.trust_recipe: true"):
        build_encoder(EncoderConfig(recipe="r.yaml"), tmp_path)
    assert not (tmp_path / "ran").exists()
    with pytest.warns(KrepesWarning, match="off its training space"):
        build_encoder(EncoderConfig(recipe="r.yaml", trust_recipe=True), tmp_path)
    assert (tmp_path / "ran").exists()


def test_a_run_folders_own_word_does_not_count(tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "stranger_network")
    with pytest.raises(ConfigError, match=r"krepes\.load\(folder, encoder="):
        build_encoder(EncoderConfig(recipe="r.yaml", trust_recipe=True), tmp_path, modules_only=True)
    assert not (tmp_path / "ran").exists()


def test_a_run_folders_factory_in_the_working_directory_is_not_imported(tmp_path, monkeypatch):
    module(tmp_path, monkeypatch, "cwd_network")
    monkeypatch.chdir(tmp_path)
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "w.safetensors")
    config = EncoderConfig(factory="cwd_network:Net", weights="w.safetensors")
    with pytest.raises(ConfigError, match="is not run unseen"):
        build_encoder(config, tmp_path / "elsewhere", modules_only=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["model_name", "name"])
def test_arguments_never_name_another_network(name):
    with pytest.raises(ConfigError, match="would name another network"):
        network(Architecture(name="timm:resnet18", args={name: "hf-hub:someone/model"}))


def test_a_conversion_never_replaces_its_source(tmp_path):
    save_file(prefixed(encoder=nn.Linear(2, 2)), tmp_path / "encoder.safetensors")
    with pytest.raises(EncoderError, match="is the original itself"):
        convert(Recipe(checkpoint="encoder.safetensors"), tmp_path, tmp_path, overwrite=True)
