"""Invariants of every objective on random data: exact gradients, and a curvature that is symmetric and PSD."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from krepes import objectives
from krepes.objectives import Moments
from krepes.objectives.pairs import Pairs

NAMES = sorted(objectives.BY_NAME)


def random_problem(name: str, seed: int, n: int, r: int, h: int, scale: float):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, r, generator=g, dtype=torch.float64) * scale
    b = a + 0.3 * scale * torch.randn(n, r, generator=g, dtype=torch.float64)
    B = torch.randn(r, h, generator=g, dtype=torch.float64)
    objective = objectives.by_name(name)
    if not objective.streaming:
        problem = objective.problem(Moments.of(a, b))
    else:
        pairs = Pairs(a, b, torch.randperm(n, generator=g))
        problem = objective.problem(pairs, B) if name == "byol" else objective.problem(pairs)
    return objective, problem, B, a, b, g


shapes = {
    "seed": st.integers(0, 10**6),
    "n": st.integers(4, 30),
    "r": st.integers(2, 6),
    "h": st.integers(2, 4),  # in one dimension a cosine is constant: the curvature would be rounding alone
    "scale": st.sampled_from([1e-2, 1.0, 30.0]),
}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_curvature_is_symmetric_and_positive_semidefinite(name, seed, n, r, h, scale):
    _, problem, B, _, _, g = random_problem(name, seed, n, r, h, scale)
    product = problem.ggn(B)
    u, v = torch.randn(2, r, h, generator=g, dtype=torch.float64)
    Gu, Gv = product(u), product(v)
    size = float(Gu.norm() * v.norm() + Gv.norm() * u.norm()) + 1e-300
    assert abs(float((Gu * v).sum() - (Gv * u).sum())) <= 1e-9 * size
    assert float((Gu * u).sum()) >= -1e-10 * size


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_gradient_is_that_of_the_loss_on_the_representations(name, seed, n, r, h, scale):
    objective, problem, B, a, b, _ = random_problem(name, seed, n, r, h, scale)
    B = B.requires_grad_(True)
    f_a, f_b = a @ B, b @ B
    if name == "byol":
        loss = (objective.loss(f_a, f_b.detach()) + objective.loss(f_b, f_a.detach())) / 2
    else:
        loss = objective.loss(f_a, f_b)
    (expected,) = torch.autograd.grad(loss, B)
    B = B.detach()
    torch.testing.assert_close(problem.value(B), loss.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        problem.gradient(B), expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()) + 1e-12
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "simclr"])
def test_batches_of_pairs_change_only_memory(name):
    """Moment objectives by blocks of samples, BYOL by batches."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40, 5, generator=g, dtype=torch.float64)
    B = torch.randn(5, 3, generator=g, dtype=torch.float64)
    objective = objectives.by_name(name)
    if name == "byol":
        order = torch.randperm(40, generator=g)
        pairs = Pairs(a, b, order)
        whole, split = (objectives.BYOL(batch_size=s).problem(pairs, B) for s in (None, 7))
    else:
        whole = objective.problem(Moments.of(a, b))
        split = objective.problem(Moments.of(a[:9], b[:9]) + Moments.of(a[9:], b[9:]))
    torch.testing.assert_close(whole.gradient(B), split.gradient(B))
    torch.testing.assert_close(whole.ggn(B)(B), split.ggn(B)(B))


def test_close_views_leave_vicreg_its_invariance():
    """Σ_Δ in float32: summed from the differences, not left over from three sums a million times larger."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2048, 20, generator=generator)
    b = a + 1e-4 * torch.randn(2048, 20, generator=generator)
    exact = (a - b).double().T @ (a - b).double() / 2048
    found = Moments.of(a, b, difference=True).difference_form().matrix
    assert (found - exact).norm() < 1e-5 * exact.norm()
    assert float(torch.linalg.eigvalsh(found)[0]) > 0
    halves = Moments.of(a[:1000], b[:1000], difference=True) + Moments.of(a[1000:], b[1000:], difference=True)
    torch.testing.assert_close(halves.difference_form().matrix, found)
