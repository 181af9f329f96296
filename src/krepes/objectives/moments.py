"""First and second moments of the two views' features: all that moment objectives know of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.nystrom import aligned


@dataclass
class Moments:
    """Sums over samples in float64; they add up over blocks and workers, and subtract when data is removed.

    Attributes:
        n: number of samples.
        sum_a, sum_b: Σφ_a, Σφ_b (r,).
        aa, bb, ab: Σφ_aφ_aᵀ, Σφ_bφ_bᵀ, Σφ_aφ_bᵀ (r, r).
    """

    n: int
    sum_a: Tensor
    sum_b: Tensor
    aa: Tensor
    bb: Tensor
    ab: Tensor

    @classmethod
    def of(cls, phi_a: Tensor, phi_b: Tensor) -> "Moments":
        """Moments of one block of paired features (B, r): products in the features' type, sums in float64.

        A float32 product over a block of a few thousand samples keeps 1e-7; blocks are added in float64.
        """
        r = phi_a.shape[1]
        sums = (phi.sum(0, dtype=torch.float64) for phi in (phi_a, phi_b))
        a, b = aligned(phi_a), aligned(phi_b)
        return cls(len(a), *sums, *(m[:r, :r].contiguous() for m in (gram(a), gram(b), (a.T @ b).double())))

    def add_(self, other: "Moments") -> "Moments":
        """Add another part's sums in place."""
        self.n += other.n
        for x, y in zip(self.tensors().values(), other.tensors().values(), strict=True):
            x += y
        return self

    def __add__(self, other: "Moments") -> "Moments":
        return self._combine(other, 1)

    def __sub__(self, other: "Moments") -> "Moments":
        return self._combine(other, -1)

    def _combine(self, other: "Moments", sign: int) -> "Moments":
        pairs = zip(self.tensors().values(), other.tensors().values(), strict=True)
        return Moments(self.n + sign * other.n, *(x + sign * y for x, y in pairs))

    def tensors(self) -> dict[str, Tensor]:
        """The five sums by name, for storage."""
        return {"sum_a": self.sum_a, "sum_b": self.sum_b, "aa": self.aa, "bb": self.bb, "ab": self.ab}

    @property
    def mean_a(self) -> Tensor:
        """μ_a (r,)."""
        return self.sum_a / self.n

    @property
    def mean_b(self) -> Tensor:
        """μ_b (r,)."""
        return self.sum_b / self.n

    def covariance(self, pair: str, ddof: int = 0) -> Tensor:
        """Σ_aa, Σ_bb or Σ_ab, centred, divided by n − ddof (r, r)."""
        mean = {"a": self.mean_a, "b": self.mean_b}
        second = {"aa": self.aa, "bb": self.bb, "ab": self.ab}[pair]
        return (second - self.n * torch.outer(mean[pair[0]], mean[pair[1]])) / (self.n - ddof)

    @property
    def second_difference(self) -> Tensor:
        """Σ_Δ = E[(φ_a − φ_b)(φ_a − φ_b)ᵀ] (r, r)."""
        return (self.aa + self.bb - self.ab - self.ab.T) / self.n


def gram(a: Tensor, parts: int = 4) -> Tensor:
    """aᵀa (r, r) in float64 from products over the upper blocks alone."""
    r = a.shape[1]
    step = -(-r // parts)
    out = torch.empty(r, r, dtype=torch.float64, device=a.device)
    for i in range(0, r, step):
        rows = slice(i, min(i + step, r))
        product = (a[:, rows].T @ a[:, i:]).double()
        out[rows, i:], out[i:, rows] = product, product.T
    return out
