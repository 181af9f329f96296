"""The step against a dense solve of the same system, its damping path, and a curvature from a subset."""

import dataclasses
import math

import pytest
import torch

from krepes import objectives
from krepes.errors import ConfigError
from krepes.objectives import Moments
from krepes.objectives.base import Problem
from krepes.objectives.pairs import Pairs
from krepes.solver import Newton, solve, solve_path
from krepes.solver.newton import GRID
from krepes.solver.system import System

N, R, H = 48, 6, 3
STREAMED = ["byol", "simclr"]


def make(name, seed=0, batch_size=8):
    """Problem maker, B₀ and Λ of random correlated views."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1, R, dtype=torch.float64)
    a = torch.randn(N, R, generator=g, dtype=torch.float64) * scale
    b = a + 0.5 * scale * torch.randn(N, R, generator=g, dtype=torch.float64)
    B0, eigenvalues = torch.eye(R, H, dtype=torch.float64), scale.square() * 7
    if name not in STREAMED:
        problem = objectives.by_name(name).problem(Moments.of(a, b))
        return (lambda B: problem), B0, eigenvalues
    pairs = Pairs(a, b, torch.randperm(N, generator=g))
    if name == "byol":
        return (lambda B: objectives.BYOL(batch_size=batch_size).problem(pairs, B)), B0, eigenvalues
    problem = objectives.SimCLR(batch_size=batch_size).problem(pairs)
    return (lambda B: problem), B0, eigenvalues


def run(name, settings, batch_size=8):
    make_problem, B0, eigenvalues = make(name, batch_size=batch_size)
    return solve(settings, make_problem, B0, eigenvalues, torch.Generator().manual_seed(0))


def matrix(product):
    basis = torch.eye(R * H, dtype=torch.float64).reshape(-1, R, H)
    return torch.stack([product(v).reshape(-1) for v in basis], 1)


def dense_system(name, ridge):
    """S G S and S∇L at B₀ as a matrix and a vector, with S (R·H,)."""
    make_problem, B0, eigenvalues = make(name)
    problem = make_problem(B0)
    S = (eigenvalues.sqrt() if ridge == "coefficients" else torch.ones(R).double()).repeat_interleave(H)
    G = S[:, None] * matrix(problem.ggn(B0)) * S
    return problem, B0, S, G, S * problem.gradient(B0).reshape(-1)


@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
@pytest.mark.parametrize("name", sorted(objectives.BY_NAME))
def test_auto_takes_the_last_damping_of_the_dense_path_that_held(name, ridge):
    problem, B0, S, G, g = dense_system(name, ridge)
    step = run(name, Newton(ridge, "auto", tol=1e-10, max_iter=2000))
    mean, loss = step.outcome.mean_curvature, float(problem.value(B0))
    kept, ratios, largest = None, [], 1.75
    for relative in GRID:
        Y = torch.linalg.solve(G + relative * mean * torch.eye(len(G)).double(), -g)
        predicted = -float(g @ Y + 0.5 * Y @ G @ Y)
        ratios.append((loss - float(problem.value(B0 + (S * Y).reshape(R, H)))) / predicted)
        held = 0.25 <= ratios[-1] <= largest
        if held:
            kept = relative, (S * Y).reshape(R, H)
        if not ratios[-1] >= 0.25:
            break
        largest = 1.75 if held else 1.25
    assert kept is not None
    assert math.isclose(step.outcome.relative_damping, kept[0], rel_tol=1e-9)
    torch.testing.assert_close(step.dB, step.outcome.step_length * kept[1], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close([t.gain_ratio for t in step.outcome.trials], ratios, rtol=1e-4, atol=1e-4)


NAN = math.nan


@pytest.mark.parametrize(
    ("ratios", "taken", "held"),
    [
        ([1.01, 1.09, 1.21, 0.83, 0.36, -0.07], 4, "+++++-"),  # Barlow Twins on a thousand samples
        ([1.97, 2.32, 1.58, 1.03, 0.53, 0.05], 4, "---++-"),  # on eight thousand: above, and back
        ([1.97, 2.32, 1.58, 1.3, 0.1], 3, "-----"),  # not quite back: the nearest to 1 of what was tried
        ([1.03, 1.30, 2.21, 2.36, 2.05, 1.96, 1.74, 1.6, 1.5], 1, "++-------"),  # VICReg; above, and only nearly back
        ([1.03, 2.0, 1.2, 1.7, 1.8, 1.7, 0.2], 3, "+-++---"),  # once it is back, the wider limit holds again
        ([2.0] * 9, 0, "---------"),
        ([NAN], 0, "-"),
        ([1.0, NAN, 1.0], 0, "+-"),
    ],
)
def test_auto_takes_the_last_damping_whose_ratio_is_near_one(ratios, taken, held, monkeypatch):
    gains = iter(ratios)
    monkeypatch.setattr(System, "gain", lambda self, solution: (next(gains), self.loss - 1.0))
    outcome = run("vicreg", Newton(damping="auto")).outcome
    assert outcome.relative_damping == pytest.approx(GRID[taken])
    assert "".join("-+"[t.accepted] for t in outcome.trials) == held
    assert ("No λ that was tried" in outcome.message) == (ratios[taken] > 1.75)


@pytest.mark.parametrize("name", ["barlow_twins", "simclr"])
def test_path_equals_separate_fixed_steps(name):
    make_problem, B0, eigenvalues = make(name)
    dampings = [1e-2, 1e2, 1.0]
    generator = torch.Generator().manual_seed(0)
    points = solve_path(make_problem(B0), B0, eigenvalues, "coefficients", dampings, generator, tol=1e-10)
    assert [p.relative_damping for p in points] == pytest.approx(sorted(dampings, reverse=True))
    for point in points:
        step = run(name, Newton("coefficients", point.damping, relative=False, tol=1e-10))
        torch.testing.assert_close(point.dB, step.dB, rtol=1e-6, atol=1e-9)
        assert point.gain_ratio == pytest.approx(step.outcome.gain_ratio, rel=1e-5)
        assert point.loss == pytest.approx(step.outcome.loss_after, rel=1e-9)


def test_every_curvature_product_is_counted():
    make_problem, B0, eigenvalues = make("simclr")
    problem, calls = make_problem(B0), []

    class Counting(Problem):
        def ggn(self, B):
            product = super().ggn(B)
            return lambda V: calls.append(1) or product(V)

    counting = Counting(problem.terms, problem.size, problem.subset)
    step = solve(Newton(damping="auto"), lambda B: counting, B0, eigenvalues, torch.Generator().manual_seed(0))
    assert step.outcome.products == len(calls)


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("samples", [N, 10 * N])
def test_subset_of_all_pairs_is_the_full_step(name, samples):
    full = run(name, Newton(damping=1.0))
    same = run(name, Newton(damping=1.0, curvature_samples=samples))
    assert torch.equal(full.dB, same.dB)
    assert same.outcome.curvature_samples is None
    assert same.outcome.full_residual is None


def test_moment_objectives_ignore_the_subset():
    full, same = (run("vicreg", Newton(damping=1.0, curvature_samples=k)) for k in (None, 8))
    assert torch.equal(full.dB, same.dB)
    assert same.outcome.curvature_samples is None


@pytest.mark.parametrize("name", STREAMED)
def test_subset_enters_the_curvature_only_and_its_error_is_told(name):
    problem, B0, S, G, g = dense_system(name, "coefficients")
    step = run(name, Newton("coefficients", 0.1, relative=False, tol=1e-10, curvature_samples=15))
    part = S[:, None] * matrix(problem.on(15).ggn(B0)) * S
    assert step.outcome.curvature_samples == 16  # two batches of eight reach fifteen
    Y = torch.linalg.solve(part + 0.1 * torch.eye(len(G)).double(), -g)  # the gradient knows all pairs
    torch.testing.assert_close(step.dB, (S * Y).reshape(R, H), rtol=1e-6, atol=1e-9)
    assert step.outcome.loss_after == pytest.approx(float(problem.value(B0 + step.dB)), rel=1e-9)
    # the true residual under the full curvature, in the norm of the subset's estimated diagonal
    r = (G @ Y + 0.1 * Y + g).reshape(R, H)
    told = step.outcome.full_residual
    assert told is not None
    norms = [float((r.square() / (d + 0.1)).sum().sqrt()) for d in (part.diagonal().min(), part.diagonal().max())]
    base = [float((g.square() / (d + 0.1)).sum().sqrt()) for d in (part.diagonal().min(), part.diagonal().max())]
    assert norms[1] / base[0] < told < norms[0] / base[1]
    assert ("stood for that of all" in step.outcome.message) == (told > 0.1)


def test_a_subset_that_is_too_small_is_mentioned():
    outcome = run("simclr", Newton("coefficients", 1e-3, curvature_samples=2), batch_size=2).outcome
    assert outcome.full_residual is not None
    assert outcome.full_residual > 0.1
    assert f"2 of {N} pairs" in outcome.message


@pytest.mark.parametrize("samples", [1, 0, -5])
def test_subset_needs_two_pairs(samples):
    with pytest.raises(ConfigError, match="curvature_samples"):
        Newton(curvature_samples=samples)


def test_outcome_survives_a_dictionary():
    outcome = run("simclr", Newton(damping="auto", curvature_samples=8)).outcome
    plain = dataclasses.asdict(outcome)
    assert plain["curvature_samples"] == 8
    assert 0 < plain["full_residual"] < math.inf
