"""Influence of every training sample on a function of the representation, by one adjoint solve and one streamed pass.

With a weight w_i on each sample, the step solves (G(w) + λR) ΔB = −∇L(B₀; w). For a target T(B₀ + ΔB)

    dT/dw_i = −⟨s, ∂_i∇L + ∂_iG ΔB⟩,   (G + λR) s = ∇T,

exact for the one-step solution with landmarks, B₀ and λ held fixed (docs/method.md).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from krepes.data.source import Source
from krepes.data.stream import Views, shards, subset
from krepes.errors import ConfigError, KrepesWarning
from krepes.objectives.base import Bilinear, Problem, QuadraticTerm
from krepes.pipeline import Fit, Settings, Stream, moment_problem, planned_memory, streamed_problem
from krepes.progress import Progress
from krepes.solver import Outcome, Status
from krepes.solver.cg import conjugate_gradients_together
from krepes.solver.system import System, linearise
from krepes.work import Work

VIEWS = 8  # of each explained sample, for its local invariance
SOLVE_NUMBERS = 2**23  # of the right-hand sides that are solved together; each solve holds four such vectors
LOOSE = 10  # times the tolerance: float32 may stop there, and the scores are as good
ITERATIONS = 10  # times the step's: the gradient of a target is rougher than that of the loss


def attribute(
    fit: Fit,
    settings: Settings,
    source: Source,
    views: Views,
    gradients: Tensor,
    progress: Progress,
    among: np.ndarray | None = None,
) -> Tensor:
    """dT/dw_i of every query T and every training sample i, (Q, n), in the encoder's type.

    Args:
        gradients: ∇T at B₀ + ΔB, (Q, r, h), float64.
        among: positions of the training samples that are asked for (k,); default all. A moment objective then streams
            these alone.

    Returns:
        (Q, n) or (Q, k).

    Raises:
        ConfigError: the auditor took several steps, or none.
    """
    outcome, B0 = fit.step.outcome, fit.nystrom.B0
    if settings.newton.steps != 1:
        raise ConfigError(
            f"attribute follows one Newton step, this auditor took {settings.newton.steps}: fit with Newton(steps=1)"
        )
    if not (outcome.step_length > 0 and math.isfinite(outcome.damping)):
        raise ConfigError(f"there is no step whose training samples could be asked for. {outcome.message}")
    D = fit.step.dB / outcome.step_length
    stream = Stream(source, views, fit.rows, fit.nystrom, settings, fit.memory or planned_memory(
        settings, fit.rows.gradients, len(source)), Work())  # fmt: skip
    with progress.stage("adjoint") as note:
        if settings.objective.streaming:
            problem = streamed_problem(settings, stream, note)(B0)
        else:
            assert fit.moments is not None
            problem = moment_problem(settings.objective, fit.moments)(B0)
        generator = torch.Generator().manual_seed(settings.seed)
        newton = settings.newton
        system = linearise(problem, B0, fit.nystrom.eigenvalues, newton.ridge, generator, newton.curvature_samples)
        solved = adjoint(system, outcome.damping, gradients, newton.tol, ITERATIONS * newton.max_iter)
        note(f"{len(gradients)} queries, residual at most {max(solved.residuals):.1e}")
        warn_unconverged(solved, outcome, LOOSE * newton.tol)
    with progress.stage("attribution", total=len(source) if among is None else len(among)) as note:
        if settings.objective.streaming:
            change = streamed_sensitivity(problem, B0, D, solved.s)
            change = change if among is None else change[:, torch.as_tensor(among)]
        else:
            (term,) = problem.terms()
            sensitivity, parts = MomentSensitivity(cast(QuadraticTerm, term), B0, D, solved.s), []
            if among is not None:
                stream = replace(stream, **dict(zip(("source", "views"), subset(source, views, among), strict=True)))
            for shard in shards(len(stream.source)):
                for block, phi_a, phi_b in stream.features(shard):
                    parts.append(sensitivity(phi_a, phi_b).cpu())
                    note(block.stop)
            change = torch.cat(parts, 1)
    return (-outcome.step_length * change).to(fit.rows.gradients.encoder.dtype)


def gradients_of(target: Callable[[Tensor], Tensor], B: Tensor) -> Tensor:
    """∇T_k(B) of every value T_k of target(B) (Q,), as (Q, r, h)."""
    leaf = B.detach().clone().requires_grad_(True)
    values = target(leaf)
    if not isinstance(values, Tensor) or values.ndim > 1 or not values.requires_grad:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ConfigError(
            f"target returned {got}; expected differentiable values, one number or one per query (Q,), computed from f"
        )
    values = values.reshape(-1)
    return torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in values])


def invariance(phi: Tensor, phi_views: Tensor) -> Callable[[Tensor], Tensor]:
    """B ↦ mean cosine between f(x_t) and f of its views, (t,): what self-supervised training aims at.

    Args:
        phi: features of the samples (t, r).
        phi_views: features of their views (t, v, r).
    """

    def target(B: Tensor) -> Tensor:
        return torch.cosine_similarity((phi @ B)[:, None], phi_views @ B, dim=2).mean(1)

    return target


@dataclass(frozen=True)
class Adjoint:
    """Solutions s of (G + λR) s = ∇T, one per query.

    Attributes:
        s: (Q, r, h), float64.
        residuals: true relative residuals (Q,).
        statuses: how each solve ended.
    """

    s: Tensor
    residuals: list[float]
    statuses: list[Status]


def warn_unconverged(solved: "Adjoint", outcome: Outcome, limit: float) -> None:
    """Say which solves the scores owe their errors to: those that ended with a residual above the limit."""
    bad = [r for r in solved.residuals if not r <= limit]
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(solved.residuals)} adjoint solves did not converge (residual up to {max(bad):.1e}): "
            "the attributions are as far off. Raise Newton(max_iter=…) or the damping.",
            KrepesWarning,
            stacklevel=4,
        )
    if outcome.status is not Status.CONVERGED and not outcome.residual <= limit:
        warnings.warn(
            f"the step itself did not converge (residual {outcome.residual:.1e}), and attributions follow a converged "
            "one. Raise Newton(max_iter=…) or the damping.",
            KrepesWarning,
            stacklevel=4,
        )


def adjoint(system: System, damping: float, gradients: Tensor, tol: float, max_iter: int) -> Adjoint:
    """Solve for every query, in the coordinates in which the ridge is the identity; each product serves many queries.

    Args:
        system: the linear system of the step.
        damping: absolute λ.
        gradients: ∇T of each query (Q, r, h).
    """
    preconditioner = 1 / (system.diagonal + damping)
    together = max(1, SOLVE_NUMBERS // gradients[0].numel())
    solutions = [
        one
        for part in gradients.split(together)
        for one in conjugate_gradients_together(
            system.curvature, system.S * part, preconditioner, tol, max_iter, shift=damping
        )
    ]
    return Adjoint(
        torch.stack([system.S * x.x for x in solutions]),
        [x.residual for x in solutions],
        [x.status for x in solutions],
    )


class MomentSensitivity:
    """d⟨s, ∇L + G ΔB⟩/dw_i of a moment objective, block by block of the views' features.

    Args:
        term: the objective on the moments.
        B, D: Taylor point and full step (r, h).
        s: adjoint solutions (Q, r, h).
    """

    def __init__(self, term: QuadraticTerm, B: Tensor, D: Tensor, s: Tensor):
        self._shared = {"B": B, "D": D}
        self._s = s
        self._terms: list[list[Bilinear]] = [term.per_sample(B, D, one) for one in s]

    def __call__(self, phi_a: Tensor, phi_b: Tensor) -> Tensor:
        """(Q, B) for a block of features (B, r) of both views."""
        sides = {"a": phi_a, "b": phi_b}
        shared = {(v, side): phi @ V.to(phi.dtype) for v, V in self._shared.items() for side, phi in sides.items()}
        rows = []
        for s, terms in zip(self._s, self._terms, strict=True):
            known = shared | {("s", side): phi @ s.to(phi.dtype) for side, phi in sides.items()}
            vectors = self._shared | {"s": s}
            total = torch.zeros(len(phi_a), dtype=torch.float64, device=phi_a.device)
            for t in terms:
                left, right = (_projection(known, vectors, v) for v in (t.x, t.y))
                total += t.form.change(t.E, left, right, t.value)
            rows.append(total)
        return torch.stack(rows)


def _projection(
    known: dict[tuple[str, str], Tensor], vectors: dict[str, Tensor], name: str
) -> Callable[[str, Tensor | None], Tensor]:
    """(side, mean) ↦ (φ_side − mean)ᵀV in float64, (B, h)."""

    def of(side: str, mean: Tensor | None) -> Tensor:
        if side == "d":
            return (known[name, "a"] - known[name, "b"]).double()
        projected = known[name, side].double()
        return projected if mean is None else projected - mean @ vectors[name]

    return of


def streamed_sensitivity(problem: Problem, B: Tensor, D: Tensor, s: Tensor) -> Tensor:
    """d⟨s, ∇L + G ΔB⟩/dw_i of an objective over batches of pairs, (Q, n).

    The curvature is that of all pairs, also where the step knew a subset.
    """
    total = torch.zeros(len(s), dtype=torch.float64, device=B.device)
    found = torch.zeros(len(s), problem.size, dtype=torch.float64)
    for term in problem.terms():
        batch: Any = term
        whole, each = batch.per_sample(B, D, s)
        total += whole
        found[:, batch.index] = each.cpu()
    n = problem.size
    return (found - total.cpu()[:, None] / n) / n
