"""Converted encoders stand alone; the command line says what became of every tensor."""

import os
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from krepes.cli.checkpoints import convert as convert_verb
from krepes.cli.checkpoints import inspect_file, is_configuration
from krepes.encoders import Recipe, build, convert
from krepes.encoders.inspection import inspect_checkpoint
from krepes.errors import EncoderError, RunFolderError
from tests.encoders.small import images, mlp, prefixed, projector, resnet, save


@pytest.fixture
def lightly(tmp_path) -> Path:
    parts = {"backbone": resnet(), "projection_head__layers": projector(), "online_classifier": torch.nn.Linear(32, 10)}
    return save(tmp_path / "last.ckpt", {"state_dict": prefixed(**parts), "epoch": 1})


RECIPE = Recipe(preset="lightly", checkpoint="last.ckpt", objective={"name": "simclr", "temperature": 0.1})


def test_a_converted_encoder_loads_without_the_original_and_gives_the_same(lightly, tmp_path):
    done = convert(RECIPE, tmp_path, tmp_path / "out")
    lightly.unlink()
    again = build(Recipe.load(tmp_path / "out" / "recipe.yaml"), tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(again.module(images()), done.loaded.module(images()))
    assert again.recipe.objective == {"name": "simclr", "temperature": 0.1}
    assert again.recipe.preset is None
    assert again.account.complete
    assert not again.account.ignored


def test_the_recipe_of_a_conversion_says_all(lightly, tmp_path):
    convert(RECIPE, tmp_path, tmp_path / "out")
    told = Recipe.load(tmp_path / "out" / "recipe.yaml")
    assert told.arch is not None
    assert (told.arch.name, told.space, told.checkpoint) == ("krepes:ResNet18", "projection", "encoder.safetensors")
    assert told.preprocess is not None
    assert told.preprocess.mean == [0.485, 0.456, 0.406]
    assert told.fingerprint is not None
    assert told.weights_sha256 is not None


def test_weights_that_were_changed_after_the_conversion_are_refused(lightly, tmp_path):
    convert(RECIPE, tmp_path, tmp_path / "out")
    path = tmp_path / "out" / "encoder.safetensors"
    tensors = load_file(path)
    tensors["encoder.conv1.weight"] = tensors["encoder.conv1.weight"] + 1e-3
    save_file(tensors, path)
    with pytest.raises(EncoderError, match="another file, or damaged"):
        build(Recipe.load(tmp_path / "out" / "recipe.yaml"), tmp_path / "out")


def test_a_recipe_that_was_changed_after_the_conversion_fails_its_fingerprint(lightly, tmp_path):
    convert(RECIPE, tmp_path, tmp_path / "out")
    path = tmp_path / "out" / "recipe.yaml"
    path.write_text(path.read_text().replace("0.485", "0.5"))
    with pytest.raises(EncoderError, match="another function"):
        build(Recipe.load(path), path.parent)


@pytest.mark.parametrize("layers", [["linear", "tanh", "linear"], ["gelu", "linear", "dropout", "linear"]])
def test_layers_that_the_recipe_told_survive(layers, tmp_path):
    head = {"h.a.weight": torch.randn(4, 5), "h.b.weight": torch.randn(3, 4)}
    save(tmp_path / "w.pt", prefixed(e=mlp()) | head)
    arch = {"name": "krepes:MLP", "args": {"n_in": 6, "hidden": [12], "n_out": 5}}
    recipe = Recipe(checkpoint="w.pt", encoder_prefix="e.", head_prefix="h.", arch=arch, head={"layers": layers})
    done = convert(recipe, tmp_path, tmp_path / "out")
    x = torch.randn(4, 6)
    again = build(Recipe.load(tmp_path / "out" / "recipe.yaml"), tmp_path / "out")
    torch.testing.assert_close(again.module(x), done.loaded.module(x))


def test_a_folder_that_holds_a_conversion_is_not_overwritten_unasked(lightly, tmp_path):
    convert(RECIPE, tmp_path, tmp_path / "out")
    with pytest.raises(RunFolderError, match=r"holds encoder\.safetensors and recipe\.yaml already"):
        convert(RECIPE, tmp_path, tmp_path / "out")
    convert(RECIPE, tmp_path, tmp_path / "out", overwrite=True)


def test_an_encoder_of_unknown_input_needs_it_said(tmp_path):
    save(tmp_path / "w.pt", torch.nn.Conv1d(3, 4, 2).state_dict())
    recipe = Recipe(checkpoint="w.pt", arch={"name": "torch.nn:Conv1d", "args": {"in_channels": 3, "out_channels": 4,
                                                                              "kernel_size": 2}})  # fmt: skip
    with pytest.raises(EncoderError, match=r"give the recipe an input: \{shape"):
        convert(recipe, tmp_path, tmp_path / "out", trust_code=True)
    assert not (tmp_path / "out").exists()


app = typer.Typer()
app.command()(convert_verb)


def command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_verb_prints_the_account_and_where_it_wrote(lightly, tmp_path):
    result = command(lightly, "--preset", "lightly", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "loaded     129 tensors" in result.output
    assert "ignored    2 tensors (330 numbers), allowed by online_classifier.*" in result.output
    assert "audited    the projection's output" in result.output
    assert "recipe.yaml" in result.output


def test_the_verb_labels_an_audit_off_the_training_space(lightly, tmp_path):
    result = command(lightly, "--preset", "lightly", "--set", "space=backbone", "--output", tmp_path / "out")
    assert "objective applied off its training space" in result.output
    assert "objective applied off its training space" in (tmp_path / "out" / "recipe.yaml").read_text()


def test_the_verb_wants_a_preset_or_a_recipe(lightly, tmp_path):
    result = command(lightly, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "krepes inspect" in result.output


@pytest.mark.parametrize(
    ("setting", "message"), [("space=nowhere", "space:"), ("nonsense", "expected key=value"), ("spce=backbone", "spce")]
)
def test_the_verb_names_a_wrong_setting(setting, message, lightly, tmp_path):
    result = command(lightly, "--preset", "lightly", "--set", setting, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.output


def test_the_verb_takes_a_recipe_file(lightly, tmp_path):
    RECIPE.model_copy(update={"checkpoint": None}).save(tmp_path / "mine.yaml")
    result = command(lightly, "--recipe", tmp_path / "mine.yaml", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output


class Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def test_the_verb_runs_a_pickle_only_with_its_flag(tmp_path):
    state = prefixed(backbone=resnet(), projection_head__layers=projector())
    path = save(tmp_path / "a.ckpt", {"state_dict": state, "extra": Runs(tmp_path / "ran")})
    arguments = (path, "--preset", "lightly", "--output", tmp_path / "out")
    refused = command(*arguments)
    assert refused.exit_code == 1
    assert "would import posix.system" in refused.output
    assert not (tmp_path / "ran").exists()
    allowed = command(*arguments, "--allow-pickle")
    assert allowed.exit_code == 0, allowed.output
    assert (tmp_path / "ran").exists()


def test_inspect_prints_the_tree_and_a_recipe_to_begin_with(lightly):
    console = Console(record=True, width=160)
    inspect_file(lightly, console)
    text = console.export_text()
    assert "backbone." in text
    assert "projection_head.layers." in text
    assert "lightly: lightly's examples" in text
    assert "preset: lightly" in text


@pytest.mark.parametrize(("name", "expected"), [("a.yaml", True), ("a.YML", True), ("a.pt", False), ("weights", False)])
def test_a_configuration_is_known_by_its_name(name, expected):
    assert is_configuration(Path(name)) == expected


def test_a_converted_folder_can_be_inspected(lightly, tmp_path):
    convert(RECIPE, tmp_path, tmp_path / "out")
    found = inspect_checkpoint(tmp_path / "out")
    assert found.format == "folder of safetensors"
    assert {"encoder.", "head."} <= {n.prefix for n in found.tree if n.depth == 0}
