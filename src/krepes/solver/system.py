"""The linear system of one step, in the coordinates Y in which its ridge R is the identity.

B = S Y with S = Λ^{1/2} for ridge="coefficients" (R = Λ^{-1}, so that λ acts on ‖Ã‖²) and S = I for ridge="rkhs"
(R = I, λ‖f‖²_H): (S G S + λI) Y = −S∇L(B).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from krepes.objectives.base import Problem
from krepes.solver.cg import Solution, Status, conjugate_gradients
from krepes.solver.multishift import SHARED, shifted_solves

PROBES = 8  # of the Hutchinson estimate of the curvature's diagonal


@dataclass(frozen=True)
class System:
    """(S G S + λI) Y = −S∇L at B, for any λ.

    Attributes:
        problem: the objective on all data; loss, gradient and every actual decrease are its own.
        B: the Taylor point (r, h).
        S: (r, 1).
        loss: L(B).
        gradient: S∇L(B), (r, h).
        curvature: Y ↦ S G S Y, counted.
        diagonal: of S G S, estimated and averaged over columns (r, 1).
        samples: pairs that G was taken from; None where moments or all pairs say everything.
    """

    problem: Problem
    B: Tensor
    S: Tensor
    loss: float
    gradient: Tensor
    curvature: "Counted"
    diagonal: Tensor
    samples: int | None = None

    @property
    def mean(self) -> float:
        """Mean curvature, the unit of a relative λ."""
        return float(self.diagonal.mean())

    def relative(self, damping: float) -> float:
        """λ in units of the mean curvature."""
        return damping / self.mean if self.mean else math.inf

    def defect(self) -> Status | None:
        """What makes the system unusable, if anything does."""
        finite = math.isfinite(self.mean) and math.isfinite(self.loss) and bool(torch.isfinite(self.gradient).all())
        if not finite:
            return Status.NON_FINITE
        return None if self.mean > 0 else Status.CURVATURE_BREAKDOWN

    def solve(self, damping: float, tol: float, max_iter: int) -> Solution:
        """One λ."""
        preconditioner = 1 / (self.diagonal + damping)
        return conjugate_gradients(self.curvature, -self.gradient, preconditioner, tol, max_iter, shift=damping)

    def solves(self, dampings: Sequence[float], tol: float, max_iter: int) -> Iterator[Solution]:
        """Many λ, descending, each when it is asked for."""
        return shifted_solves(self.curvature, -self.gradient, dampings, self.diagonal, tol, max_iter, SHARED)

    def gain(self, solution: Solution) -> tuple[float, float]:
        """ρ = (L(B) − L(B + ΔB)) / −(gᵀΔ + ½ΔᵀGΔ), and the loss after the full step."""
        predicted = -float((solution.x * (self.gradient + 0.5 * solution.product)).sum())
        after = float(self.problem.value(self.B + self.S * solution.x))
        return (self.loss - after) / predicted if predicted > 0 else math.nan, after

    def full_residual(self, solution: Solution, damping: float) -> float | None:
        """The solution's relative residual under the curvature of all pairs: one product; None if G was just that."""
        if self.samples is None:
            return None
        product = self.S * self.problem.ggn(self.B)(self.S * solution.x)
        residual, b2 = self.gradient + product + damping * solution.x, self.gradient.square()
        scale = self.diagonal + damping
        return float(((residual.square() / scale).sum() / (b2 / scale).sum()).sqrt())


@dataclass
class Counted:
    """An operator that counts its products."""

    operator: Callable[[Tensor], Tensor]
    products: int = field(default=0)

    def __call__(self, Y: Tensor) -> Tensor:
        """One product."""
        self.products += 1
        return self.operator(Y)


def linearise(
    problem: Problem,
    B: Tensor,
    eigenvalues: Tensor,
    ridge: str,
    generator: torch.Generator,
    curvature_samples: int | None = None,
) -> System:
    """The system at B (r, h) for the ridge "coefficients" or "rkhs"; its curvature from a seeded subset on request."""
    S = (eigenvalues.sqrt() if ridge == "coefficients" else torch.ones_like(eigenvalues))[:, None]
    curved = problem.on(curvature_samples)
    G = curved.ggn(B)
    curvature = Counted(lambda Y: S * G(S * Y))
    return System(
        problem,
        B,
        S,
        float(problem.value(B)),
        S * problem.gradient(B),
        curvature,
        _diagonal(curvature, B, generator)[:, None],
        None if curved.size == problem.size else curved.size,
    )


def _diagonal(curvature, B: Tensor, generator: torch.Generator) -> Tensor:
    """Hutchinson's estimate of the curvature's diagonal, averaged over the h columns: (r,), positive."""
    total = torch.zeros_like(B)
    for _ in range(PROBES):
        signs = torch.randint(0, 2, tuple(B.shape), generator=generator).to(B) * 2 - 1
        total += signs * curvature(signs)
    rows = total.mean(1) / PROBES
    mean = rows.mean()
    # the estimate of a small entry may be negative; the preconditioner must stay positive, the mean unchanged
    floored = rows.clamp_min(1e-3 * float(mean.clamp_min(0)))
    return floored * (mean / floored.mean()) if float(floored.sum()) > 0 else rows
