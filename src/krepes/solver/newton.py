"""The generalised Gauss–Newton step: (JᵀQJ + λR) vec ΔB = −∇L(B)."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from krepes.errors import ConfigError, refuse_wrong_types
from krepes.objectives.base import Problem
from krepes.solver.cg import Status
from krepes.solver.system import System, linearise

GAIN_RATIO = 0.25  # the least accepted actual / predicted decrease of damping="auto"
LARGEST_GAIN_RATIO = 2 - GAIN_RATIO  # and the largest: as far from 1, a loss that falls by more is not predicted either
RETURNED_GAIN_RATIO = 1 + GAIN_RATIO  # after a larger one, ratios count again from here (docs/method.md)
GRID = tuple(10.0**e for e in range(4, -5, -1))  # relative λ of damping="auto", descending
ARMIJO, SHORTEST = 1e-4, 2.0**-20
FULL_RESIDUAL = 0.1  # of a subset's step, beyond which the message says so


@dataclass(frozen=True)
class Newton:
    """Settings of the step.

    Args:
        ridge: "coefficients" (λ‖Ã‖²_F, the paper's) or "rkhs" (λ‖f‖²_H).
        damping: λ, or "auto": the grid from 10⁴ to 10⁻⁴ times the mean curvature is descended while the gain ratio
            (actual / predicted decrease) is at least 0.25; of its λ the last is taken whose ratio is at most 1.75, too
            (once above it, at most 1.25), within which the quadratic model describes the objective; if there is none,
            the λ whose ratio is nearest to 1, with backtracking. The default (docs/defaults.md).
        relative: λ in units of the mean diagonal of the curvature in the ridge's coordinates.
        steps: Newton steps, each linearised anew.
        line_search: backtrack along the step until the loss falls (Armijo). A numeric damping without it takes the
            full step.
        tol: relative residual of the linear solve.
        max_iter: curvature products per solve.
        curvature_samples: of streamed objectives (SimCLR, BYOL): the curvature is taken from the first seeded batches
            that reach this many pairs (a single batch is never divided); loss, gradient and actual decrease from all.
            None: all pairs. The default bounds a product's cost for an error of two to four per cent
            (docs/method.md); the outcome states what it leaves. Moment objectives ignore it: they are exact at no cost.
    """

    ridge: str = "coefficients"
    damping: float | str = "auto"
    relative: bool = True
    steps: int = 1
    line_search: bool = False
    tol: float = 1e-4
    max_iter: int = 200
    curvature_samples: int | None = 32_768

    def __post_init__(self):
        refuse_wrong_types(self, ("steps", "max_iter", "curvature_samples"), ("relative", "line_search"))
        if isinstance(self.tol, bool | str):
            raise ConfigError(f"tol={self.tol!r}; expected a number between 0 and 1")
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
        if self.curvature_samples is not None and self.curvature_samples < 2:
            raise ConfigError(f"curvature_samples={self.curvature_samples}; expected at least 2 pairs, or None for all")


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
        products: curvature products of everything: probes, solves and checks.
        curvature_samples: pairs that the curvature was taken from; None: all, or moments.
        full_residual: relative residual of the last solve's (full) step under the curvature of all pairs, if the
            solve knew only some.
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
    products: int = 0
    curvature_samples: int | None = None
    full_residual: float | None = None

    @property
    def lowered(self) -> bool:
        """Whether the step lowered the loss."""
        return self.loss_after < self.loss_before

    def as_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"status": self.status.name}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Outcome":
        """From `as_plain`."""
        trials = [DampingTrial(**t) for t in plain["trials"]]
        return cls(**{**plain, "status": Status[plain["status"]], "trials": trials})


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
    B, outcome, problem, iterations, products = B0, None, None, 0, 0
    for _ in range(settings.steps):
        problem = make_problem(B)
        dB, outcome = _one_step(settings, problem, B, eigenvalues, generator, progress)
        iterations, products = iterations + outcome.iterations, products + outcome.products
        B = B + dB
    assert outcome is not None
    assert problem is not None
    first_loss = outcome.loss_before if settings.steps == 1 else float(problem.value(B0))
    outcome = replace(outcome, iterations=iterations, products=products, loss_before=first_loss)
    return Step(B - B0, replace(outcome, message=_message(outcome, problem.size)))


def _one_step(
    settings: Newton, problem: Problem, B: Tensor, eigenvalues, generator, progress
) -> tuple[Tensor, Outcome]:
    system = linearise(problem, B, eigenvalues, settings.ridge, generator, settings.curvature_samples)
    mean, defect = system.mean, system.defect()
    if defect and (settings.relative or settings.damping == "auto" or defect is Status.NON_FINITE):
        return torch.zeros_like(B), _refused(system, defect)
    trials: list[DampingTrial] = []
    if settings.damping == "auto":
        damping, solution, ratio, after = _descend(settings, system, trials, progress)
    else:
        damping = float(settings.damping) * (mean if settings.relative else 1.0)
        solution = system.solve(damping, settings.tol, settings.max_iter)
        ratio, after = system.gain(solution)
    length, dB = 1.0, system.S * solution.x
    if settings.line_search or settings.damping == "auto":
        slope = float((system.gradient * solution.x).sum())
        length, after = _backtrack(problem, B, dB, slope, system.loss, after)
    progress(
        f"λ = {system.relative(damping):.3g} × mean curvature, {solution.iterations} iterations, gain ratio {ratio:.2f}"
    )
    return length * dB, Outcome(
        status=solution.status,
        message="",
        iterations=solution.iterations,
        residual=solution.residual,
        gain_ratio=ratio,
        loss_before=system.loss,
        loss_after=after,
        damping=damping,
        relative_damping=system.relative(damping),
        step_length=length,
        mean_curvature=mean,
        history=solution.history,
        trials=trials,
        products=system.curvature.products,
        curvature_samples=system.samples,
        full_residual=system.full_residual(solution, damping),
    )


def _refused(system: System, status: Status) -> Outcome:
    """No step: the system itself is unusable."""
    loss, nan = system.loss, math.nan
    return Outcome(status, "", 0, nan, nan, loss, loss, nan, nan, 0.0, system.mean, products=system.curvature.products)


def _descend(settings: Newton, system: System, trials: list[DampingTrial], progress):
    """The last λ of the descending grid whose gain ratio holds; when none does, the one whose ratio is nearest to 1.

    The descent stops at the first λ whose loss falls by too little: a smaller one would owe its ratio to luck. One
    whose loss falls by too much is passed over, since the ratio may come back to 1, as Barlow Twins' does, or stay
    above, as VICReg's; after it, ratios count again once they are back near 1. The solves come lazily: what lies below
    the stop costs nothing.
    """
    taken, nearest, largest = None, None, LARGEST_GAIN_RATIO
    dampings = [relative * system.mean for relative in GRID]
    solutions = system.solves(dampings, settings.tol, settings.max_iter)
    for relative, damping, solution in zip(GRID, dampings, solutions, strict=False):
        ratio, after = system.gain(solution)
        accepted = GAIN_RATIO <= ratio <= largest
        trials.append(DampingTrial(relative, ratio, after, accepted))
        progress(f"λ = {relative:g} × mean curvature: gain ratio {ratio:.2f}")
        tried = (damping, solution, ratio, after)
        taken = tried if accepted else taken
        if nearest is None or (ratio >= GAIN_RATIO and abs(ratio - 1) < abs(nearest[2] - 1)):
            nearest = tried
        if not ratio >= GAIN_RATIO:
            break
        largest = LARGEST_GAIN_RATIO if accepted else RETURNED_GAIN_RATIO
    assert nearest is not None
    return taken or nearest


def _backtrack(problem: Problem, B: Tensor, dB: Tensor, slope: float, loss: float, after: float):
    """The longest step length 1, ½, ¼ … with L(B + tΔB) ≤ L(B) + 10⁻⁴ t gᵀΔ, and its loss; 0 if there is none."""
    length = 1.0
    while length >= SHORTEST:
        if math.isfinite(after) and after <= loss + ARMIJO * length * slope and after < loss:
            return length, after
        length /= 2
        after = float(problem.value(B + length * dB))
    return 0.0, loss


def _message(outcome: Outcome, size: int) -> str:
    parts = []
    if not outcome.lowered:
        parts.append(
            f"The step did NOT lower the loss ({outcome.loss_before:.6g} → {outcome.loss_after:.6g}): do not read "
            "the explanation as the objective's contribution. A larger λ (damping='auto' looks for one) or "
            "line_search=True takes one that does."
        )
    parts.append(outcome.status.value)
    if outcome.lowered and outcome.step_length < 1:
        parts.append(f"The step was shortened to {outcome.step_length:g} of its length.")
    if outcome.lowered and outcome.gain_ratio < GAIN_RATIO:
        parts.append(
            f"The gain ratio {outcome.gain_ratio:.2f} is below {GAIN_RATIO}: the quadratic model predicts this step "
            "badly."
        )
    if outcome.lowered and outcome.gain_ratio > LARGEST_GAIN_RATIO:
        way = "No λ that was tried is described better." if outcome.trials else "A larger λ shortens it."
        parts.append(
            f"The gain ratio {outcome.gain_ratio:.2f} is above {LARGEST_GAIN_RATIO}: the loss fell by more than the "
            f"quadratic model says, which does not describe a step of this length. {way}"
        )
    if outcome.full_residual is not None and not outcome.full_residual <= FULL_RESIDUAL:
        parts.append(
            f"The curvature of {outcome.curvature_samples} of {size} pairs stood for that of all, under which the "
            f"step's residual is {outcome.full_residual:.0%}: raise curvature_samples."
        )
    return " ".join(parts)
