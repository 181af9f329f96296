"""A training of the kernel machine from a random start: B_{k+1} = B_k − η_k P ∇L(B_k) (docs/method.md)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krepes.errors import NonFiniteError
from krepes.nystrom import Nystrom
from krepes.objectives.base import Problem
from krepes.workers import current

STEPS = 30  # chosen in docs/defaults.md
POWER = 5  # products of the power method per step, four times as many before the first
HALVINGS = 5
LEAST = 1e-6  # of the mean eigenvalue: components below it are not scaled up further
FLAT = 1e-12  # curvature times ‖B‖², relative to the loss, that is none

Problems = Callable[[int], Problem]  # step ↦ the objective on the views that this step sees


@dataclass(frozen=True)
class Path:
    """A descent.

    Attributes:
        points: B_0 … B_{K−1}, from which the steps were taken.
        rates: η_k.
        scale: the diagonal of P (r, 1).
        end: B_K.
    """

    points: list[Tensor]
    rates: list[float]
    scale: Tensor
    end: Tensor


def random_starts(nystrom: Nystrom, seed: int, number: int) -> Iterator[Tensor]:
    """Functions drawn from the kernel's Gaussian process, of unit mean square over the landmarks (r, h)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        B = torch.randn(nystrom.rank, nystrom.h, dtype=torch.float64, generator=generator).to(nystrom.U.device)
        outputs = nystrom.U @ (nystrom.eigenvalues.sqrt()[:, None] * B)
        yield current().same(B / outputs.square().mean().sqrt())


def scale_of(nystrom: Nystrom) -> Tensor:
    """The diagonal of P (r, 1): λ_j^{−1/2}, as the features' mean square along component j is proportional to λ_j."""
    eigenvalues = nystrom.eigenvalues / nystrom.eigenvalues.mean()
    return eigenvalues.clamp_min(LEAST).rsqrt()[:, None]


def descend(
    problems: Problems, B: Tensor, scale: Tensor, seed: int, note: Callable[[Any], None] = lambda _: None
) -> Path:
    """Descent along P∇L in steps of the inverse of the largest curvature of P∇²L, halved while they raise the loss.

    That curvature is followed by the power method, so that no direction is overshot: steps that do so raise what a
    sample's weight changes, while the loss falls. At a kink, as that of VICReg's hinge, the fifth halving is taken
    whatever the loss does.

    Args:
        scale: the diagonal of P (r, 1).
        seed: of the vector that the power method starts from.

    Raises:
        NonFiniteError: the loss, its gradient or its Hessian is not finite, or there is no curvature to begin with.
    """
    points, rates, root = [], [], scale.sqrt()
    v = torch.randn(B.shape, dtype=B.dtype, generator=torch.Generator().manual_seed(seed)).to(B.device)
    for k in range(STEPS):
        problem = problems(k)
        loss, gradient, hessian = float(problem.value(B)), problem.gradient(B), problem.hessian(B)
        for _ in range(POWER if points else 4 * POWER):
            moved = root * hessian(root * (v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)))
            v = moved / moved.abs().amax().clamp_min(torch.finfo(v.dtype).tiny)  # its own norm could overflow
        curvature = float(v.norm()) * float(moved.abs().amax())
        v, curvature = current().same((v, curvature))  # workers go the same way, however each rounds
        refuse_non_finite(k, loss, gradient, curvature)
        if not curvature * float((B / root).square().sum()) > FLAT * abs(loss):
            if not points:
                raise NonFiniteError(
                    f"the objective has no curvature at a random start (largest {curvature:.1e}, loss {loss:.1e}): it "
                    "does not change with f there"
                )
            break
        rate, change = 1 / curvature, scale * gradient
        for _ in range(HALVINGS):
            if float(problem.value(B - rate * change)) <= loss:
                break
            rate /= 2
        points.append(B)
        rate, B = current().same((rate, B - rate * change))
        rates.append(rate)
        note(k + 1)
    refuse_non_finite(len(points), float(problem.value(B)), B, 0.0)
    return Path(points, rates, scale, B)


def refuse_non_finite(step: int, loss: float, gradient: Tensor, curvature: float) -> None:
    """Raise NonFiniteError naming what a training cannot go on with."""
    for what, finite in (("loss", math.isfinite(loss)), ("gradient", bool(torch.isfinite(gradient).all())),
                         ("curvature", math.isfinite(curvature))):  # fmt: skip
        if not finite:
            raise NonFiniteError(
                f'the {what} is not finite at step {step} of the kernel machine\'s training; at="encoder" needs none'
            )
