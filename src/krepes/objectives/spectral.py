"""Spectral contrastive loss, population form (HaoChen et al., arXiv 2106.04156)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.objectives.base import Problem, QuadraticTerm
from krepes.objectives.moments import Moments


@dataclass(frozen=True)
class SpectralContrastive:
    """L = −2 tr(BᵀM_ab B) + ‖BᵀM B‖²_F with uncentred moments, M = ½(M_aa + M_bb).

    The inner variables are the scalar tr(BᵀM_ab B), linear in ψ, and the matrix BᵀMB, quadratic in ψ.
    """

    name: ClassVar[str] = "spectral_contrastive"
    streaming: ClassVar[bool] = False

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of embeddings (n, h), negatives averaged over all pairs of the batch."""
        M = (z_a.T @ z_a + z_b.T @ z_b) / (2 * len(z_a))
        return -2 * (z_a * z_b).sum(1).mean() + M.square().sum()

    def problem(self, moments: Moments) -> Problem:
        """L(B) on the whole population."""
        term = QuadraticTerm(
            (moments.uncentred_form("ab", "ba"), moments.uncentred_form("aa", "bb")),
            lambda q_ab, q: (q_ab.trace(), q),
            lambda s: -2 * s[0] + s[1].square().sum(),
            lambda s: (torch.full_like(s[0], -2.0), 2 * s[1]),
            lambda s, u: (torch.zeros_like(u[0]), 2 * u[1]),
        )
        return Problem(lambda: [term])
