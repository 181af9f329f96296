"""Preconditioned conjugate gradients that tells what happened."""

import enum
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


class Status(enum.Enum):
    """How a solve ended; the value is the sentence for the reader."""

    CONVERGED = "The linear solve converged."
    ITERATION_LIMIT = "The linear solve stopped at the iteration limit before the tolerance was reached."
    CURVATURE_BREAKDOWN = "The linear solve met a direction of non-positive curvature and stopped."
    NON_FINITE = "The linear solve met a value that is not finite and stopped."


@dataclass(frozen=True)
class Solution:
    """What a solve returns.

    Attributes:
        x: the solution, in the shape of the right-hand side.
        product: A x without the shift, from the product that gave the true residual.
        status: how it ended.
        iterations: operator products in the iteration.
        residual: the true residual relative to the right-hand side, in the preconditioner's norm, recomputed.
        history: the recurrence's relative residual after each iteration.
    """

    x: Tensor
    product: Tensor
    status: Status
    iterations: int
    residual: float
    history: list[float]


def conjugate_gradients(
    operator: Operator,
    b: Tensor,
    preconditioner: Tensor,
    tol: float,
    max_iter: int,
    x0: Tensor | None = None,
    shift: float = 0.0,
    product0: Tensor | None = None,
) -> Solution:
    """Solve (A + λI) x = b for a positive definite A + λI.

    The residual is measured in the norm √(rᵀ P r): unlike ‖r‖, it does not change with a diagonal scaling of the
    unknowns, so the tolerance means the same in every coordinate system (docs/method.md).

    Args:
        operator: x ↦ A x.
        b: right-hand side, any shape.
        preconditioner: P, a positive diagonal that broadcasts to b.
        tol: relative residual to reach; the recurrence's end is checked against the true residual and the
            iteration restarted from there while it helps.
        max_iter: operator products of the iteration at most; each check of the true residual costs one more.
        x0: a first guess.
        shift: λ.
        product0: A x0, if it is known; whatever the iteration reaches from there is checked with a true product.
    """
    return _answered(operator, _iteration(b, preconditioner, tol, max_iter, x0, shift, product0))


def conjugate_gradients_together(
    operator: Operator, b: Tensor, preconditioner: Tensor, tol: float, max_iter: int, shift: float = 0.0
) -> list[Solution]:
    """Solve (A + λI) x_q = b_q for many right-hand sides; one product serves all solves that still run.

    Args:
        operator: (Q', …) ↦ A applied to each.
        b: right-hand sides (Q, …).
        preconditioner, tol, max_iter, shift: see `conjugate_gradients`; each solve is what it would be alone.
    """
    found: dict[int, Solution] = {}
    solves = {q: _iteration(one, preconditioner, tol, max_iter, None, shift, None) for q, one in enumerate(b)}
    asked: dict[int, Tensor] = {}

    def advance(q: int, product: Tensor | None) -> None:
        try:
            asked[q] = next(solves[q]) if product is None else solves[q].send(product)
        except StopIteration as end:
            found[q] = end.value
            asked.pop(q, None)

    for q in solves:
        advance(q, None)
    while asked:
        for q, product in zip(list(asked), operator(torch.stack(list(asked.values()))), strict=True):
            advance(q, product)
    return [found[q] for q in solves]


def _answered(operator: Operator, iteration: Generator[Tensor, Tensor, Solution]) -> Solution:
    """Run an iteration that asks for products to its end."""
    try:
        wanted = next(iteration)
        while True:
            wanted = iteration.send(operator(wanted))
    except StopIteration as end:
        return end.value


def _iteration(
    b: Tensor, preconditioner: Tensor, tol: float, max_iter: int, x0: Tensor | None, shift: float,
    product0: Tensor | None,
) -> Generator[Tensor, Tensor, Solution]:  # fmt: skip
    """`conjugate_gradients`, which yields every vector that it wants multiplied by A and is sent the product."""
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    norm_b = float(_norm(b, preconditioner))
    if norm_b == 0:
        return Solution(torch.zeros_like(b), torch.zeros_like(b), Status.CONVERGED, 0, 0.0, [])
    product = torch.zeros_like(b) if x0 is None else product0
    history: list[float] = []
    status, residual = Status.ITERATION_LIMIT, float("inf")
    while True:
        product = (yield x) if product is None else product
        r = b - product - shift * x
        previous, residual = residual, float(_norm(r, preconditioner)) / norm_b
        if residual <= tol:
            status = Status.CONVERGED
        elif not torch.isfinite(r).all():
            status = Status.NON_FINITE
        # a restart that no longer halves the true residual has reached what rounding allows
        stuck = residual > 0.5 * previous
        if status is not Status.ITERATION_LIMIT or len(history) >= max_iter or stuck:
            return Solution(x, product, status, len(history), residual, history)
        x, status = yield from _run(x, r, preconditioner, tol * norm_b, max_iter, norm_b, history, shift)
        product = None
        if status is Status.CONVERGED:
            status = Status.ITERATION_LIMIT  # until the true residual agrees


def _norm(r: Tensor, preconditioner: Tensor) -> Tensor:
    return (r * preconditioner * r).sum().sqrt()


def _run(
    x, r, preconditioner, target, max_iter, norm_b, history, shift
) -> Generator[Tensor, Tensor, tuple[Tensor, Status]]:
    """One run of the recurrence from the residual r; appends to history."""
    z = preconditioner * r
    p, rz = z.clone(), (r * z).sum()
    while len(history) < max_iter:
        Ap = (yield p) + shift * p
        curvature = (p * Ap).sum()
        if not torch.isfinite(curvature):
            return x, Status.NON_FINITE
        if curvature <= 0:
            return x, Status.CURVATURE_BREAKDOWN
        alpha = rz / curvature
        x, r = x + alpha * p, r - alpha * Ap
        z = preconditioner * r
        rz, rz_old = (r * z).sum(), rz
        history.append(float(rz.clamp_min(0).sqrt()) / norm_b)
        if history[-1] * norm_b <= target:
            return x, Status.CONVERGED
        p = z + (rz / rz_old) * p
    return x, Status.ITERATION_LIMIT
