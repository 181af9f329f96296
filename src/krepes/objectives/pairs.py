"""Batches of paired features for the objectives that moments cannot express."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.errors import ConfigError


@dataclass(frozen=True)
class Pairs:
    """The two views' features of all samples and their seeded division into batches.

    Attributes:
        phi_a, phi_b: features (n, r).
        order: a permutation of the samples (n,), drawn once from the seed.
    """

    phi_a: Tensor
    phi_b: Tensor
    order: Tensor

    def batches(self, size: int | None) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Feature batches (N, r), (N, r) and their share N/n; sizes differ by one at most, None: one batch."""
        n = len(self.order)
        if size is not None and size < 2:
            raise ConfigError(f"batch_size={size}; expected at least 2 pairs, or None for one batch")
        count = 1 if size is None else -(-n // size)
        for index in torch.tensor_split(self.order, count):
            a, b = self.phi_a[index], self.phi_b[index]
            yield a.double(), b.double(), len(index) / n


def normalise(f: Tensor) -> Tensor:
    """Rows of unit length; a zero row stays zero."""
    return f / f.norm(dim=1, keepdim=True).clamp_min(1e-12)
