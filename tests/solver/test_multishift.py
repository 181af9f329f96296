"""Shifted solves against dense ones, their price in operator products, and what they say when something breaks."""

import math

import pytest
import torch

from krepes.errors import ConfigError
from krepes.solver import Status, shifted_solves

R, H = 12, 3
DECADES = [10.0**e for e in range(5, -4, -1)]


class Operator:
    """x (R, H) ↦ A x for a dense A over vec x, counted; what it returns can be tampered with."""

    def __init__(self, A, tamper=lambda count, y: y):
        self.A, self.tamper, self.products = A, tamper, 0

    def __call__(self, x):
        self.products += 1
        return self.tamper(self.products, (self.A @ x.reshape(-1)).reshape(x.shape))


def psd(seed, rank=R * H):
    """A PSD matrix with eigenvalues over three decades, mean diagonal 1, and a right-hand side."""
    g = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(R * H, R * H, generator=g, dtype=torch.float64))[0]
    spectrum = torch.logspace(0, -3, R * H, dtype=torch.float64) * (torch.arange(R * H) < rank)
    A = (Q * spectrum) @ Q.T
    return A / A.diagonal().mean(), torch.randn(R, H, generator=g, dtype=torch.float64)


def rows(A):
    return A.diagonal().reshape(R, H).mean(1, keepdim=True)


def dense(A, b, shift):
    return torch.linalg.solve(A + shift * torch.eye(len(A), dtype=A.dtype), b.reshape(-1)).reshape(b.shape)


def run(operator, b, shifts, tol=1e-6, max_iter=500, shared=None):
    diagonal = rows(operator.A).clamp_min(1e-3)
    return shifted_solves(operator, b, shifts, diagonal, tol, max_iter, shared)


@pytest.mark.parametrize("shared", [None, 10, 0])
@pytest.mark.parametrize("rank", [R * H, 10, 1])
@pytest.mark.parametrize("seed", range(3))
def test_every_shift_equals_its_dense_solve(seed, rank, shared):
    A, b = psd(seed, rank)
    solutions = list(run(Operator(A), b, DECADES, tol=1e-11, shared=shared))
    assert len(solutions) == len(DECADES)
    for shift, solution in zip(DECADES, solutions, strict=True):
        expected = dense(A, b, shift)
        assert solution.status is Status.CONVERGED
        assert float((solution.x - expected).norm() / expected.norm()) < 1e-8
        torch.testing.assert_close(solution.product, (A @ solution.x.reshape(-1)).reshape(b.shape))


def test_all_shifts_cost_the_hardest_alone_and_a_check_each():
    A, b = psd(0)
    alone, together = Operator(A), Operator(A)
    list(run(alone, b, DECADES[-1:]))
    list(run(together, b, DECADES))
    assert together.products <= alone.products + len(DECADES)


def test_one_after_another_costs_more_than_together():
    A, b = psd(0)
    separate, together = Operator(A), Operator(A)
    for shift in DECADES:
        list(run(separate, b, [shift]))
    list(run(together, b, DECADES))
    assert together.products < separate.products / 2


def test_what_is_solved_alone_starts_from_the_shift_above():
    A, b = psd(0)
    shifts = [1.6, 1.4, 1.2, 1.0]
    cold, warm = Operator(A), Operator(A)
    for shift in shifts:
        list(run(cold, b, [shift], shared=0))
    list(run(warm, b, shifts, shared=0))
    assert warm.products < cold.products


@pytest.mark.parametrize("asked", [1, 3, 5])
def test_shifts_that_are_not_asked_for_cost_nothing(asked):
    A, b = psd(0)
    part, prefix = Operator(A), Operator(A)
    solutions = run(part, b, DECADES)
    for _ in range(asked):
        next(solutions)
    list(run(prefix, b, DECADES[:asked]))
    assert part.products <= prefix.products + 1  # rounding may move a convergence by an iteration


def test_a_drifted_recurrence_is_refined_until_the_true_residual_holds():
    A, b = psd(1)
    operator = Operator(A, lambda count, y: 1.05 * y if count <= 6 else y)
    for shift, solution in zip([10.0, 1.0, 0.1], run(operator, b, [10.0, 1.0, 0.1], tol=1e-9), strict=True):
        assert solution.status is Status.CONVERGED
        residual = b - (A @ solution.x.reshape(-1)).reshape(b.shape) - shift * solution.x
        assert float(residual.norm() / b.norm()) < 1e-8
        torch.testing.assert_close(solution.x, dense(A, b, shift), rtol=1e-6, atol=1e-8)


def test_residual_is_the_true_one():
    A, b = psd(2)
    for shift, solution in zip(DECADES, run(Operator(A), b, DECADES, max_iter=6), strict=True):
        r = b - (A @ solution.x.reshape(-1)).reshape(b.shape) - shift * solution.x
        P = 1 / (rows(A).clamp_min(1e-3) + shift)
        true = float(((r.square() * P).sum() / (b.square() * P).sum()).sqrt())
        assert math.isclose(solution.residual, true, rel_tol=1e-6)


def test_iteration_limit_is_told_for_the_shifts_it_hits():
    A, b = psd(0)
    operator = Operator(A)
    statuses = [s.status for s in run(operator, b, DECADES, max_iter=6)]
    assert statuses[0] is Status.CONVERGED
    assert statuses[-1] is Status.ITERATION_LIMIT
    assert operator.products <= 6 + len(DECADES)


def test_negative_curvature_is_told_where_the_shift_does_not_mend_it():
    A, b = psd(0)
    A = A - 0.5 * torch.eye(len(A), dtype=A.dtype)  # eigenvalues from −½
    above, below = run(Operator(A), b, [5.0, 1e-3])
    assert above.status is Status.CONVERGED
    torch.testing.assert_close(above.x, dense(A, b, 5.0), rtol=1e-4, atol=1e-6)
    assert below.status is Status.CURVATURE_BREAKDOWN
    assert torch.isfinite(below.x).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shared", [None, 0])
def test_operator_that_is_not_finite_is_told(bad, shared):
    A, b = psd(0)
    operator = Operator(A, lambda count, y: y * bad if count >= 5 else y)
    statuses = [s.status for s in run(operator, b, [1e-2, 1e-4], shared=shared)]
    assert statuses == [Status.NON_FINITE] * 2


def test_right_hand_side_that_is_not_finite_is_told():
    A, b = psd(0)
    b[3, 1] = math.nan
    assert [s.status for s in run(Operator(A), b, [1.0, 0.1])] == [Status.NON_FINITE] * 2


def test_zero_right_hand_side_has_the_zero_solution():
    A, b = psd(0)
    for solution in run(Operator(A), 0 * b, [1.0, 0.1]):
        assert solution.status is Status.CONVERGED
        assert not solution.x.any()


def test_history_has_an_entry_per_iteration_and_ends_below_the_tolerance():
    A, b = psd(0)
    for solution in run(Operator(A), b, [10.0, 0.1], tol=1e-6):
        assert len(solution.history) == solution.iterations
        assert solution.history[-1] <= 1e-6 < solution.history[-2]


@pytest.mark.parametrize("shifts", [[1.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, -1.0]])
def test_shifts_must_be_positive_and_descend(shifts):
    A, b = psd(0)
    with pytest.raises(ConfigError, match="descending"):
        next(run(Operator(A), b, shifts))
