"""Random numbers of which every sample's row depends on the generator and its position alone."""

import torch
from torch import Tensor

from krepes.errors import ConfigError

SMALLEST = 2.0**-54  # stands for a draw of exactly zero, whose normal quantile is infinite


def uniforms(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """U[0, 1) (B, K), float64, on the generator's device.

    PyTorch fills it row by row from one stream: the first rows are the same however many follow.
    """
    return torch.rand(rows, columns, generator=generator, dtype=torch.float64, device=generator.device)


def normals(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """N(0, 1) (B, K), float64: quantiles of `uniforms`, since torch.randn draws its last values in another way."""
    return torch.special.ndtri(uniforms(rows, columns, generator).clamp_min(SMALLEST))


def check_rate(owner: object, *names: str, zero: bool = True) -> None:
    """Raise ConfigError naming the setting that is no probability.

    Args:
        zero: whether 0 is one.
    """
    for name in names:
        value = getattr(owner, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 <= value <= 1) or (value == 0 and not zero):
            raise ConfigError(
                f"{type(owner).__name__}: {name}={value!r}; expected {'0 <=' if zero else '0 <'} {name} <= 1"
            )
