"""The configuration's `encoder`: a network with its weights."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from torch import nn

from krepes.config.method import check_objective
from krepes.config.mistakes import in_words
from krepes.config.reading import Section, resolve
from krepes.encoders.building import Loaded, build
from krepes.encoders.loading import load_part, refuse_incomplete
from krepes.encoders.names import called, imported
from krepes.encoders.presets import completed
from krepes.encoders.reading import read_weights
from krepes.encoders.recipe import Recipe
from krepes.encoders.settling import told_beside
from krepes.encoders.trust import OWN, Trust
from krepes.errors import ConfigError, EncoderError, warn


class EncoderConfig(Section):
    """A recipe; or a module's import path with its arguments, and its weights as safetensors (loaded strictly).

    A recipe may be a stranger's: `trust_recipe` allows it to import code outside krepes and the known libraries.
    """

    recipe: str | None = None
    factory: str | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    trust_recipe: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> "EncoderConfig":
        if self.recipe is not None:
            if self.factory is not None or self.weights is not None or self.args:
                raise ValueError("'recipe' says it all; 'factory', 'args' and 'weights' do not go with it")
        elif self.factory is None or self.weights is None:
            raise ValueError("expected 'recipe', or 'factory' (with 'args') and 'weights'")
        elif self.trust_recipe:
            raise ValueError("'trust_recipe' says nothing without 'recipe'")
        return self


def build_encoder(
    config: EncoderConfig, folder: Path, modules_only: bool = False, run_folder: Path | None = None
) -> nn.Module:
    """The network with its weights, in eval mode.

    Args:
        folder: where relative paths start.
        modules_only: call nothing but classes derived from nn.Module: for configurations that come with a run folder,
            which may be a stranger's.
        run_folder: with `modules_only`: that folder; no code is imported from it.

    Raises:
        ConfigError: the import path does not lead to a callable, the arguments do not fit, or the recipe is wrong.
        EncoderError: the weights file is missing, damaged, or does not match exactly.
    """
    if config.recipe is not None:
        loaded = load_recipe(config, folder, modules_only, run_folder)
        if loaded.note:
            warn(loaded.note)
        return loaded.module
    assert config.factory is not None
    assert config.weights is not None
    places = (folder, *([] if run_folder is None else [run_folder]))
    trust = Trust(stranger=True, folders=places) if modules_only else OWN
    network = called(imported(config.factory, trust), f"encoder.factory {config.factory}", config.args)
    path = resolve(config.weights, folder)
    if not path.is_file():
        raise EncoderError(f"there is no weights file {path}; train the encoder first, or correct encoder.weights")
    state = read_weights(path)
    refuse_incomplete(load_part(network, state, "", (), {}), f"the weights in {path} and {config.factory}", "")
    return network.eval()


def load_recipe(
    config: EncoderConfig, folder: Path, modules_only: bool = False, run_folder: Path | None = None
) -> Loaded:
    """The encoder of the configuration's recipe with its account; pickles with code are never run.

    Raises:
        ConfigError: there is no recipe, or it is wrong.
        EncoderError: the file does not fit the recipe exactly.
    """
    path = recipe_path(config, folder)
    trusted = config.trust_recipe and not modules_only  # a stranger's configuration allows nothing
    return build(Recipe.load(path), path.parent, modules_only=modules_only, trust_code=trusted, run_folder=run_folder)


def recipe_objective(config: EncoderConfig, folder: Path) -> dict[str, Any] | None:
    """Name and constants of the objective that the recipe states, with its preset's constants; none if it states none.

    Raises:
        ConfigError: there is no such objective, or a constant is unknown or out of range; names the recipe.
    """
    path = recipe_path(config, folder)
    recipe = Recipe.load(path)
    objective = completed(told_beside(recipe, path.parent)).objective
    if objective is None:
        return None
    try:
        check_objective(objective)
    except ValidationError as error:
        said = "; ".join(map(in_words, error.errors()))
        raise ConfigError(f"{path}: objective {objective}: {said}") from error
    return objective


def recipe_settings(config: EncoderConfig, folder: Path) -> dict[str, Any]:
    """What the recipe says of objective, views and, as settings of `data.preprocess`, of the images' preparation.

    Mean and std are not among them: the encoder that a recipe builds normalises its own input.
    """
    path = recipe_path(config, folder)
    recipe = completed(told_beside(Recipe.load(path), path.parent))
    found = {"objective": recipe_objective(config, folder), "views": recipe.views}
    prepared = recipe.preprocess
    if prepared is not None and prepared.size is not None:
        shorter = round(prepared.size / prepared.crop)
        found["preprocess"] = {"size": shorter, "crop": prepared.size, "interpolation": prepared.interpolation}
    return {k: v for k, v in found.items() if v is not None}


def recipe_path(config: EncoderConfig, folder: Path) -> Path:
    """Where the recipe is."""
    if config.recipe is None:
        raise ConfigError("the configuration's encoder has no recipe")
    path = resolve(config.recipe, folder)
    return path / "recipe.yaml" if path.is_dir() else path
