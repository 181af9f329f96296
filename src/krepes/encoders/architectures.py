"""Two small built-in encoders."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """A ReLU network on vectors.

    Args:
        n_in, hidden, n_out: widths of input, hidden layers and output.
    """

    def __init__(self, n_in: int, hidden: Sequence[int], n_out: int):
        super().__init__()
        widths = [n_in, *hidden]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, n_out)."""
        return self.layers(x.flatten(1))


class SmallCNN(nn.Module):
    """3 × 3 convolutions, average pooling over positions, and a projector.

    Args:
        in_channels: of the images (B, C, H, W).
        widths: channels of the convolutions; all but the first halve the resolution.
        n_out: d.
    """

    def __init__(self, in_channels: int = 1, widths: Sequence[int] = (16, 32), n_out: int = 32):
        super().__init__()
        channels = [in_channels, *widths]
        convolutions: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(channels)):
            convolutions += [nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.projector = nn.Sequential(nn.Linear(4 * widths[-1], 64), nn.ReLU(), nn.Linear(64, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, n_out)."""
        pooled = torch.nn.functional.adaptive_avg_pool2d(self.convolutions(x), 2)
        return self.projector(pooled.flatten(1))
