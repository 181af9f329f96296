"""Concepts found without labels: directions v_j with f/‖f‖ ≈ Σ_j c_j v_j (or ΔÃ_l ≈ Σ_j c_j v_j), c ≥ 0 and sparse.

A factorisation always returns factors. What makes one a finding is that resampled data give it again, and that data of
the same mean and covariance without any such structure (a Gaussian surrogate) do not: docs/method.md.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from krepes.audit.concepts import DRAWS, Direction
from krepes.errors import ConfigError, DataError, is_whole

if TYPE_CHECKING:
    from krepes.auditor import Auditor

SPACES = ("representation", "step")
ROWS = 1000  # samples that are factorised, drawn with the seed
SIZES = (2, 4, 8, 12, 16, 24, 32)  # numbers of directions that are tried
PENALTY = 0.1  # weight of ‖c‖₁ for rows of mean length one
PASSES = 4  # over the rows, of one factorisation
STARTS: Any = {"n_init": 10}  # of k-means, which decides which minimum is found
RESAMPLES = 3  # bootstrap resamples, each with another start
STABLE = 0.9  # mean cosine with the resamples' matching directions from which one is kept
LEVEL = 0.05
SURROGATES = 24  # directions of Gaussian data that stabilities are compared with, at least
FEWEST_PER_DIRECTION = 10  # rows
MEMBERS = 10


@dataclass(frozen=True)
class AutomaticConcept(Direction):
    """A direction that a sparse non-negative factorisation found, usable wherever a concept is.

    Attributes:
        space: "representation" (of f/‖f‖) or "step" (of ΔÃ).
        stability: mean cosine with the matching directions of bootstrap resamples.
        surrogate: stabilities of directions in Gaussian data of the same mean and covariance.
        p: share of those that are as stable.
        share: of all coefficients.
        n_rows: rows that were factorised.
        members: ids of the samples (landmarks, for the step) with the largest coefficients, ten at most.
        usable: stability ≥ 0.9 and p ≤ 0.05; `verdict` says why not.
    """

    space: str = "representation"
    stability: float = float("nan")
    surrogate: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)
    p: float = float("nan")
    share: float = float("nan")
    n_rows: int = 0
    members: tuple[str, ...] = ()
    usable: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Factors:
    """One number of directions.

    Attributes:
        directions: unit rows (k, h).
        codes: coefficients (N, k), at least 0.
        stability: of each direction (k,).
    """

    directions: np.ndarray
    codes: np.ndarray
    stability: np.ndarray


def automatic_concepts(auditor: "Auditor", space: str, k: int | None) -> list[AutomaticConcept]:
    """See `Auditor.automatic_concepts`."""
    if space not in SPACES:
        raise ConfigError(f"space={space!r}; expected 'representation' or 'step'")
    generator = np.random.default_rng(auditor.settings.seed)
    X, ids = rows(auditor, space, generator)
    most = len(X) // FEWEST_PER_DIRECTION
    if most < 2:
        raise DataError(
            f"there are {len(X)} {'samples' if space == 'representation' else 'landmarks'} to find concepts in; "
            f"expected at least {2 * FEWEST_PER_DIRECTION}"
        )
    if k is not None and not (is_whole(k) and 2 <= k <= most):
        raise ConfigError(
            f"k={k!r}; expected a whole number between 2 and {most}, a tenth of the {len(X)} rows that are factorised"
        )
    if k is None:
        k = chosen_size(X, [size for size in SIZES if size <= most], generator)
    best = factorise(X, k, generator)
    likenesses = [factorise(gaussian_like(X, generator), k, generator) for _ in range(math.ceil(SURROGATES / k))]
    return in_order(auditor, space, X, ids, best, np.concatenate([f.stability for f in likenesses]), generator)


def chosen_size(X: np.ndarray, sizes: Sequence[int], generator: np.random.Generator) -> int:
    """The number of directions whose starts are most stable, beyond those in a Gaussian surrogate."""

    def excess(k: int) -> float:
        pair = (X, gaussian_like(X, generator))
        real, like = (stability(Y, centres(Y, k, _seed(generator)), centres, generator).mean() for Y in pair)
        return float(real - like)

    return max(sizes, key=excess)


def in_order(
    auditor: "Auditor",
    space: str,
    X: np.ndarray,
    ids: list[str],
    best: Factors,
    surrogate: np.ndarray,
    generator: np.random.Generator,
) -> list[AutomaticConcept]:
    """The directions as concepts, usable ones first, then by share."""
    p = (1 + (surrogate[None] >= best.stability[:, None]).sum(1)) / (1 + len(surrogate))
    share = best.codes.sum(0) / max(float(best.codes.sum()), 1e-300)
    null = torch.as_tensor(random_directions(X, generator))
    verdicts = [_verdict(float(s), float(q)) for s, q in zip(best.stability, p, strict=True)]
    order = sorted(range(len(share)), key=lambda j: (bool(verdicts[j]), -share[j]))
    found = []
    for rank, j in enumerate(order, 1):
        top = [i for i in np.argsort(-best.codes[:, j], kind="stable")[:MEMBERS] if best.codes[i, j] > 0]
        found.append(
            AutomaticConcept(
                f"{space} {rank}", torch.as_tensor(best.directions[j]), auditor, null, space, float(best.stability[j]),
                surrogate, float(p[j]), float(share[j]), len(X), tuple(ids[i] for i in top), not verdicts[j],
                verdicts[j],
            )
        )  # fmt: skip
    return found


def rows(auditor: "Auditor", space: str, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """What is factorised (N, h), of mean length one, and the rows' ids."""
    from krepes.data.source import Subset

    if space == "step":
        X, ids = auditor.dA_.cpu().numpy(), [str(i) for i in auditor.landmark_ids_]
    else:
        source = auditor.source_
        chosen = np.sort(generator.permutation(len(source))[:ROWS])
        part = Subset(source, chosen)
        X, ids = auditor.transform(part).cpu().numpy(), [str(source.ids[i]) for i in chosen.tolist()]
        X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-300)
    length = np.linalg.norm(X, axis=1).mean()
    if not np.isfinite(length) or length == 0 or not (X.std(0) > 1e-9 * length).any():
        raise DataError(f"all rows of the {space} are the same: there are no directions to find")
    return X / length, ids


def factorise(X: np.ndarray, k: int, generator: np.random.Generator) -> Factors:
    """k directions of X (N, h) and their stability over bootstrap resamples."""
    model = fitted(X, k, _seed(generator))
    directions = unit(model.components_)
    return Factors(directions, model.transform(X), stability(X, directions, atoms, generator))


def stability(
    X: np.ndarray, directions: np.ndarray, find: Callable[[np.ndarray, int, int], np.ndarray],
    generator: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Mean cosine of each direction with its match in what `find` gives for bootstrap resamples, (k,)."""
    from scipy.optimize import linear_sum_assignment

    found = np.zeros(len(directions))
    for _ in range(RESAMPLES):
        again = find(X[generator.integers(len(X), size=len(X))], len(directions), _seed(generator))
        cosine = directions @ again.T
        mine, theirs = linear_sum_assignment(-cosine)
        found[mine] += cosine[mine, theirs] / RESAMPLES
    return found


def centres(X: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Unit k-means centres (k, h) of unit rows: where a factorisation starts."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different rows than k: then directions repeat, and are not stable
        return unit(KMeans(k, random_state=seed, **STARTS).fit(unit(X)).cluster_centers_)


def atoms(X: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Unit directions (k, h) of a factorisation."""
    return unit(fitted(X, k, seed).components_)


def fitted(X: np.ndarray, k: int, seed: int) -> Any:
    """The model of min ½‖X − CV‖² + α‖C‖₁, C ≥ 0."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inexact inner solves; how well they do is what the stability measures
        return MiniBatchDictionaryLearning(
            k, positive_code=True, fit_algorithm="cd", transform_algorithm="lasso_cd", batch_size=256,
            transform_alpha=PENALTY, max_iter=PASSES, random_state=seed, dict_init=centres(X, k, seed),
            alpha=PENALTY,  # pyright: ignore[reportArgumentType]  takes the type of scikit-learn's default
        ).fit(X)  # fmt: skip


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def gaussian_like(X: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Gaussian rows of X's mean and covariance, brought to X's row lengths: the longest row gets the largest.

    Lengths in random order would turn long rows away from the directions of large variance, and the covariance with
    them.
    """
    centred = X - X.mean(0)
    drawn = X.mean(0) + generator.standard_normal((len(X), len(X))) @ centred / np.sqrt(len(X))
    rank = np.linalg.norm(drawn, axis=1).argsort(kind="stable").argsort(kind="stable")
    return unit(drawn) * np.sort(np.linalg.norm(X, axis=1))[rank, None]


def random_directions(X: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Unit directions with the covariance of the rows, (draws, h)."""
    return unit(generator.standard_normal((DRAWS, len(X))) @ X)


def unit(X: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-300)


def _verdict(stability: float, p: float) -> str:
    """Why a direction is not usable; empty if it is."""
    reasons = []
    if stability < STABLE:
        reasons.append(f"resamples do not give it again (stability {stability:.2f})")
    if p > LEVEL:
        reasons.append(f"data without structure have directions as stable (p = {p:.2g})")
    return " and ".join(reasons)
