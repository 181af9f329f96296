"""The whole configuration file, and the auditor and plan that it stands for."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from torch import nn

from krepes import objectives
from krepes.audit.trust import Trust
from krepes.auditor import Auditor
from krepes.config.asked import AuditConfig, ReportConfig
from krepes.config.data import DataConfig, PreprocessConfig
from krepes.config.encoder import EncoderConfig, recipe_path, recipe_settings
from krepes.config.method import (
    SAMPLERS,
    KernelSettings,
    LandmarksConfig,
    NewtonSettings,
    ObjectiveSettings,
    TrustSettings,
)
from krepes.config.mistakes import in_words
from krepes.config.reading import Section, read_settings
from krepes.config.views import ViewsConfig, refuse_import_paths
from krepes.encoders.presets import completed
from krepes.encoders.recipe import Preprocess, Recipe
from krepes.encoders.settling import told_beside
from krepes.engine import Engine
from krepes.errors import ConfigError, warn
from krepes.kernel.ntk import NTK
from krepes.progress import Progress
from krepes.solver import Newton
from krepes.workers import device_of_worker


class EngineConfig(Section):
    """Memory budget, precision of the products, and where pairs' features are kept; see `krepes.Engine`."""

    memory: str | int | None = None
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    store: Literal["float32", "float16", "bfloat16", "recompute"] = "float32"


class Config(Section):
    """One audit. What a recipe says of objective, views and preprocessing need not be said again."""

    title: str = "Audit of a self-supervised encoder"
    encoder: EncoderConfig
    data: DataConfig
    views: ViewsConfig | None = None
    objective: ObjectiveSettings | None = None
    kernel: KernelSettings = Field(default_factory=dict)
    landmarks: LandmarksConfig = LandmarksConfig()
    newton: NewtonSettings = Field(default_factory=dict)
    n_components: int | None = Field(None, ge=1)
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    engine: EngineConfig = EngineConfig()
    audit: AuditConfig = AuditConfig()
    trust: TrustSettings = Field(default_factory=dict)
    report: ReportConfig = ReportConfig()
    output: str = "runs/audit"


def read_config(path: Path, overrides: list[str] = ()) -> Config:  # pyright: ignore[reportArgumentType]
    """A configuration file with `key.sub=value` overrides.

    Args:
        path: a YAML file; relative paths in it start at its folder.
        overrides: dotted keys with YAML values.

    Raises:
        ConfigError: no such file, no YAML, an unknown, repeated or wrong value; names the key, its line and column.
    """
    return read_settings(path, Config, overrides, "landmarks.m=500")


def with_recipe(config: Config, folder: Path) -> Config:
    """The configuration with objective, views and preprocessing from the encoder's recipe where it says none itself.

    Raises:
        ConfigError: the recipe is wrong, contradicts `data.preprocess`, or names views by an import path; or objective
            or views are in neither.
    """
    if config.encoder.recipe is not None:
        place = recipe_path(config.encoder, folder)
        told = recipe_settings(config.encoder, folder)
        preprocess = prepared(config.data, recipe_preprocess(config.encoder, folder), told.pop("preprocess", {}), place)
        if preprocess is not config.data.preprocess:
            data = config.data.model_copy(update={"preprocess": preprocess})
            config = config.model_copy(update={"data": data})
        warn_of_another_training(config, told, place)
        missing = {k: v for k, v in told.items() if getattr(config, k) is None}
        if "views" in missing:
            refuse_import_paths(missing["views"], place)
        if missing:
            plain = config.model_dump(by_alias=True, exclude_unset=True) | missing
            try:
                config = Config.model_validate(plain)
            except ValidationError as error:
                raise ConfigError(f"{place}:\n" + "\n".join(f"  {in_words(e)}" for e in error.errors())) from error
    for name, example in (("objective", "{name: vicreg}"), ("views", "{name: gaussian, std: 0.1}")):
        if getattr(config, name) is None:
            raise ConfigError(f"{name} is missing, such as {example}; neither the configuration nor a recipe says it")
    return config


def warn_of_another_training(config: Config, told: dict[str, Any], place: Path) -> None:
    """Warn where the configuration states an objective or views with other constants than the recipe states.

    Args:
        told: what the recipe says; its constants are filled in.
        place: of the recipe, for the message.
    """
    own = {"objective": config.objective, "views": config.views}
    for name, read in (("objective", constants_of), ("views", ViewsConfig.model_validate)):
        found, stated = own[name], told.get(name)
        if found is None or stated is None:
            continue
        try:
            same = read(found) == read(stated)
        except (TypeError, ValueError, ConfigError):  # who builds it names what is wrong with it
            continue
        if not same:
            shown = found if isinstance(found, dict) else found.model_dump()
            warn(
                f"{name} is {shown} in the configuration, which is audited; {place} says that the encoder was trained "
                f"with {stated}"
            )


def constants_of(objective: dict[str, Any]) -> Any:
    """The objective with all its constants, to compare."""
    return objectives.by_name(**objective)


def recipe_preprocess(config: EncoderConfig, folder: Path) -> Preprocess | None:
    """What the recipe says of the images' preparation, with its preset's."""
    path = recipe_path(config, folder)
    return completed(told_beside(Recipe.load(path), path.parent)).preprocess


def prepared(data: DataConfig, recipe: Preprocess | None, told: dict[str, Any], place: Path) -> PreprocessConfig | None:
    """`data.preprocess` with what the recipe says where it says nothing itself.

    Args:
        recipe: its preprocessing.
        told: the same as size, crop and interpolation of `data.preprocess`; empty without a size.
        place: of the recipe, for messages.

    Raises:
        ConfigError: the two contradict each other, or both normalise.
    """
    given = data.preprocess
    if given is None:
        # a column of text has a tokenizer, one of numbers says preprocess: null
        numbers = "preprocess" in data.model_fields_set
        hub = data.hugging_face is not None and data.hugging_face.tokenizer is None and not numbers
        decoded = hub or data.images is not None or data.packed is not None or (data.array and data.layout)
        return PreprocessConfig.model_validate(told) if told and decoded else None
    if recipe is None:
        return given
    said = given.model_dump(exclude_unset=True)
    both = [name for name in ("mean", "std") if said.get(name) is not None]
    if both and recipe.mean is not None:
        raise ConfigError(
            f"data.preprocess.{both[0]}={said[both[0]]}, and the encoder of {place} normalises its own input (mean "
            f"{recipe.mean}, std {recipe.std}): images would be normalised twice. Leave mean and std out of "
            "data.preprocess, or remove them from the recipe's preprocess."
        )
    fixed = {k: v for k, v in told.items() if k != "interpolation"} if "crop" in recipe.model_fields_set else {}
    if "interpolation" in recipe.model_fields_set:
        fixed["interpolation"] = recipe.interpolation
    for name, value in fixed.items():
        if name in said and said[name] not in (value, [value] * 2 if name == "crop" else value):
            refuse(name, said[name], value, place)
    if not told:
        return given
    if "crop" not in recipe.model_fields_set and {"size", "crop"} & set(said):
        name = "size" if said.get("crop") is None else "crop"
        if said.get(name) not in (recipe.size, [recipe.size] * 2):
            refuse(name, said.get(name), recipe.size, place)
        told = {k: v for k, v in told.items() if k == "interpolation"}  # how to get to that size is the data's to say
    return PreprocessConfig.model_validate(told | said)


def refuse(name: str, found: Any, expected: Any, place: Path) -> None:
    """Raise ConfigError: data and recipe say different things."""
    raise ConfigError(
        f"data.preprocess.{name}={found!r}, but the encoder of {place} was trained with {name} {expected!r}. Leave "
        f"data.preprocess.{name} out, or correct the recipe's preprocess."
    )


def build_auditor(config: Config, network: nn.Module, progress: Progress) -> Auditor:
    """The auditor, not fitted.

    Raises:
        ConfigError: the objective is missing, or settings do not go together.
    """
    if config.objective is None:
        raise ConfigError("objective is missing: name what trained the encoder, such as {name: vicreg}")
    sampler = SAMPLERS[config.landmarks.sampler](m=config.landmarks.m, space=config.landmarks.space)
    return Auditor(
        network,
        constants_of(config.objective),
        NTK(**config.kernel),
        sampler,
        Newton(**config.newton),
        config.n_components,
        config.seed,
        device_of_worker(config.device),
        getattr(torch, config.dtype),
        progress=progress,
        engine=Engine(**config.engine.model_dump()),
        trust=Trust(**config.trust),
        landmark_rows=config.landmarks.rows,
    )
