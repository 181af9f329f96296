"""Which raw features samples share with the landmarks that move them, beyond what they share with any landmark.

    AG_ξ = E_t[Ψ(x_t) − Ψ_rand(x_t)],

Ψ the influence-weighted mean agreement v_ξ(x_t, x_l) over the top-K landmarks, Ψ_rand the mean agreement over all
landmarks, which is that of many random sets. Source: the paper, §3; weights, K and statistics are krepes'
(docs/method.md).
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from krepes.audit.columns import Feature
from krepes.audit.statistics import (
    FEWEST,
    benjamini_hochberg,
    interval_of,
    over_points,
    over_refits,
    permutation_p,
    resampled_means,
)
from krepes.audit.top_landmarks import Tops
from krepes.errors import ConfigError

PERMUTATIONS = 499  # at least; as many as q needs to reach FDR / 2 where a gap is beyond nearly all of those
CLEAR = 10  # null values beyond an observed one from which more permutations decide nothing
SMALL = 100  # test points of a group below which it is flagged
FEW_LANDMARKS = 5  # of a group, below which it is flagged
EXCHANGEABLE = 5  # landmarks that a group of another column needs to be permuted within
FDR = 0.05  # false discovery rate at which a gap counts as found
COLUMNS = ("column", "kind", "gap", "low", "high", "agreement", "random", "p", "q", "n", "missing", "refits",
           "explained_by", "gap_given")  # fmt: skip
GROUP_COLUMNS = ("column", "group", "gap", "low", "high", "share", "random", "p", "q", "n", "landmarks", "refits",
                 "small")  # fmt: skip


@dataclass(frozen=True)
class Gap:
    """One feature's agreements.

    Attributes:
        each: Ψ − Ψ_rand of every test point (t,).
        psi, random: their means.
        told: whether the landmarks differ in the feature at all; otherwise there is no gap to speak of.
    """

    each: np.ndarray
    psi: np.ndarray
    random: np.ndarray
    told: bool

    @classmethod
    def of(cls, one: Feature, tops: Tops) -> "Gap":
        V = one.agreement(tops.points[:, None], tops.landmarks[None])  # (t, m)
        psi = (tops.weight * np.take_along_axis(V, tops.top, 1)).sum(1)
        random = V.mean(1, dtype=np.float64)
        return cls(psi - random, psi, random, len(np.unique(one.values[tops.landmarks])) > 1)


def gap_table(
    found: list[Feature],
    tops: Tops,
    again: Sequence[Tops],
    seed: int,
    level: float = 0.95,
    keep_draws: bool = False,
) -> pd.DataFrame:
    """Gaps of all features with intervals, nulls and q values; see `Auditor.feature_gap`.

    Args:
        again: the test points' top landmarks in refits.
        keep_draws: adds null_low and null_high (the null's central 95 %, as gaps), draws (bootstrap means over test
            points) and refit_gaps (R,).
    """
    most = math.ceil(2 * len(found) / FDR) - 1
    rows, kept = [], []
    for one in found:
        gap = Gap.of(one, tops)
        refits = np.array([g.each.mean() for g in (Gap.of(one, t) for t in again) if g.told])
        observed, random = float(gap.psi.mean()), float(gap.random.mean())
        null = null_agreement(one, tops, observed, max(PERMUTATIONS, most), generator_of(seed, one.name))
        interval = interval_of(gap.each.mean(), (over_points(gap.each), over_refits(refits)), len(gap.each), level)
        blank = np.nan if not gap.told else 1.0  # landmarks that are all alike say nothing
        rows.append(
            (one.name, one.kind, blank * interval.estimate, blank * interval.low, blank * interval.high, observed,
             random, blank * permutation_p(observed, null), np.nan, interval.n, int(missing(one)[tops.points].sum()),
             len(refits), "", np.nan)
        )  # fmt: skip
        draws = resampled_candidates(gap.each, tops, seed) if keep_draws else None
        kept.append((*(np.quantile(null, [0.025, 0.975]) - random), draws, refits.astype(np.float32)))
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    table["q"] = benjamini_hochberg(table["p"].to_numpy(float))
    name_proxies(table, found, tops, seed)
    if keep_draws:
        for i, name in enumerate(("null_low", "null_high", "draws", "refit_gaps")):
            table[name] = pd.Series([row[i] for row in kept], index=table.index)
    return table.sort_values("gap", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def resampled_candidates(each: np.ndarray, tops: Tops, seed: int) -> np.ndarray:
    """Bootstrap means over the samples that were asked for (draws,): two audits' draws of them are the same."""
    spread, counted = np.zeros(tops.candidates), np.zeros(tops.candidates)
    spread[tops.place], counted[tops.place] = each, 1
    means = resampled_means(np.stack([spread, counted], 1), seed)
    return (means[:, 0] / np.maximum(means[:, 1], 1e-12)).astype(np.float32)


def generator_of(seed: int, name: str) -> np.random.Generator:
    """A column's own, so that its p value does not depend on the other columns."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def null_agreement(
    one: Feature,
    tops: Tops,
    observed: float,
    most: int,
    generator: np.random.Generator,
    strata: np.ndarray | None = None,
    inside: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Mean Ψ with the landmarks' values permuted, within strata (m,) if given: at most `most` values.

    The sets of top landmarks, which many points share, stay what they are; their values become random ones. A few
    hundred permutations settle most columns; only where hardly any is beyond the observed value are more drawn.

    Args:
        inside: the test points that are averaged over.

    Source: Besag and Clifford, "Sequential Monte Carlo p-values", 1991.
    """
    values = one.values[tops.landmarks]
    mine = one.values[tops.points[inside]][:, None]
    top, weight = tops.top[inside], tops.weight[inside]

    def drawn(count: int) -> np.ndarray:
        out = np.empty(count)
        for i in range(count):
            order = permuted(len(values), strata, generator)
            out[i] = (weight * one.agreement_of(mine, values[order][top])).sum(1).mean()
        return out

    null = drawn(min(most, PERMUTATIONS))
    if most > len(null) and permutation_p(observed, null) * (1 + len(null)) <= CLEAR:
        null = np.concatenate([null, drawn(most - len(null))])
    return null


def permuted(m: int, strata: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """A random order of m landmarks, which exchanges only those of one stratum."""
    if strata is None:
        return generator.permutation(m)
    order = np.arange(m)
    shuffled = np.lexsort((generator.random(m), strata))
    order[np.lexsort((order, strata))] = shuffled
    return order


def missing(one: Feature) -> np.ndarray:
    """Which cells are missing (n,)."""
    return one.values == -1 if one.kind == "categorical" else np.isnan(one.values)


def name_proxies(table: pd.DataFrame, found: list[Feature], tops: Tops, seed: int) -> None:
    """Name, for every significant gap, the column within whose groups most of it is gone.

    The landmarks' values are permuted among landmarks of the same value (or quantile bin) of the other column: what
    then remains above the null is not owed to it. Groups of fewer than five landmarks are permuted together, since
    within them there would be nothing to exchange.
    """
    significant = [i for i, q in enumerate(table["q"]) if q <= FDR]
    for i in significant:
        one, best = found[i], None
        observed, gap = float(table.at[i, "agreement"]), float(table.at[i, "gap"])
        for j in (j for j in significant if j != i):
            generator = generator_of(seed, f"{one.name} given {found[j].name}")
            null = null_agreement(one, tops, observed, 199, generator, strata_of(found[j], tops.landmarks))
            left = observed - float(null.mean())
            explains = permutation_p(observed, null) > FDR and abs(left) <= abs(gap) / 2
            if best is None or (explains, -abs(left)) > (best[0], -abs(best[1])):
                best = (explains, left, found[j].name)
        if best is not None:
            table.at[i, "gap_given"] = best[1]
            table.at[i, "explained_by"] = best[2] if best[0] else ""


def strata_of(other: Feature, landmarks: np.ndarray) -> np.ndarray:
    """Groups of landmarks (m,) by another column; those too small to exchange anything are one group."""
    _, groups = np.unique(other.groups()[landmarks], return_inverse=True)
    return np.where(np.bincount(groups)[groups] < EXCHANGEABLE, -1, groups)


def group_table(one: Feature, tops: Tops, again: Sequence[Tops], seed: int, level: float = 0.95) -> pd.DataFrame:
    """The gap of a categorical feature within each of its groups of test points; see `Auditor.group_gap`."""
    if one.kind != "categorical":
        raise ConfigError(f"column '{one.name}' is numeric; groups are of categorical columns")
    gap, mine = Gap.of(one, tops), one.values[tops.points]
    others = [(t, Gap.of(one, t)) for t in again]
    rows = []
    for code in sorted(set(mine.tolist())):
        inside = mine == code
        n, own = int(inside.sum()), one.values[tops.landmarks] == code
        refits = [g.each[member].mean() for t, g in others if (member := one.values[t.points] == code).any() and g.told]
        low = high = p = np.nan
        told = 0 < own.sum() < len(own)  # of no landmark, or of every one, nothing can be said
        if n >= FEWEST and told:
            part = gap.each[inside]
            interval = interval_of(part.mean(), (over_points(part), over_refits(np.array(refits))), n, level)
            low, high, observed = interval.low, interval.high, float(gap.psi[inside].mean())
            generator = generator_of(seed, f"{one.name} = {code}")
            p = permutation_p(observed, null_agreement(one, tops, observed, PERMUTATIONS, generator, inside=inside))
        label = "(missing)" if code < 0 else one.labels[code]
        rows.append(
            (one.name, label, float(gap.each[inside].mean()) if told else np.nan, low, high,
             float(gap.psi[inside].mean()), float(own.mean()), p, np.nan, n, int(own.sum()), len(refits),
             n < SMALL or own.sum() < FEW_LANDMARKS)
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=pd.Index(GROUP_COLUMNS))
    table["q"] = benjamini_hochberg(table["p"].to_numpy(float))
    return table
