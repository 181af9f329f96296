"""The configuration file: validated settings, and the objects that they stand for."""

import importlib
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from krepes import objectives
from krepes.audit.findings import AuditPlan
from krepes.audit.trust import Trust
from krepes.auditor import Auditor
from krepes.data import (
    ArraySource,
    GaussianNoise,
    Scarf,
    ShiftNoise,
    Source,
    TableSchema,
    TableSource,
    read_table,
)
from krepes.data.readers import MISSING, column_names, is_parquet
from krepes.data.tables import ids_of
from krepes.engine import Engine
from krepes.errors import ConfigError, DataError, EncoderError
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


VIEW_SETTINGS = {"scarf": {"rate"}, "gaussian": {"std"}, "shift": {"max_shift", "std", "contrast"}}


class Section(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class EncoderConfig(Section):
    """A module's import path with its arguments, and its weights as safetensors (loaded strictly)."""

    factory: str
    args: dict[str, Any] = {}
    weights: str


class DataConfig(Section):
    """A CSV or Parquet table with the schema saved at training, or an .npy array.

    `label` is a column that never reaches the encoder, `labels` an .npy of classes for an array: the audit's figures
    against labels alone see them. `columns` names all columns of a CSV file without a header, or the columns to read of
    a Parquet file (default: the schema's, `id` and `label`).
    """

    table: str | None = None
    array: str | None = None
    schema_file: str | None = Field(None, alias="schema")
    columns: list[str] | None = None
    skip_lines: int = Field(0, ge=0)
    missing: list[str] = list(MISSING)
    label: str | None = None
    labels: str | None = None
    id: str | None = None
    rows: int | None = Field(None, ge=1)


class ViewsConfig(Section):
    """Name and settings of the views; for scarf `rate`, for gaussian `std`, for shift all three of ShiftNoise."""

    name: Literal["scarf", "gaussian", "shift"]
    rate: float = 0.6
    std: float = 0.1
    max_shift: int = 1
    contrast: float = 0.2


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

    concepts: dict[str, str | list[str] | ConceptConfig] = {}
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
    kernel: dict[str, Any] = {}
    landmarks: LandmarksConfig = LandmarksConfig()
    newton: dict[str, Any] = {}
    n_components: int | None = Field(None, ge=1)
    seed: int = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    engine: EngineConfig = EngineConfig()
    audit: AuditConfig = AuditConfig()
    trust: dict[str, Any] = {}
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
            _put(content, key.split("."), load_yaml(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in error.errors()]
        raise ConfigError(f"{path}:\n" + "\n".join(lines)) from error


class _Loader(yaml.SafeLoader):
    """YAML in which 5e-3 is a number, as everybody reads it; YAML 1.1 wants 5.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml(text: str) -> Any:
    """Plain values from YAML."""
    return yaml.load(text, _Loader)


def _put(content: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: '{key}' holds a value, not a section")
    content[keys[-1]] = value


def resolve(text: str, folder: Path) -> Path:
    """A path with ${VARIABLES} filled in, relative to the configuration's folder."""

    def fill(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise ConfigError(
                f"the path {text} needs the environment variable {match[1]}, which is not set; point it at the folder "
                "that holds the data"
            )
        return value

    return folder / re.sub(r"\$\{(\w+)\}", fill, text)


def build_encoder(config: EncoderConfig, folder: Path, modules_only: bool = False) -> nn.Module:
    """The network with its weights, in eval mode.

    Args:
        modules_only: call nothing but classes derived from nn.Module: for configurations that come with a run folder,
            which may be a stranger's.

    Raises:
        ConfigError: the import path does not lead to a callable, or the arguments do not fit.
        EncoderError: the weights file is missing, damaged, or does not match exactly.
    """
    module_name, _, attribute = config.factory.replace(":", ".").rpartition(".")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        if modules_only and not (isinstance(factory, type) and issubclass(factory, nn.Module)):
            raise ConfigError(
                f"the run folder says that encoder.factory {config.factory} builds the encoder, which is no nn.Module "
                "class and is not called unseen. Build the encoder yourself: krepes.load(folder, encoder=...)."
            )
        network = factory(**config.args)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"encoder.factory {config.factory} with {config.args}: {error}. Expected an import path such as "
            "krepes.encoders:MLP, installed or on PYTHONPATH."
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"encoder.factory {config.factory} made a {type(network).__name__}; expected an nn.Module")
    path = resolve(config.weights, folder)
    if not path.is_file():
        raise EncoderError(f"there is no weights file {path}; train the encoder first, or correct encoder.weights")
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise EncoderError(f"the weights in {path} do not fit {config.factory}: {error}") from error
    return network.eval()


def build_source(config: DataConfig, folder: Path) -> Source:
    """The samples."""
    return build_data(config, folder)[0]


def build_data(config: DataConfig, folder: Path) -> tuple[Source, np.ndarray | None]:
    """The samples, and their classes (n,) as objects, None where missing; no classes if the data has none."""
    if (config.table is None) == (config.array is None):
        raise ConfigError("data needs exactly one of 'table' (CSV or Parquet) and 'array' (.npy)")
    if config.array is not None:
        unused = sorted(k for k in config.model_fields_set - {"array", "labels", "rows"} if getattr(config, k))
        if unused:
            raise ConfigError(f"data.{', data.'.join(unused)} says something about tables; data.array is none")
        path = resolve(config.array, folder)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path} as .npy: {error}") from error
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path} is an archive of arrays; expected one array, saved with numpy.save")
        source = ArraySource(array[: config.rows] if array.ndim else array)
        return source, None if config.labels is None else _labels_of_array(config, folder, len(source))
    if config.labels is not None:
        raise ConfigError("data.labels is for data.array; for a table name its label column, data.label")
    if config.schema_file is None:
        raise ConfigError("data.schema is missing: the table schema that was saved when the encoder was trained")
    schema = TableSchema.load(resolve(config.schema_file, folder))
    if config.label is not None and config.label in schema.slices:
        raise DataError(f"the schema encodes the label column '{config.label}'; labels never reach the encoder")
    path, id_column = resolve(config.table or "", folder), [config.id] if config.id else []
    found = config.label is not None and (not is_parquet(path) or config.label in column_names(path))
    label_column = [config.label] if config.label is not None and found else []
    columns = config.columns or ([*schema.slices, *id_column, *label_column] if is_parquet(path) else None)
    # as text, so that 01 stays 01
    text = [*id_column, *label_column, *(c.name for c in schema.columns if c.kind == "categorical")]
    frame = read_table(path, columns, config.skip_lines, config.missing, text)
    frame = frame.head(config.rows) if config.rows else frame
    ids = None if config.id is None else ids_of(frame, config.id)
    labels = None
    if config.label is not None and config.label in frame.columns:
        labels = frame[config.label].astype(object).where(frame[config.label].notna(), None).to_numpy()
    return TableSource(frame, schema, ids), labels


def _labels_of_array(config: DataConfig, folder: Path, n: int) -> np.ndarray:
    path = resolve(config.labels or "", folder)
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as .npy: {error}") from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or len(labels) < n:
        raise DataError(f"data.labels holds shape {getattr(labels, 'shape', None)}; expected ({n},), one class each")
    if config.rows is None and len(labels) != n:
        raise DataError(f"data.labels holds {len(labels)} classes for {n} samples; expected one each")
    return labels[:n].astype(object)


def build_plan(config: Config, folder: Path) -> AuditPlan:
    """What is asked beside the scores."""
    asked = config.audit
    concepts = {
        name: side.model_dump() if isinstance(side, ConceptConfig) else side for name, side in asked.concepts.items()
    }
    place = None if asked.concept_folder is None else resolve(asked.concept_folder, folder)
    return AuditPlan(concepts, place, asked.automatic_concepts, asked.features, asked.points, asked.attribution)


def build_views(config: ViewsConfig, source: Source):
    """The views' callable."""
    unused = sorted(config.model_fields_set - VIEW_SETTINGS[config.name] - {"name"})
    if unused:
        raise ConfigError(f"views.{', views.'.join(unused)} is no setting of {config.name}")
    if config.name == "gaussian":
        return GaussianNoise(config.std)
    if config.name == "shift":
        return ShiftNoise(config.max_shift, config.std, config.contrast)
    if not isinstance(source, TableSource):
        raise ConfigError("views scarf replaces a table's features; data is no table. Use gaussian or shift.")
    return Scarf.of_table(source, config.rate)


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
