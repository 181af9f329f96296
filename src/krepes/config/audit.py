"""The whole configuration file, and the auditor and plan that it stands for."""

from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field, ValidationError
from torch import nn

from krepes import objectives
from krepes.audit.findings import AuditPlan
from krepes.audit.trust import Trust
from krepes.auditor import Auditor
from krepes.config.data import DataConfig
from krepes.config.encoder import EncoderConfig
from krepes.config.reading import Section, load_yaml, put, resolve
from krepes.config.views import ViewsConfig
from krepes.engine import Engine
from krepes.errors import ConfigError
from krepes.kernel.ntk import NTK
from krepes.landmarks import KMeansPlusPlus, LeverageScores, RPCholesky, Uniform
from krepes.progress import Progress
from krepes.solver import Newton

SAMPLERS = {
    "kmeans++": KMeansPlusPlus,
    "leverage": LeverageScores,
    "rpcholesky": RPCholesky,
    "uniform": Uniform,
}


class LandmarksConfig(Section):
    """Sampler, number (none: ⌈√n⌉) and the space it works in."""

    sampler: Literal["kmeans++", "leverage", "rpcholesky", "uniform"] = "kmeans++"
    m: int | None = Field(default=None, ge=1)
    space: Literal["kernel", "input"] = "kernel"


class ReportConfig(Section):
    """What the run folder shows: samples explained in the report, landmarks per sample in the tables."""

    explain: list[str] | int = 6
    top_k: int = Field(default=10, ge=1)


class ConceptConfig(Section):
    """Two sides of a concept: queries on the table, or lists of ids."""

    positive: str | list[str]
    negative: str | list[str] | None = None


class AuditConfig(Section):
    """What is asked beside the scores; see `krepes.AuditPlan`. `evaluate` switches figures against `data.label` off."""

    concepts: dict[str, str | list[str] | ConceptConfig] = Field(default_factory=dict)
    concept_folder: str | None = None
    automatic_concepts: bool = True
    features: list[str] | None = None
    points: int = Field(default=1000, ge=20)
    attribution: int = Field(default=200_000, ge=0)
    evaluate: bool = True


class EngineConfig(Section):
    """Memory budget, precision of the products, and where pairs' features are kept; see `krepes.Engine`."""

    memory: str | int | None = None
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    store: Literal["float32", "float16", "bfloat16", "recompute"] = "float32"


class Config(Section):
    """One audit."""

    title: str = "Audit of a self-supervised encoder"
    encoder: EncoderConfig
    data: DataConfig
    views: ViewsConfig
    objective: dict[str, Any]
    kernel: dict[str, Any] = Field(default_factory=dict)
    landmarks: LandmarksConfig = LandmarksConfig()
    newton: dict[str, Any] = Field(default_factory=dict)
    n_components: int | None = Field(None, ge=1)
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    engine: EngineConfig = EngineConfig()
    audit: AuditConfig = AuditConfig()
    trust: dict[str, Any] = Field(default_factory=dict)
    report: ReportConfig = ReportConfig()
    output: str = "runs/audit"


def read_config(path: Path, overrides: list[str] = ()) -> Config:  # pyright: ignore[reportArgumentType]
    """A configuration file with `key.sub=value` overrides.

    Args:
        path: a YAML file; relative paths in it start at its folder.
        overrides: dotted keys with YAML values.

    Raises:
        ConfigError: no such file, no YAML, an unknown key or a wrong value; names the key.
    """
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}; expected settings (key: value)")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: expected key=value, such as landmarks.m=500")
        try:
            put(content, key.split("."), load_yaml(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in error.errors()]
        raise ConfigError(f"{path}:\n" + "\n".join(lines)) from error


def build_plan(config: Config, folder: Path) -> AuditPlan:
    """What is asked beside the scores."""
    asked = config.audit
    concepts = {
        name: side.model_dump() if isinstance(side, ConceptConfig) else side for name, side in asked.concepts.items()
    }
    place = None if asked.concept_folder is None else resolve(asked.concept_folder, folder)
    return AuditPlan(concepts, place, asked.automatic_concepts, asked.features, asked.points, asked.attribution)


def build_auditor(config: Config, network: nn.Module, progress: Progress) -> Auditor:
    """The auditor, not fitted.

    Raises:
        ConfigError: a setting of objective, kernel or newton is unknown or out of range.
    """
    objective = dict(config.objective)
    try:
        chosen = objectives.by_name(str(objective.pop("name", None)), **objective)
        kernel, newton = NTK(**config.kernel), Newton(**{"damping": "auto", **config.newton})
    except TypeError as error:
        raise ConfigError(f"objective, kernel or newton: {error}") from error
    try:
        trust = Trust(**config.trust)
    except TypeError as error:
        raise ConfigError(f"trust: {error}") from error
    sampler = SAMPLERS[config.landmarks.sampler](m=config.landmarks.m, space=config.landmarks.space)
    return Auditor(
        network,
        chosen,
        kernel,
        sampler,
        newton,
        config.n_components,
        config.seed,
        config.device,
        getattr(torch, config.dtype),
        progress=progress,
        engine=Engine(**config.engine.model_dump()),
        trust=trust,
    )
