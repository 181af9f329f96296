"""Directions in representation space with a meaning, and how the objective's step pushes samples along them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.audit.statistics import Interval, bootstrap_mean, permutation_p
from krepes.data.stream import blocks
from krepes.errors import ConfigError, DataError

if TYPE_CHECKING:
    from krepes.auditor import Auditor

FOLDS = 5
FEWEST = 10  # samples on each side: two per fold
MOST = 1000  # samples on each side that are looked at, drawn with the seed
DRAWS = 50  # random concepts of the null
RESAMPLES = 20  # of the stability
LEVEL = 0.05  # a usable concept separates better than all but this share of random ones
STABLE = 0.5  # and its direction agrees with those of resamples at least so much


@dataclass(frozen=True)
class Direction:
    """A unit vector v in the space of f, and the scores of landmarks and samples along it.

    Attributes:
        name: for tables.
        direction: v (h,), float64.
        null_directions: random directions that its mean push is compared with (draws, h).
    """

    name: str
    direction: Tensor
    auditor: "Auditor" = field(repr=False)
    null_directions: Tensor = field(repr=False)

    def influence(self, x: Any) -> Tensor:
        """k(x̃_l, x_t)⟨ΔÃ_l, v⟩, (t, m): positive, the landmark pushes the sample along v; negative, against it.

        Source: the paper, §3 (concept influence).
        """
        return self.auditor.kernel(x) * (self.auditor.dA_ @ self.direction.to(self.auditor.dA_))

    def push(self, x: Any) -> Tensor:
        """The step's share of f along v relative to f's length, ⟨ΔÃᵀk_m(x_t), v⟩/‖f(x_t)‖, (t,).

        The sum of a row of `influence` over the landmarks, divided by ‖f(x_t)‖.
        """
        K = self.auditor.kernel(x)
        f = K @ (self.auditor.A0_ + self.auditor.dA_)
        step = K @ (self.auditor.dA_ @ self.direction.to(K))
        return step / f.norm(dim=1).clamp_min(torch.finfo(f.dtype).tiny)

    def coordinate(self, x: Any) -> Tensor:
        """⟨f(x_t), v⟩, (t,)."""
        return self.auditor.transform(x) @ self.direction.to(self.auditor.dA_)

    def explain(self, x: Any, top_k: int = 10, ids: Sequence[str] | None = None) -> pd.DataFrame:
        """The landmarks that push each sample most along or against v.

        Returns:
            a table with columns sample, rank, landmark, influence, effect ("attract" along v, "repel" against it).
        """
        from krepes.data.source import as_source

        source = as_source(x)
        scores = self.influence(source)
        top = scores.abs().topk(min(top_k, scores.shape[1]), dim=1).indices
        values = scores.gather(1, top).cpu().numpy()
        t, k = values.shape
        names = np.asarray([str(i) for i in (source.ids if ids is None else ids)], dtype=object)
        landmarks = np.asarray(self.auditor.landmark_ids_, dtype=object)
        return pd.DataFrame(
            {
                "sample": np.repeat(names, k),
                "rank": np.tile(np.arange(1, k + 1), t),
                "landmark": landmarks[top.cpu().numpy().ravel()],
                "influence": values.ravel(),
                "effect": np.where(values.ravel() > 0, "attract", "repel"),
            }
        )

    def landmarks(self, top_k: int = 10) -> pd.DataFrame:
        """The landmarks whose part of the step points most along or against v.

        Returns:
            a table with columns landmark, position, weight (⟨ΔÃ_l, v⟩), effect.
        """
        weight = (self.auditor.dA_ @ self.direction.to(self.auditor.dA_)).cpu()
        top = weight.abs().topk(min(top_k, len(weight))).indices
        ids, places = self.auditor.landmark_ids_, self.auditor.fit_.indices
        return pd.DataFrame(
            {
                "landmark": [ids[i] for i in top.tolist()],
                "position": [places[i] for i in top.tolist()],
                "weight": weight[top].numpy(),
                "effect": np.where(weight[top].numpy() > 0, "attract", "repel"),
            }
        )

    def score(self, x: Any, seed: int = 0) -> "Score":
        """Mean push of the samples x along v, with an interval and its place among random directions."""
        return self.score_of(steps(self.auditor, x), seed)

    def score_of(self, moved: Tensor, seed: int = 0) -> "Score":
        """`score` of samples whose `steps` (t, h) are known."""
        values = (moved @ self.direction.to(moved)).cpu().numpy()
        interval = bootstrap_mean(values, seed)
        null = (moved.mean(0) @ self.null_directions.to(moved).T).cpu().numpy()
        low, high = np.quantile(null, [LEVEL / 2, 1 - LEVEL / 2])
        return Score(interval, float(low), float(high), permutation_p(interval.estimate, null), values)


def steps(auditor: "Auditor", x: Any) -> Tensor:
    """The step's part of f relative to f's length, ΔÃᵀk_m(x_t)/‖f(x_t)‖, (t, h)."""
    K, f = auditor._scores(x)
    return K @ auditor.dA_ / f.norm(dim=1, keepdim=True).clamp_min(1e-300)


@dataclass(frozen=True)
class Concept(Direction):
    """A concept activation vector: the unit normal of a linear separator of two sets of samples, toward the first.

    Attributes:
        accuracy: balanced, five-fold cross-validated.
        null: accuracies of random concepts (draws,): the same samples, their sides drawn at random.
        p: share of random concepts that separate as well.
        stability: mean cosine between the direction and those of bootstrap resamples.
        n_positive, n_negative: samples that were looked at.
        usable: p ≤ 0.05 and stability ≥ 0.5; `verdict` says why not.
        null_directions: of the random concepts (draws, h).
    """

    accuracy: float = float("nan")
    null: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    p: float = float("nan")
    stability: float = float("nan")
    n_positive: int = 0
    n_negative: int = 0
    usable: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Score:
    """A direction's mean push: its interval, the central 95 % of random directions', and each sample's push (t,)."""

    interval: Interval
    null_low: float
    null_high: float
    p: float
    values: np.ndarray = field(repr=False)


def concept(
    auditor: "Auditor", positive: Tensor, negative: Tensor, name: str, seed: int, draws: int = DRAWS
) -> Concept:
    """A concept from representations of its two sets.

    Args:
        positive, negative: f of the samples with and without it (k, h), float64.

    Raises:
        DataError: fewer than `FEWEST` on a side, or all representations are the same.
    """
    for side, f in (("positive", positive), ("negative", negative)):
        if len(f) < FEWEST:
            raise DataError(f"concept {name!r} has {len(f)} {side} samples; expected at least {FEWEST}")
    generator = np.random.default_rng(seed)
    sides = [f.cpu().numpy()[_some(len(f), generator)] for f in (positive, negative)]
    X = np.concatenate(sides)
    y = np.repeat([1, 0], [len(s) for s in sides])
    spread = X.std(0)
    if not (spread > 1e-9 * np.abs(X).max()).any():
        raise DataError(f"all samples of concept {name!r} have the same representation; nothing separates them")
    accuracy, direction = separate(X, y, seed)
    null, null_directions = [], []
    for _ in range(draws):
        found = separate(X, generator.permutation(y), seed)
        null.append(found[0])
        null_directions.append(found[1])
    again = [
        normal(X[i], y[i])
        for i in (np.concatenate([_resample(np.flatnonzero(y == side), generator) for side in (1, 0)])
                  for _ in range(RESAMPLES))
    ]  # fmt: skip
    stability = float(np.mean(np.stack(again) @ direction))
    p = permutation_p(accuracy, np.array(null), two_sided=False)
    verdict = _verdict(p, stability)
    return Concept(
        name, torch.as_tensor(direction), auditor, torch.as_tensor(np.stack(null_directions)), accuracy,
        np.array(null), p, stability, len(sides[0]), len(sides[1]), not verdict, verdict,
    )  # fmt: skip


def separate(X: np.ndarray, y: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """Balanced cross-validated accuracy of a linear separator, and its unit normal on all samples."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = []
    for train, test in folds.split(X, y):
        w, b = _separator(X[train], y[train])
        scores.append(balanced_accuracy_score(y[test], X[test] @ w + b > 0))
    return float(np.mean(scores)), normal(X, y)


def normal(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit normal (h,) of the separator, in the coordinates of X."""
    w, _ = _separator(X, y)
    length = np.linalg.norm(w)
    return w / length if length > 0 else w


def _separator(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression on standardised columns, C = 1, sides weighted equally: w, b in the columns' own units."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 1e-12 * scale.max(), scale, np.inf)  # a constant column says nothing
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=200, tol=1e-3).fit((X - mean) / scale, y)
    w = model.coef_[0] / scale
    return w, float(model.intercept_[0] - mean @ w)


def _verdict(p: float, stability: float) -> str:
    """Why a concept is not usable; empty if it is."""
    reasons = []
    if p > LEVEL:
        reasons.append(f"random concepts separate as well (p = {p:.2g})")
    if stability < STABLE:
        reasons.append(f"its direction changes from resample to resample (stability {stability:.2f})")
    return " and ".join(reasons)


def _some(n: int, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.choice(n, min(n, MOST), replace=False))


def _resample(index: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.choice(index, len(index))


# ------------------------------------------------------------ sets of samples


def sets(auditor: "Auditor", positive: Any, negative: Any, name: str, seed: int) -> tuple[Tensor, Tensor]:
    """f of both sides of a concept: samples, or a query, ids or a mask on the auditor's source.

    Without a negative side, the other samples of the source stand for it.

    Raises:
        ConfigError: the sides overlap, or negative is missing where the source cannot give it.
    """
    one = _chosen(auditor, positive, f"the positive side of concept {name!r}")
    if negative is None:
        if not isinstance(one, np.ndarray):
            raise ConfigError(
                f"concept {name!r} has no negative samples; give them, or name the positive ones by a query or ids of "
                "the audited samples, whose others are then the negative side"
            )
        other: Any = np.setdiff1d(np.arange(len(auditor.source_)), one, assume_unique=True)
        if len(other) == 0:
            raise ConfigError(f"concept {name!r} takes every sample: there is no negative side")
    else:
        other = _chosen(auditor, negative, f"the negative side of concept {name!r}")
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        both = np.intersect1d(one, other)
        if len(both):
            named = ", ".join(str(auditor.source_.ids[i]) for i in both[:5].tolist())
            raise ConfigError(f"{len(both)} samples are on both sides of concept {name!r}: {named}")
    generator = np.random.default_rng(seed)
    f = [_represented(auditor, side, generator) for side in (one, other)]
    if not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray):  # samples without ids to compare
        shared = len(_contents(one) & _contents(other))
        if shared:
            raise ConfigError(f"{shared} samples are on both sides of concept {name!r}")
    return f[0], f[1]


def concept_folders(
    auditor: "Auditor", folder: Path, transform: Callable[[Any], Tensor] | None, negative: str | None, seed: int
) -> list[Concept]:
    """A concept per subfolder; see `Auditor.concepts_from`."""
    from krepes.data.folders import read_concept_folders
    from krepes.data.source import Subset, as_source

    source = auditor.source_
    found = read_concept_folders(folder, source.batch([0])[0].cpu(), transform)
    if negative is None:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[: 2 * MOST])
        named = set().union(*(_contents(as_source(x)) for x in found.values()))
        apart = [i for i, sum_ in zip(chosen, _checksums(Subset(source, chosen)), strict=True) if sum_ not in named]
        others: Any = Subset(source, np.asarray(apart, dtype=int))
        if not apart:
            raise ConfigError(f"all audited samples are in {folder}: there is no negative side; name a subfolder")
    else:
        if negative not in found:
            raise ConfigError(f"negative={negative!r} is no subfolder of {folder}: {', '.join(found)}")
        others = found.pop(negative)
        if not found:
            raise ConfigError(f"{folder} holds no concept beside the negative side {negative!r}")
    return [auditor.concept(x, others, name) for name, x in found.items()]


def _chosen(auditor: "Auditor", wanted: Any, what: str) -> Any:
    """Positions in the source, or a source of samples."""
    from krepes.audit.selection import positions
    from krepes.data.source import Source, as_source

    if isinstance(wanted, str) or (
        not isinstance(wanted, Source | Tensor) and np.ndim(wanted) == 1  # pyright: ignore[reportArgumentType]
    ):
        return positions(auditor.source_, wanted, what)
    if isinstance(wanted, Tensor) and wanted.ndim == 1:
        return positions(auditor.source_, wanted, what)
    return as_source(wanted)


def _contents(source: Any) -> set[bytes]:
    return set(_checksums(source))


def _checksums(source: Any) -> list[bytes]:
    """Of every sample."""
    return [
        hashlib.sha256(row.numpy().tobytes()).digest()
        for block in blocks(range(len(source)), 1024)
        for row in source.batch(block).cpu()
    ]


def _represented(auditor: "Auditor", side: Any, generator: np.random.Generator) -> Tensor:
    from krepes.data.source import Subset

    if isinstance(side, np.ndarray):
        side = Subset(auditor.source_, side[_some(len(side), generator)])
    elif len(side) > MOST:
        side = Subset(side, _some(len(side), generator))
    return auditor.transform(side)
