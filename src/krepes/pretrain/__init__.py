"""A small trainer, for people without a checkpoint: a means to try krepes, not a training framework."""

from krepes.pretrain.config import NetworkConfig, PretrainConfig, TrainConfig, read_pretrain_config
from krepes.pretrain.outputs import linear_probe, probe
from krepes.pretrain.run import pretrain
from krepes.pretrain.training import Trained, train

__all__ = [
    "NetworkConfig",
    "PretrainConfig",
    "TrainConfig",
    "Trained",
    "linear_probe",
    "pretrain",
    "probe",
    "read_pretrain_config",
    "train",
]
