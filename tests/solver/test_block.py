"""Block conjugate gradients against dense solves: right-hand sides that depend, vanish, or outnumber the unknowns."""

import math

import pytest
import torch

from krepes.solver import Status
from krepes.solver.cg import block_conjugate_gradients, conjugate_gradients

SHIFT = 0.1


def system(n: int, condition: float = 1e4, seed: int = 0):
    """A positive definite matrix (n, n) and a positive preconditioner (n,)."""
    generator = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    A = V * torch.logspace(0, -math.log10(condition), n, dtype=torch.float64) @ V.T
    return A, 1 / (A.diagonal() + SHIFT) * (1 + torch.rand(n, generator=generator))


def sides(q: int, n: int, seed: int = 1):
    return torch.randn(q, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(A, b):
    return torch.linalg.solve(A + SHIFT * torch.eye(len(A), dtype=torch.float64), b.T).T


def solved(A, P, b, tol=1e-10, max_iter=500, shift=SHIFT):
    found = block_conjugate_gradients(lambda V: V @ A, b, P, tol, max_iter, shift=shift)
    assert found.x.shape == b.shape
    root = P.sqrt()
    true = ((b - found.x @ A - shift * found.x) * root).norm(dim=1) / (b * root).norm(dim=1).clamp_min(1e-300)
    torch.testing.assert_close(torch.tensor(found.residuals, dtype=torch.float64), true, atol=1e-12, rtol=1e-6)
    return found


@pytest.mark.parametrize("q", [1, 2, 7, 30, 45])
def test_solutions_are_those_of_a_dense_solve(q):
    A, P = system(30)
    b = sides(q, 30)
    found = solved(A, P, b)
    assert found.status is Status.CONVERGED
    assert max(found.residuals) <= 1e-10
    expected = dense(A, b)
    torch.testing.assert_close(found.x, expected, rtol=1e-7, atol=1e-8)


def test_right_hand_sides_may_depend_on_each_other_vanish_and_differ_in_size():
    A, P = system(30)
    one, other = sides(2, 30)
    eigenvector = torch.linalg.eigh(A)[1][:, -1]  # solved after one product
    b = torch.stack([one, one, 1e-9 * other, torch.zeros(30).double(), one - other, 1e12 * eigenvector])
    found = solved(A, P, b)
    assert found.status is Status.CONVERGED
    expected = dense(A, b)
    for x, wanted in zip(found.x, expected, strict=True):
        torch.testing.assert_close(x, wanted, rtol=1e-6, atol=1e-8 * float(wanted.abs().max()))
    assert not found.x[3].any()
    assert found.residuals[3] == 0


def test_what_right_hand_sides_share_is_asked_for_once_so_that_workers_that_round_differently_agree():
    """Dependent ones have directions of rounding alone, which are other ones elsewhere."""
    A, P = system(40)
    one, other = sides(2, 40)
    asked = []

    def operator(V):
        asked.append(len(V))
        return V @ A

    found = block_conjugate_gradients(operator, torch.stack([one, other, one, one - other]), P, 1e-10, 500, shift=SHIFT)
    assert found.status is Status.CONVERGED
    assert set(asked[:-1]) == {2}
    assert asked[-1] == 4  # the true residuals


def test_nothing_is_asked_for_zeros():
    P = torch.ones(5, dtype=torch.float64)

    def refused(V):
        raise AssertionError

    found = block_conjugate_gradients(refused, torch.zeros(3, 5).double(), P, 1e-6, 10)
    assert (found.status, found.iterations, found.residuals) == (Status.CONVERGED, 0, [0.0, 0.0, 0.0])
    assert not found.x.any()


def test_one_right_hand_side_is_solved_as_conjugate_gradients_do():
    A, P = system(60)
    (b,) = sides(1, 60)
    alone = conjugate_gradients(lambda v: v @ A, b, P, 1e-6, 500, shift=SHIFT)
    found = solved(A, P, b[None], tol=1e-6)
    assert (found.status, found.iterations) == (alone.status, alone.iterations)
    torch.testing.assert_close(found.x[0], alone.x)


def test_many_right_hand_sides_take_fewer_products_than_one():
    """The space grows by twenty directions a product; nothing but that would end within 300/20 of them."""
    A, P = system(300, condition=1e8)
    b = sides(20, 300)
    alone = conjugate_gradients(lambda v: v @ A, b[0], P, 1e-8, 5000, shift=1e-7)
    together = solved(A, P, b, tol=1e-8, max_iter=5000, shift=1e-7)
    assert together.status is Status.CONVERGED
    assert together.iterations <= alone.iterations / 4


def test_shapes_are_those_of_the_operator():
    A, P = system(6)
    b = sides(3, 6 * 4).reshape(3, 6, 4)
    seen = []

    def operator(V):
        seen.append(V.shape[1:])
        return A @ V

    found = block_conjugate_gradients(operator, b, P[:, None], 1e-10, 100, shift=SHIFT)
    assert set(seen) == {(6, 4)}
    torch.testing.assert_close(
        found.x, torch.linalg.solve(A + SHIFT * torch.eye(6, dtype=torch.float64), b), rtol=1e-7, atol=1e-8
    )


def test_the_limit_is_kept_and_said():
    A, P = system(200, condition=1e8)
    products = []

    def operator(V):
        products.append(len(V))
        return V @ A

    found = block_conjugate_gradients(operator, sides(2, 200), P, 1e-12, 3, shift=1e-9)
    assert (found.status, found.iterations) == (Status.ITERATION_LIMIT, 3)
    assert products == [2] * 4  # and the true residuals
    assert all(r > 1e-12 for r in found.residuals)


def test_what_rounding_does_not_allow_ends():
    """A tolerance below float32's products: the solve stops where a restart no longer helps, and says what is left."""
    A, P = system(50)
    noisy = A.float()
    found = block_conjugate_gradients(
        lambda V: (V.float() @ noisy).double(), sides(4, 50), P, 1e-14, 10_000, shift=SHIFT
    )
    assert found.status is Status.ITERATION_LIMIT
    assert found.iterations < 1000
    assert max(found.residuals) < 1e-5


@pytest.mark.parametrize(("spoiled", "status"), [(-1.0, Status.CURVATURE_BREAKDOWN), (float("nan"), Status.NON_FINITE)])
def test_breakdown_is_said(spoiled, status):
    A, P = system(20)
    A = A * spoiled
    found = block_conjugate_gradients(lambda V: V @ A, sides(3, 20), P, 1e-8, 100)
    assert found.status is status
    assert not all(r <= 1e-8 for r in found.residuals)


def test_an_operator_that_rounding_makes_indefinite_is_gone_on_with_while_that_helps_and_said():
    """Half of the space is null, and the shift below float32's rounding of the rest."""
    generator = torch.Generator().manual_seed(0)
    V = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64))[0]
    values = torch.cat([torch.logspace(3, -3, 100), torch.zeros(100)]).double()
    A = (V * values @ V.T).float()
    P = torch.ones(200, dtype=torch.float64)
    found = block_conjugate_gradients(lambda v: (v.float() @ A).double(), sides(64, 200), P, 1e-6, 500, shift=1e-6)
    assert found.status is Status.CURVATURE_BREAKDOWN
    assert found.iterations < 100
