"""Test points and the landmarks that move them most, in a fit and in its refits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from krepes.audit.refits import Refit
from krepes.audit.refits import refits as refits_of
from krepes.audit.selection import positions
from krepes.audit.statistics import FEWEST, check_enough
from krepes.data.source import Subset
from krepes.errors import ConfigError, is_whole

if TYPE_CHECKING:
    from krepes.auditor import Auditor

TOP_K = 10
SAMPLES = 1000  # test points by default


@dataclass(frozen=True)
class Tops:
    """The test points and their top landmarks.

    Attributes:
        points: positions of the test points in the table (t,).
        landmarks: positions of the landmarks (m,).
        top: columns of each point's top landmarks (t, K).
        weight: their influence (t, K), normalised to sum to one.
        place, candidates: where each test point stands among the samples that were asked for, landmarks included, and
            how many these were. Resamples draw from them, so that two audits asked for the same samples draw alike.
    """

    points: np.ndarray
    landmarks: np.ndarray
    top: np.ndarray
    weight: np.ndarray
    place: np.ndarray
    candidates: int

    @classmethod
    def of(cls, points: np.ndarray, landmarks: np.ndarray, influence: np.ndarray, top_k: int) -> "Tops":
        """From influence (t, m); a point that is a landmark itself is left out: it would agree with itself.

        Raises:
            DataError: too few points for an interval, or fewer landmarks than top_k.
        """
        if not is_whole(top_k) or not 1 <= top_k < len(landmarks):
            raise ConfigError(
                f"top_k={top_k!r}; expected a whole number between 1 and {len(landmarks) - 1}, below the landmarks'"
            )
        others = ~np.isin(points, landmarks)
        check_enough(int(others.sum()), "test points that are no landmarks")
        place, candidates = np.flatnonzero(others), len(points)
        points, influence = points[others], influence[others]
        top = np.argsort(-influence, axis=1, kind="stable")[:, :top_k]
        weight = np.take_along_axis(influence, top, 1).astype(np.float64)
        total = weight.sum(1, keepdims=True)
        weight = np.where(total > 0, weight / np.where(total > 0, total, 1), 1 / top_k)
        return cls(points, landmarks, top, weight, place, candidates)

    @classmethod
    def of_refit(cls, points: np.ndarray, refit: Refit, top_k: int) -> "Tops | None":
        """Of a refit's landmarks; None where those that have a row are too few."""
        known = refit.landmarks >= 0
        if known.sum() <= top_k or (~np.isin(points, refit.landmarks)).sum() < FEWEST:
            return None
        return cls.of(points, refit.landmarks[known], refit.influence[:, known], top_k)


def tops(auditor: "Auditor", samples: Any, top_k: int, refits: int) -> tuple[Tops, list[Tops]]:
    """Test points among the audited samples and their top landmarks, in the fit and in refits.

    Args:
        samples: a query, ids or a mask; None: `SAMPLES` drawn with the seed.
    """
    if not is_whole(refits) or refits < 0:
        raise ConfigError(f"refits={refits!r}; expected a whole number, at least 0")
    source, seed = auditor.source_, auditor.settings.seed
    if samples is None:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:SAMPLES])
    else:
        chosen = positions(source, samples, "samples")
    here = top_landmarks(auditor, chosen, top_k)
    return here, of_refits(chosen, refits_of(auditor, chosen, refits), top_k)


def top_landmarks(auditor: "Auditor", points: np.ndarray, top_k: int) -> Tops:
    """Of the audited samples at these positions."""
    influence = auditor.influence(Subset(auditor.source_, points)).cpu().numpy()
    return Tops.of(points, np.asarray(auditor.fit_.indices), influence, top_k)


def of_refits(points: np.ndarray, again: Sequence[Refit], top_k: int) -> list[Tops]:
    """Top landmarks of the same samples in the refits that scored them."""
    found = (Tops.of_refit(points, one, top_k) for one in again)
    return [one for one in found if one is not None]
