"""First and second moments of the two views' features: all that moment objectives know of the data."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from krepes.errors import DataError
from krepes.nystrom import aligned


@dataclass
class Moments:
    """Sums over samples in float64; they add up over blocks and workers, and subtract when data is removed.

    Attributes:
        n: number of samples.
        sum_a, sum_b: Σφ_a, Σφ_b (r,).
        aa, bb, ab: Σφ_aφ_aᵀ, Σφ_bφ_bᵀ, Σφ_aφ_bᵀ (r, r).
        dd: Σ(φ_a − φ_b)(φ_a − φ_b)ᵀ (r, r), for objectives that need it: the other three give it, too, but where the
            views are close, as a small difference of large numbers. None: not summed.
    """

    n: int
    sum_a: Tensor
    sum_b: Tensor
    aa: Tensor
    bb: Tensor
    ab: Tensor
    dd: Tensor | None = None

    @classmethod
    def of(cls, phi_a: Tensor, phi_b: Tensor, difference: bool = False) -> "Moments":
        """Moments of one block of paired features (B, r): products in the features' type, sums in float64.

        A float32 product over a block of a few thousand samples keeps 1e-7; blocks are added in float64.
        """
        r = phi_a.shape[1]
        sums = (phi.sum(0, dtype=torch.float64) for phi in (phi_a, phi_b))
        a, b = aligned(phi_a), aligned(phi_b)
        products = [gram(a), gram(b), (a.T @ b).double()] + ([gram(a - b)] if difference else [])
        return cls(len(a), *sums, *(m[:r, :r].contiguous() for m in products))

    @classmethod
    def zero(cls, r: int, difference: bool, device: torch.device) -> "Moments":
        """Of no sample."""
        vectors = (torch.zeros(r, dtype=torch.float64, device=device) for _ in range(2))
        matrices = (torch.zeros(r, r, dtype=torch.float64, device=device) for _ in range(4 if difference else 3))
        return cls(0, *vectors, *matrices)

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
        """The sums by name, for storage."""
        sums = {"sum_a": self.sum_a, "sum_b": self.sum_b, "aa": self.aa, "bb": self.bb, "ab": self.ab}
        return sums if self.dd is None else sums | {"dd": self.dd}

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
        if self.n <= ddof:
            raise DataError(f"{self.n} samples have no covariance with ddof={ddof}; take more samples, or ddof=0")
        mean = {"a": self.mean_a, "b": self.mean_b}
        second = {"aa": self.aa, "bb": self.bb, "ab": self.ab}[pair]
        return (second - self.n * torch.outer(mean[pair[0]], mean[pair[1]])) / (self.n - ddof)

    def covariance_form(self, pair: str, ddof: int = 0) -> "Form":
        """`covariance` as a form."""
        means = {"a": self.mean_a, "b": self.mean_b}
        return Form(self.covariance(pair, ddof), ((1.0, pair[0], pair[1]),), self.n - ddof, means)

    def difference_form(self, weight: float = 1.0) -> "Form":
        """weight · E[(φ_a − φ_b)(φ_a − φ_b)ᵀ]."""
        dd = self.aa + self.bb - self.ab - self.ab.T if self.dd is None else self.dd
        return Form(dd * (weight / self.n), ((weight, "d", "d"),), self.n)

    def uncentred_form(self, *pairs: str) -> "Form":
        """The mean of E[φ_aφ_aᵀ] and the like over pairs "aa", "bb", "ab", "ba"."""
        sums = {"aa": self.aa, "bb": self.bb, "ab": self.ab, "ba": self.ab.T}
        share = 1 / len(pairs)
        parts = tuple((share, pair[0], pair[1]) for pair in pairs)
        return Form(sum((sums[p] for p in pairs), torch.zeros_like(self.aa)) * (share / self.n), parts, self.n)


@dataclass(frozen=True)
class Form:
    """S = Σ_k c_k E[l_k r_kᵀ] over the samples; l and r are φ_a, φ_b or their difference, centred or not.

    Attributes:
        matrix: S (r, r).
        parts: (c_k, side of l_k, side of r_k); sides are "a", "b" and "d".
        count: what the sum over samples is divided by.
        means: side ↦ the mean (r,) that is subtracted; empty where S is not centred.
    """

    matrix: Tensor
    parts: tuple[tuple[float, str, str], ...]
    count: float
    means: dict[str, Tensor] = field(default_factory=dict)

    def of(self, X: Tensor, Y: Tensor) -> Tensor:
        """XᵀSY, (h, k); of several Y (Q, h, k)."""
        return X.T @ self.times(Y)

    def times(self, Y: Tensor, transposed: bool = False) -> Tensor:
        """SY, or SᵀY, (r, k) or (Q, r, k): of several Y in one product."""
        S = self.matrix.T if transposed else self.matrix
        return S @ Y if Y.ndim == 2 else (S @ Y.transpose(0, 1).flatten(1)).unflatten(1, (len(Y), -1)).transpose(0, 1)

    def change(self, E: Tensor, left: Callable[[str, Tensor | None], Tensor], right, constant: Tensor) -> Tensor:
        """d⟨E, XᵀSY⟩/dw_i for the weight w_i = 1 of every sample of a block, (B,).

        dS/dw_i = (Σ_k c_k (l_ki − l̄)(r_ki − r̄)ᵀ − S)/count, also for a covariance with ddof.

        Args:
            E: (h, k).
            left, right: (side, mean or None) ↦ that side's features minus the mean, projected onto X or Y, (B, ·).
            constant: ⟨E, XᵀSY⟩.
        """
        total = -constant
        for c, one, other in self.parts:
            a, b = left(one, self.means.get(one)), right(other, self.means.get(other))
            total = total + c * ((a @ E) * b).sum(1)
        return total / self.count


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
