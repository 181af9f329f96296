"""Barlow Twins (Zbontar et al., arXiv 2103.03230)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.objectives.base import Problem, QuadraticTerm, check_constants
from krepes.objectives.moments import Moments


@dataclass(frozen=True)
class BarlowTwins:
    """ψ(C) = scale · ‖W ∘ (C − I)‖²_F, W_ii = 1, W_ij = √weight.

    C_ij = b_iᵀΣ_ab b_j / √((b_iᵀΣ_aa b_i + ε)(b_jᵀΣ_bb b_j + ε)), the cross-correlation with biased variances.

    Args:
        weight: λ_BT of the off-diagonal terms.
        eps: added to the variances inside the root.
        scale: a factor on the whole loss (solo-learn trains with .024 to .1).
    """

    weight: float = 5e-3
    eps: float = 1e-5
    scale: float = 1.0
    name: ClassVar[str] = "barlow_twins"
    streaming: ClassVar[bool] = False

    def __post_init__(self):
        check_constants(self, at_least_zero=("weight",), positive=("eps", "scale"))

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of embeddings (n, h)."""
        a = (z_a - z_a.mean(0)) / (z_a.var(0, correction=0) + self.eps).sqrt()
        b = (z_b - z_b.mean(0)) / (z_b.var(0, correction=0) + self.eps).sqrt()
        return self._outer(a.T @ b / len(a))

    def problem(self, moments: Moments) -> Problem:
        """L(B) on the whole population."""

        def inner(q_aa: Tensor, q_bb: Tensor, q_ab: Tensor) -> Tensor:
            scale_a, scale_b = ((q.diagonal() + self.eps).rsqrt() for q in (q_aa, q_bb))
            return q_ab * scale_a[:, None] * scale_b

        term = QuadraticTerm(
            tuple(moments.covariance_form(p) for p in ("aa", "bb", "ab")),
            inner,
            self._outer,
            lambda C: 2 * self._W2(C) * (C - torch.eye(len(C), dtype=C.dtype, device=C.device)),
            lambda C, u: 2 * self._W2(C) * u,
        )
        return Problem(lambda: [term])

    def _W2(self, C: Tensor) -> Tensor:
        eye = torch.eye(len(C), dtype=C.dtype, device=C.device)
        return self.scale * (eye + self.weight * (1 - eye))

    def _outer(self, C: Tensor) -> Tensor:
        return (self._W2(C) * (C - torch.eye(len(C), dtype=C.dtype, device=C.device)).square()).sum()
