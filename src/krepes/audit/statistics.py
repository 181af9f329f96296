"""Intervals, permutation p values and the false discovery rate: what every audited figure is signed with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from krepes.errors import DataError

DRAWS = 1000  # bootstrap resamples
FEWEST = 20  # values below which an interval is refused
FEWEST_REFITS = 3  # refits below which their variance says nothing


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate, low, high: in the units of the values.
        n: number of values.
    """

    estimate: float
    low: float
    high: float
    n: int


def bootstrap_mean(values: np.ndarray, seed: int, level: float = 0.95, draws: int = DRAWS) -> Interval:
    """The mean of independent values (n,) and its percentile interval.

    Raises:
        DataError: fewer than `FEWEST` values: a percentile interval of so few is not what it says.
    """
    check_enough(len(values))
    means = resampled_means(values, seed, draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


@dataclass(frozen=True)
class Part:
    """One independent part of an estimate's variance, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: int


def over_points(values: np.ndarray) -> Part:
    """Variance of the mean of independent values (n,)."""
    return Part(float(values.var(ddof=1)) / len(values), len(values) - 1)


def over_refits(values: np.ndarray) -> Part:
    """Variance of a figure over refits (R,); none where there are fewer than three: then it is the fit's at hand."""
    return Part(float(np.var(values, ddof=1)), len(values) - 1) if len(values) >= FEWEST_REFITS else Part(0.0, 1)


def interval_of(estimate: float, parts: Sequence[Part], n: int, level: float = 0.95) -> Interval:
    """estimate ± t·√(Σ variances), t with Satterthwaite's degrees of freedom.

    Args:
        n: number of values, for the table.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components", 1946.
    """
    from scipy.stats import t as student

    total = sum(part.variance for part in parts)
    half = 0.0
    if total > 0:
        freedom = total**2 / sum(part.variance**2 / part.freedom for part in parts)
        half = float(student.ppf((1 + level) / 2, freedom)) * total**0.5
    return Interval(float(estimate), float(estimate) - half, float(estimate) + half, n)


def resampled_means(values: np.ndarray, seed: int, draws: int = DRAWS) -> np.ndarray:
    """Means of `draws` bootstrap resamples of the rows of values (n, ...): (draws, ...)."""
    return np.stack([counts @ values / len(values) for counts in bootstrap_counts(len(values), seed, draws)])


def bootstrap_counts(n: int, seed: int, draws: int = DRAWS):
    """How often each of n values is drawn in each resample: `draws` arrays (n,)."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(generator.integers(n, size=n), minlength=n).astype(float)


def check_enough(n: int, what: str = "values") -> None:
    """Refuse an interval of too few values."""
    if n < FEWEST:
        raise DataError(f"there are {n} {what}; an interval needs at least {FEWEST}")


def permutation_p(observed: float, null: np.ndarray, two_sided: bool = True) -> float:
    """(1 + how many null values are at least as extreme)/(1 + their number).

    Two-sided: as far from the null's median.

    Source: Phipson and Smyth, "Permutation p-values should never be zero", 2010.
    """
    if two_sided:
        centre = np.median(null)
        beyond = np.abs(null - centre) >= abs(observed - centre)
    else:
        beyond = null >= observed
    return (1 + int(beyond.sum())) / (1 + len(null))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """q values: the smallest false discovery rate at which each hypothesis is rejected, in the order of p (k,).

    NaN stays NaN and counts as no hypothesis.

    Source: Benjamini and Hochberg, 1995; by `scipy.stats.false_discovery_control`.
    """
    from scipy.stats import false_discovery_control

    q, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q
