"""Views: callables (batch, generator) -> batch that imitate the encoder's training augmentations."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.data.tables import TableSource
from krepes.errors import ConfigError, DataError


@dataclass(frozen=True)
class GaussianNoise:
    """Adds N(0, std²) to every entry."""

    std: float = 0.1

    def __post_init__(self):
        if not self.std > 0:
            raise ConfigError(f"std={self.std}; expected a positive number")

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, ...)."""
        return batch + self.std * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


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
        B, _, H, W = batch.shape
        s = self.max_shift
        padded = torch.nn.functional.pad(batch, (s, s, s, s))
        dy, dx = torch.randint(0, 2 * s + 1, (2, B), generator=generator)
        rows = (dy[:, None] + torch.arange(H))[:, None, :, None]  # (B, 1, H, 1)
        columns = (dx[:, None] + torch.arange(W))[:, None, None, :]  # (B, 1, 1, W)
        samples = torch.arange(B)[:, None, None, None]
        channels = torch.arange(batch.shape[1])[None, :, None, None]
        moved = padded[samples, channels, rows, columns]
        factor = 1 + self.contrast * (2 * torch.rand(B, 1, 1, 1, generator=generator, dtype=batch.dtype) - 1)
        return moved * factor + self.std * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


class Scarf:
    """SCARF corruption: each feature is, with probability `rate`, that of a random reference row.

    Source: Bahri et al., arXiv 2106.15147. The empirical marginal is drawn feature by feature, so a feature that
    takes several encoded columns is replaced as a whole.

    Args:
        reference: encoded rows (N, p) to draw from; for a large table see `of_table`.
        groups: encoded columns of each feature; together they cover all p.
        rate: probability of replacement.
    """

    def __init__(self, reference: Tensor, groups: Sequence[slice], rate: float = 0.6):
        columns = torch.arange(reference.shape[-1])[None]
        self._prepare(len(reference), groups, rate)
        if reference.ndim != 2 or len(self.group) != reference.shape[1]:
            raise DataError(
                f"the groups cover {len(self.group)} columns of a reference of shape {tuple(reference.shape)}"
            )
        self._draw = lambda donors: reference[donors[:, self.group], columns]
        self._origin = lambda: hashlib.sha256(reference.contiguous().numpy().data).hexdigest()

    @classmethod
    def of_table(cls, source: TableSource, rate: float = 0.6) -> "Scarf":
        """The same, with donors drawn from a table's codes: the encoded table is never held."""
        view, codes, schema = cls.__new__(cls), source.codes, source.schema
        view._prepare(len(source), list(schema.slices.values()), rate)
        of_hot = torch.tensor([i for i, c in enumerate(schema.columns) if c.kind != "numeric"], dtype=torch.long)
        of_dense = view.group[codes.dense_columns]

        def draw(donors: Tensor) -> Tensor:
            dense = codes.dense[donors[:, of_dense], torch.arange(len(of_dense))[None]]
            return codes.fill(dense, codes.hot[donors[:, of_hot], torch.arange(len(of_hot))[None]])

        view._draw, view._origin = draw, source.fingerprint
        return view

    def _prepare(self, n: int, groups: Sequence[slice], rate: float) -> None:
        if not 0 < rate <= 1:
            raise ConfigError(f"rate={rate}; expected 0 < rate <= 1")
        self.rate, self._n = rate, n
        widths = torch.tensor([g.stop - g.start for g in groups])
        self.group = torch.repeat_interleave(torch.arange(len(groups)), widths)

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view (B, p)."""
        if batch.ndim != 2 or batch.shape[1] != len(self.group):
            raise DataError(f"Scarf got a batch of shape {tuple(batch.shape)}; expected (B, {len(self.group)})")
        shape = (len(batch), int(self.group[-1]) + 1)
        corrupt = torch.rand(shape, generator=generator) < self.rate
        donors = torch.randint(self._n, shape, generator=generator)
        return torch.where(corrupt[:, self.group], self._draw(donors).to(batch.dtype), batch)

    def __repr__(self) -> str:
        return f"Scarf(rate={self.rate}, reference={self._origin()})"
