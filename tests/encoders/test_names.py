"""Architectures by name: built in, of libraries that are only imported when asked for, and at import paths."""

import importlib
import sys
import types

import pytest
import torch
from torch import nn

from krepes.encoders.names import BUILT_IN, imported, network
from krepes.encoders.recipe import Architecture
from krepes.encoders.trust import OWN, Trust
from krepes.errors import ConfigError, EncoderError

STRANGER = Trust(stranger=True)


def made(name: str, trust: Trust = OWN, identity=(), **args) -> nn.Module:
    return network(Architecture(name=name, args=args, identity=list(identity)), trust)


ARGS = {"MLP": {"n_in": 3, "hidden": [4], "n_out": 2}}


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_built_in_is_made_by_name_in_eval_mode(name):
    with torch.device("meta"):
        assert not made(f"krepes:{name}", **ARGS.get(name, {})).training


def test_an_unknown_built_in_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match="built in are krepes:MLP, krepes:ResNet18"):
        made("krepes:VGG")


@pytest.mark.parametrize("path", ["torch.nn:Linear", "torch.nn.Linear"])
def test_any_import_path_is_taken(path):
    assert isinstance(made(path, in_features=2, out_features=3), nn.Linear)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Linear", "is no import path"), ("torch.nn:Linea", "has no attribute 'Linea'"), ("no_such:Thing", "No module"),
        ("math:pi", "cannot be called"), ("math:floor", "TypeError"), ("builtins:dict", "made a dict"),
        ("os.path:join('a')", "is no import path"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_an_error_in_words(name, message):
    with pytest.raises(ConfigError, match=message):
        made(name)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match=r"torch\.nn:Linear with \{'wide': 1\}: TypeError"):
        made("torch.nn:Linear", wide=1)


def test_a_module_that_fails_on_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_network.py").write_text("raise RuntimeError('no device')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="importing broken_network fails with RuntimeError: no device"):
        made("broken_network:Net")


CALLS = []


def factory():
    CALLS.append(1)
    return nn.Linear(1, 1)


def test_a_strangers_factory_is_not_called():
    with pytest.raises(ConfigError, match=r"no nn\.Module class and is not called unseen"):
        made(f"{__name__}:factory", trust=STRANGER)
    assert not CALLS
    assert isinstance(made("torch.nn:Linear", trust=STRANGER, in_features=1, out_features=1), nn.Linear)


@pytest.mark.parametrize("path", ["os:system", "builtins:eval", "subprocess:Popen", "torch:load", "pathlib:Path"])
def test_nothing_but_modules_is_taken_from_a_stranger(path):
    with pytest.raises(ConfigError, match="not called unseen"):
        imported(path, STRANGER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import not_installed_2", r"importing network_of_mine_2 fails with ModuleNotFoundError: .*_2\.py:1\)$"),
        ("x = 1\nNone.x", r"importing network_of_mine_2 fails with AttributeError: 'NoneType' .*_2\.py:2\)$"),
        ("x = 1", r"^network_of_mine_2:Net: .* has no attribute 'Net'\. Expected an import path"),
    ],
)
def test_what_a_networks_module_lacks_is_not_taken_for_its_path(text, message, tmp_path, monkeypatch):
    (tmp_path / "network_of_mine_2.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network_of_mine_2", raising=False)
    with pytest.raises(ConfigError, match=message):
        imported("network_of_mine_2:Net")


def test_submodules_that_the_checkpoint_does_not_use_are_replaced():
    found = made("krepes:ResNet18", identity=["fc", "layer4.1"], width=4, n_out=7)
    assert isinstance(found.fc, nn.Identity)
    assert isinstance(found.layer4[1], nn.Identity)


def test_a_submodule_that_is_not_there_is_named():
    with pytest.raises(EncoderError, match=r"arch.identity names 'head', which krepes:ResNet18 does not have"):
        made("krepes:ResNet18", identity=["head"], width=4)


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins of torchvision and timm that record how they are called."""
    calls: dict[str, dict] = {}

    def get_model_builder(name):
        def builder(*, weights="default", weights_backbone="default", **args):
            calls["torchvision"] = {"name": name, "weights": weights, "weights_backbone": weights_backbone, **args}
            return nn.Linear(2, 2)

        return builder

    def create_model(model_name, pretrained=True, **args):
        calls["timm"] = {"name": model_name, "pretrained": pretrained, **args}
        return nn.Linear(2, 2)

    vision, models, timm = (types.ModuleType(n) for n in ("torchvision", "torchvision.models", "timm"))
    models.get_model_builder, timm.create_model, vision.models = get_model_builder, create_model, models
    for module in (vision, models, timm):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_torchvision_is_asked_without_its_weights(libraries):
    made("torchvision:resnet50", zero_init_residual=True)
    said = {"weights": None, "weights_backbone": None, "zero_init_residual": True}
    assert libraries["torchvision"] == {"name": "resnet50", **said}


def test_timm_is_asked_without_its_weights(libraries):
    made("timm:vit_tiny_patch16_224", num_classes=0)
    assert libraries["timm"] == {"name": "vit_tiny_patch16_224", "pretrained": False, "num_classes": 0}


@pytest.mark.parametrize(
    "key", ["pretrained", "weights", "checkpoint_path", "pretrained_cfg_overlay", "weights_backbone"]
)
@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_other_weights_never_come_in_through_arguments(name, key, libraries):
    with pytest.raises(ConfigError, match="weights; they come from the recipe's checkpoint alone"):
        made(name, **{key: "x"})
    assert not libraries


@pytest.mark.parametrize("name", ["timm:hf-hub:someone/model", "timm:local-dir:/tmp/x", "torchvision:../x"])
def test_a_hubs_address_is_no_architecture(name, libraries):
    with pytest.raises(ConfigError, match="is no architecture's name"):
        made(name)
    assert not libraries


EXTRAS = {"torchvision": "vision", "timm": "vision", "transformers": "hub"}


@pytest.mark.parametrize("library", EXTRAS)
def test_a_missing_extra_is_named(library, monkeypatch):
    missing(monkeypatch, library, ModuleNotFoundError(f"No module named '{library}'", name=library))
    with pytest.raises(ConfigError, match=rf'not installed.*pip install "krepes\[{EXTRAS[library]}\]"'):
        made(f"{library}:resnet18")


@pytest.mark.parametrize("library", EXTRAS)
@pytest.mark.parametrize(
    "error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("undefined symbol"),
              ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub")],
)  # fmt: skip
def test_a_broken_extra_is_told_from_a_missing_one(library, error, monkeypatch):
    missing(monkeypatch, library, error)
    with pytest.raises(ConfigError, match=f"{library} is installed but cannot be imported: {type(error).__name__}"):
        made(f"{library}:resnet18")


def missing(monkeypatch, library, error):
    real = importlib.import_module

    def import_module(name, *rest):
        if name.split(".")[0] == library:
            raise error
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_importing_krepes_imports_no_optional_library():
    import subprocess

    code = "import krepes, sys; print([m for m in ('torchvision', 'timm', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
