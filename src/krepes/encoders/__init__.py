"""A frozen network as a pure function."""

from krepes.encoders.architectures import MLP, SmallCNN
from krepes.encoders.frozen import FrozenEncoder

__all__ = ["MLP", "FrozenEncoder", "SmallCNN"]
