"""A frozen network as a pure function, and how to get it from a checkpoint."""

from typing import TYPE_CHECKING, Any

from krepes.encoders.architectures import MLP, SmallCNN
from krepes.encoders.frozen import FrozenEncoder
from krepes.encoders.resnet import ResNet18, ResNet34, ResNet50

if TYPE_CHECKING:
    from krepes.encoders.building import Loaded, build
    from krepes.encoders.conversion import convert
    from krepes.encoders.inspection import inspect_checkpoint
    from krepes.encoders.presets import PRESETS
    from krepes.encoders.reading import read_checkpoint
    from krepes.encoders.recipe import Recipe

# imported when first asked for: validation and YAML are not needed to audit a module
LAZY = {
    "PRESETS": "presets",
    "Loaded": "building",
    "Recipe": "recipe",
    "build": "building",
    "convert": "conversion",
    "inspect_checkpoint": "inspection",
    "read_checkpoint": "reading",
}

__all__ = [
    "MLP",
    "PRESETS",
    "FrozenEncoder",
    "Loaded",
    "Recipe",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SmallCNN",
    "build",
    "convert",
    "inspect_checkpoint",
    "read_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'krepes.encoders' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"krepes.encoders.{LAZY[name]}"), name)
