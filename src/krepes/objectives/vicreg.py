"""VICReg (Bardes, Ponce and LeCun, arXiv 2105.04906)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.objectives.base import Problem, QuadraticTerm
from krepes.objectives.moments import Moments


@dataclass(frozen=True)
class VICReg:
    """Invariance, variance and covariance, with constants as in the original code.

    L = μ_inv · mean (f_a − f_b)² + μ_var · ½ Σ_views mean_j max(0, 1 − √(var_j + ε)) + ν · Σ_views Σ_{i≠j} C_ij²/h.

    The hinge is convex in the variance, which is therefore the inner variable; curvature ¼(var + ε)^{-3/2} where
    it is active.

    Args:
        invariance, variance, covariance: the three weights.
        eps: inside the root.
        ddof: of variances and covariances.
        halve_hinge: True as in FAIR's and lightly's code; False sums the views' hinges (solo-learn).
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    eps: float = 1e-4
    ddof: int = 1
    halve_hinge: bool = True
    name: ClassVar[str] = "vicreg"
    streaming: ClassVar[bool] = False

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of embeddings (n, h)."""
        total = self.invariance * (z_a - z_b).square().mean()
        h = z_a.shape[1]
        for z in (z_a, z_b):
            z = z - z.mean(0)
            cov = z.T @ z / (len(z) - self.ddof)
            total = total + self._hinge_weight * self._hinge(cov.diagonal()).mean()
            total = total + self.covariance * (off_diagonal(cov).square().sum() / h)
        return total

    def problem(self, moments: Moments) -> Problem:
        """L(B) on the whole population; inner s = (B, var_a, var_b, offdiag cov_a, offdiag cov_b)."""
        S_delta = moments.second_difference
        forms = moments.covariance("aa", self.ddof), moments.covariance("bb", self.ddof)

        def inner(B: Tensor, cov_a: Tensor, cov_b: Tensor):
            return B, cov_a.diagonal(), cov_b.diagonal(), off_diagonal(cov_a), off_diagonal(cov_b)

        def outer(s):
            B, var_a, var_b, cov_a, cov_b = s
            h = B.shape[1]
            return (
                self.invariance * (B * (S_delta @ B)).sum() / h
                + self._hinge_weight * (self._hinge(var_a).mean() + self._hinge(var_b).mean())
                + self.covariance * (cov_a.square().sum() + cov_b.square().sum()) / h
            )

        def outer_gradient(s):
            B, var_a, var_b, cov_a, cov_b = s
            h = B.shape[1]
            slope = [-self._active(v) / (2 * (v + self.eps).sqrt()) for v in (var_a, var_b)]
            return (
                2 * self.invariance / h * (S_delta @ B),
                *(self._hinge_weight / h * x for x in slope),
                *(2 * self.covariance / h * c for c in (cov_a, cov_b)),
            )

        def outer_hessian_product(s, u):
            h = s[0].shape[1]
            curvature = [self._active(v) / 4 * (v + self.eps).pow(-1.5) for v in s[1:3]]
            return (
                2 * self.invariance / h * (S_delta @ u[0]),
                *(self._hinge_weight / h * c * x for c, x in zip(curvature, u[1:3], strict=True)),
                *(2 * self.covariance / h * x for x in u[3:]),
            )

        term = QuadraticTerm(forms, inner, outer, outer_gradient, outer_hessian_product)
        return Problem(lambda: [term])

    @property
    def _hinge_weight(self) -> float:
        return self.variance * (0.5 if self.halve_hinge else 1.0)

    def _hinge(self, var: Tensor) -> Tensor:
        return torch.relu(1 - (var + self.eps).sqrt())

    def _active(self, var: Tensor) -> Tensor:
        return ((var + self.eps) < 1).to(var.dtype)


def off_diagonal(C: Tensor) -> Tensor:
    """C with a zero diagonal (h, h)."""
    return C - torch.diag(C.diagonal())
