"""What only the model answers: concepts of two selections, the audit without some samples."""

from typing import Any

import numpy as np

from krepes.app.live import Live
from krepes.app.points import Points

SIDE = 1000  # samples of a concept's side at most
SCORED = 300  # seeded samples that a concept is scored on, or whose movement is measured


def concept(live: Live, points: Points, positive: np.ndarray, negative: np.ndarray | None, name: str) -> dict[str, Any]:
    """A concept of two groups: how well a plane separates them, and how the step pushes seeded samples along it.

    Args:
        positive, negative: positions; None for all other samples.

    Raises:
        ConfigError, DataError: the groups overlap, or one has fewer than ten different samples.
    """
    from krepes.data.source import Subset

    with live.using() as auditor:
        sides = [
            None if p is None else _ids(points, _some(p, SIDE, auditor.settings.seed)) for p in (positive, negative)
        ]
        made = auditor.concept(sides[0], sides[1], name=name)
        chosen = _some(np.arange(points.n), SCORED, auditor.settings.seed)
        score = made.score(Subset(auditor.source_, chosen))
        marks = made.landmarks().to_dict("records")
    interval = score.interval
    return {
        "name": made.name, "usable": made.usable, "verdict": made.verdict, "accuracy": made.accuracy,
        "accuracy_null": float(np.mean(made.null)), "p": made.p, "stability": made.stability,
        "n_positive": made.n_positive, "n_negative": made.n_negative,
        "push": {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n,
                 "null_low": score.null_low, "null_high": score.null_high, "p": score.p},
        "samples": [{"position": int(p), "x": float(points.x[p]), "y": float(points.y[p]), "push": float(v)}
                    for p, v in zip(chosen, score.values, strict=True)],
        "landmarks": [{"id": row["landmark"], "position": int(row["position"]), "weight": float(row["weight"]),
                       "effect": row["effect"]} for row in marks],
    }  # fmt: skip


def counterfactual(live: Live, points: Points, removed: np.ndarray, asked: np.ndarray) -> dict[str, Any]:
    """What moves when the step is solved again without some samples, and without as many random others.

    The landmarks stay in the basis, so that both representations have the same coordinates.

    Args:
        removed, asked: positions.

    Raises:
        ConfigError: too little remains.
    """
    from krepes.audit.counterfactuals import removal

    with live.using() as auditor:
        seed = auditor.settings.seed
        chosen = _some(np.arange(points.n), SCORED, seed)
        found = removal(auditor, removed, asked.tolist(), chosen, seed + 1)
    rows = zip(asked.tolist(), found.shown.to_dict("records"), strict=True)
    return {
        "removed": len(removed), "landmarks_among_them": int(points.is_landmark[removed].sum()),
        "samples": [{"position": p, "id": points.id(p), **{k: float(row[k]) for k in ("shift", "cosine", "neighbours")},
                     "removed": bool(np.isin(p, removed))} for p, row in rows],
        "summary": [{"figure": figure, "estimate": mean.estimate, "low": mean.low, "high": mean.high, "n": mean.n,
                     "random": random} for figure, mean, random in found.means],
    }  # fmt: skip


def _some(positions: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many, ascending, drawn with the seed."""
    if len(positions) <= most:
        return np.asarray(positions)
    return np.sort(np.random.default_rng(seed).choice(positions, most, replace=False))


def _ids(points: Points, positions: np.ndarray) -> list[str]:
    return points.ids.take(positions).to_pylist()
