"""Preconditioned conjugate gradients that tells what happened."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DEPENDENT = 1e-10  # share of the largest singular value below which a right-hand side follows from others

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
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    norm_b = float(_norm(b, preconditioner))
    if norm_b == 0:
        return Solution(torch.zeros_like(b), torch.zeros_like(b), Status.CONVERGED, 0, 0.0, [])
    product = torch.zeros_like(b) if x0 is None else product0
    history: list[float] = []
    status, residual = Status.ITERATION_LIMIT, float("inf")
    while True:
        product = operator(x) if product is None else product
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
        x, status = _run(operator, x, r, preconditioner, tol * norm_b, max_iter, norm_b, history, shift)
        product = None
        if status is Status.CONVERGED:
            status = Status.ITERATION_LIMIT  # until the true residual agrees


def _norm(r: Tensor, preconditioner: Tensor) -> Tensor:
    return (r * preconditioner * r).sum().sqrt()


def _run(operator: Operator, x, r, preconditioner, target, max_iter, norm_b, history, shift) -> tuple[Tensor, Status]:
    """One run of the recurrence from the residual r; appends to history."""
    z = preconditioner * r
    p, rz = z.clone(), (r * z).sum()
    while len(history) < max_iter:
        Ap = operator(p) + shift * p
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


@dataclass(frozen=True)
class BlockSolution:
    """What a solve for many right-hand sides returns.

    Attributes:
        x: the solutions (Q, …).
        residuals: true relative residuals (Q,), in the preconditioner's norm.
        status: how the solve ended: converged if all of them did.
        iterations: products with a block of vectors, without those of the true residuals.
    """

    x: Tensor
    residuals: list[float]
    status: Status
    iterations: int


def block_conjugate_gradients(
    operator: Operator, b: Tensor, preconditioner: Tensor, tol: float, max_iter: int, shift: float = 0.0
) -> BlockSolution:
    """Solve (A + λI) x_q = b_q for many right-hand sides out of one Krylov space, which all of them span.

    Block conjugate gradients (O'Leary, Linear Algebra Appl. 29, 1980) in Dubrulle's form with orthonormal residuals
    (BCGrQ; ETNA 12, 2001), in which right-hand sides that depend on each other, or have ended, do no harm. Of one
    right-hand side it is `conjugate_gradients`; of many it takes a fraction of the products (docs/method.md).

    Args:
        operator: (Q', …) ↦ A applied to each.
        b: right-hand sides (Q, …).
        preconditioner, tol, max_iter, shift: see `conjugate_gradients`; max_iter counts products with a block.
    """
    root = preconditioner.sqrt().expand_as(b[0]).reshape(-1, 1)

    def product(Y: Tensor) -> Tensor:
        """P^½ (A + λI) P^½ Y for columns (n, k)."""
        V = (root * Y).T.reshape(-1, *b.shape[1:])
        return root * (operator(V) + shift * V).flatten(1).T

    right = root * b.flatten(1).T
    norms = right.norm(dim=0)
    norms = torch.where(norms > 0, norms, 1.0)
    x, residual, used, worst = torch.zeros_like(right), right, 0, float("inf")
    status = Status.ITERATION_LIMIT
    while True:
        relative = residual.norm(dim=0) / norms
        previous, worst = worst, float(relative.max())
        if worst <= tol:
            status = Status.CONVERGED
        elif not math.isfinite(worst):
            status = Status.NON_FINITE
        ended = status in (Status.CONVERGED, Status.NON_FINITE)
        # as above: a restart that no longer halves the residual has reached what rounding allows
        if ended or used >= max_iter or worst > 0.5 * previous:
            return BlockSolution((root * x).T.reshape(b.shape), relative.tolist(), status, used)
        change, taken, status = _run_block(product, residual, tol * norms, max_iter - used)
        x, used = x + change, used + taken
        residual = right - product(x)
        if status is Status.CONVERGED:
            status = Status.ITERATION_LIMIT  # until the true residuals agree


def _run_block(product: Operator, residual: Tensor, targets: Tensor, max_iter: int) -> tuple[Tensor, int, Status]:
    """One run of the recurrence: what it adds to the solution (n, Q), the products that it took, how it ended."""
    x = torch.zeros_like(residual)
    scale = residual.norm(dim=0).clamp_min(torch.finfo(residual.dtype).tiny)
    U, sizes, V = torch.linalg.svd(residual / scale, full_matrices=False)
    # what right-hand sides share is solved once: directions of rounding alone would differ between workers
    kept = sizes > DEPENDENT * sizes[0]
    Q, C = U[:, kept], sizes[kept, None] * V[kept] * scale  # the residual is Q C throughout
    S = Q
    for taken in range(1, max_iter + 1):
        AS = product(S)
        if not torch.isfinite(AS).all():
            return x, taken, Status.NON_FINITE
        factor, broken = torch.linalg.cholesky_ex(S.T @ AS)
        if broken:
            return x, taken, Status.CURVATURE_BREAKDOWN
        x += S @ torch.cholesky_solve(C, factor)
        Q, change = torch.linalg.qr(Q - AS @ torch.cholesky_inverse(factor))
        S, C = Q + S @ change.T, change @ C
        if (C.norm(dim=0) <= targets).all():
            return x, taken, Status.CONVERGED
    return x, max_iter, Status.ITERATION_LIMIT
