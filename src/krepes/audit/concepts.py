"""Directions in representation space with a meaning, and how the objective's step pushes samples along them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.audit.statistics import Interval, bootstrap_mean, permutation_p
from krepes.errors import ConfigError, DataError, NotFittedError, is_whole

if TYPE_CHECKING:
    from krepes.auditor import Auditor
    from krepes.pipeline import Fit

FOLDS = 5
FEWEST = 10  # samples on each side: two per fold
MOST = 1000  # samples on each side that are looked at, drawn with the seed
DRAWS = 50  # random concepts of the null
RESAMPLES = 20  # of the stability
NULL_DIRECTIONS = 999  # random concepts' directions that a concept's push is compared with
LEVEL = 0.05  # a usable concept separates better than all but this share of random ones
LEAST_DRAWS = 19  # the least p of so many is 1/20: with fewer no concept could be usable
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
    _fit: "Fit" = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_fit", self.auditor.fit_)

    @property
    def fitted(self) -> "Auditor":
        """The auditor, as long as it is fitted as it was.

        Raises:
            NotFittedError: it has been fitted again: the space that the direction lies in is another one.
        """
        if self.auditor.fit_ is not self._fit:
            raise NotFittedError(f"{self.name!r} is of an earlier fit of this auditor; ask for it again after fit(…)")
        return self.auditor

    def influence(self, x: Any) -> Tensor:
        """k(x̃_l, x_t)⟨ΔÃ_l, v⟩, (t, m): positive, the landmark pushes the sample along v; negative, against it.

        Source: the paper, §3 (concept influence).
        """
        return self.fitted.kernel(x) * (self.fitted.dA_ @ self.direction.to(self.fitted.dA_))

    def push(self, x: Any) -> Tensor:
        """The step's share of f along v relative to f's length, ⟨ΔÃᵀk_m(x_t), v⟩/‖f(x_t)‖, (t,).

        The sum of a row of `influence` over the landmarks, divided by ‖f(x_t)‖.
        """
        moved = steps(self.fitted, x)
        return moved @ self.direction.to(moved)

    def coordinate(self, x: Any) -> Tensor:
        """⟨f(x_t), v⟩, (t,)."""
        return self.fitted.transform(x) @ self.direction.to(self.fitted.dA_)

    def explain(self, x: Any, top_k: int = 10, ids: Sequence[str] | None = None) -> pd.DataFrame:
        """The landmarks that push each sample most along or against v.

        Args:
            x: samples (t, ...), anything that `fit` takes.
            top_k: landmarks per sample; all of them when there are fewer.
            ids: the samples' ids in the table; default: the source's, or 0 … t − 1.

        Returns:
            a table with columns sample, rank, landmark, influence, effect ("attract" along v, "repel" against it).

        Raises:
            ConfigError: top_k is no positive number.
            DataError: another number of ids than of samples.
        """
        from krepes.data.source import as_source

        if not is_whole(top_k) or top_k < 1:
            raise ConfigError(f"top_k={top_k!r}; expected a positive whole number")
        source = as_source(x)
        given = source.ids if ids is None else ids
        if len(given) != len(source):
            raise DataError(f"{len(given)} ids for {len(source)} samples; expected one each")
        scores = self.influence(source)
        top = scores.abs().topk(min(top_k, scores.shape[1]), dim=1).indices
        values = scores.gather(1, top).cpu().numpy()
        t, k = values.shape
        names = np.asarray([str(i) for i in given], dtype=object)
        landmarks = np.asarray(self.fitted.landmark_ids_, dtype=object)
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
        weight = (self.fitted.dA_ @ self.direction.to(self.fitted.dA_)).cpu()
        top = weight.abs().topk(min(top_k, len(weight))).indices
        ids, places = self.fitted.landmark_ids_, self.fitted.fit_.indices
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
        return self.score_of(steps(self.fitted, x), seed)

    def score_of(self, moved: Tensor, seed: int = 0) -> "Score":
        """`score` of samples whose `steps` (t, h) are known."""
        values = (moved @ self.direction.to(moved)).cpu().numpy()
        interval = bootstrap_mean(values, seed)
        null = (moved.mean(0) @ self.null_directions.to(moved).T).cpu().numpy()
        low, high = np.quantile(null, [LEVEL / 2, 1 - LEVEL / 2])
        return Score(interval, float(low), float(high), permutation_p(interval.estimate, null), values)


def steps(auditor: "Auditor", x: Any) -> Tensor:
    """The step's part of f relative to f's length, ΔÃᵀk_m(x_t)/‖f(x_t)‖, (t, h)."""
    K = auditor.kernel(x)
    f = K @ (auditor.A0_ + auditor.dA_)
    return K @ auditor.dA_ / f.norm(dim=1, keepdim=True).clamp_min(1e-300)


@dataclass(frozen=True)
class Concept(Direction):
    """A concept activation vector: the unit normal of a linear separator of two sets of samples, toward the first.

    `usable` is one concept's level, with no correction for how many are asked: of a hundred given concepts that mean
    nothing, five pass by chance.

    Attributes:
        accuracy: balanced, five-fold cross-validated.
        null: accuracies of random concepts (draws,): the same samples, their sides drawn at random. Samples of the same
            representation count once.
        p: share of random concepts that separate as well.
        stability: mean cosine between the direction and those of bootstrap resamples.
        n_positive, n_negative: samples that were looked at.
        usable: p ≤ 0.05 and stability ≥ 0.5; `verdict` says why not.
        null_directions: of random concepts, by one Newton step of their separators (999, h).
        resampled: directions of the bootstrap resamples (20, h).
    """

    accuracy: float = float("nan")
    null: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    p: float = float("nan")
    stability: float = float("nan")
    n_positive: int = 0
    n_negative: int = 0
    usable: bool = False
    verdict: str = ""
    resampled: Tensor = field(default_factory=lambda: torch.zeros(0, 0), repr=False)


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
        draws: random concepts of the null, at least 19.

    Raises:
        ConfigError: fewer draws, whose least p, 1/(draws + 1), no concept could pass.
        DataError: fewer than `FEWEST` on a side, or all representations are the same.
    """
    if not is_whole(draws) or draws < LEAST_DRAWS:
        raise ConfigError(
            f"draws={draws!r} random concepts; expected a whole number, at least {LEAST_DRAWS}: the least p is "
            f"1/(draws + 1), and a usable concept needs one of at most {LEVEL}"
        )
    generator = np.random.default_rng(seed)
    sides = [different(f.cpu().numpy()) for f in (positive, negative)]
    for side, f, given in zip(("positive", "negative"), sides, (positive, negative), strict=True):
        if len(f) < FEWEST:
            of = f" different ones among its {len(given)}" if len(f) < len(given) else ""
            raise DataError(f"concept {name!r} has {len(f)}{of} {side} samples; expected at least {FEWEST}")
    sides = [f[some(len(f), generator)] for f in sides]
    X = np.concatenate(sides)
    y = np.repeat([1, 0], [len(s) for s in sides])
    spread = X.std(0)
    if not (spread > 1e-9 * np.abs(X).max()).any():
        raise DataError(f"all samples of concept {name!r} have the same representation; nothing separates them")
    accuracy, direction = separate(X, y, seed)
    null = [separate(X, generator.permutation(y), seed)[0] for _ in range(draws)]
    again = np.stack([
        normal(X[i], y[i])
        for i in (np.concatenate([_resample(np.flatnonzero(y == side), generator) for side in (1, 0)])
                  for _ in range(RESAMPLES))
    ])  # fmt: skip
    stability = float(np.mean(again @ direction))
    p = permutation_p(accuracy, np.array(null), two_sided=False)
    verdict = _verdict(p, stability)
    return Concept(
        name, torch.as_tensor(direction), auditor, torch.as_tensor(random_normals(X, y, generator)), accuracy,
        np.array(null), p, stability, len(sides[0]), len(sides[1]), not verdict, verdict, torch.as_tensor(again),
    )  # fmt: skip


def different(f: np.ndarray) -> np.ndarray:
    """The rows of f (k, h) without repetitions: a copy in another fold would be known beforehand."""
    unit = 1e-9 * max(float(np.abs(f).max()), 1e-300)
    _, first = np.unique(np.round(f / unit), axis=0, return_index=True)
    return f[np.sort(first)]


def random_normals(X: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Unit normals of random concepts (999, h): the first Newton step, from 0, of the separator of permuted sides."""
    mean, scale = X.mean(0), X.std(0)
    Z = (X - mean) / np.where(scale > 1e-12 * scale.max(), scale, np.inf)
    sides = np.stack([generator.permutation(y) for _ in range(NULL_DIRECTIONS)], 1) - y.mean()  # (n, 999)
    w = np.linalg.solve(Z.T @ Z / 4 + np.eye(X.shape[1]), Z.T @ sides)
    w = (w / np.where(scale > 1e-12 * scale.max(), scale, np.inf)[:, None]).T
    return w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-300)


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


def some(n: int, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.choice(n, min(n, MOST), replace=False))


def _resample(index: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return generator.choice(index, len(index))
