"""Attribution along a training of the kernel machine: the exact derivative of where it ends by every sample's weight.

    B_{k+1} = B_k − η_k P ∇L(B_k; w), from a random B₀, f = B_Kᵀφ,

and for a target T(B_K), by one backward pass over the steps,

    s_K = ∇T(B_K),  s_k = s_{k+1} − η_k ∇²L(B_k) P s_{k+1},  dT/dw_i = −Σ_k η_k ⟨P s_{k+1}, ∂_i∇L(B_k)⟩.

With P = I that is gradient descent on the network's weights in the limit in which their gradients do not change. P
divides by the size that the gradient has along the kernel's components, as Adam does (docs/method.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from krepes.audit import descent
from krepes.audit.attribution import (
    check_finite,
    in_type,
    mean_and_error,
    over_samples,
    power_of_two,
    redraw,
    streamed_sensitivity,
    with_views,
)
from krepes.audit.descent import Path, Problems, descend, random_starts, scale_of
from krepes.audit.targets import listed
from krepes.data.source import Source
from krepes.data.stream import Views
from krepes.errors import ConfigError, NonFiniteError, is_whole, warn
from krepes.objectives.base import Problem, QuadraticTerm
from krepes.pipeline import Fit, Settings, Stream, moment_problem, planned_memory, sum_moments
from krepes.progress import Progress
from krepes.work import Work
from krepes.workers import current

STARTS = 4  # of objectives on moments; chosen in docs/defaults.md
MOST_STARTS = 1000
ROTATED = 1e-6  # asymmetry of Bᵀ∇T, relative to its size, of a target that a rotation of f changes
FAINT = 1e-9  # gradients, in units of those at a random start, that are rounding
TOGETHER = 16  # queries: their sums over the forms stay in the cache
HELD = 8  # tensors of both views' outputs that each query holds while pairs are passed over

Gradients = Callable[[Tensor, bool], Tensor]


@dataclass(frozen=True)
class Asked:
    """Targets of the representation after a training.

    Attributes:
        gradients: B, and whether values must be finite ↦ ∇T of every query (Q, r, h).
        size: of each query's gradient (Q,), in which it is followed: squares of huge numbers would overflow.
        anywhere: the target is the user's function, which may depend on the coordinates of f.
    """

    gradients: Gradients
    size: Tensor
    anywhere: bool

    @classmethod
    def at(cls, B: Tensor, gradients: Gradients, anywhere: bool) -> "Asked":
        """Asked once before anything is computed, at an f whose values do not matter.

        Raises:
            ConfigError: as the targets do, but for values that are not finite.
        """
        largest = gradients(B, False).flatten(1).abs().amax(1).nan_to_num()
        return cls(gradients, current().same(power_of_two(largest)), anywhere)

    @property
    def number(self) -> int:
        """Q."""
        return len(self.size)

    def after(self, path: Path, warned: bool) -> Tensor:
        """∇T at the end of a training, in units of `size` (Q, r, h).

        Args:
            warned: of targets that a rotation of f changes.

        Raises:
            ConfigError: it is not finite, or of another number of queries than before.
        """
        found = current().same(self.gradients(path.end, True))
        if len(found) != self.number:
            raise ConfigError(f"target returned {len(found)} values, and {self.number} for another f of the same shape")
        check_finite(found)
        unit = self.size[:, None, None]
        if self.anywhere and not warned:
            warn_of_coordinates(path.end, found / unit, self.gradients(-path.end, False) / unit)
        return found / unit


def warn_of_coordinates(B: Tensor, gradients: Tensor, opposite: Tensor) -> None:
    """Say which targets depend on the coordinates of f: their Bᵀ∇T(B) is not symmetric, or ∇T(−B) is not −∇T(B)."""
    turned, size = B.T @ gradients, gradients.flatten(1).norm(dim=1).clamp_min(FAINT)
    rotated = (turned - turned.mT).flatten(1).norm(dim=1) > ROTATED * B.norm() * size
    odd = listed(rotated | ~((opposite + gradients).flatten(1).norm(dim=1) <= ROTATED * size))
    if odd:
        warn(
            f"the target of query {odd} changes when f is rotated, and f after a training from random starts has no "
            'coordinates of its own: scores may mean nothing. Ask for norms, cosines and the like, or at="encoder"'
        )


def attribute(
    fit: Fit, settings: Settings, source: Source, views: Views, gradients: Gradients, anywhere: bool,
    progress: Progress, among: np.ndarray | None, draws: int, starts: int,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """dT/dw_i of every query and training sample (Q, n), the mean over random starts, and its error over draws.

    Args:
        gradients: B, and whether values must be finite ↦ ∇T of every query (Q, r, h).
        anywhere: whether the target may depend on the coordinates of f.
        among: positions of the training samples that are asked for (k,); default all.
        draws: of the views that are trained on.
        starts: random ones.

    Returns:
        scores (Q, n) or (Q, k), and their standard error over draws, which leaves the starts out; None of one draw, or
        of an objective over pairs, whose steps see one draw each.

    Raises:
        NonFiniteError: a training cannot be followed, or a score is not finite.
    """
    memory = fit.memory or planned_memory(settings, fit.rows.gradients, len(source))
    stream = Stream(source, views, fit.rows, fit.nystrom, settings, memory, Work())
    asked = Asked.at(next(random_starts(fit.nystrom, settings.seed, 1)), gradients, anywhere)
    along = along_pairs if settings.objective.streaming else along_moments
    found, error = along(fit, stream, asked, progress, among, draws, starts)
    unit = asked.size.cpu()[:, None]
    found, error = unit * found, None if error is None else unit * error
    broken = listed(~torch.isfinite(found).all(1))
    if broken:
        raise NonFiniteError(f"what a weight changes grew along the training beyond all numbers for query {broken}")
    dtype = fit.rows.gradients.encoder.dtype
    return in_type(found, dtype), None if error is None else error.to(dtype)


def default_starts(streaming: bool) -> int:
    """Random starts that are not asked for: `STARTS`, and one where every step passes over all pairs."""
    return 1 if streaming else STARTS


def check_starts(starts: Any, at: str, objective: Any) -> int:
    """The number of random starts that is asked for; None: the default.

    Raises:
        ConfigError: it is none, or there is no training.
    """
    if at != "training":
        if starts is not None:
            raise ConfigError(f'starts={starts!r} are of at="training"; at={at!r} has none')
        return 0
    starts = default_starts(objective.streaming) if starts is None else starts
    if not is_whole(starts) or not 1 <= starts <= MOST_STARTS:
        raise ConfigError(f"starts={starts!r}; expected a whole number of 1 to {MOST_STARTS}")
    return int(starts)


def along_moments(
    fit: Fit, stream: Stream, asked: Asked, progress: Progress, among: np.ndarray | None, draws: int, starts: int
) -> tuple[Tensor, Tensor | None]:
    """Of an objective on moments, those of all draws together: training costs nothing per sample.

    Queries whose sums over the forms do not fit a quarter of the budget are taken in parts, each of which trains again.
    """
    assert fit.moments is not None
    moments, seed = fit.moments, stream.settings.seed
    with progress.stage("moments", total=draws) as note:
        for number in range(1, draws):
            moments = moments + sum_moments(with_views(stream, number), lambda _: None)
            note(number + 1)
    problem = moment_problem(stream.settings.objective, moments)(fit.nystrom.B0)
    term = cast(QuadraticTerm, next(iter(problem.terms())))
    size = max(1, stream.memory.budget // (4 * 8 * fit.nystrom.rank**2 * len(term.all_forms)))
    looked, parts, losses = len(stream.source) if among is None else len(among), [], []
    chunks = [slice(i, min(i + size, asked.number)) for i in range(0, asked.number, size)]
    with progress.stage("attribution", total=len(chunks) * draws * looked) as note:
        for i, chunk in enumerate(chunks):
            sums = SampleSums.zero(term, chunk.stop - chunk.start)
            for B in random_starts(fit.nystrom, seed, starts):
                path = descend(lambda _: problem, B, scale_of(fit.nystrom), seed)
                sums.add_(path, asked.after(path, warned=bool(losses))[chunk] / starts)
                losses.append(f"{float(problem.value(path.end)):.4g}")

            def done(looked_at: Any, before: int = i * draws * looked) -> None:
                note(before + looked_at)

            parts.append(mean_and_error(over_samples(stream, sums, chunk.stop - chunk.start, among, draws, done)))
        note(f"{starts} trainings, losses {', '.join(losses[:starts])}")
    means, errors = zip(*parts, strict=True)  # over draws, each of which is one of several parts of the moments
    return draws * torch.cat(means), None if errors[0] is None else draws * torch.cat(errors)


def along_pairs(
    fit: Fit, stream: Stream, asked: Asked, progress: Progress, among: np.ndarray | None, draws: int, starts: int
) -> tuple[Tensor, None]:
    """Of an objective over pairs: every step sees all of them, in one draw of the views after the other."""
    settings, steps = stream.settings, descent.STEPS
    draws = min(draws, steps)  # no step would see more
    budget, looked = stream.memory.budget, len(stream.source)
    stream = replace(stream, memory=replace(stream.memory, budget=budget // draws))  # all draws' features are held
    batch = cast(Any, settings.objective).batch_size or looked
    together = max(1, budget // (HELD * 2 * 8 * fit.nystrom.h * batch))
    found, losses = torch.zeros(asked.number, looked if among is None else len(among), dtype=torch.float64), []
    with progress.stage("views", total=draws) as note:
        drawn = []
        for number in range(draws):
            drawn.append(redraw(stream, number, fit.nystrom.B0))
            note(number + 1)

    def problems(k: int) -> Problem:
        return drawn[k % draws][1]

    with progress.stage("attribution", total=2 * starts * steps) as note:
        for number, B in enumerate(random_starts(fit.nystrom, settings.seed, starts)):

            def done(step: int, before: int = 2 * number * steps) -> None:
                note(before + step)

            path = descend(problems, B, scale_of(fit.nystrom), settings.seed, done)
            gradients = asked.after(path, warned=bool(losses)) / starts
            losses.append(f"{float(problems(0).value(path.end)):.4g}")
            for k, change in enumerate(changes_by_step(problems, path, gradients, together), 1):
                found += change if among is None else change[:, torch.as_tensor(among)]
                done(steps + k)
        note(f"{starts} trainings, losses {', '.join(losses)}")
    return found, None


@dataclass(frozen=True)
class SampleSums:
    """What trainings owe to a sample: dT/dw_i = Σ_S ⟨M_S, dS/dw_i⟩ over the objective's forms S.

    Every step's ⟨s, ∇L⟩ is a sum of ⟨X E Yᵀ, S⟩ over the same forms, so that a path's length costs nothing per sample.

    Attributes:
        term: the objective.
        of_forms: M_S (Q, r, r) of every form.
    """

    term: QuadraticTerm
    of_forms: list[Tensor]

    @classmethod
    def zero(cls, term: QuadraticTerm, queries: int) -> "SampleSums":
        """Of no training."""
        return cls(term, [S.matrix.new_zeros(queries, *S.matrix.shape) for S in term.all_forms])

    def add_(self, path: Path, gradients: Tensor) -> None:
        """Add a training, with the queries' gradients at its end (Q, r, h)."""
        for start in range(0, len(gradients), TOGETHER):
            part = slice(start, start + TOGETHER)
            s = gradients[part]
            for B, rate in zip(reversed(path.points), reversed(path.rates), strict=True):
                moved = path.scale * s
                order = self.term.second_order(B, moved)
                for total, M in zip(self.of_forms, order.by_forms(B, moved), strict=True):
                    total[part] -= rate * M
                s = s - rate * order.hessian_product(B, moved)

    def __call__(self, phi_a: Tensor, phi_b: Tensor) -> Tensor:
        """dT/dw_i (Q, B) of a block of samples with features (B, r)."""
        a, b = phi_a.double(), phi_b.double()
        sides = {"a": a, "b": b, "d": a - b}
        total = torch.zeros(len(self.of_forms[0]), len(a), dtype=torch.float64, device=a.device)
        for form, of_queries in zip(self.term.all_forms, self.of_forms, strict=True):
            centred = {side: x - form.means[side] if side in form.means else x for side, x in sides.items()}
            project = partial(_side, centred)
            for q, M in enumerate(of_queries):
                total[q] += form.change(M, project, project, (M * form.matrix).sum())
        return total


def _side(centred: dict[str, Tensor], side: str, mean: Tensor | None) -> Tensor:
    """The features of a side, as `Form.change` asks for them: their mean is off."""
    return centred[side]


def changes_by_step(problems: Problems, path: Path, gradients: Tensor, together: int) -> Iterator[Tensor]:
    """What each step, the last one first, adds to dT/dw_i (Q, n).

    Args:
        gradients: of the targets at the end (Q, r, h).
        together: queries whose outputs are held at a time.
    """
    s = gradients
    for k in range(len(path.points) - 1, -1, -1):
        problem, B, rate = problems(k), path.points[k], path.rates[k]
        hessian, changes, moved = problem.hessian(B), [], []
        for part in (path.scale * s).split(together):
            changes.append(streamed_sensitivity(problem, B, torch.zeros_like(B), part))
            moved.append(hessian(part))
        yield -rate * torch.cat(changes)
        s = s - rate * torch.cat(moved)
