"""The method written a second time: slow, dense, float64, straight from the formulas.

Nothing here is shared with the package. Jacobians are formed one sample and one output at a time, the
GGN matrix is formed whole, and the Newton system is solved by a direct solver. Letters: ``n`` samples,
``M`` landmark rows, ``d`` encoder outputs, ``P`` parameters, ``h`` components, ``S`` inner variables.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inner = Callable[[Tensor], Tensor]  # A (M, h) -> s (S,)
Outer = Callable[[Tensor], Tensor]  # s (S,) -> scalar, convex


# Kernel ---------------------------------------------------------------------------------------------


def jacobians(encoder: nn.Module, X: Tensor, params: Sequence[str] | None = None) -> Tensor:
    """J(x) of every sample, by one backward pass per sample and output: (n, d, P).

    ``params`` names the parameters to differentiate (default: all). A shared parameter counts once.
    """
    encoder = copy.deepcopy(encoder).double().eval()
    chosen = [p for name, p in encoder.named_parameters() if params is None or name in params]
    for p in chosen:
        p.requires_grad_(True)
    rows = []
    for x in X.double() if X.is_floating_point() else X:
        f = encoder(x[None])[0]  # (d,)
        for c in range(len(f)):
            grads = torch.autograd.grad(f[c], chosen, retain_graph=True, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for p, g in zip(chosen, grads, strict=True)]
            rows.append(torch.cat([g.reshape(-1) for g in flat]))
    return torch.stack(rows).reshape(len(X), -1, rows[0].numel())  # (n, d, P)


def gradient_features(J: Tensor, kind: str) -> Tensor:
    """Features whose plain inner product is the scalar kernel: (n, d, P) -> (n, d P) or (n, P)."""
    d = J.shape[1]
    if kind == "trace":
        return J.flatten(1) / d**0.5
    if kind == "pseudo":
        return J.sum(1) / d**0.5
    raise ValueError(f"kind must be 'trace' or 'pseudo', not {kind!r}")


def ntk(encoder: nn.Module, X: Tensor, Z: Tensor, kind: str = "trace", params: Sequence[str] | None = None) -> Tensor:
    """Empirical NTK between the samples X and Z: (n, M).

    trace: (1/d) tr J(x) J(z)ᵀ.  pseudo: ⟨∇s(x), ∇s(z)⟩ with s = (1/√d) Σ_c f_c.
    """
    J_x, J_z = jacobians(encoder, X, params), jacobians(encoder, Z, params)
    return gradient_features(J_x, kind) @ gradient_features(J_z, kind).T


def center(K_xz: Tensor, K_zz: Tensor) -> Tensor:
    """k(x, z) − k̄(x) − k̄(z) + k̄, all means over the landmarks Z: (n, M)."""
    return K_xz - K_xz.mean(1, keepdim=True) - K_zz.mean(0, keepdim=True) + K_zz.mean()


def center_diagonal(k_xx: Tensor, K_xz: Tensor, K_zz: Tensor) -> Tensor:
    """k(x, x) − 2 k̄(x) + k̄, the diagonal that belongs to `center`: (n,)."""
    return k_xx - 2 * K_xz.mean(1) + K_zz.mean()


def cosine(K_xz: Tensor, k_xx: Tensor, k_zz: Tensor) -> Tensor:
    """k(x, z) / √(k(x, x) k(z, z)): (n, M)."""
    return K_xz / torch.outer(k_xx, k_zz).sqrt()


def kernel(J_x: Tensor, J_z: Tensor, kind: str, *, centered: bool = False, cosined: bool = False) -> Tensor:
    """The kernel with its options, from Jacobians of samples (n, d, P) and landmarks (M, d, P): (n, M)."""
    G_x, G_z = gradient_features(J_x, kind), gradient_features(J_z, kind)
    K, K_zz = G_x @ G_z.T, G_z @ G_z.T
    k_xx, k_zz = G_x.square().sum(1), K_zz.diagonal()
    if centered:
        k_xx, k_zz = center_diagonal(k_xx, K, K_zz), center_diagonal(k_zz, K_zz, K_zz)
        K = center(K, K_zz)
    return cosine(K, k_xx, k_zz) if cosined else K


# Representation ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dense:
    """Everything one Newton step needs: K_mm (M, M), K_a and K_b (n, M), h components."""

    K_mm: Tensor
    K_a: Tensor
    K_b: Tensor
    h: int

    @property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, largest first (M,), and their eigenvectors as columns (M, M)."""
        lam, U = torch.linalg.eigh(self.K_mm)
        return lam.flip(0), U.flip(1)

    @property
    def A0(self) -> Tensor:
        """PC initialisation U_h Λ_h^{-1/2}: (M, h)."""
        lam, U = self.spectrum
        return U[:, : self.h] / lam[: self.h].sqrt()

    def views(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """f of the two views: (n, h) each."""
        return self.K_a @ A, self.K_b @ A


# Losses as anybody would write them ---------------------------------------------------------------------


def _correlation(F_a: Tensor, F_b: Tensor, eps: float) -> Tensor:
    a, b = F_a - F_a.mean(0), F_b - F_b.mean(0)
    a, b = a / (a.square().mean(0) + eps).sqrt(), b / (b.square().mean(0) + eps).sqrt()
    return a.T @ b / len(a)  # (h, h)


def _covariance(f: Tensor) -> Tensor:
    f = f - f.mean(0)
    return f.T @ f / (len(f) - 1)  # (h, h)


def _off_diagonal(C: Tensor) -> Tensor:
    i, j = (~torch.eye(len(C), dtype=torch.bool)).nonzero(as_tuple=True)
    return C[i, j]


def barlow_twins_loss(F_a: Tensor, F_b: Tensor, weight: float = 5e-3, eps: float = 1e-5) -> Tensor:
    """Σ_i (C_ii − 1)² + weight · Σ_{i≠j} C_ij²."""
    C = _correlation(F_a, F_b, eps)
    return (C.diagonal() - 1).square().sum() + weight * _off_diagonal(C).square().sum()


def vicreg_loss(F_a: Tensor, F_b: Tensor, inv=25.0, var=25.0, cov=1.0, eps: float = 1e-4) -> Tensor:
    """inv · mean (f_a − f_b)² + Σ_views (var/2 · mean_j [1 − √(var_j + ε)]₊ + cov/h · Σ_{i≠j} Cov_ij²)."""
    h = F_a.shape[1]
    hinge = sum(F.relu(1 - (f.var(0) + eps).sqrt()).mean() / 2 for f in (F_a, F_b))
    decorrelate = sum(_off_diagonal(_covariance(f)).square().sum() / h for f in (F_a, F_b))
    return inv * (F_a - F_b).square().mean() + var * hinge + cov * decorrelate


def _logits(F_a: Tensor, F_b: Tensor, temperature: float) -> Tensor:
    z = F.normalize(torch.cat([F_a, F_b]), dim=1)  # (2n, h)
    C = z @ z.T / temperature
    return _off_diagonal(C).reshape(len(z), len(z) - 1)  # row-major, so each row has lost its own entry


def _positives(n: int) -> Tensor:
    # The partner of row i < n is column i + n, shifted by the removed diagonal; of row i + n, column i.
    return torch.cat([torch.arange(n) + n - 1, torch.arange(n)])


def simclr_loss(F_a: Tensor, F_b: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent, mean over the 2n rows."""
    return F.cross_entropy(_logits(F_a, F_b, temperature), _positives(len(F_a)))


def byol_loss(F_a: Tensor, F_b: Tensor) -> Tensor:
    """Mean of both directions of 2 − 2 cos(f, stop-gradient f'), predictor identity."""
    forward = 2 - 2 * F.cosine_similarity(F_a, F_b.detach(), dim=1)
    backward = 2 - 2 * F.cosine_similarity(F_b, F_a.detach(), dim=1)
    return (forward.mean() + backward.mean()) / 2


def spectral_contrastive_loss(F_a: Tensor, F_b: Tensor) -> Tensor:
    """−2 tr(M_ab) + ‖M‖²_F, uncentred: M_ab = F_aᵀF_b / n, M = (F_aᵀF_a + F_bᵀF_b) / 2n."""
    n = len(F_a)
    M_ab, M = F_a.T @ F_b / n, (F_a.T @ F_a + F_b.T @ F_b) / (2 * n)
    return -2 * M_ab.trace() + M.square().sum()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "barlow_twins": barlow_twins_loss,
    "vicreg": vicreg_loss,
    "simclr": simclr_loss,
    "byol": byol_loss,
    "spectral_contrastive": spectral_contrastive_loss,
}


# The same losses as convex outer ∘ inner ------------------------------------------------------------------


def split_barlow_twins(dense: Dense, weight: float = 5e-3, eps: float = 1e-5) -> tuple[Inner, Outer]:
    """s = C; ψ = Σ w_ij² (C_ij − I_ij)²."""
    eye = torch.eye(dense.h, dtype=torch.float64)
    W2 = eye + weight * (1 - eye)

    def inner(A: Tensor) -> Tensor:
        return _correlation(*dense.views(A), eps).reshape(-1)

    def outer(s: Tensor) -> Tensor:
        return (W2 * (s.reshape(dense.h, dense.h) - eye).square()).sum()

    return inner, outer


def split_vicreg(dense: Dense, inv=25.0, var=25.0, cov=1.0, eps: float = 1e-4) -> tuple[Inner, Outer]:
    """s = (f_a − f_b, var_a, var_b, offdiag Cov_a, offdiag Cov_b); the hinge is convex in the variance."""
    n, h = len(dense.K_a), dense.h
    sizes = [n * h, 2 * h, 2 * h * (h - 1)]

    def inner(A: Tensor) -> Tensor:
        F_a, F_b = dense.views(A)
        C_a, C_b = _covariance(F_a), _covariance(F_b)
        parts = (
            (F_a - F_b).reshape(-1),
            C_a.diagonal(),
            C_b.diagonal(),
            _off_diagonal(C_a),
            _off_diagonal(C_b),
        )
        return torch.cat(parts)

    def outer(s: Tensor) -> Tensor:
        delta, variance, covariance = s.split(sizes)
        hinge = F.relu(1 - (variance + eps).sqrt()).sum() / h / 2
        return inv * delta.square().sum() / (n * h) + var * hinge + cov * covariance.square().sum() / h

    return inner, outer


def split_simclr(dense: Dense, temperature: float = 0.5) -> tuple[Inner, Outer]:
    """s = cosine logits without the diagonal, 2n × (2n − 1); ψ = row-softmax cross-entropy."""
    n = len(dense.K_a)
    rows, positives = torch.arange(2 * n), _positives(n)

    def inner(A: Tensor) -> Tensor:
        return _logits(*dense.views(A), temperature).reshape(-1)

    def outer(s: Tensor) -> Tensor:
        logits = s.reshape(2 * n, 2 * n - 1)
        return (logits.logsumexp(1) - logits[rows, positives]).mean()

    return inner, outer


def split_byol(dense: Dense) -> tuple[Inner, Outer]:
    """s = both residuals, each with its target held at A0; ψ = ‖s‖² / 2n."""
    target_a, target_b = (F.normalize(f, dim=1) for f in dense.views(dense.A0))

    def inner(A: Tensor) -> Tensor:
        F_a, F_b = dense.views(A)
        residuals = F.normalize(F_a, dim=1) - target_b, F.normalize(F_b, dim=1) - target_a
        return torch.cat(residuals).reshape(-1)

    def outer(s: Tensor) -> Tensor:
        return s.square().sum() / (2 * len(dense.K_a))

    return inner, outer


def split_spectral_contrastive(dense: Dense) -> tuple[Inner, Outer]:
    """s = (tr M_ab, M); ψ = −2 s₀ + ‖M‖²_F."""
    n = len(dense.K_a)

    def inner(A: Tensor) -> Tensor:
        F_a, F_b = dense.views(A)
        M = (F_a.T @ F_a + F_b.T @ F_b) / (2 * n)
        return torch.cat([(F_a * F_b).sum().reshape(1) / n, M.reshape(-1)])

    def outer(s: Tensor) -> Tensor:
        return -2 * s[0] + s[1:].square().sum()

    return inner, outer


SPLITS: dict[str, Callable[..., tuple[Inner, Outer]]] = {
    "barlow_twins": split_barlow_twins,
    "vicreg": split_vicreg,
    "simclr": split_simclr,
    "byol": split_byol,
    "spectral_contrastive": split_spectral_contrastive,
}


# Gauss–Newton ---------------------------------------------------------------------------------------------


def gradient(inner: Inner, outer: Outer, A: Tensor) -> Tensor:
    """∇_A ψ(s(A)): (M, h)."""
    return torch.func.grad(lambda A: outer(inner(A)))(A)


def ggn(inner: Inner, outer: Outer, A: Tensor) -> Tensor:
    """J_sᵀ ∇²ψ J_s, row-major in vec A: (M h, M h)."""
    s = inner(A)
    J = torch.func.jacrev(inner)(A).reshape(s.numel(), A.numel())  # (S, M h)
    Q = torch.func.hessian(outer)(s)  # (S, S)
    return J.T @ Q @ J


def ridge_matrix(dense: Dense, ridge: str) -> Tensor:
    """R of the regulariser's curvature: I for "coefficients", K_mm ⊗ I_h for "rkhs"; (M h, M h)."""
    R = {"coefficients": torch.eye(len(dense.K_mm), dtype=torch.float64), "rkhs": dense.K_mm}[ridge]
    return torch.kron(R, torch.eye(dense.h, dtype=torch.float64))


def mean_diagonal(dense: Dense, G: Tensor, ridge: str) -> float:
    """Mean diagonal of the GGN in the coordinates in which R is the identity, over the range of K_mm."""
    T = _range_basis(dense, ridge)
    return (T.T @ G @ T).diagonal().mean().item()


def newton_step(dense: Dense, inner: Inner, outer: Outer, ridge: str, damping: float) -> Tensor:
    """ΔA (M, h) of (GGN + damping · R) vec ΔA = −∇L(A0), by a direct solve in the range of K_mm.

    Outside that range both f and its loss do not change with A, so the equation says nothing about it
    (ridge "rkhs") or says zero (ridge "coefficients").
    """
    A0 = dense.A0
    T = _range_basis(dense, ridge)  # (M h, r h), Tᵀ R T = I
    G, g = ggn(inner, outer, A0), gradient(inner, outer, A0).reshape(-1)
    H = T.T @ (G + damping * ridge_matrix(dense, ridge)) @ T
    return (T @ torch.linalg.solve(H, -T.T @ g)).reshape(A0.shape)


def _range_basis(dense: Dense, ridge: str, rtol: float = 1e-10) -> Tensor:
    lam, U = dense.spectrum
    keep = lam > rtol * lam[0]
    U = U[:, keep] if ridge == "coefficients" else U[:, keep] / lam[keep].sqrt()
    return torch.kron(U, torch.eye(dense.h, dtype=torch.float64))
