"""SimCLR and BYOL: closed forms against dense autograd, stores, compute types, and the curvature's subset."""

import numpy as np
import pytest
import torch

from krepes import objectives
from krepes.objectives import base, simclr
from krepes.objectives.pairs import Pairs
from tests.oracles import dense as oracle

N, R, H = 14, 5, 3
NAMES = ["byol", "simclr"]


def data(seed=0, n=N, r=R, h=H):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, r, generator=g, dtype=torch.float64)
    b = a + 0.5 * torch.randn(n, r, generator=g, dtype=torch.float64)
    B = torch.randn(r, h, generator=g, dtype=torch.float64)
    V = torch.randn(r, h, generator=g, dtype=torch.float64)
    return a, b, B, V, torch.randperm(n, generator=g)


def make(name, pairs, B, **constants):
    objective = objectives.by_name(name, **constants)
    return objective.problem(pairs, B) if name == "byol" else objective.problem(pairs)


def everything(problem, B, V):
    return problem.value(B), problem.gradient(B), problem.ggn(B)(V)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("rows", [3, 256])
@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_equal_dense_autograd(name, rows, batch_size, monkeypatch):
    monkeypatch.setattr(simclr, "ROWS", rows)  # blocks that end inside a view, between the views, and none
    a, b, _, V, order = data()
    target = oracle.Dense(torch.eye(R).double(), a, b, H).A0
    B = target + 0.3 * V  # BYOL's target is elsewhere, so its residuals do not vanish
    pairs = Pairs(a, b, order)
    value, gradient, product = everything(
        make(name, pairs, target if name == "byol" else B, batch_size=batch_size), B, V
    )
    expected = [0.0, torch.zeros(R, H).double(), torch.zeros(R, H).double()]
    for index in pairs.division(batch_size):
        dense = oracle.Dense(torch.eye(R).double(), a[index], b[index], H)
        inner, outer = oracle.SPLITS[name](dense)
        share = len(index) / N
        expected[0] += share * outer(inner(B))
        expected[1] += share * oracle.gradient(inner, outer, B)
        expected[2] += share * (oracle.ggn(inner, outer, B) @ V.reshape(-1)).reshape(R, H)
    for actual, wanted in zip((value, gradient, product), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)


def test_ridge_predictor_equals_the_normal_equations():
    a, b, B, V, order = data(n=40)
    B_target = B + V
    f_a, f_b = a @ B_target, b @ B_target

    def predict(x, y, f):
        x0 = x - x.mean(0)
        gram = x0.T @ x0
        W = torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(H), x0.T @ (y - y.mean(0)))
        return (f - x.mean(0)) @ W + y.mean(0)

    loss = objectives.BYOL().loss
    B = B.requires_grad_(True)
    expected = (loss(predict(f_a, f_b, a @ B), f_b) + loss(predict(f_b, f_a, b @ B), f_a)) / 2
    (gradient,) = torch.autograd.grad(expected, B)
    B = B.detach()
    problem = objectives.BYOL(predictor="ridge", batch_size=9).problem(Pairs(a, b, order), B_target)
    torch.testing.assert_close(problem.value(B), expected.detach())
    torch.testing.assert_close(problem.gradient(B), gradient)


class Store:
    """Rows on disk; refuses what a forward read would not do."""

    def __init__(self, path, rows):
        np.save(path, rows.numpy())
        self.rows, self.dtype = np.load(path, mmap_mode="r"), rows.dtype

    def __getitem__(self, index):
        assert index.dtype == torch.long
        assert (index.diff() > 0).all(), "positions must ascend"
        return torch.from_numpy(np.asarray(self.rows[index.numpy()])).to(self.dtype)

    def __len__(self):
        return len(self.rows)


@pytest.mark.parametrize("predictor", ["identity", "ridge"])
@pytest.mark.parametrize("name", NAMES)
def test_a_store_on_disk_gives_what_the_tensor_gives(name, predictor, tmp_path):
    a, b, B, V, order = data()
    constants = {"batch_size": 5} | ({"predictor": predictor} if name == "byol" else {})
    stores = Store(tmp_path / "a.npy", a), Store(tmp_path / "b.npy", b)
    memory, disk = (everything(make(name, Pairs(*phis, order), B, **constants), B, V) for phis in ((a, b), stores))
    assert all(torch.equal(x, y) for x, y in zip(memory, disk, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_short_features_are_computed_in_float32_and_summed_in_float64(name, dtype):
    a, b, B, V, order = data(n=60)
    a, b = a.to(dtype), b.to(dtype)
    short = everything(make(name, Pairs(a, b, order), B, batch_size=16), B, V)
    exact = everything(make(name, Pairs(a.double(), b.double(), order), B, batch_size=16), B, V)
    for x, y in zip(short, exact, strict=True):
        assert x.dtype == torch.float64
        assert float((x - y).norm() / y.norm().clamp_min(1e-3)) < 2e-6
        if x.ndim:
            assert not torch.equal(x, y), "float32 cannot equal float64: the short path was not taken"


@pytest.mark.parametrize("name", NAMES)
def test_decrease_of_a_small_step_is_seen_in_float32(name):
    a, b, _, V, order = data(n=200)
    B = torch.eye(R, H, dtype=torch.float64)
    problem = make(name, Pairs(a.float(), b.float(), order), B + 0.3 * V)
    change = float(problem.value(B + 1e-4 * V) - problem.value(B))
    assert change == pytest.approx(float((problem.gradient(B) * 1e-4 * V).sum()), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_order_within_a_batch_changes_nothing(name):
    a, b, B, V, order = data()
    shuffled = torch.cat([x[torch.randperm(len(x))] for x in torch.tensor_split(order, 3)])
    first, second = (everything(make(name, Pairs(a, b, o), B, batch_size=5), B, V) for o in (order, shuffled))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_simclr_of_permuted_pairs_is_the_same_loss():
    a, b, B, _, order = data()
    loss = objectives.SimCLR().loss
    torch.testing.assert_close(loss(a @ B, b @ B), loss(a[order] @ B, b[order] @ B), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_subset_is_unbiased_over_the_batches_it_could_have_been(name):
    a, b, B, V, order = data(n=24)
    full = make(name, Pairs(a, b, order), B, batch_size=6).ggn(B)(V)
    parts = [
        make(name, Pairs(a, b, order.roll(-6 * k)), B, batch_size=6).on(12) for k in range(4)
    ]  # each starts with another batch
    assert [p.size for p in parts] == [12] * 4
    products = [p.ggn(B)(V) for p in parts]
    assert not torch.allclose(products[0], full, rtol=1e-3)
    torch.testing.assert_close(sum(products) / 4, full, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("samples", "size"), [(1, 7), (7, 7), (8, 14), (19, 20), (20, 20), (99, 20), (None, 20)])
def test_subset_ends_with_the_batch_that_reaches_it(samples, size):
    a, b, B, _, order = data(n=20)
    problem = make("simclr", Pairs(a, b, order), B, batch_size=7).on(samples)
    assert problem.size == size
    assert sum(t.weight for t in problem.terms()) == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
def test_linearisations_that_do_not_fit_are_computed_anew(name, monkeypatch):
    a, b, B, V, order = data()
    problem = make(name, Pairs(a, b, order), B, batch_size=5)
    kept = problem.ggn(B)
    monkeypatch.setattr(base, "KEEP_BYTES", 0)
    product = problem.ggn(B)
    for _ in range(2):
        assert torch.equal(product(V), kept(V))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_without_a_direction_moves_nothing(name):
    a, b, B, V, order = data()
    B[4] = 0
    a[3] = b[3] = torch.eye(R, dtype=torch.float64)[4]  # φ ≠ 0, f = 0
    value, gradient, product = everything(make(name, Pairs(a, b, order), B), B, V)
    assert torch.isfinite(value)
    for x in (gradient, product):
        assert float(x.abs().max()) < 1e3


def test_small_temperature_stays_finite_in_float32():
    a, b, B, V, order = data()
    pairs = Pairs(a.float(), b.float(), order)
    exact = everything(objectives.SimCLR(temperature=0.01).problem(Pairs(a, b, order)), B, V)
    for x, y in zip(everything(objectives.SimCLR(temperature=0.01).problem(pairs), B, V), exact, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)
