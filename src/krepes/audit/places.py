"""Where the objective is linearised for attribution: the encoder's own output, or the audit's step (docs/method.md)."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.data.source import Source
from krepes.data.stream import blocks, names, read
from krepes.errors import ConfigError, NonFiniteError, warn
from krepes.kernel.ntk import refuse_non_finite
from krepes.objectives import BYOL, SimCLR
from krepes.pipeline import Fit, Settings
from krepes.solver import Outcome
from krepes.workers import current

PLACES = ("encoder", "step", "training")
EXPECTED = "'encoder', 'step' or 'training'"
ENCODED = 4096  # training samples at least, if there are so many, that the encoder's output is fitted on
BLOCK = 256  # samples at a time
FIT_RIDGE = 1e-8  # of that fit, relative to the features' mean square
DAMPING = 0.1  # λ at the encoder, relative to the mean curvature; chosen in docs/defaults.md
FAITHFUL = 0.7  # R² of that fit, below which is warned
COLLAPSED = 16  # roundings of the outputs' size, within which they do not vary


@dataclass(frozen=True)
class Place:
    """Where the objective is linearised.

    Attributes:
        B: Taylor point (r, h).
        D: the full step from there (r, h); zero at the encoder.
        end: where targets are asked, B or the end of the shortened step (r, h).
        ridge: R, "coefficients" or "rkhs".
        damping: λ, at the encoder in units of the mean curvature.
        outcome: of the step; None at the encoder, where none is followed.
        fidelity: R² of f to the encoder's outputs over the samples that it was fitted on; None at the step.
    """

    B: Tensor
    D: Tensor
    end: Tensor
    ridge: str
    damping: float
    outcome: Outcome | None = None
    fidelity: float | None = None

    @property
    def length(self) -> float:
        """Of the step."""
        return 1.0 if self.outcome is None else self.outcome.step_length

    def absolute(self, mean: float) -> float:
        """λ where the mean curvature is known.

        Raises:
            NonFiniteError: there is no curvature at the encoder.
        """
        if self.outcome is not None:
            return self.damping
        if not (mean > 0 and math.isfinite(mean)):
            raise NonFiniteError(
                f"the objective has no curvature at the encoder (mean {mean}): its outputs do not vary as the "
                'objective needs it, as those of a collapsed encoder. at="step" asks the audit\'s step instead.'
            )
        return self.damping * mean


def check_place(settings: Settings, fit: Fit, at: Any, damping: Any) -> None:
    """Refuse a place that there is not, before anything is computed.

    Raises:
        ConfigError: there is no such place, λ is none, or the auditor took several steps, or none.
    """
    if at == "step":
        if damping is not None:
            raise ConfigError('at="step" follows the step\'s own λ; leave damping out, or ask at="encoder"')
        at_step(fit, settings)
    elif at == "training":
        if damping is not None:
            raise ConfigError('at="training" has no λ: it ends early instead; leave damping out, or ask at="encoder"')
        if isinstance(settings.objective, BYOL):
            raise ConfigError(
                'BYOL has no loss that a training descends, as its target follows the network; ask at="encoder"'
            )
        if settings.objective.streaming and not isinstance(settings.objective, SimCLR):
            raise ConfigError(
                f'at="training" needs second derivatives, and {settings.objective.name} over pairs has none here; '
                'ask at="encoder"'
            )
    elif at != "encoder":
        raise ConfigError(f"at={at!r}; expected {EXPECTED}")
    elif damping is not None and not positive(damping):
        raise ConfigError(f"damping={damping!r:.200}; expected a positive number, relative to the mean curvature")


def positive(value: Any) -> bool:
    """Whether it is a positive number that float64 holds."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
    except OverflowError:
        return False


def place_of(fit: Fit, settings: Settings, source: Source, at: str, damping: float | None) -> Place:
    """The place that `Auditor.attribute` is asked for, checked by `check_place`.

    Args:
        source: the training samples.
        at: "encoder" or "step".
        damping: λ at the encoder; None: the default, at the step its own.
    """
    if at == "step":
        return at_step(fit, settings)
    return at_encoder(fit, settings, source, DAMPING if damping is None else float(damping))


def at_step(fit: Fit, settings: Settings) -> Place:
    """The audit's own step from B₀."""
    outcome, B0 = fit.step.outcome, fit.nystrom.B0
    if settings.newton.steps != 1:
        raise ConfigError(
            f"attribute follows one Newton step, this auditor took {settings.newton.steps}: fit with Newton(steps=1), "
            'or ask at="encoder"'
        )
    if not (outcome.step_length > 0 and math.isfinite(outcome.damping)):
        raise ConfigError(
            f'there is no step whose training samples could be asked for; at="encoder" needs none. {outcome.message}'
        )
    D = fit.step.dB / outcome.step_length
    return Place(B0, D, B0 + fit.step.dB, settings.newton.ridge, outcome.damping, outcome)


def at_encoder(fit: Fit, settings: Settings, source: Source, damping: float) -> Place:
    """The encoder's own output in the kernel's features: least squares over training samples.

    At most `ENCODED` of them, or four per feature, are drawn with the seed.

    Raises:
        NonFiniteError: an output is not finite, or the outputs vary by no more than rounding.
    """
    number = min(len(source), max(ENCODED, 4 * fit.nystrom.rank))
    drawn = np.sort(np.random.default_rng(settings.seed).permutation(len(source))[:number]).tolist()
    origin = features_and_outputs(fit, source, drawn[:1])[1][0]
    origin = current().same(origin.cpu()).to(origin.device)  # one sample's z: from there, little variation shows, too
    r, d = fit.nystrom.rank, len(origin)
    shapes = ((r, r), (r, d), r, d, ())
    sums = [torch.zeros(shape, dtype=torch.float64, device=fit.nystrom.U.device) for shape in shapes]

    def sum_own() -> None:
        for _, block in current().own(blocks(range(number), BLOCK)):
            phi, z = features_and_outputs(fit, source, drawn[block.start : block.stop])
            z = z - origin
            parts = phi.T @ phi, phi.T @ z, phi.sum(0), z.sum(0), z.square().sum()
            for total, part in zip(sums, parts, strict=True):
                total += part

    current().together(sum_own)
    current().add(*sums)
    gram, right, mean_phi, mean_z, square = (total / number for total in sums)
    variance = float(square - mean_z.square().sum())
    size = float((mean_z + origin).square().sum()) + variance
    refuse_collapsed(variance, size, fit.rows.gradients.encoder.dtype, number)
    left = variance
    if settings.kernel.center:  # its functions have no mean of their own
        gram, right = gram - torch.outer(mean_phi, mean_phi), right - torch.outer(mean_phi, mean_z)
    else:
        right, left = right + torch.outer(mean_phi, origin), size
    ridge = FIT_RIDGE * gram.diagonal().mean()
    B = torch.linalg.solve(gram + ridge * torch.eye(r, dtype=gram.dtype, device=gram.device), right)
    left += float((B * (gram @ B - 2 * right)).sum())  # E‖z − Bᵀφ‖²
    place = Place(B, torch.zeros_like(B), B, "rkhs", damping, fidelity=1 - left / variance)
    warn_unfaithful(place)
    return place


def features_and_outputs(fit: Fit, source: Source, positions: list[int]) -> tuple[Tensor, Tensor]:
    """φ (B, r) and the encoder's outputs (B, d) of some samples, float64.

    Raises:
        NonFiniteError: names the samples.
    """
    batch, encoder, ids = read(source, positions), fit.rows.gradients.encoder, names(source, positions)
    z = encoder(batch).double()
    refuse_non_finite(torch.isfinite(z).all(1), ids, "outputs")
    phi = fit.nystrom.features(fit.rows(batch, ids)[0].double())
    return phi, z.to(phi.device)


def refuse_collapsed(variance: float, size: float, dtype: torch.dtype, number: int) -> None:
    """Raise NonFiniteError for outputs of some mean square size that vary by rounding alone, if they vary."""
    if variance > (COLLAPSED * torch.finfo(dtype).eps) ** 2 * size:
        return
    raise NonFiniteError(
        f"the objective has no curvature at the encoder: over {number} training samples its outputs vary by "
        f"{math.sqrt(max(variance, 0.0)):.1e} around values of size {math.sqrt(size):.1e}, no more than rounding, as "
        'those of a collapsed encoder. at="step" asks the audit\'s step instead.'
    )


def warn_unfaithful(place: Place) -> None:
    """Say so where the kernel's features give the encoder's outputs badly."""
    if place.fidelity is not None and not place.fidelity >= FAITHFUL:
        warn(
            f"the kernel's features give {max(place.fidelity, 0.0):.0%} of the variance of the encoder's outputs (R²), "
            "and attributions are of that part alone: fit with more landmarks (landmarks=…), or a larger part of the "
            "parameters (NTK(params=None))"
        )
