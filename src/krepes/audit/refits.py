"""How far a finding would move with other data, landmarks and views: refits on random halves of the training samples.

A statistic whose variance falls with the number of samples has, over random halves of the samples without replacement,
about the variance that it has over new samples of the whole size (the delete-half jackknife; Shao and Wu, "A general
theory for jackknife variance estimation", 1989). Every half chooses its own landmarks; samples keep their views, whose
noise is thus part of what the samples are.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from krepes.audit.selection import positions_of
from krepes.audit.stability import Refitter, held
from krepes.data.stream import VIEW_BLOCK, blocks, read, spread_out, subset
from krepes.errors import LandmarkError, NonFiniteError
from krepes.kernel.ntk import gradient_map
from krepes.landmarks import Sampler
from krepes.pipeline import choose_landmarks, standing_for
from krepes.workers import current

if TYPE_CHECKING:
    from krepes.auditor import Auditor
REFITS = 10
LARGEST = 4096  # training samples that the halves are drawn from, or PER_LANDMARK times the landmarks
PER_LANDMARK = 8


@dataclass(frozen=True)
class Refit:
    """Scores of some samples by a refit.

    Attributes:
        landmarks: positions of its landmarks among the audited samples (m',), −1 for those that are not among them.
        influence: of them on the samples (t, m'), float64.
        f, step: representations of the samples and the step's share of them (t, h), in the refit's coordinates.
    """

    landmarks: np.ndarray
    influence: np.ndarray
    f: Tensor
    step: Tensor


def refits(auditor: "Auditor", points: np.ndarray, count: int = REFITS) -> list[Refit]:
    """Refits on random halves, with λ as it was found.

    Args:
        points: positions of the audited samples that are scored (t,).
        count: how many halves.

    Returns:
        one per half whose landmarks span the representation; the same halves for the same samples and seed.
    """
    found = current().map(range(count), lambda i: _refit(auditor, points, i))
    return [one for one in found if one is not None]


def _refit(auditor: "Auditor", points: np.ndarray, number: int) -> Refit | None:
    from krepes.data.source import Subset
    from krepes.influence import sample_influence

    fit, settings, encoder = auditor.fit_, auditor.settings, auditor.encoder
    source, views = auditor.seen_.given()
    chosen = half(len(source), len(fit.indices), settings.seed, number)
    part, part_views = subset(source, views, chosen)
    again = Refitter(fit, held(fit, settings), encoder, part, part_views)
    seed = settings.seed + 1 + number
    try:
        if isinstance(settings.landmarks, Sampler):
            known: Any = settings.landmarks
            sampler = replace(known, m=min(len(fit.indices), len(part)))
            varied = replace(again.settings, landmarks=sampler, seed=seed)
            gradients = gradient_map(settings.kernel, encoder, spread_out(fit.rows.landmarks))
            picked = choose_landmarks(varied, part, gradients, again.memory(gradients, varied))
            landmarks = standing_for(again.settings, part, part_views, picked)
            ids = [part.ids[i] for i in picked]
        else:  # the user's own
            landmarks, ids = fit.rows.landmarks, list(auditor.landmark_ids_)
        rows = again.rows(encoder, landmarks, again.settings)
        A0, dA = again.step(rows, again.settings)
    except (LandmarkError, NonFiniteError):
        return None
    known = positions_of(auditor.source_.ids, set(ids))

    samples = Subset(auditor.source_, points)
    K = torch.cat([rows(read(samples, b))[0].double() for b in blocks(range(len(samples)), VIEW_BLOCK)])
    landmarks_at = np.array([known.get(name, -1) for name in ids])
    return Refit(landmarks_at, sample_influence(K, dA).cpu().numpy(), K @ (A0 + dA), K @ dA)


def half(n: int, m: int, seed: int, number: int) -> np.ndarray:
    """Ascending positions of a random half of n samples, or of as many view blocks as a bounded refit may hold."""
    largest = max(LARGEST, PER_LANDMARK * m)
    generator = np.random.default_rng([seed, number])
    if n <= largest:
        return np.sort(generator.permutation(n)[: max(n // 2, 1)])
    order = np.random.default_rng(seed).permutation(-(-n // VIEW_BLOCK))[: -(-largest // VIEW_BLOCK)]
    base = (np.sort(order)[:, None] * VIEW_BLOCK + np.arange(VIEW_BLOCK)).ravel()
    base = base[base < n]
    return np.sort(generator.permutation(base)[: len(base) // 2])
