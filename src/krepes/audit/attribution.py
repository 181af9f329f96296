"""Influence of every training sample on a function of the representation, by one adjoint solve and one streamed pass.

At the encoder: B* is the encoder's own output in the kernel's features, where training has ended, and by the implicit
function theorem a weight w_i on a sample moves it by −(G + λI)⁻¹ ∂_i∇L(B*): for a target T(B*)

    dT/dw_i = −⟨s, ∂_i∇L⟩,   (G + λI) s = ∇T.

At the step: it solves (G(w) + λR) ΔB = −∇L(B₀; w), and for a target T(B₀ + ΔB)

    dT/dw_i = −⟨s, ∂_i∇L + ∂_iG ΔB⟩,   (G + λR) s = ∇T,

exact for the one-step solution with landmarks, B₀ and λ held fixed (docs/method.md).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from krepes.audit.places import Place
from krepes.audit.targets import listed
from krepes.data.source import Source
from krepes.data.stream import Views, shards, subset
from krepes.errors import ConfigError, NonFiniteError, is_whole, warn
from krepes.objectives.base import Bilinear, Problem, QuadraticTerm
from krepes.pipeline import Fit, Settings, Stream, moment_problem, planned_memory, streamed_problem
from krepes.progress import Progress
from krepes.solver import Outcome, Status
from krepes.solver.cg import block_conjugate_gradients
from krepes.solver.system import System, linearise
from krepes.work import Work
from krepes.workers import current

SOLVE_NUMBERS = 2**22  # of the right-hand sides that are solved together; a solve holds about ten such blocks
TOLERATED = 20  # times the step's tolerance: below it the scores' error is that of their views (docs/method.md)
ITERATIONS = 10  # times the step's: the gradient of a target is rougher than that of the loss
DRAWS = 8  # of views that a training sample is weighed with
DRAW_APART = 10_007  # between the seeds of two draws: the explained samples' own views take those next to the fit's

Note = Callable[[Any], None]
Sensitivity = Callable[[Tensor, Tensor], Tensor]


def attribute(
    fit: Fit,
    settings: Settings,
    place: Place,
    source: Source,
    views: Views,
    gradients: Tensor,
    progress: Progress,
    among: np.ndarray | None = None,
    draws: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """dT/dw_i of every query T and every training sample i, (Q, n), in the encoder's type, and its standard error.

    Args:
        place: where; the gradients are those at its end.
        gradients: ∇T, (Q, r, h), float64.
        among: positions of the training samples that are asked for (k,); default all. A moment objective then streams
            these alone.
        draws: of the views that a sample is weighed with. One: the derivative at the views that the fit saw. More: its
            mean over as many draws, those of the fit first, the step held; what is left of their luck is the error.

    Returns:
        scores (Q, n) or (Q, k), and their standard error over draws, None of one draw.

    Raises:
        ConfigError: a gradient is not finite, or the scores are too large or too small for the encoder's type.
        NonFiniteError: an adjoint solve broke down, or the objective has no curvature.
    """
    check_finite(gradients)
    size = power_of_two(gradients.flatten(1).abs().amax(1))
    gradients = gradients / size[:, None, None]  # scores are linear in it; products of huge numbers would overflow
    memory = fit.memory or planned_memory(settings, fit.rows.gradients, len(source))
    stream = Stream(source, views, fit.rows, fit.nystrom, settings, memory, Work())
    with progress.stage("adjoint") as note:
        first, s = solved(fit, stream, place, gradients, note)
    looked = len(source) if among is None else len(among)
    changes = streamed_changes if settings.objective.streaming else moment_changes
    with progress.stage("attribution", total=draws * looked) as note:
        change, error = mean_and_error(changes(stream, first, place, s, among, draws, note))
    broken = listed(~torch.isfinite(change).all(1))
    if broken:
        raise NonFiniteError(f"the adjoint solve of query {broken} broke down: raise the damping, or use float64")
    unit, dtype = place.length * size.to(change.device)[:, None], fit.rows.gradients.encoder.dtype
    return in_type(-unit * change, dtype), None if error is None else (unit * error).to(dtype)


def check_finite(gradients: Tensor) -> None:
    """Raise ConfigError for gradients of targets (Q, r, h) that are not finite."""
    unusable = listed(~torch.isfinite(gradients).flatten(1).all(1))
    if unusable:
        raise ConfigError(
            f"the gradient of query {unusable} with respect to the representation is not finite: its direction or "
            "target is too large, or has no derivative there, as a square root has none at 0"
        )


def check_draws(draws: Any, redrawable: bool) -> int:
    """The number of draws that is asked for; None: `DRAWS`, and 1 of fixed views.

    Raises:
        ConfigError: it is none.
    """
    draws = (DRAWS if redrawable else 1) if draws is None else draws
    if not is_whole(draws) or draws < 1:
        raise ConfigError(f"draws={draws!r}; expected a positive whole number")
    if draws > 1 and not redrawable:
        raise ConfigError(
            f"draws={draws} of views, but this auditor was fitted on two fixed tensors of them: leave draws out"
        )
    return int(draws)


Drawn = tuple[Stream, Problem]  # a draw's features live in its stream's Work


def solved(fit: Fit, stream: Stream, place: Place, gradients: Tensor, note: Note) -> tuple[list[Drawn], Tensor]:
    """The adjoint solutions (Q, r, h), and in a list the problem of the fit's own draw, to be taken out of it."""
    settings, newton, B = stream.settings, stream.settings.newton, place.B
    first = with_views(stream, 0)
    if settings.objective.streaming:
        problem = streamed_problem(settings, first, note)(B)
    else:
        assert fit.moments is not None
        problem = moment_problem(settings.objective, fit.moments)(B)
    generator = torch.Generator().manual_seed(settings.seed)
    system = linearise(problem, B, fit.nystrom.eigenvalues, place.ridge, generator, newton.curvature_samples)
    gradients = current().same(gradients)  # workers multiply the same vectors, however each rounds
    found = adjoint(system, place.absolute(system.mean), gradients, newton.tol, ITERATIONS * newton.max_iter)
    fitted = "" if place.fidelity is None else f"; f gives {place.fidelity:.0%} of the outputs' variance"
    note(f"{len(gradients)} queries, residual at most {max(found.residuals):.1e}{fitted}")
    warn_unconverged(found, place.outcome, TOLERATED * newton.tol)
    return [(first, problem)], found.s


def streamed_changes(
    stream: Stream, first: list[Drawn], place: Place, s: Tensor, among: np.ndarray | None, draws: int, note: Note
) -> Iterator[Tensor]:
    """The derivative (Q, n) of each draw of the views, for an objective over pairs; one draw's features at a time."""
    looked = len(stream.source) if among is None else len(among)
    for number in range(draws):
        redrawn, problem = first.pop() if first else redraw(stream, number, place.B)
        change = streamed_sensitivity(problem, place.B, place.D, s)
        del redrawn, problem  # before the next draw's features are made
        note((number + 1) * looked)
        yield change if among is None else change[:, torch.as_tensor(among)]


def redraw(stream: Stream, number: int, B: Tensor) -> Drawn:
    """The objective on another draw of the views."""
    redrawn = with_views(stream, number)
    return redrawn, streamed_problem(stream.settings, redrawn, lambda _: None)(B)


def moment_changes(
    stream: Stream, first: list[Drawn], place: Place, s: Tensor, among: np.ndarray | None, draws: int, note: Note
) -> Iterator[Tensor]:
    """The derivative (Q, k) of each draw of the views, for a moment objective."""
    (term,) = first.pop()[1].terms()
    sensitivity = MomentSensitivity(cast(QuadraticTerm, term), place.B, place.D, s)
    return over_samples(stream, sensitivity, len(s), among, draws, note)


def over_samples(
    stream: Stream, sensitivity: Sensitivity, queries: int, among: np.ndarray | None, draws: int, note: Note
) -> Iterator[Tensor]:
    """What a function of a block's features (B, r), twice, says of every sample, (Q, k), in each draw of the views."""
    if among is not None:
        source, views = subset(stream.source, stream.views, among)
        stream = replace(stream, source=source, views=views)
    looked = len(stream.source)
    for number in range(draws):
        found = torch.zeros(queries, looked, dtype=torch.float64)

        def fill_own(number: int = number, found: Tensor = found) -> None:
            for _, shard in current().own(shards(looked)):
                for block, phi_a, phi_b in with_views(stream, number).features(shard):
                    found[:, block.start : block.stop] = sensitivity(phi_a, phi_b).cpu()
                    note(number * looked + block.stop)

        current().together(fill_own)
        current().add(found)
        yield found


def with_views(stream: Stream, number: int) -> Stream:
    """The stream with another draw of every sample's views, in files of its own; number 0 is the fit's own draw."""
    seed = stream.settings.seed + DRAW_APART * number
    return replace(stream, settings=replace(stream.settings, seed=seed), work=Work())


def mean_and_error(values: Iterable[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The mean of tensors and its standard error, None of a single one (Welford's update: no tensor is kept)."""
    mean, squares, n = torch.zeros(()), torch.zeros(()), 0
    for n, value in enumerate(values, 1):
        step = value - mean
        mean = mean + step / n
        squares = squares + step * (value - mean)
    return mean, (squares / (n * (n - 1))).sqrt() if n > 1 else None


def power_of_two(size: Tensor) -> Tensor:
    """The power of two above each of positive numbers (Q,), by which division is exact; 1 for 0."""
    return torch.where(size > 0, torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent.clamp(-1022, 1023)), 1.0)


def in_type(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores (Q, n) in a type, refused where it cannot hold a query's largest one."""
    largest, limits = scores.abs().amax(1), torch.finfo(dtype)
    outside = listed(
        ~torch.isfinite(scores).all(1) | (largest > limits.max) | ((largest > 0) & (largest < limits.tiny))
    )
    if outside:
        raise ConfigError(
            f"the scores of query {outside} leave the range of {str(dtype).removeprefix('torch.')} "
            f"({limits.tiny:.0e} … {limits.max:.0e}): scale its direction or target"
        )
    return scores.to(dtype)


@dataclass(frozen=True)
class Adjoint:
    """Solutions s of (G + λR) s = ∇T, one per query.

    Attributes:
        s: (Q, r, h), float64.
        residuals: true relative residuals (Q,).
        broken: how solves ended that met no positive curvature, or what is not finite.
    """

    s: Tensor
    residuals: list[float]
    broken: tuple[Status, ...] = ()


def warn_unconverged(solved: "Adjoint", outcome: Outcome | None, limit: float) -> None:
    """Say which solves the scores owe their errors to: those that ended with a residual above the limit.

    Args:
        outcome: of the step that the scores follow, if they follow one.
    """
    bad = [r for r in solved.residuals if not r <= limit]
    if bad:
        warn(
            f"{len(bad)} of {len(solved.residuals)} adjoint solves did not converge (residual up to {max(bad):.1e}): "
            "the attributions are as far off. Raise Newton(max_iter=…) or the damping, or use dtype=torch.float64."
        )
    elif solved.broken:  # residuals of an operator that rounding has made indefinite say nothing of the solution
        warn(f"{solved.broken[0].value} Attributions may be far off: raise the damping, or use dtype=torch.float64.")
    if outcome is not None and outcome.status is not Status.CONVERGED and not outcome.residual <= limit:
        warn(
            f"the step itself did not converge (residual {outcome.residual:.1e}), and attributions follow a converged "
            "one. Raise Newton(max_iter=…) or the damping."
        )


def adjoint(system: System, damping: float, gradients: Tensor, tol: float, max_iter: int) -> Adjoint:
    """Solve for every query, in the coordinates in which the ridge is the identity; queries share their Krylov space.

    Args:
        system: the linear system of the step.
        damping: absolute λ.
        gradients: ∇T of each query (Q, r, h).
    """
    preconditioner = 1 / (system.diagonal + damping)
    parts = [
        block_conjugate_gradients(system.curvature, system.S * part, preconditioner, tol, max_iter, shift=damping)
        for part in gradients.split(max(1, SOLVE_NUMBERS // gradients[0].numel()))
    ]
    return Adjoint(
        torch.cat([system.S * part.x for part in parts]),
        [r for part in parts for r in part.residuals],
        tuple(p.status for p in parts if p.status in (Status.CURVATURE_BREAKDOWN, Status.NON_FINITE)),
    )


class MomentSensitivity:
    """d⟨s, ∇L + G ΔB⟩/dw_i of a moment objective, block by block of the views' features.

    Args:
        term: the objective on the moments.
        B, D: Taylor point and full step (r, h).
        s: adjoint solutions (Q, r, h).
    """

    def __init__(self, term: QuadraticTerm, B: Tensor, D: Tensor, s: Tensor):
        self._shared = {"B": B, "D": D} if bool(D.any()) else {"B": B}
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
    problem.whole(total)
    problem.whole(found)
    n = problem.size
    return (found - total.cpu()[:, None] / n) / n
