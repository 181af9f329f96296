"""Views of any samples: the sample itself, and of real-valued ones noise and small shifts of images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.errors import ConfigError, DataError


@dataclass(frozen=True)
class Identity:
    """The sample as it is: for a pair of which one view is not augmented."""

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """The batch (B, ...); nothing is drawn."""
        return batch


@dataclass(frozen=True)
class GaussianNoise:
    """Adds N(0, std²) to every entry."""

    std: float = 0.1

    def __post_init__(self):
        if not self.std > 0:
            raise ConfigError(f"std={self.std}; expected a positive number")

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, ...)."""
        check_real(self, batch)
        return batch + self.std * gaussian(batch, generator)


@dataclass(frozen=True)
class ShiftNoise:
    """Images (B, C, H, W): a random shift with zero fill, a random contrast, and Gaussian noise.

    Args:
        max_shift: pixels in either direction.
        std: of the noise.
        contrast: the factor is uniform in 1 ± contrast.
    """

    max_shift: int = 1
    std: float = 0.1
    contrast: float = 0.2

    def __post_init__(self):
        if self.max_shift < 0 or self.std < 0 or not 0 <= self.contrast < 1:
            raise ConfigError(f"{self}; expected max_shift >= 0, std >= 0 and 0 <= contrast < 1")

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, C, H, W)."""
        if batch.ndim != 4:
            raise DataError(f"ShiftNoise got a batch of shape {tuple(batch.shape)}; expected (B, C, H, W)")
        check_real(self, batch)
        B, C, H, W = batch.shape
        s, device = self.max_shift, batch.device
        padded = torch.nn.functional.pad(batch, (s, s, s, s))
        dy, dx = torch.randint(0, 2 * s + 1, (2, B), generator=generator, device=generator.device).to(device)
        rows = (dy[:, None] + torch.arange(H, device=device))[:, None, :, None]  # (B, 1, H, 1)
        columns = (dx[:, None] + torch.arange(W, device=device))[:, None, None, :]  # (B, 1, 1, W)
        samples = torch.arange(B, device=device)[:, None, None, None]
        channels = torch.arange(C, device=device)[None, :, None, None]
        moved = padded[samples, channels, rows, columns]
        spread = torch.rand(B, 1, 1, 1, generator=generator, dtype=batch.dtype, device=generator.device).to(device)
        factor = 1 + self.contrast * (2 * spread - 1)
        return moved * factor + self.std * gaussian(batch, generator)


def gaussian(batch: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1) of the batch's shape, dtype and device, drawn on the generator's."""
    drawn = torch.randn(batch.shape, generator=generator, dtype=batch.dtype, device=generator.device)
    return drawn.to(batch.device)


def check_real(view: object, batch: Tensor) -> None:
    """Raise DataError for samples that are no floating-point numbers."""
    if not batch.is_floating_point():
        raise DataError(
            f"{type(view).__name__} got a batch of {batch.dtype}; expected floating-point samples. Tokens have "
            "views of their own: krepes.data.views.TokenDropout, TokenMask, SpanCrop"
        )
