"""BYOL (Grill et al., arXiv 2006.07733)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.base import Problem, Term
from krepes.objectives.pairs import Pairs, normalise


@dataclass(frozen=True)
class BYOL:
    """2 − 2cos(q(f_a), sg f_b) per direction, mean of both directions and over samples.

    Inner variable: the residuals normalise(q(f_a)) − sg normalise(f_b); ψ is their squared length, Q = 2I. The
    target is held at the Taylor point B₀ of each step.

    Args:
        predictor: "identity", or "ridge": the closed-form linear predictor of the other view at the Taylor point.
        predictor_ridge: its ridge, relative to the mean variance.
        batch_size: pairs per block; only memory depends on it.
    """

    predictor: str = "identity"
    predictor_ridge: float = 1e-3
    batch_size: int | None = 4096
    name: ClassVar[str] = "byol"
    streaming: ClassVar[bool] = True

    def __post_init__(self):
        if self.predictor not in ("identity", "ridge"):
            raise ConfigError(f"predictor={self.predictor!r} is unknown; expected 'identity' or 'ridge'")

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of predictions z_a and targets z_b in one direction (n, h)."""
        return (normalise(z_a) - normalise(z_b)).square().sum(1).mean()

    def problem(self, pairs: Pairs, B_target: Tensor) -> Problem:
        """L(B) with the target, and the predictor, held at B_target (r, h)."""
        P_a, P_b = self._predictors(pairs, B_target)
        return Problem(
            lambda: [self._term(a, b, B_target, (P_a, P_b), share) for a, b, share in pairs.batches(self.batch_size)]
        )

    def _term(self, phi_a: Tensor, phi_b: Tensor, B_target: Tensor, predictors, weight: float) -> Term:
        t_a, t_b = normalise(phi_a @ B_target), normalise(phi_b @ B_target)
        (W_a, c_a), (W_b, c_b) = predictors
        scale = 1 / (2 * len(phi_a))

        def inner(B: Tensor):
            q_a, q_b = (phi_a @ B) @ W_a + c_a, (phi_b @ B) @ W_b + c_b
            return normalise(q_a) - t_b, normalise(q_b) - t_a

        return Term(
            inner,
            lambda s: scale * (s[0].square().sum() + s[1].square().sum()),
            lambda s: (2 * scale * s[0], 2 * scale * s[1]),
            lambda s, u: (2 * scale * u[0], 2 * scale * u[1]),
            weight,
        )

    def _predictors(self, pairs: Pairs, B: Tensor):
        """Affine predictors (W (h, h), c (h,)) from each view to the other."""
        h = B.shape[1]
        eye, zero = (
            torch.eye(h, dtype=B.dtype, device=B.device),
            torch.zeros(h, dtype=B.dtype, device=B.device),
        )
        if self.predictor == "identity":
            return (eye, zero), (eye, zero)
        f_a, f_b = pairs.phi_a.double() @ B, pairs.phi_b.double() @ B

        def fit(x: Tensor, y: Tensor):
            x0, y0 = x - x.mean(0), y - y.mean(0)
            gram = x0.T @ x0
            W = torch.linalg.solve(gram + self.predictor_ridge * gram.diagonal().mean() * eye, x0.T @ y0)
            return W, y.mean(0) - x.mean(0) @ W

        return fit(f_a, f_b), fit(f_b, f_a)
