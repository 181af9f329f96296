"""Batches of paired features for the objectives that moments cannot express."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.base import Problem, Summand
from krepes.workers import current

SHORTEST = 1e-12  # an embedding shorter than this has no direction


class Store(Protocol):
    """Features that need not lie in memory: a tensor, or anything that is indexed like one."""

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """The rows (k, r) at sorted positions (k,)."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...


@dataclass(frozen=True)
class Pairs:
    """The two views' features of all samples and their seeded division into batches.

    Attributes:
        phi_a, phi_b: features (n, r): tensors, or stores of float64, float32, float16 or bfloat16 rows.
        order: a permutation of the samples (n,), drawn once from the seed.
        place: position in the order's samples ↦ row of the features, −1 for samples that were taken out, so that the
            others keep their batches; None: they are the same.
    """

    phi_a: Tensor | Store
    phi_b: Tensor | Store
    order: Tensor
    place: Tensor | None = None

    def division(self, size: int | None, samples: int | None = None) -> list[Tensor]:
        """Positions of each batch's samples, sorted: a store then reads forward, and no loss sees the order.

        Args:
            size: pairs per batch; sizes differ by one at most. None: one batch of all.
            samples: only the first batches that together reach this number of pairs.
        """
        if size is not None and size < 2:
            raise ConfigError(f"batch_size={size}; expected at least 2 pairs, or None for one batch")
        count = 1 if size is None else -(-len(self.order) // size)
        batches, reached = [], 0
        for index in torch.tensor_split(self.order, count):
            if samples is not None and reached >= samples:
                break
            if self.place is not None:
                index = self.place[index]
                index = index[index >= 0]
            if len(index) == 0:
                continue
            batches.append(index.sort().values)
            reached += len(index)
        return batches

    def load(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """The features of these samples (N, r), (N, r): float64 as float64, everything else as float32."""
        a, b = (phi[index].to(device) for phi in (self.phi_a, self.phi_b))
        return (a, b) if a.dtype == torch.float64 else (a.float(), b.float())


def streamed(
    pairs: Pairs, batch_size: int | None, term: Callable[[Tensor, float], Summand], samples: int | None = None
) -> Problem:
    """The mean of a loss over the seeded batches, weighted by their share of the pairs; each is one worker's.

    Args:
        term: (positions of a batch (N,), its share) ↦ its summand; made anew whenever it is needed.
        samples: use only the first batches that reach this many pairs. As the order is a random permutation, they
            are a random subset, and the shares within it make their mean an unbiased estimate.
    """
    batches = pairs.division(batch_size, samples)
    total = sum(len(index) for index in batches)
    own = [index for _, index in current().own(batches)]
    return Problem(
        lambda: (term(index, len(index) / total) for index in own),
        total,
        lambda k: streamed(pairs, batch_size, term, k),
        divided=True,
    )


def normalise(f: Tensor) -> Tensor:
    """Rows of unit length; a zero row stays zero."""
    return f / f.norm(dim=1, keepdim=True).clamp_min(SHORTEST)


def unit(f: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """z = f/‖f‖ (N, h) and 1/‖f‖ (N, 1), in that dtype; both 0 where f has no direction.

    f comes in float64: rounding z errs at random and averages out, rounding B would shift all samples alike, by as
    much as a small ΔB.
    """
    length = f.norm(dim=1, keepdim=True)
    inverse = torch.where(length > SHORTEST, 1 / length, 0)
    return (f * inverse).to(dtype), inverse.to(dtype)


def unit_tangent(z: Tensor, inverse: Tensor, v: Tensor) -> Tensor:
    """(I − zzᵀ)v/‖f‖ per row: the derivative of f/‖f‖ along v (N, h), and, symmetric, its own pull-back."""
    return (v - z * (z * v).sum(1, keepdim=True)) * inverse
