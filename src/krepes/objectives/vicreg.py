"""VICReg (Bardes, Ponce and LeCun, arXiv 2105.04906)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.objectives.base import Problem, QuadraticTerm, check_constants
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
    difference: ClassVar[bool] = True  # needs the moments of φ_a − φ_b

    def __post_init__(self):
        check_constants(self, at_least_zero=("invariance", "variance", "covariance", "ddof"), positive=("eps",))

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
        """L(B) on the whole population; s = (var_a, var_b, offdiag cov_a, offdiag cov_b), invariance in B itself."""

        def inner(cov_a: Tensor, cov_b: Tensor):
            return cov_a.diagonal(), cov_b.diagonal(), off_diagonal(cov_a), off_diagonal(cov_b)

        def outer(s):
            var_a, var_b, cov_a, cov_b = s
            return self._hinge_weight * (self._hinge(var_a).mean() + self._hinge(var_b).mean()) + self.covariance * (
                cov_a.square().sum() + cov_b.square().sum()
            ) / len(var_a)

        def outer_gradient(s):
            var_a, var_b, cov_a, cov_b = s
            h = len(var_a)
            slope = [-self._active(v) / (2 * (v + self.eps).sqrt()) for v in (var_a, var_b)]
            return (
                *(self._hinge_weight / h * x for x in slope),
                *(2 * self.covariance / h * c for c in (cov_a, cov_b)),
            )

        def outer_hessian_product(s, u):
            h = len(s[0])
            curvature = [self._active(v) / 4 * (v + self.eps).pow(-1.5) for v in s[:2]]
            return (
                *(self._hinge_weight / h * c * x for c, x in zip(curvature, u[:2], strict=True)),
                *(2 * self.covariance / h * x for x in u[2:]),
            )

        term = QuadraticTerm(
            tuple(moments.covariance_form(p, self.ddof) for p in ("aa", "bb")),
            inner,
            outer,
            outer_gradient,
            outer_hessian_product,
            own=moments.difference_form(self.invariance),
        )
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
