"""Where the objective is linearised for attribution: the encoder's own output, or the audit's step (docs/method.md)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from krepes.data.source import Source
from krepes.data.stream import blocks, read
from krepes.errors import ConfigError, NonFiniteError
from krepes.pipeline import Fit, Settings
from krepes.solver import Outcome
from krepes.workers import current

ENCODED = 4096  # training samples at least, if there are so many, that the encoder's output is fitted on
BLOCK = 256  # samples at a time
FIT_RIDGE = 1e-8  # of that fit, relative to the features' mean square
DAMPING = 0.1  # λ at the encoder, relative to the mean curvature; chosen in docs/defaults.md


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
    """

    B: Tensor
    D: Tensor
    end: Tensor
    ridge: str
    damping: float
    outcome: Outcome | None = None

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


def place_of(fit: Fit, settings: Settings, source: Source, at: str, damping: float | None) -> Place:
    """The place that `Auditor.attribute` is asked for.

    Args:
        source: the training samples.
        at: "encoder" or "step".
        damping: λ at the encoder; None: the default, at the step its own.

    Raises:
        ConfigError: there is no such place, λ is none, or the auditor took several steps, or none.
    """
    if at == "step":
        if damping is not None:
            raise ConfigError('at="step" follows the step\'s own λ; leave damping out, or ask at="encoder"')
        return at_step(fit, settings)
    if at != "encoder":
        raise ConfigError(f"at={at!r}; expected 'encoder' or 'step'")
    damping = DAMPING if damping is None else damping
    if isinstance(damping, bool) or not (isinstance(damping, int | float) and 0 < damping < math.inf):
        raise ConfigError(f"damping={damping!r}; expected a positive number, relative to the mean curvature")
    return at_encoder(fit, settings, source, damping)


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
    """
    number = min(len(source), max(ENCODED, 4 * fit.nystrom.rank))
    drawn = np.sort(np.random.default_rng(settings.seed).permutation(len(source))[:number]).tolist()
    r, d = fit.nystrom.rank, fit.rows.gradients.encoder.n_outputs or 0
    sums = [torch.zeros(shape, dtype=torch.float64, device=fit.nystrom.U.device) for shape in ((r, r), (r, d), r, d)]
    for _, block in current().own(blocks(range(number), BLOCK)):
        phi, z = features_and_outputs(fit, source, drawn[block.start : block.stop])
        for total, part in zip(sums, (phi.T @ phi, phi.T @ z, phi.sum(0), z.sum(0)), strict=True):
            total += part
    current().add(*sums)
    gram, right, mean_phi, mean_z = (total / number for total in sums)
    if settings.kernel.center:  # its functions have no mean of their own
        gram, right = gram - torch.outer(mean_phi, mean_phi), right - torch.outer(mean_phi, mean_z)
    gram.diagonal().add_(FIT_RIDGE * gram.diagonal().mean())
    B = torch.linalg.solve(gram, right)
    return Place(B, torch.zeros_like(B), B, "rkhs", damping)


def features_and_outputs(fit: Fit, source: Source, positions: list[int]) -> tuple[Tensor, Tensor]:
    """φ (B, r) and the encoder's outputs (B, d) of some samples, float64."""
    batch, encoder = read(source, positions), fit.rows.gradients.encoder
    phi = fit.nystrom.features(fit.rows(batch)[0].double())
    return phi, encoder(batch).double().to(phi.device)
