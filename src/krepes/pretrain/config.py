"""The trainer's configuration file, and the network and objective that it stands for."""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from krepes import objectives
from krepes.config.data import DataConfig
from krepes.config.method import ObjectiveSettings
from krepes.config.reading import Section, read_settings
from krepes.config.views import ViewsConfig
from krepes.data import Source
from krepes.encoders.names import called, imported
from krepes.errors import ConfigError
from krepes.objectives import Objective, SimCLR


class NetworkConfig(Section):
    """A module's import path with its arguments; `n_in` and `in_channels` are filled in from the samples."""

    factory: str
    args: dict[str, Any] = Field(default_factory=dict)


class TrainConfig(Section):
    """AdamW on pairs of views.

    Attributes:
        epochs: passes over the samples.
        batch_size: pairs per step; a last batch of less than half of it is left out.
        lr, weight_decay: of AdamW.
        schedule: the learning rate stays, or falls to zero as a half cosine.
        warmup: share of the steps in which it rises linearly from zero, in [0, 1).
        predictor: hidden widths of BYOL's predictor.
        momentum: of BYOL's target network, in [0, 1).
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=512, ge=2)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    predictor: list[int] = Field(default=[128], min_length=1)
    momentum: float = Field(default=0.99, ge=0, lt=1)


class PretrainConfig(Section):
    """One training run; without `encoder` a small network that fits the samples."""

    title: str = "A self-supervised encoder"
    encoder: NetworkConfig | None = None
    data: DataConfig
    views: ViewsConfig
    objective: ObjectiveSettings
    train: TrainConfig = TrainConfig()
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    output: str = "runs/pretrain"


def read_pretrain_config(path: Path, overrides: Sequence[str] = (), objective: str | None = None) -> PretrainConfig:
    """A configuration file with `key.sub=value` overrides.

    Args:
        path: a YAML file; relative paths in it start at its folder.
        overrides: dotted keys with YAML values.
        objective: the name of another one than the file's, with its default constants.

    Raises:
        ConfigError: no such file, no YAML, an unknown, repeated or wrong value; names the key, its line and column.
    """

    def change(content: dict[str, Any]) -> None:
        if isinstance(own := content.get("objective"), str):  # a section, whose constants overrides may state
            own = content["objective"] = {"name": own}
        if objective is not None and not (isinstance(own, dict) and own.get("name") == objective):
            objectives.by_name(objective)  # which raises where there is none
            content["objective"] = {"name": objective}

    return read_settings(path, PretrainConfig, overrides, "train.epochs=5", change)


def build_objective(config: PretrainConfig) -> Objective:
    """The objective; SimCLR's batches are those of the training, since its loss depends on them.

    Raises:
        ConfigError: an unknown name, or SimCLR with two sizes of batches.
    """
    constants = dict(config.objective)
    name = str(constants.pop("name", None))
    size = config.train.batch_size
    if name == SimCLR.name and constants.setdefault("batch_size", size) != size:
        raise ConfigError(
            f"objective.batch_size={constants['batch_size']} and train.batch_size={size}: SimCLR's loss depends on the "
            "batches, and the audit uses the objective's. Leave one of them out."
        )
    return objectives.by_name(name, **constants)


def build_network(config: NetworkConfig | None, source: Source, seed: int) -> tuple[nn.Module, NetworkConfig]:
    """The network with seeded weights, and the whole of its arguments.

    Raises:
        ConfigError: the import path does not lead to a module, or the arguments do not fit.
    """
    shape = source.batch([0]).shape[1:]
    if config is None:
        images = len(shape) == 3
        factory, args = ("SmallCNN", {"n_out": 32}) if images else ("MLP", {"hidden": [256, 256], "n_out": 64})
        config = NetworkConfig(factory=f"krepes.encoders:{factory}", args=args)
    factory = imported(config.factory)
    sizes = {"n_in": math.prod(shape), **({"in_channels": shape[0]} if len(shape) == 3 else {})}
    try:
        taken = inspect.signature(factory).parameters
    except ValueError:  # some classes of C do not say
        taken = {}
    args = {**{name: size for name, size in sizes.items() if name in taken}, **config.args}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = called(factory, f"encoder.factory {config.factory}", args)
    return network, NetworkConfig(factory=config.factory, args=args)
