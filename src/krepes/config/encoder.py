"""The configuration's `encoder`: a network with its weights."""

import importlib
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from krepes.config.reading import Section, resolve
from krepes.errors import ConfigError, EncoderError


class EncoderConfig(Section):
    """A module's import path with its arguments, and its weights as safetensors (loaded strictly)."""

    factory: str
    args: dict[str, Any] = Field(default_factory=dict)
    weights: str


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
