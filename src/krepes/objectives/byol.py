"""BYOL (Grill et al., arXiv 2006.07733)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from krepes.errors import ConfigError
from krepes.objectives.base import Problem, check_batch_size, check_constants, one_by_one
from krepes.objectives.moments import Moments
from krepes.objectives.pairs import Pairs, normalise, streamed, unit, unit_tangent
from krepes.workers import current

Predictor = tuple[Tensor, Tensor]  # W (h, h), c (h,)


@dataclass(frozen=True)
class BYOL:
    """2 − 2cos(q(f_a), sg f_b) per direction, mean of both directions and over samples.

    Inner variable: the residuals normalise(q(f_a)) − sg normalise(f_b); ψ is their squared length, Q = 2I. The
    target is held at the Taylor point B₀ of each step.

    Args:
        predictor: "identity", or "ridge": the closed-form linear predictor of the other view at the Taylor point.
        predictor_ridge: its ridge, relative to the mean variance.
        batch_size: pairs per block; only memory depends on it, and the pairs that a curvature subset holds.
    """

    predictor: str = "identity"
    predictor_ridge: float = 1e-3
    batch_size: int | None = 4096
    name: ClassVar[str] = "byol"
    streaming: ClassVar[bool] = True

    def __post_init__(self):
        if self.predictor not in ("identity", "ridge"):
            raise ConfigError(f"predictor={self.predictor!r} is unknown; expected 'identity' or 'ridge'")
        check_constants(self, positive=("predictor_ridge",))
        check_batch_size(self.batch_size)

    def loss(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss of predictions z_a and targets z_b in one direction (n, h)."""
        return (normalise(z_a) - normalise(z_b)).square().sum(1).mean()

    def problem(self, pairs: Pairs, B_target: Tensor) -> Problem:
        """L(B) with the target, and the predictor, held at B_target (r, h)."""
        predictors = self._predictors(pairs, B_target)
        return streamed(pairs, self.batch_size, lambda index, share: _Batch(pairs, index, B_target, predictors, share))

    def _predictors(self, pairs: Pairs, B: Tensor) -> tuple[Predictor, Predictor]:
        """Affine predictors from each view to the other."""
        h = B.shape[1]
        eye = torch.eye(h, dtype=B.dtype, device=B.device)
        if self.predictor == "identity":
            zero = torch.zeros(h, dtype=B.dtype, device=B.device)
            return (eye, zero), (eye, zero)
        moments = Moments.zero(h, False, B.device)
        batches = pairs.division(self.batch_size)
        for _, index in current().own(batches):
            phi_a, phi_b = pairs.load(index, B.device)
            moments.add_(Moments.of(phi_a.double() @ B, phi_b.double() @ B))
        current().add(*moments.tensors().values())
        moments.n = sum(len(index) for index in batches)
        cross, means = moments.covariance("ab"), (moments.mean_a, moments.mean_b)

        def fit(own: str, cross: Tensor, mean: Tensor, other_mean: Tensor) -> Predictor:
            gram = moments.covariance(own)
            W = torch.linalg.solve(gram + self.predictor_ridge * gram.diagonal().mean() * eye, cross)
            return W, other_mean - mean @ W

        return fit("aa", cross, *means), fit("bb", cross.T, *reversed(means))


@dataclass(frozen=True)
class _Batch:
    """One batch's term ψ(s) = ‖s‖²/2N, s both directions' residuals; derivatives in closed form."""

    pairs: Pairs
    index: Tensor
    B_target: Tensor
    predictors: tuple[Predictor, Predictor]
    weight: float

    def value(self, B: Tensor) -> Tensor:
        phis = self.pairs.load(self.index, B.device)
        residuals = self._residuals(phis, self._predictions(phis, B))
        return sum((s.double().square().sum() for s in residuals), torch.zeros(())) / (2 * len(self.index))

    def gradient(self, B: Tensor) -> Tensor:
        phis = self.pairs.load(self.index, B.device)
        predictions = self._predictions(phis, B)
        residuals = self._residuals(phis, predictions)
        return self._pull_back(phis, predictions, [s / len(self.index) for s in residuals])  # ∇ψ = 2s/2N

    def linearise(self, B: Tensor) -> Callable[[Tensor], Tensor]:
        """V ↦ JᵀQJV; the normalised predictions are kept, the features are read at every product."""
        predictions = self._predictions(self.pairs.load(self.index, B.device), B)

        def product(V: Tensor) -> Tensor:
            phis = self.pairs.load(self.index, B.device)
            W_V = [(V @ W).to(phis[0].dtype) for W, _ in self.predictors]
            Js_V = [
                unit_tangent(z, inverse, phi @ v) for phi, (z, inverse), v in zip(phis, predictions, W_V, strict=True)
            ]  # v → Jv
            H_Js_V = [s / len(self.index) for s in Js_V]  # Jv → HJv, Q = 2I/2N
            return self._pull_back(phis, predictions, H_Js_V)  # HJv → JᵀHJv

        return one_by_one(product)

    def per_sample(self, B: Tensor, D: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Σ over the batch's pairs of ⟨s, ∇ℓ + G_ℓ D⟩ (Q,), and its derivative by every pair's weight (Q, N), float64.

        Target and predictor are held.

        Args:
            B, D: Taylor point and step (r, h).
            s: directions (Q, r, h).
        """
        phis = self.pairs.load(self.index, B.device)
        predictions = self._predictions(phis, B)
        residuals = self._residuals(phis, predictions)

        def tangents(V: Tensor) -> list[Tensor]:
            moved = [phi @ (V @ W).to(phi.dtype) for phi, (W, _) in zip(phis, self.predictors, strict=True)]
            return [unit_tangent(z, inverse, v) for (z, inverse), v in zip(predictions, moved, strict=True)]

        slopes = [r + d for r, d in zip(residuals, tangents(D), strict=True)]  # ∇ψ + Q J D, ψ = ½Σ‖s‖² per pair
        found = torch.stack(
            [sum(((slope * v).double().sum(1) for slope, v in zip(slopes, tangents(one), strict=True)), torch.zeros(()))
             for one in s]
        )  # fmt: skip
        return found.sum(1), found

    def _predictions(self, phis, B: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per view: normalise(q(f)) (N, h) and 1/‖q(f)‖ (N, 1)."""
        return [unit(phi.double() @ (B @ W) + c, phi.dtype) for phi, (W, c) in zip(phis, self.predictors, strict=True)]

    def _residuals(self, phis, predictions) -> list[Tensor]:
        targets = [unit(phi.double() @ self.B_target, phi.dtype)[0] for phi in reversed(phis)]  # the other view's
        return [z - t for (z, _), t in zip(predictions, targets, strict=True)]

    def _pull_back(self, phis, predictions, s_bar: list[Tensor]) -> Tensor:
        total = torch.zeros_like(self.B_target)
        for phi, (z, inverse), s, (W, _) in zip(phis, predictions, s_bar, self.predictors, strict=True):
            total += (phi.T @ unit_tangent(z, inverse, s)).double() @ W.T
        return total
