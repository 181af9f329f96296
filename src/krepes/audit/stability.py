"""What the explanation does when the seed, the landmarks or the encoder's weights are others: refits on a subset.

Each refit keeps λ and sees the same seeded subset of at most 4,096 training samples, so that its cost does not grow
with the data; the audit is refitted on that subset, too, where it saw more.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from krepes.data.source import Source, Subset
from krepes.data.stream import SubsetViews, Views, read, spread_out
from krepes.encoders.frozen import FrozenEncoder
from krepes.engine import MemoryPlan
from krepes.errors import EncoderError, LandmarkError, NonFiniteError
from krepes.influence import sample_influence
from krepes.kernel.gradients import GradientMap
from krepes.kernel.ntk import KernelRows, gradient_map
from krepes.nystrom import decompose
from krepes.pipeline import Fit, Settings, Stream, planned_memory, rank_cut, take_step
from krepes.progress import Progress
from krepes.work import Work

TRAINING = 4096  # samples of a refit
POINTS = 256  # samples whose top landmarks are compared
TOP_K = 10


@dataclass(frozen=True)
class Stability:
    """What the refits showed.

    Attributes:
        jaccard: mean overlap of the ten most influential landmarks with those of another seed of views and directions.
        chance: what random sets of ten would overlap.
        random_landmarks: representations (t, h) of the samples by as many uniformly drawn landmarks; None if these do
            not span h dimensions.
        randomised: mean rank correlation over landmarks between influences of the audit and of the same network with
            its weights shuffled; NaN where such a network has no kernel.
        samples: training samples of a refit.
    """

    jaccard: float
    chance: float
    random_landmarks: Tensor | None
    randomised: float
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
        newton, outcome = settings.newton, fit.step.outcome
        backtrack = newton.line_search or newton.damping == "auto"
        newton = replace(newton, damping=outcome.relative_damping, relative=True, line_search=backtrack)
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(source))[:TRAINING])
        part = Subset(source, chosen)
        return cls(fit, replace(settings, newton=newton), encoder, part, views_of(views, chosen))

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
    seeds = []
    for which in (again.settings, other):
        same = which is again.settings or (kernel.sketch is None and kernel.project is None)
        drawn = fit.rows if same else again.rows(encoder, landmarks, which)
        dA = fit.dA if len(source) <= TRAINING and which is again.settings else again.step(drawn, which)[1]
        seeds.append(influence_of(drawn, dA, points))
    m = len(landmarks)
    k = min(TOP_K, m)
    return Stability(
        jaccard(seeds[0], seeds[1], k), chance(k, m), uniform_landmarks(again, x),
        shuffled_weights(again, seeds[0], points), len(again.source),
    )  # fmt: skip


def uniform_landmarks(again: Refitter, x: Tensor) -> Tensor | None:
    """f (t, h) of the samples by as many landmarks drawn uniformly."""
    m = min(len(again.fit.rows.landmarks), len(again.source))
    chosen = np.random.default_rng(again.settings.seed + 1).permutation(len(again.source))[:m]
    try:
        rows = again.rows(again.encoder, read(again.source, chosen.tolist()), again.settings)
        A0, dA = again.step(rows, again.settings)
    except LandmarkError:
        return None
    return torch.cat([rows(part)[0].double() for part in x.split(POINTS)]) @ (A0 + dA)


def shuffled_weights(again: Refitter, scores: Tensor, x: Tensor) -> float:
    """Mean Spearman correlation of influences (t, m) with those of the network with shuffled weights."""
    from scipy.stats import rankdata

    try:
        encoder = FrozenEncoder(
            shuffled(again.encoder.module, again.settings.seed), again.settings.kernel.params, again.encoder.device,
            again.encoder.dtype,
        )  # fmt: skip
        rows = again.rows(encoder, again.fit.rows.landmarks, again.settings)
        theirs = influence_of(rows, again.step(rows, again.settings)[1], x)
    except (EncoderError, LandmarkError, NonFiniteError):
        return float("nan")  # shuffled weights may overflow, or collapse
    ranks = [rankdata(s.cpu().numpy(), axis=1) for s in (scores, theirs)]
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.where(norm > 0, norm, 1)).mean())


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
