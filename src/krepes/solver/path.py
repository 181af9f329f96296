"""The step as a function of the damping."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.base import Problem
from krepes.solver.cg import Status
from krepes.solver.system import linearise


@dataclass(frozen=True)
class PathPoint:
    """One λ of a path.

    Attributes:
        dB: the full step ΔB (r, h).
        damping: absolute λ; relative_damping: in units of the mean curvature.
        status, residual: how its solve ended, and its true relative residual.
        iterations: curvature products of the path until here, and what this λ needed alone.
        gain_ratio, loss: actual / predicted decrease, and the loss after the step.
    """

    dB: Tensor
    damping: float
    relative_damping: float
    status: Status
    residual: float
    iterations: int
    gain_ratio: float
    loss: float


def solve_path(
    problem: Problem,
    B: Tensor,
    eigenvalues: Tensor,
    ridge: str,
    dampings: Sequence[float],
    generator: torch.Generator,
    relative: bool = True,
    tol: float = 1e-4,
    max_iter: int = 200,
    curvature_samples: int | None = None,
) -> list[PathPoint]:
    """ΔB for every λ, largest λ first, about at the cost of one solve of the smallest.

    Args:
        problem: the objective.
        B: the Taylor point (r, h), float64.
        eigenvalues: Λ (r,).
        ridge: "coefficients" or "rkhs".
        dampings: λ > 0, distinct, in any order; in units of the mean curvature if `relative`.
        generator: of the Hutchinson probes.
        tol, max_iter, curvature_samples: as in `Newton`.

    Raises:
        ConfigError: a λ is not positive or comes twice, or the curvature or the gradient is unusable.
    """
    system = linearise(problem, B, eigenvalues, ridge, generator, curvature_samples)
    defect = system.defect()
    if defect and (relative or defect is Status.NON_FINITE):
        raise ConfigError(f"no damping path from here: mean curvature {system.mean:g}, loss {system.loss:g}")
    unit = system.mean if relative else 1.0
    absolute = sorted((float(d) * unit for d in dampings), reverse=True)
    points = []
    for damping, solution in zip(absolute, system.solves(absolute, tol, max_iter), strict=True):
        ratio, after = system.gain(solution)
        points.append(
            PathPoint(
                system.S * solution.x,
                damping,
                system.relative(damping),
                solution.status,
                solution.residual,
                solution.iterations,
                ratio,
                after,
            )
        )
    return points
