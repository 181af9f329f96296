"""Small networks in the layouts of the frameworks, with random weights."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from krepes.encoders import MLP, ResNet18
from tests.networks import unsettle

WIDTH, D = 4, 32  # a ResNet-18 with 4 channels has 32 features


def resnet(seed: int = 0, **options) -> nn.Module:
    """A ResNet-18 with running statistics as training leaves them."""
    torch.manual_seed(seed)
    network = ResNet18(**({"width": WIDTH} | options))
    unsettle(network)
    return network.eval()


def projector(seed: int = 1, n_in: int = D, widths: tuple[int, ...] = (16, 8), bias: bool = True) -> nn.Sequential:
    """Linear, batch norm, ReLU, …, linear."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(n_in, width, bias=bias), nn.BatchNorm1d(width), nn.ReLU()]
        n_in = width
    network = nn.Sequential(*layers, nn.Linear(n_in, widths[-1], bias=bias))
    unsettle(network)
    return network.eval()


def mlp(seed: int = 0, n_in: int = 6, hidden: tuple[int, ...] = (12,), n_out: int = 5) -> nn.Module:
    """A small network on vectors."""
    torch.manual_seed(seed)
    return MLP(n_in, list(hidden), n_out).eval()


def prefixed(**parts: nn.Module) -> OrderedDict:
    """One state dict of several networks; a double underscore in a name is a dot."""
    state = OrderedDict()
    for name, network in parts.items():
        prefix = name.replace("__", ".") + "."
        state |= {f"{prefix}{k}": v for k, v in network.state_dict().items()}
    return state


def save(path: Path, content) -> Path:
    """As torch.save writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class Cut(nn.Module):
    """A network without its last layer: (B, d, 1, 1)."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.conv(x))


def images(n: int = 3, side: int = 32) -> torch.Tensor:
    """In [0, 1]."""
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def normalised(x: torch.Tensor, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)) -> torch.Tensor:
    """With ImageNet's statistics."""
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
