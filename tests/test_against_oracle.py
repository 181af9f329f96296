"""The whole method, through the public API, against the dense float64 oracle.

Columns of A0 are eigenvectors, so their signs are free; every objective is invariant to them, and the
columns of dA and f flip along. They are aligned with the oracle's by the sign of ⟨A0_j, A0ref_j⟩.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import krepes
from tests.oracles import dense as oracle

pytestmark = [
    # A step may well raise the loss here; what is compared is the step, not its merit.
    pytest.mark.filterwarnings("ignore::krepes.errors.KrepesWarning"),
]

N, H = 24, 3
LANDMARKS = [3, 0, 7, 11, 22, 18, 9, 14, 5, 16]  # not sorted: their order is the user's

OBJECTIVES = {
    "barlow_twins": lambda: krepes.BarlowTwins(weight=5e-3),
    "vicreg": lambda: krepes.VICReg(),
    "simclr": lambda: krepes.SimCLR(),
    "byol": lambda: krepes.BYOL(),
    "spectral_contrastive": lambda: krepes.SpectralContrastive(),
}


class Unusual(nn.Module):
    """Tokens through LayerNorm, attention, a layer used twice and a bare parameter."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(0.5 * torch.randn(4, 6))
        self.scale = nn.Parameter(1 + 0.1 * torch.randn(6))
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.shared = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        x = x + self.position  # (B, 4, 6)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = self.shared(torch.tanh(self.shared(x))) * self.scale
        return self.head(x.mean(1))  # (B, 4)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))


def _loud() -> nn.Module:
    model = _mlp()
    with torch.no_grad():
        model[0].weight.mul_(1.5)
        model[2].weight.mul_(1.5)
        model[4].weight.mul_(3)
    return model


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


ENCODERS = {"mlp": (_mlp, (5,)), "conv": (_conv, (2, 6, 6)), "unusual": (Unusual, (4, 6))}
BUILDERS = ENCODERS | {"loud": (_loud, (5,))}
VARIANTS = {
    "raw": {"center": False, "cosine": False},
    "centred": {"center": True, "cosine": False},
    "cosine": {"center": False, "cosine": True},
    "centred-cosine": {"center": True, "cosine": True},
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def case(encoder_name: str) -> SimpleNamespace:
    """A frozen encoder (d = 4), 24 samples, their two views and 5 unseen samples, all float64."""
    build, shape = BUILDERS[encoder_name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build().double().eval().requires_grad_(False)
        X, noise_a, noise_b = (torch.randn(N, *shape, dtype=torch.float64) for _ in range(3))
        T = torch.randn(5, *shape, dtype=torch.float64)
    return SimpleNamespace(encoder=encoder, X=X, X_a=X + 0.3 * noise_a, X_b=X + 0.3 * noise_b, T=T)


@functools.cache
def jacobians(encoder_name: str, rows: str) -> list[torch.Tensor]:
    """Of the landmarks, or their first views, the two views and the unseen samples: (rows, 4, P) each."""
    c = case(encoder_name)
    landmarks = {"samples": c.X, "views": c.X_a}[rows][LANDMARKS]
    return [oracle.jacobians(c.encoder, x) for x in (landmarks, c.X_a, c.X_b, c.T)]


@functools.cache
def reference(encoder_name: str, kind: str, variant: str, rows: str = "samples") -> SimpleNamespace:
    """The oracle's kernel matrices of a case."""
    options = {"centered": VARIANTS[variant]["center"], "cosined": VARIANTS[variant]["cosine"]}
    J = jacobians(encoder_name, rows)
    K_mm, K_a, K_b, K_t = (oracle.kernel(J_x, J[0], kind, **options) for J_x in J)
    dense = oracle.Dense(K_mm, K_a, K_b, H)
    lam = dense.spectrum[0]
    assert ((lam[:H] - lam[1 : H + 1]) > 1e-3 * lam[0]).all(), "the case has no simple leading eigenvalues"
    return SimpleNamespace(dense=dense, K_t=K_t)


def relative_damping(dense: oracle.Dense, objective: str, ridge: str, relative: float = 0.1) -> float:
    """An absolute λ that suits the size of the problem's curvature."""
    G = oracle.ggn(*oracle.SPLITS[objective](dense), dense.A0)
    return relative * oracle.mean_diagonal(dense, G, ridge)


def audit(
    encoder_name, objective, damping, *, kind="trace", variant="raw", ridge="coefficients", order=None, rows="samples"
):
    """Fit the package on a case; ``order`` permutes the samples, their views and the landmark ids."""
    c = case(encoder_name)
    order = torch.arange(N) if order is None else order
    position = torch.argsort(order)  # where each sample went
    auditor = krepes.Auditor(
        c.encoder,
        objective=OBJECTIVES[objective](),
        kernel=krepes.NTK(kind, **VARIANTS[variant]),
        landmarks=[int(position[i]) for i in LANDMARKS],
        newton=krepes.Newton(
            ridge=ridge,
            damping=damping,
            relative=False,
            steps=1,
            line_search=False,
            tol=1e-12,
            max_iter=5000,
        ),
        n_components=H,
        seed=0,
        dtype=torch.float64,
        landmark_rows=rows,
    )
    auditor.fit(c.X[order], views=(c.X_a[order], c.X_b[order]))
    return auditor


def tensor(x) -> torch.Tensor:
    return torch.as_tensor(x, dtype=torch.float64).detach().cpu()  # a Python float keeps its digits


def signs(A0, A0_ref) -> torch.Tensor:
    return (tensor(A0) * tensor(A0_ref)).sum(0).sign()  # (h,)


def assert_close(actual, expected, tolerance: float):
    """Relative in norm, so that small entries beside large ones do not decide."""
    actual, expected = tensor(actual), tensor(expected)
    assert actual.shape == expected.shape
    error = ((actual - expected).norm() / expected.norm()).item()
    assert error <= tolerance, f"relative error {error:.2e} exceeds {tolerance:.0e}"


def check_against_oracle(encoder_name, objective, kind, variant, ridge, rows="samples"):
    ref = reference(encoder_name, kind, variant, rows)
    damping = relative_damping(ref.dense, objective, ridge)
    inner, outer = oracle.SPLITS[objective](ref.dense)
    dA = oracle.newton_step(ref.dense, inner, outer, ridge, damping)  # (M, h)
    A0 = ref.dense.A0
    f = ref.K_t @ (A0 + dA)  # (t, h)

    auditor = audit(encoder_name, objective, damping, kind=kind, variant=variant, ridge=ridge, rows=rows)
    sign = signs(auditor.A0_, A0)
    assert_close(sign * tensor(auditor.A0_), A0, 1e-7)
    gram = tensor(auditor.A0_).T @ ref.dense.K_mm @ tensor(auditor.A0_)
    torch.testing.assert_close(gram, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-8)
    assert_close(sign * tensor(auditor.dA_), dA, 1e-6)

    T = case(encoder_name).T
    assert_close(sign * tensor(auditor.transform(T)), f, 1e-6)
    assert_close(auditor.influence(T), ref.K_t.abs() * dA.norm(dim=1), 1e-6)
    unit = f / f.norm(dim=1, keepdim=True)
    assert_close(auditor.contribution(T), ref.K_t * (unit @ dA.T), 1e-6)

    loss = oracle.LOSSES[objective]
    assert_close(auditor.outcome_.loss_before, loss(*ref.dense.views(A0)), 1e-8)
    if objective != "byol":  # whose targets the step holds at A0, so that "after" has two readings
        assert_close(auditor.outcome_.loss_after, loss(*ref.dense.views(A0 + dA)), 1e-6)


@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
@pytest.mark.parametrize("kind", ["trace", "pseudo"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_step_and_scores_equal_the_dense_solution(encoder_name, objective, kind, ridge):
    check_against_oracle(encoder_name, objective, kind, "raw", ridge)


@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
@pytest.mark.parametrize("variant", ["centred", "cosine", "centred-cosine"])
@pytest.mark.parametrize("kind", ["trace", "pseudo"])
@pytest.mark.parametrize(
    ("encoder_name", "objective"),
    [("mlp", "barlow_twins"), ("mlp", "simclr"), ("conv", "vicreg"), ("unusual", "spectral_contrastive")],
)
def test_centred_and_cosine_kernels_equal_the_dense_solution(encoder_name, objective, kind, variant, ridge):
    check_against_oracle(encoder_name, objective, kind, variant, ridge)


@pytest.mark.parametrize(
    ("encoder_name", "objective"),
    [("mlp", "barlow_twins"), ("mlp", "simclr"), ("conv", "vicreg"), ("unusual", "spectral_contrastive")],
)
def test_rows_of_the_landmarks_views_equal_the_dense_solution(encoder_name, objective):
    check_against_oracle(encoder_name, objective, "trace", "centred-cosine", "coefficients", rows="views")


@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
def test_variance_hinge_that_is_off_for_some_components_equals_the_dense_solution(ridge):
    dense = reference("loud", "trace", "raw").dense
    active = torch.cat([f.var(0) < 1 for f in dense.views(dense.A0)])
    assert active.any()
    assert not active.all()
    check_against_oracle("loud", "vicreg", "trace", "raw", ridge)


def test_kernel_of_chosen_parameters_equals_the_oracle():
    """The last layer alone: k = (a·a' + 1) of rank 7 among 10 landmarks, so the null space is met, too."""
    c, last = case("mlp"), ["4.weight", "4.bias"]
    J_m, J_a, J_b, J_t = (oracle.jacobians(c.encoder, x, last) for x in (c.X[LANDMARKS], c.X_a, c.X_b, c.T))
    K_mm, K_a, K_b, K_t = (oracle.kernel(J, J_m, "trace") for J in (J_m, J_a, J_b, J_t))
    assert torch.linalg.matrix_rank(K_mm) == 7
    dense = oracle.Dense(K_mm, K_a, K_b, H)
    auditor = krepes.Auditor(
        c.encoder,
        objective=krepes.SpectralContrastive(),
        kernel=krepes.NTK("trace", params=last, center=False, cosine=False),
        landmarks=LANDMARKS,
        newton=krepes.Newton(
            ridge="rkhs",
            damping=1.0,
            relative=False,
            steps=1,
            line_search=False,
            tol=1e-12,
            max_iter=5000,
        ),
        n_components=H,
        seed=0,
        dtype=torch.float64,
    )
    auditor.fit(c.X, views=(c.X_a, c.X_b))
    dA = oracle.newton_step(dense, *oracle.split_spectral_contrastive(dense), "rkhs", 1.0)
    sign = signs(auditor.A0_, dense.A0)
    assert_close(sign * tensor(auditor.dA_), dA, 1e-6)
    assert_close(sign * tensor(auditor.transform(c.T)), K_t @ (dense.A0 + dA), 1e-6)


def test_landmark_ids_keep_the_order_given():
    auditor = audit("mlp", "barlow_twins", 1.0)
    assert [int(i) for i in auditor.landmark_ids_] == LANDMARKS


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fitting_twice_gives_identical_results(objective):
    first, second = (audit("mlp", objective, 1.0) for _ in range(2))
    assert torch.equal(tensor(first.A0_), tensor(second.A0_))
    assert torch.equal(tensor(first.dA_), tensor(second.dA_))


def test_fitting_leaves_the_encoder_as_it_was():
    c = case("unusual")
    before = {name: p.clone() for name, p in c.encoder.state_dict().items()}
    audit("unusual", "barlow_twins", 1.0)
    after = c.encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in c.encoder.parameters())


@pytest.mark.parametrize("ridge", ["coefficients", "rkhs"])
@pytest.mark.parametrize("encoder_name", ENCODERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_permuting_the_samples_changes_nothing(objective, encoder_name, ridge):
    dense = reference(encoder_name, "trace", "raw").dense
    damping = relative_damping(dense, objective, ridge)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    plain = audit(encoder_name, objective, damping, ridge=ridge)
    permuted = audit(encoder_name, objective, damping, ridge=ridge, order=order)
    sign = signs(permuted.A0_, plain.A0_)
    T = case(encoder_name).T
    assert_close(sign * tensor(permuted.A0_), plain.A0_, 1e-8)
    assert_close(sign * tensor(permuted.dA_), plain.dA_, 1e-8)
    assert_close(sign * tensor(permuted.transform(T)), plain.transform(T), 1e-8)
    assert_close(permuted.influence(T), plain.influence(T), 1e-8)
