"""What the explanation does when the seed, the landmarks or the encoder's weights are others: refits on a subset.

Each refit keeps λ and sees the same seeded subset of at most 4,096 training samples, so that its cost does not grow
with the data; the audit is refitted on that subset, too, where it saw more.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from krepes.data.source import ArraySource, Source, Subset
from krepes.data.stream import SubsetViews, Views, spread_out
from krepes.encoders.frozen import FrozenEncoder
from krepes.engine import MemoryPlan
from krepes.errors import EncoderError, LandmarkError, NonFiniteError
from krepes.influence import sample_influence
from krepes.kernel.gradients import GradientMap
from krepes.kernel.ntk import KernelRows, gradient_map
from krepes.nystrom import decompose
from krepes.pipeline import Fit, Settings, Stream, planned_memory, rank_cut, standing_for, take_step
from krepes.progress import Progress
from krepes.work import Work
from krepes.workers import current

TRAINING = 4096  # samples of a refit
POINTS = 256  # samples whose top landmarks are compared
TOP_K = 10
Found = TypeVar("Found")


@dataclass(frozen=True)
class Stability:
    """What the refits showed; a figure is the reason, in words, where it could not be had.

    Attributes:
        jaccard: mean overlap of the ten (at most a quarter) most influential landmarks with those of another seed of
            views and directions.
        chance: what random sets of ten would overlap.
        random_landmarks: representations (t, h) of the samples by as many uniformly drawn landmarks.
        randomised: mean rank correlation over landmarks between influences of the audit and of the same network with
            its weights shuffled.
        samples: training samples of a refit.
    """

    jaccard: float | str
    chance: float
    random_landmarks: Tensor | str
    randomised: float | str
    samples: int


@dataclass(frozen=True)
class Refitter:
    """The audit's settings and a subset of its training samples."""

    fit: Fit
    settings: Settings
    encoder: FrozenEncoder
    source: Source
    views: Views

    @classmethod
    def of(cls, fit: Fit, settings: Settings, encoder: FrozenEncoder, source: Source, views: Views) -> "Refitter":
        """On a seeded subset, with λ as it was found."""
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(source))[:TRAINING])
        return cls(fit, held(fit, settings), encoder, Subset(source, chosen), views_of(views, chosen))

    def rows(self, encoder: FrozenEncoder, landmarks: Tensor, settings: Settings) -> KernelRows:
        """The kernel of this encoder on these landmarks."""
        gradients = gradient_map(settings.kernel, encoder, spread_out(landmarks))
        memory = self.memory(gradients, settings)
        ids = [f"landmark {i}" for i in range(len(landmarks))]
        precision = settings.engine.precision
        return KernelRows(settings.kernel, gradients, landmarks, ids, memory.tile, memory.keep, precision)

    def memory(self, gradients: GradientMap, settings: Settings) -> MemoryPlan:
        """The plan of a refit, whose samples may be fewer than its landmarks."""
        return planned_memory(settings, gradients, max(len(self.source), len(self.fit.rows.landmarks)))

    def step(self, rows: KernelRows, settings: Settings) -> tuple[Tensor, Tensor]:
        """Ã₀ and ΔÃ (M, h) of a refit."""
        nystrom = decompose(rows.K_mm, self.fit.nystrom.h, rank_cut(settings, rows))
        memory = self.memory(rows.gradients, settings)
        stream = Stream(self.source, self.views, rows, nystrom, settings, memory, Work())
        _, step = take_step(stream, Progress())
        return nystrom.dual(nystrom.B0), nystrom.dual(step.dB)


def held(fit: Fit, settings: Settings) -> Settings:
    """The settings with λ as it was found, relative to the mean curvature.

    Not of several steps of damping="auto": each found one for itself.
    """
    newton, found = settings.newton, fit.step.outcome.relative_damping
    if not 0 < found < math.inf or (newton.damping == "auto" and newton.steps > 1):
        return settings
    backtrack = newton.line_search or newton.damping == "auto"
    return replace(settings, newton=replace(newton, damping=found, relative=True, line_search=backtrack))


def views_of(views: Views, chosen: np.ndarray) -> Views:
    """Views of some samples; a callable draws new ones."""
    if isinstance(views, SubsetViews):
        return views_of(views.views, views.positions[chosen])
    if isinstance(views, tuple):
        index: Any = torch.as_tensor(chosen)
        return torch.as_tensor(views[0])[index], torch.as_tensor(views[1])[index]
    return views


def stability(
    fit: Fit, settings: Settings, encoder: FrozenEncoder, source: Source, views: Views, x: Tensor
) -> Stability:
    """Refit with another seed, with random landmarks and with shuffled weights.

    Args:
        source, views: the training samples.
        x: samples (t, ...) whose explanations are compared.
    """
    again = Refitter.of(fit, settings, encoder, source, views)
    kernel = settings.kernel
    other = replace(again.settings, seed=settings.seed + 1, kernel=replace(kernel, seed=kernel.seed + 1))
    points, landmarks = x[:POINTS], fit.rows.landmarks

    def influences(which: Settings) -> Tensor:
        standing = landmarks if which is again.settings else redrawn(fit, which, views)
        same = standing is landmarks and (which is again.settings or (kernel.sketch is None and kernel.project is None))
        drawn = fit.rows if same else again.rows(encoder, standing, which)
        dA = fit.dA if len(source) <= TRAINING and which is again.settings else again.step(drawn, which)[1]
        return influence_of(drawn, dA, points)

    tasks = (
        lambda: influences(again.settings),
        lambda: influences(other),
        lambda: by_uniform_landmarks(again, x),
        lambda: with_shuffled_weights(again, points),
    )
    mine, theirs, random, unlearned = current().map(tasks, attempted)
    k = min(TOP_K, max(1, len(landmarks) // 4))  # more of them would agree by chance
    if isinstance(mine, str):
        overlap = randomised = f"the refit of the same settings failed: {mine}"
    else:
        overlap = theirs if isinstance(theirs, str) else jaccard(mine, theirs, k)
        failed = isinstance(unlearned, str)
        randomised = f"with shuffled weights, {unlearned}" if failed else rank_correlation(mine, unlearned)
    return Stability(overlap, chance(k, len(landmarks)), random, randomised, len(again.source))


def redrawn(fit: Fit, settings: Settings, views: Views) -> Tensor:
    """What stands in the kernel for the fit's landmarks by the draws of another seed; fixed views have one draw."""
    draw = views.views if isinstance(views, SubsetViews) else views
    if settings.landmark_rows == "samples" or isinstance(draw, tuple):
        return fit.rows.landmarks
    return standing_for(settings, ArraySource(fit.samples), draw, range(len(fit.samples)))


def attempted(make: Callable[[], Found]) -> Found | str:
    """What a refit gives, or why there is none: shuffled weights overflow or collapse, landmarks do not span f."""
    try:
        return make()
    except (EncoderError, LandmarkError, NonFiniteError) as error:
        return str(error)


def by_uniform_landmarks(again: Refitter, x: Tensor) -> Tensor:
    """f (t, h) of the samples by as many landmarks drawn uniformly."""
    m = min(len(again.fit.rows.landmarks), len(again.source))
    chosen = np.random.default_rng(again.settings.seed + 1).permutation(len(again.source))[:m]
    landmarks = standing_for(again.settings, again.source, again.views, chosen.tolist())
    rows = again.rows(again.encoder, landmarks, again.settings)
    A0, dA = again.step(rows, again.settings)
    return torch.cat([rows(part)[0].double() for part in x.split(POINTS)]) @ (A0 + dA)


def with_shuffled_weights(again: Refitter, x: Tensor) -> Tensor:
    """Influences (t, m) by the network with shuffled weights."""
    encoder = FrozenEncoder(
        shuffled(again.encoder.module, again.settings.seed), again.settings.kernel.params, again.encoder.device,
        again.encoder.dtype,
    )  # fmt: skip
    rows = again.rows(encoder, again.fit.rows.landmarks, again.settings)
    return influence_of(rows, again.step(rows, again.settings)[1], x)


def rank_correlation(a: Tensor, b: Tensor) -> float | str:
    """Mean over rows of Spearman's correlation of influences (t, m), or why there is none."""
    from scipy.stats import rankdata

    if not (a.isfinite().all() and b.isfinite().all()):
        return "influences are not finite"
    ranks = [rankdata(s.cpu().numpy(), axis=1) for s in (a, b)]
    one, other = (r - r.mean(1, keepdims=True) for r in ranks)
    norm = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    if not (norm > 0).any():
        return "all landmarks have the same influence: there is no order to compare"
    return float(((one * other).sum(1)[norm > 0] / norm[norm > 0]).mean())


def shuffled(module: nn.Module, seed: int) -> nn.Module:
    """A copy whose parameters have their entries permuted, each tensor within itself: same scales, nothing learned.

    Source: Adebayo et al., "Sanity checks for saliency maps", 2018 (model parameter randomisation).
    """
    other, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            order = torch.randperm(p.numel(), generator=generator).to(p.device)
            p.copy_(p.reshape(-1)[order].reshape(p.shape))
    return other


def influence_of(rows: KernelRows, dA: Tensor, x: Tensor) -> Tensor:
    """Sample influence (t, m)."""
    return sample_influence(rows(x)[0].double(), dA)


def jaccard(one: Tensor, other: Tensor, k: int) -> float:
    """Mean over rows of |A ∩ B|/|A ∪ B| of the k largest entries."""
    a, b = (s.topk(k, dim=1).indices for s in (one, other))
    shared = (a[:, :, None] == b[:, None]).any(2).sum(1).double()
    return float((shared / (2 * k - shared)).mean())


def chance(k: int, m: int) -> float:
    """The overlap of random sets, from their expected intersection k²/m."""
    shared = k * k / m
    return shared / (2 * k - shared)
