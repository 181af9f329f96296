"""The generalised Gauss–Newton step: (JᵀQJ + λR) vec ΔB = −∇L(B).

The system is solved in the coordinates Y in which R is the identity, B = S Y with S = Λ^{1/2} for
ridge="coefficients" (R = Λ^{-1}, so that λ acts on ‖Ã‖²) and S = I for ridge="rkhs" (R = I, λ‖f‖²_H).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.base import Problem
from krepes.solver.cg import Solution, Status, conjugate_gradients

PROBES = 8  # of the Hutchinson estimate of the curvature's diagonal
GAIN_RATIO = 0.25  # the least accepted actual / predicted decrease of damping="auto"
GRID = tuple(10.0**e for e in range(4, -5, -1))  # relative λ of damping="auto", descending
ARMIJO, SHORTEST = 1e-4, 2.0**-20


@dataclass(frozen=True)
class Newton:
    """Settings of the step.

    Args:
        ridge: "coefficients" (λ‖Ã‖²_F, the paper's) or "rkhs" (λ‖f‖²_H).
        damping: λ, or "auto": the grid from 10⁴ to 10⁻⁴ times the mean curvature is descended while the gain
            ratio (actual / predicted decrease) is at least 0.25; the last λ that held is taken, with
            backtracking if none did.
        relative: λ in units of the mean diagonal of the curvature in the ridge's coordinates.
        steps: Newton steps, each linearised anew.
        line_search: backtrack along the step until the loss falls (Armijo). A numeric damping without it takes the
            full step.
        tol: relative residual of the linear solve.
        max_iter: curvature products per solve.
    """

    ridge: str = "coefficients"
    damping: float | str = 1e-2
    relative: bool = True
    steps: int = 1
    line_search: bool = False
    tol: float = 1e-4
    max_iter: int = 200

    def __post_init__(self):
        if self.ridge not in ("coefficients", "rkhs"):
            raise ConfigError(f"ridge={self.ridge!r}; expected 'coefficients' or 'rkhs'")
        if isinstance(self.damping, str):
            if self.damping != "auto":
                raise ConfigError(f"damping={self.damping!r}; expected a positive number or 'auto'")
        elif not (self.damping > 0 and math.isfinite(self.damping)):
            raise ConfigError(f"damping={self.damping}; expected a positive number or 'auto'")
        if self.steps < 1 or self.max_iter < 1 or not 0 < self.tol < 1:
            raise ConfigError(
                f"steps={self.steps}, max_iter={self.max_iter}, tol={self.tol}; expected steps and max_iter >= 1 "
                "and 0 < tol < 1"
            )


@dataclass(frozen=True)
class DampingTrial:
    """One λ of damping="auto": its gain ratio, and the loss after the full step."""

    damping: float
    gain_ratio: float
    loss: float
    accepted: bool


@dataclass(frozen=True)
class Outcome:
    """How the step ended, for the reader.

    Attributes:
        status: of the last linear solve.
        message: sentences; a step that did not lower the loss says so first.
        iterations: curvature products of the accepted solves.
        residual: true relative residual of the last solve.
        gain_ratio: actual / predicted decrease of the full step (before any backtracking), of the last step.
        loss_before, loss_after: L(B₀) and L(B₀ + ΔB); for several steps of BYOL at the last target.
        damping: absolute λ; relative_damping: in units of `mean_curvature`.
        step_length: 1 for a full step.
        mean_curvature: mean diagonal of the curvature in the ridge's coordinates.
        history: relative residual per iteration of the last solve.
        trials: the λ that damping="auto" tried.
    """

    status: Status
    message: str
    iterations: int
    residual: float
    gain_ratio: float
    loss_before: float
    loss_after: float
    damping: float
    relative_damping: float
    step_length: float
    mean_curvature: float
    history: list[float] = field(default_factory=list, repr=False)
    trials: list[DampingTrial] = field(default_factory=list, repr=False)

    @property
    def lowered(self) -> bool:
        """Whether the step lowered the loss."""
        return self.loss_after < self.loss_before


@dataclass(frozen=True)
class Step:
    """ΔB (r, h) in float64 and its outcome."""

    dB: Tensor
    outcome: Outcome


def solve(
    settings: Newton,
    make_problem: Callable[[Tensor], Problem],
    B0: Tensor,
    eigenvalues: Tensor,
    generator: torch.Generator,
    progress: Callable[[str], None] = lambda message: None,
) -> Step:
    """ΔB after `settings.steps` steps from B₀.

    Args:
        make_problem: B ↦ the objective, with what is held fixed at the Taylor point B (BYOL's target).
        B0: the start (r, h), float64.
        eigenvalues: Λ (r,).
        generator: of the Hutchinson probes.
        progress: called with a phrase after each solve.
    """
    S = eigenvalues.sqrt() if settings.ridge == "coefficients" else torch.ones_like(eigenvalues)
    B, outcome, iterations, first_loss = B0, None, 0, math.nan
    for _ in range(settings.steps):
        problem = make_problem(B)
        dB, outcome = _one_step(settings, problem, B, S[:, None], generator, progress)
        first_loss = outcome.loss_before if math.isnan(first_loss) else first_loss
        iterations += outcome.iterations
        B = B + dB
    assert outcome is not None
    outcome = replace(outcome, iterations=iterations, loss_before=first_loss)
    return Step(B - B0, replace(outcome, message=_message(outcome)))


def _one_step(settings, problem: Problem, B: Tensor, S: Tensor, generator, progress) -> tuple[Tensor, Outcome]:
    loss, gradient = float(problem.value(B)), S * problem.gradient(B)
    product = problem.ggn(B)

    def curvature(Y: Tensor) -> Tensor:
        return S * product(S * Y)

    diagonal = _diagonal(curvature, B, generator)
    mean = float(diagonal.mean())
    if not (mean > 0 and math.isfinite(mean) and math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
        status = Status.NON_FINITE if not math.isfinite(mean + loss) else Status.CURVATURE_BREAKDOWN
        if settings.relative or settings.damping == "auto" or status is Status.NON_FINITE:
            return torch.zeros_like(B), Outcome(
                status, "", 0, math.nan, math.nan, loss, loss, math.nan, math.nan, 0.0, mean
            )

    def at(damping: float, Y0: Tensor | None) -> Solution:
        return conjugate_gradients(
            lambda Y: curvature(Y) + damping * Y,
            -gradient,
            1 / (diagonal[:, None] + damping),
            settings.tol,
            settings.max_iter,
            Y0,
        )

    def gain(Y: Tensor) -> tuple[float, float]:
        """ρ = (L(B) − L(B + ΔB)) / −(gᵀΔ + ½ΔᵀGΔ), and the loss after the full step."""
        predicted = -float((gradient * Y).sum() + 0.5 * (Y * curvature(Y)).sum())
        after = float(problem.value(B + S * Y))
        return (loss - after) / predicted if predicted > 0 else math.nan, after

    trials: list[DampingTrial] = []
    if settings.damping == "auto":
        damping, solution, ratio, after = _descend(at, gain, mean, trials, progress)
    else:
        damping = float(settings.damping) * (mean if settings.relative else 1.0)
        solution = at(damping, None)
        ratio, after = gain(solution.x)
    length = 1.0
    if settings.line_search or settings.damping == "auto":
        length, after = _backtrack(problem, B, S * solution.x, float((gradient * solution.x).sum()), loss, after)
    progress(f"λ = {damping / mean:.3g} × mean curvature, {solution.iterations} iterations, gain ratio {ratio:.2f}")
    return length * (S * solution.x), Outcome(
        solution.status,
        "",
        solution.iterations,
        solution.residual,
        ratio,
        loss,
        after,
        damping,
        damping / mean,
        length,
        mean,
        solution.history,
        trials,
    )


def _descend(at, gain, mean: float, trials: list[DampingTrial], progress):
    """The last λ of the descending grid whose gain ratio holds, warm-started; the largest when none does.

    The descent stops at the first λ that fails: an accepted λ below a failing one would owe its ratio to luck, not
    to the model's validity on the way there.
    """
    best = None
    Y = None
    for relative in GRID:
        damping = relative * mean
        solution = at(damping, Y)
        ratio, after = gain(solution.x)
        accepted = ratio >= GAIN_RATIO
        trials.append(DampingTrial(relative, ratio, after, accepted))
        progress(f"λ = {relative:g} × mean curvature: gain ratio {ratio:.2f}")
        if accepted or best is None:
            best = (damping, solution, ratio, after)
        if not accepted:
            break
        Y = solution.x
    assert best is not None
    return best


def _backtrack(problem: Problem, B: Tensor, dB: Tensor, slope: float, loss: float, after: float):
    """The longest step length 1, ½, ¼ … with L(B + tΔB) ≤ L(B) + 10⁻⁴ t gᵀΔ, and its loss; 0 if there is none."""
    length = 1.0
    while length >= SHORTEST:
        if math.isfinite(after) and after <= loss + ARMIJO * length * slope and after < loss:
            return length, after
        length /= 2
        after = float(problem.value(B + length * dB))
    return 0.0, loss


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


def _message(outcome: Outcome) -> str:
    parts = []
    if not outcome.lowered:
        parts.append(
            f"The step did NOT lower the loss ({outcome.loss_before:.6g} → {outcome.loss_after:.6g}): do not read "
            "the explanation as the objective's contribution. Use damping='auto' or line_search=True."
        )
    parts.append(outcome.status.value)
    if outcome.lowered and outcome.step_length < 1:
        parts.append(f"The step was shortened to {outcome.step_length:g} of its length.")
    if outcome.lowered and outcome.gain_ratio < GAIN_RATIO:
        parts.append(
            f"The gain ratio {outcome.gain_ratio:.2f} is below {GAIN_RATIO}: the quadratic model predicts this step "
            "badly."
        )
    return " ".join(parts)
