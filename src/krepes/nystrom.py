"""Nyström features from the landmark kernel, and the principal-component start."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from krepes.errors import LandmarkError


@dataclass(frozen=True)
class Nystrom:
    """Kept eigenpairs of K_mm (float64).

    Attributes:
        U: eigenvectors (M, r), each with its largest entry positive. The convention only makes a seeded probe
            reproducible; no result depends on it.
        eigenvalues: Λ (r,), descending.
        h: dimension of the kernel representation.
    """

    U: Tensor
    eigenvalues: Tensor
    h: int
    _whitening: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rank(self) -> int:
        """r, the number of kept eigenpairs."""
        return len(self.eigenvalues)

    @property
    def B0(self) -> Tensor:
        """The first h columns of the identity (r, h)."""
        return torch.eye(self.rank, self.h, dtype=torch.float64, device=self.U.device)

    def features(self, K_m: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """φ = Λ^{-1/2} Uᵀ k_m for rows of the kernel (B, M), computed in `dtype`: (B, r)."""
        if dtype not in self._whitening:
            self._whitening[dtype] = aligned((self.U * self.eigenvalues.rsqrt()).to(dtype))
        return (K_m.to(dtype) @ self._whitening[dtype])[:, : self.rank]

    def dual(self, B: Tensor) -> Tensor:
        """Ã = U Λ^{-1/2} B, (M, h)."""
        return self.U @ (self.eigenvalues.rsqrt()[:, None] * B)


def aligned(x: Tensor, multiple: int = 16) -> Tensor:
    """With columns of zeros up to a multiple, with which matrix products are up to 1.5 times faster on CPUs."""
    return F.pad(x, (0, -x.shape[1] % multiple))


def decompose(K_mm: Tensor, h: int, tolerance: float) -> Nystrom:
    """Eigenpairs of K_mm with Λ_i > tolerance · Λ_1.

    Args:
        K_mm: kernel among the landmarks (M, M), float64.
        h: dimension of the representation.
        tolerance: relative cut of the eigenvalues.

    Raises:
        LandmarkError: the kernel is zero, or its rank is below h.
    """
    values, vectors = torch.linalg.eigh(K_mm)
    values, vectors = values.flip(0), vectors.flip(1)
    keep = values > tolerance * values[0]
    rank = int(keep.sum()) if float(values[0]) > 0 else 0
    if rank < h:
        cause = (
            "the encoder is constant or collapsed"
            if rank <= 1
            else "there are too few or duplicated landmarks, or the encoder's gradients span few dimensions"
        )
        raise LandmarkError(
            f"the landmark kernel ({len(K_mm)} × {len(K_mm)}) has rank {rank}, below the {h} dimensions of the "
            f"representation: {cause}. Take more landmarks, or n_components <= {rank}."
        )
    U = vectors[:, keep]
    signs = U.gather(0, U.abs().argmax(0, keepdim=True)).sign()
    return Nystrom(U * signs, values[keep], h)
