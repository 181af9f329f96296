"""What a run folder may have loaded when nobody said that it is one's own: it may be a stranger's."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from krepes.config import Config, DataConfig, EncoderConfig, build_encoder
from krepes.config.encoder import recipe_path
from krepes.config.hugging_face import HuggingFaceConfig
from krepes.config.reading import resolve
from krepes.config.views import is_path
from krepes.encoders.building import build
from krepes.encoders.recipe import Recipe
from krepes.encoders.trust import LIBRARIES, refuse_a_strangers_file
from krepes.errors import ConfigError
from krepes.remote import is_url

OWN_RUN = "if the run is your own, start with --trust-run"
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
# what the libraries made of the switches when they were imported, and look at later
MADE = (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("datasets.config", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_DATASETS_OFFLINE"))  # fmt: skip


def encoder_of(config: EncoderConfig, folder: Path, run_folder: Path) -> nn.Module:
    """The network with its weights: nn.Module classes of krepes, torch.nn and the known libraries alone.

    Args:
        folder: where relative paths start.
        run_folder: nothing is imported from it, nor from `folder` or the working directory.

    Raises:
        ConfigError: it is built by other code; names it.
        EncoderError: the weights are missing, damaged, or do not fit.
    """
    asked = [place for place in (config.weights, config.recipe) if place is not None and is_url(place)]
    if asked:
        raise ConfigError(f"this run's encoder is fetched from {asked[0][:200]}; {OWN_RUN}")
    if config.factory is not None:
        refuse_other_code(config.factory)
        return build_encoder(config, folder, modules_only=True, run_folder=run_folder)
    path = recipe_path(config, folder)
    recipe = Recipe.load(path)
    for part in (recipe.arch and recipe.arch.name, recipe.head and recipe.head.arch,
                 recipe.predictor and recipe.predictor.arch):  # fmt: skip
        if part and part != "inferred":
            refuse_other_code(part)
    for library in (name for name in LIBRARIES if name != "krepes" and name not in sys.modules):
        refuse_a_strangers_file(library, library, (folder, path.parent, run_folder))
    # a checkpoint may name the network that its recipe leaves out: `build` takes that, too, from known libraries alone
    return build(recipe, path.parent).module


def refuse_other_code(path: str) -> None:
    """Raise ConfigError for an import path outside krepes, torch.nn and the known libraries."""
    module = path.replace(":", ".")
    if not module.startswith(("torch.nn.", *(f"{name}." for name in LIBRARIES))):
        raise ConfigError(f"this run's encoder is built by {path[:200]}; {OWN_RUN}")


def refuse_asking(data: DataConfig, folder: Path) -> None:
    """Raise ConfigError for samples that are read from the network, by code, or through a folder that is written."""
    named = [data.table, data.array, data.images, data.packed, data.labels, data.schema_file]
    asked = [place for place in named if place is not None and is_url(place)]
    if asked:
        raise ConfigError(f"this run's samples are fetched from {asked[0][:200]}; {OWN_RUN}")
    hub = data.hugging_face
    if hub is None:
        return
    if hub.streaming or hub.cache is not None:
        raise ConfigError(f"this run's samples are a stream that is written into a cache folder; {OWN_RUN}")
    if not is_saved(hub, folder):
        raise ConfigError(
            f"this run's samples are the dataset {hub.path[:200]}, which is no folder of save_to_disk on this machine; "
            f"{OWN_RUN}"
        )


def is_saved(hub: HuggingFaceConfig, folder: Path) -> bool:
    """Whether a dataset is a folder that `save_to_disk` wrote."""
    place = resolve(hub.path, folder)
    return any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))


def refuse_views_of_code(settings: Config) -> None:
    """Raise ConfigError where views, or parts of them, are an import path."""
    found = paths_of(None if settings.views is None else settings.views.model_dump())
    if found:
        raise ConfigError(f"this run's views are made by the import path {found[0][:200]}; {OWN_RUN}")


def paths_of(views: Any) -> list[str]:
    """The import paths among views."""
    if isinstance(views, list | tuple):
        return [path for part in views for path in paths_of(part)]
    if not isinstance(views, dict):
        return []
    own = [views["name"]] if is_path(views.get("name")) else []
    return own + paths_of(views.get("compose")) + paths_of(views.get("pair"))


@contextmanager
def offline() -> Iterator[None]:
    """Hugging Face's libraries ask nobody meanwhile, whether they are imported already or not."""
    variables = {name: os.environ.get(name) for name in SWITCHES}
    made = {(module, name): getattr(sys.modules[module], name, False)
            for module, name in MADE if module in sys.modules}  # fmt: skip
    os.environ.update(dict.fromkeys(SWITCHES, "1"))
    for module, name in made:
        setattr(sys.modules[module], name, True)
    try:
        yield
    finally:
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        asked = any(str(value).upper() in ("1", "ON", "YES", "TRUE") for value in variables.values())
        for module, name in MADE:  # a library that was imported meanwhile, too
            if module in sys.modules:
                setattr(sys.modules[module], name, made.get((module, name), asked))
