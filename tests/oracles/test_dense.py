"""The oracle is checked against autograd, finite differences and sums done by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles import dense as oracle

N, M, H = 9, 6, 3


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(seed: int = 0, scale: float = 1.0) -> oracle.Dense:
    """A kernel of random features: K_mm (6, 6), two views of 9 samples."""
    generator = torch.Generator().manual_seed(seed)
    landmarks, base, noise = (torch.randn(rows, 8, generator=generator, dtype=torch.float64) for rows in (M, N, 2 * N))
    a, b = base + 0.3 * noise[:N], base + 0.3 * noise[N:]
    return oracle.Dense(scale * landmarks @ landmarks.T, scale * a @ landmarks.T, scale * b @ landmarks.T, H)


def nearby(dense: oracle.Dense) -> torch.Tensor:
    noise = torch.randn(M, H, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return dense.A0 + 0.1 * dense.A0.std() * noise


@pytest.mark.parametrize("name", oracle.LOSSES)
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_outer_of_inner_is_the_loss(name, scale):
    dense = problem(scale=scale)
    inner, outer = oracle.SPLITS[name](dense)
    A = dense.A0 if name == "byol" else nearby(dense)  # BYOL's targets are held at A0
    torch.testing.assert_close(outer(inner(A)), oracle.LOSSES[name](*dense.views(A)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", oracle.LOSSES)
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_gradient_of_outer_of_inner_is_autograd_of_the_loss(name, scale):
    dense = problem(scale=scale)
    inner, outer = oracle.SPLITS[name](dense)
    A = (dense.A0 if name == "byol" else nearby(dense)).clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(oracle.LOSSES[name](*dense.views(A)), A)
    actual = oracle.gradient(inner, outer, A.detach())
    assert expected.norm() > 1e-6
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("name", oracle.LOSSES)
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_ggn_is_symmetric_and_positive_semidefinite(name, scale):
    dense = problem(scale=scale)
    G = oracle.ggn(*oracle.SPLITS[name](dense), nearby(dense))
    eigenvalues = torch.linalg.eigvalsh((G + G.T) / 2)
    assert (G - G.T).abs().max() <= 1e-12 * G.abs().max()
    assert eigenvalues[-1] > 0
    assert eigenvalues[0] >= -1e-10 * eigenvalues[-1]


def test_vicreg_cases_have_the_hinge_on_and_off():
    """The two scales above reach both sides of the hinge, or they would not test it."""
    on = [(problem(scale=s).views(problem(scale=s).A0)[0].var(0) < 1).tolist() for s in (0.01, 1.0)]
    assert all(on[0])
    assert not all(on[1])


def finite_difference_jacobian(inner, A, step=1e-5):
    columns = []
    for k in range(A.numel()):
        e = torch.zeros(A.numel(), dtype=A.dtype)
        e[k] = step
        columns.append((inner(A + e.reshape(A.shape)) - inner(A - e.reshape(A.shape))) / (2 * step))
    return torch.stack(columns, 1)  # (S, M h)


@pytest.mark.parametrize("name", ["barlow_twins", "spectral_contrastive", "vicreg"])
def test_ggn_from_a_finite_difference_jacobian(name):
    dense, weight = problem(), 5e-3
    inner, outer = oracle.SPLITS[name](dense)
    A = nearby(dense)
    J = finite_difference_jacobian(inner, A)
    if name == "barlow_twins":
        eye = torch.eye(H, dtype=torch.float64)
        q = 2 * (eye + weight * (1 - eye)).reshape(-1)
    elif name == "spectral_contrastive":
        q = torch.cat([torch.zeros(1), 2 * torch.ones(H * H)]).double()
    else:
        variances = torch.cat([f.var(0) for f in dense.views(A)])
        curvature = torch.where(variances + 1e-4 < 1, 25 / (2 * H) / 4 * (variances + 1e-4) ** -1.5, 0.0)
        q = torch.cat([J.new_full((N * H,), 50 / (N * H)), curvature, J.new_full((2 * H * (H - 1),), 2 / H)])
    expected = J.T @ (q[:, None] * J)
    torch.testing.assert_close(
        oracle.ggn(inner, outer, A), expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item()
    )


def test_simclr_curvature_is_the_softmax_covariance():
    dense = problem()
    inner, outer = oracle.SPLITS["simclr"](dense)
    s = inner(dense.A0)
    P = s.reshape(2 * N, 2 * N - 1).softmax(1)
    blocks = [(p.diag() - torch.outer(p, p)) / (2 * N) for p in P]
    torch.testing.assert_close(torch.func.hessian(outer)(s), torch.block_diag(*blocks), rtol=1e-9, atol=1e-12)


def test_simclr_loss_by_loops():
    F_a, F_b = problem().views(problem().A0)
    z = torch.cat([F_a, F_b])
    total = 0.0
    for i in range(2 * N):
        others = [j for j in range(2 * N) if j != i]
        similarity = torch.stack([F.cosine_similarity(z[i], z[j], dim=0) / 0.5 for j in others])
        partner = others.index((i + N) % (2 * N))
        total += -similarity.log_softmax(0)[partner] / (2 * N)
    torch.testing.assert_close(oracle.simclr_loss(F_a, F_b), total, rtol=1e-12, atol=1e-12)


def test_barlow_twins_standardises_as_batch_norm_does():
    F_a, F_b = problem().views(problem().A0)
    a, b = (F.batch_norm(f, None, None, training=True, eps=1e-5) for f in (F_a, F_b))
    C = a.T @ b / N
    expected = (C.diagonal() - 1).square().sum() + 5e-3 * C.square().sum() - 5e-3 * C.diagonal().square().sum()
    torch.testing.assert_close(oracle.barlow_twins_loss(F_a, F_b), expected, rtol=1e-12, atol=1e-12)


def test_byol_loss_is_the_squared_distance_of_unit_vectors():
    F_a, F_b = problem().views(problem().A0)
    expected = (F.normalize(F_a, dim=1) - F.normalize(F_b, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(oracle.byol_loss(F_a, F_b), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
@pytest.mark.parametrize("name", oracle.LOSSES)
def test_newton_step_solves_its_equation(name, ridge):
    dense = problem()
    inner, outer = oracle.SPLITS[name](dense)
    G = oracle.ggn(inner, outer, dense.A0)
    damping = 0.1 * oracle.mean_diagonal(dense, G, ridge)
    dA = oracle.newton_step(dense, inner, outer, ridge, damping)
    g = oracle.gradient(inner, outer, dense.A0)
    left = (G @ dA.reshape(-1)).reshape(dA.shape) + damping * (dA if ridge == "coefficients" else dense.K_mm @ dA)
    torch.testing.assert_close(left, -g, rtol=1e-8, atol=1e-8 * g.abs().max().item())


def test_newton_step_stays_in_the_range_of_a_singular_kernel():
    dense = problem()
    K = oracle.center(dense.K_mm, dense.K_mm)
    centred = oracle.Dense(K, oracle.center(dense.K_a, dense.K_mm), oracle.center(dense.K_b, dense.K_mm), H)
    for ridge in ("coefficients", "rkhs"):
        dA = oracle.newton_step(centred, *oracle.split_barlow_twins(centred), ridge, 0.1)
        assert dA.isfinite().all()
        assert dA.sum(0).abs().max() < 1e-10 * dA.norm()


def test_initialisation_is_orthonormal_in_the_kernel():
    dense = problem()
    torch.testing.assert_close(
        dense.A0.T @ dense.K_mm @ dense.A0, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_ntk_of_a_linear_model_by_hand():
    """f = W x + b has ∂f_c/∂W_cj = x_j and ∂f_c/∂b_c = 1, so both kernels are x·z + 1."""
    torch.manual_seed(0)
    X, Z = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    for kind in ("trace", "pseudo"):
        K = oracle.ntk(nn.Linear(5, 2), X, Z, kind)
        torch.testing.assert_close(K, X @ Z.T + 1, rtol=1e-12, atol=1e-12)
        K = oracle.ntk(nn.Linear(5, 2), X, Z, kind, params=["weight"])
        torch.testing.assert_close(K, X @ Z.T, rtol=1e-12, atol=1e-12)


def test_ntk_of_two_linear_layers_by_hand():
    """f = V U x: trace = (x·z)‖V‖²_F / d + (Ux)·(Uz); pseudo takes ‖Vᵀ1‖² for ‖V‖²_F."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 2, bias=False)).double()
    U, V = (p.detach() for p in model.parameters())
    X, Z = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    top = (X @ U.T) @ (Z @ U.T).T
    for kind, size in (("trace", V.square().sum()), ("pseudo", V.sum(0).square().sum())):
        K = oracle.ntk(model, X, Z, kind)
        torch.testing.assert_close(K, (X @ Z.T) * size / 2 + top, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["trace", "pseudo"])
def test_centring_and_cosine_are_those_of_the_gradient_features(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X, Z = torch.randn(4, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    J_x, J_z = oracle.jacobians(model, X), oracle.jacobians(model, Z)
    torch.testing.assert_close(oracle.kernel(J_x, J_z, kind), oracle.ntk(model, X, Z, kind))
    G_x, G_z = oracle.gradient_features(J_x, kind), oracle.gradient_features(J_z, kind)
    G_x, G_z = G_x - G_z.mean(0), G_z - G_z.mean(0)
    K = oracle.kernel(J_x, J_z, kind, centered=True)
    torch.testing.assert_close(K, G_x @ G_z.T, rtol=1e-10, atol=1e-12)
    K = oracle.kernel(J_x, J_z, kind, centered=True, cosined=True)
    expected = F.normalize(G_x, dim=1) @ F.normalize(G_z, dim=1).T
    torch.testing.assert_close(K, expected, rtol=1e-10, atol=1e-12)
