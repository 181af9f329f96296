"""Many shifts of one system for one sequence of operator products.

The Krylov spaces of A + λI and A are the same, and conjugate gradients' residuals for different λ are multiples of
each other, r_λ = ζ_λ r. One product per iteration therefore serves every λ (Jegerlehner, arXiv hep-lat/9612014; van
den Eshof and Sleijpen, Appl. Numer. Math. 49, 2004). The price is the preconditioner: a diagonal D would turn
A + λI into a pencil with λD^{-1}, which is no shift. It pays for the first dozens of products; after `SHARED` of them
each λ that is left goes on alone with the Jacobi preconditioner (measured in benchmarks/solver.py).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.solver.cg import Operator, Solution, conjugate_gradients

SHARED = 64  # products of the shared sequence


def shifted_solves(
    operator: Operator,
    b: Tensor,
    shifts: Sequence[float],
    diagonal: Tensor,
    tol: float,
    max_iter: int,
    shared: int | None = None,
) -> Iterator[Solution]:
    """(A + λ_i I) x_i = b for descending λ_i, lazily: a λ costs nothing until it is asked for.

    The largest λ converge first. Each is checked with a true product as it converges, and refined by ordinary
    preconditioned conjugate gradients when that residual is above `tol`: the multiples ζ drift from the true
    residuals by rounding, and restarted residuals would no longer be multiples of each other.

    Args:
        operator: x ↦ A x, A positive semidefinite.
        b: right-hand side (r, h).
        shifts: λ > 0, descending.
        diagonal: an estimate of A's diagonal (r, 1), equal over columns, for the norm of the residual and for what is
            solved alone.
        tol: relative residual in the norm √(rᵀPr), P = 1/(diagonal + λ).
        max_iter: operator products per λ at most, shared ones included; each true residual costs one more.
        shared: products of the shared sequence at most; None: max_iter.

    Yields:
        A `Solution` per λ. Its `iterations` count the shared products until then and its own.

    Raises:
        ConfigError: the shifts are not positive and descending.
    """
    if not all(s > 0 for s in shifts) or any(s <= t for s, t in pairwise(shifts)):
        raise ConfigError(f"shifts={list(shifts)}; expected positive numbers in descending order")
    recurrence = _Recurrence(operator, b, shifts, diagonal, tol)
    limit = max_iter if shared is None else min(shared, max_iter)
    previous: Solution | None = None
    for i, shift in enumerate(shifts):
        recurrence.drop(i)
        while recurrence.runs and recurrence.iterations < limit and not recurrence.converged(i):
            recurrence.step()
        previous = _finish(recurrence, i, shift, previous, max_iter)
        yield previous


class _Recurrence:
    """The base system is that of the smallest shift; the others are shifted against it by σ ≥ 0."""

    def __init__(self, operator: Operator, b: Tensor, shifts: Sequence[float], diagonal: Tensor, tol: float):
        self.operator, self.b, self.shifts, self.tol = operator, b, shifts, tol
        self.diagonal = diagonal
        one = torch.ones(len(shifts), *[1] * b.ndim, dtype=b.dtype, device=b.device)
        self.sigma = (torch.tensor(shifts, dtype=b.dtype, device=b.device) - shifts[-1]).reshape(one.shape)
        self.x = torch.zeros(len(shifts), *b.shape, dtype=b.dtype, device=b.device)
        self.p = b.expand_as(self.x).clone()
        self.r = b.clone()
        self.zeta, self.ratio = one.clone(), one.clone()  # r_i = ζ_i r, and the last ζ's quotient
        self.alpha, self.beta, self.rr = 1.0, 0.0, float((b * b).sum())
        self.active, self.iterations = 0, 0
        self.trace: list[tuple[Tensor, Tensor]] = []  # Σ_columns r² and ζ after each iteration
        self.norm_b = [self._norm(b, i) for i in range(len(shifts))]
        self.runs = self.rr > 0

    def _norm(self, r: Tensor, i: int) -> float:
        return float((r.square() / (self.diagonal + self.shifts[i])).sum().sqrt())

    def drop(self, i: int) -> None:
        """Freeze the shifts before i."""
        self.active = i

    def residual(self, i: int) -> float:
        """The recurrence's relative residual of shift i."""
        return float(self.zeta[i].reshape(())) * self._norm(self.r, i) / self.norm_b[i] if self.norm_b[i] > 0 else 0.0

    def history(self, i: int) -> list[float]:
        """The recurrence's relative residuals of shift i, one per iteration."""
        scale = self.diagonal + self.shifts[i]
        return [float((r2 / scale).sum().sqrt() * zeta[i].reshape(())) / self.norm_b[i] for r2, zeta in self.trace]

    def converged(self, i: int) -> bool:
        """Whether shift i has reached the tolerance, by the recurrence."""
        return self.residual(i) <= self.tol

    def product(self, i: int) -> Tensor:
        """A x_i by the recurrence, without a product."""
        return self.b - self.zeta[i] * self.r - self.shifts[i] * self.x[i]

    def step(self) -> None:
        """One product, one iteration of every active shift; stops at what is not finite or not positive."""
        p = self.p[-1]
        Ap = self.operator(p) + self.shifts[-1] * p
        curvature = float((p * Ap).sum())
        self.iterations += 1
        if not (curvature > 0 and curvature < float("inf")):
            self.runs = False  # the smallest shift's failure says nothing of the others: they are solved alone
            return
        alpha = self.rr / curvature
        on = slice(self.active, None)
        memory = alpha * self.beta / self.alpha * (1 - self.ratio[on])
        self.ratio[on] = 1 / (1 + alpha * self.sigma[on] + memory)
        self.x[on] += alpha * self.ratio[on] * self.p[on]
        self.r -= alpha * Ap
        rr = float(self.r.square().sum())
        self.alpha, self.beta, self.rr = alpha, rr / self.rr, rr
        self.zeta[on] *= self.ratio[on]
        self.p[on] *= self.beta * self.ratio[on].square()
        self.p[on] += self.zeta[on] * self.r
        self.trace.append((self.r.square().sum(1, keepdim=True), self.zeta.clone()))
        self.runs = rr > 0


def _finish(shared: _Recurrence, i: int, shift: float, previous: Solution | None, max_iter: int) -> Solution:
    """The checked solution of one shift, solved to the end alone where the shared sequence did not."""
    preconditioner = 1 / (shared.diagonal + shift)
    left = max_iter - shared.iterations
    x0, product0 = shared.x[i], None
    if not shared.converged(i) and left > 0:
        product0 = shared.product(i)
        if previous is not None:  # which of two first guesses is nearer costs no product
            other = shared._norm(shared.b - previous.product - shift * previous.x, i)
            if other < shared._norm(shared.b - product0 - shift * x0, i):
                x0, product0 = previous.x, previous.product
    alone = conjugate_gradients(
        shared.operator, shared.b, preconditioner, shared.tol, max(left, 0), x0, shift, product0
    )
    return Solution(
        alone.x,
        alone.product,
        alone.status,
        shared.iterations + alone.iterations,
        alone.residual,
        shared.history(i) + alone.history,
    )
