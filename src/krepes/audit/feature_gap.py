"""Which raw features samples share with the landmarks that move them, beyond what they share with any landmark.

    AG_ξ = E_t[Ψ(x_t) − Ψ_rand(x_t)],

Ψ the influence-weighted mean agreement v_ξ(x_t, x_l) over the top-K landmarks, Ψ_rand the mean agreement over all
landmarks, which is that of many random sets. Source: the paper, §3; weights, K and statistics are krepes'
(docs/method.md).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from krepes.audit.statistics import FEWEST, benjamini_hochberg, check_enough, permutation_p
from krepes.errors import ConfigError, DataError, KrepesWarning

TOP_K = 10
DRAWS = 1000  # bootstrap resamples
PERMUTATIONS = 499
SMALL = 100  # test points of a group below which it is flagged
SAMPLES = 1000  # test points by default
BINS = 5  # of a numeric column that another is compared within
FDR = 0.05  # false discovery rate at which a gap counts as found
UNIQUE = 0.9  # share of distinct labels from which a column names rows
COLUMNS = ("column", "kind", "gap", "low", "high", "agreement", "random", "p", "q", "n", "missing", "explained_by",
           "gap_given")  # fmt: skip


@dataclass(frozen=True)
class Feature:
    """One raw column as numbers.

    Attributes:
        name: of the column.
        kind: "numeric" (also ordinal) or "categorical" (also boolean).
        values: numbers, NaN where missing; or category codes, −1 where missing, a category of its own.
        width: Δ_ξ, the distance from which two numbers do not agree at all: between the 1 % and 99 % quantiles.
        labels: of the categories.
    """

    name: str
    kind: str
    values: np.ndarray
    width: float = 1.0
    labels: tuple[str, ...] = field(default=(), repr=False)

    def agreement(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """v_ξ ∈ [0, 1] of the values at two arrays of positions that broadcast; two missing values agree."""
        return self.agreement_of(self.values[rows], self.values[others])

    def agreement_of(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """v_ξ of values."""
        if self.kind == "categorical":
            return (a == b).astype(np.float32)
        distance = 1 - np.minimum(np.abs(a - b) / self.width, 1)
        return np.where(np.isnan(distance), np.isnan(a) & np.isnan(b), distance).astype(np.float32)

    def groups(self) -> np.ndarray:
        """Codes of the categories, or of the quantile bins of a numeric column; −1 where missing."""
        if self.kind == "categorical":
            return self.values
        edges = np.unique(np.nanquantile(self.values, np.linspace(0, 1, BINS + 1)[1:-1]))
        return np.where(np.isnan(self.values), -1, np.searchsorted(edges, self.values, side="right"))


def features(table: pd.DataFrame, columns: Sequence[str] | None) -> list[Feature]:
    """The columns as features; without a list all that can be compared, the others named in a warning.

    Raises:
        ConfigError: a column does not exist.
        DataError: a listed column is constant, or has one value per row.
    """
    if columns is not None:
        unknown = [c for c in columns if c not in table.columns]
        if unknown:
            raise ConfigError(
                f"columns {', '.join(map(str, unknown[:5]))} are not in the table; it has "
                f"{', '.join(map(str, table.columns))}"
            )
        if isinstance(columns, str) or len(set(columns)) < len(list(columns)) or not list(columns):
            raise ConfigError(f"columns={columns!r}; expected a list of different names")
    twice = table.columns[table.columns.duplicated()].unique()
    if len(twice):
        raise DataError(f"the table has several columns named {', '.join(map(repr, twice[:5]))}; rename them")
    found, left_out = [], []
    for name in table.columns if columns is None else columns:
        try:
            found.append(feature(pd.Series(table[name]), str(name)))
        except DataError as error:
            if columns is not None:
                raise
            left_out.append(str(error))
    if left_out:
        warnings.warn("left out: " + "; ".join(left_out), KrepesWarning, stacklevel=4)
    if not found:
        raise DataError("no column of the table can be compared")
    return found


def feature(values: pd.Series, name: str) -> Feature:
    """One column.

    Raises:
        DataError: it is constant, or holds one label per row.
    """
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        codes = values.cat.codes.to_numpy(float)
        values = pd.Series(np.where(codes < 0, np.nan, codes))
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if pd.api.types.is_datetime64_any_dtype(values):
        values, numeric = values.astype("int64").where(values.notna()).astype(float), True
    if pd.api.types.is_timedelta64_dtype(values):
        values, numeric = values.dt.total_seconds(), True
    try:
        different = values.nunique(dropna=False)
    except TypeError as error:  # lists, dictionaries
        raise DataError(f"column '{name}' holds values that cannot be compared: {error}") from error
    if different < 2:
        raise DataError(f"column '{name}' is constant: all samples agree in it")
    if numeric:
        numbers = values.to_numpy(float, na_value=np.nan)
        numbers = np.where(np.isinf(numbers), np.nan, numbers)
        if len(numbers) >= FEWEST and different == len(numbers) and counts_rows(numbers):
            raise DataError(f"column '{name}' counts the rows: its values are consecutive whole numbers, one per row")
        low, high = np.nanquantile(numbers, [0.01, 0.99])
        width = float(high - low) or float(np.nanmax(numbers) - np.nanmin(numbers))
        if width > 0:
            return Feature(name, "numeric", numbers, width)
        return Feature(name, "categorical", np.where(np.isnan(numbers), -1, 0), labels=(str(np.nanmax(numbers)),))
    codes, labels = pd.factorize(values, sort=False)
    if len(labels) > UNIQUE * len(values) and len(labels) > 2:
        raise DataError(f"column '{name}' has one value per row ({len(labels)} for {len(values)} rows): it names rows")
    return Feature(name, "categorical", codes, labels=tuple(map(str, labels)))


def counts_rows(numbers: np.ndarray) -> bool:
    """Whether different numbers are consecutive whole ones, in any order."""
    whole = bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())
    return whole and numbers.max() - numbers.min() == len(numbers) - 1


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
        if not 1 <= top_k < len(landmarks):
            raise ConfigError(
                f"top_k={top_k}; expected between 1 and {len(landmarks) - 1}, below the landmarks' number"
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


@dataclass(frozen=True)
class Gap:
    """One feature's gap per test point, and what its statistics need."""

    feature: Feature
    tops: Tops

    def all_agreements(self) -> np.ndarray:
        """v_ξ (t, m)."""
        return self.feature.agreement(self.tops.points[:, None], self.tops.landmarks[None])

    def null(self, permutations: int, generator: np.random.Generator, strata: np.ndarray | None = None) -> np.ndarray:
        """Mean Ψ with the landmarks' values permuted (permutations,), within strata (m,) if given.

        The sets of top landmarks, which many points share, stay what they are; their values become random ones.
        """
        values = self.feature.values[self.tops.landmarks]
        mine = self.feature.values[self.tops.points][:, None]
        out = np.empty(permutations)
        for i in range(permutations):
            order = permuted(len(values), strata, generator)
            out[i] = (self.tops.weight * self.feature.agreement_of(mine, values[order][self.tops.top])).sum(1).mean()
        return out


def permuted(m: int, strata: np.ndarray | None, generator: np.random.Generator) -> np.ndarray:
    """A random order of m landmarks, which exchanges only those of one stratum."""
    if strata is None:
        return generator.permutation(m)
    order = np.arange(m)
    shuffled = np.lexsort((generator.random(m), strata))
    order[np.lexsort((order, strata))] = shuffled
    return order


def gap_table(
    found: list[Feature], tops: Tops, seed: int, level: float = 0.95, keep_draws: bool = False
) -> pd.DataFrame:
    """Gaps of all features with intervals, nulls and q values; see `Auditor.feature_gap`.

    Args:
        keep_draws: adds null_low and null_high (the null's central 95 %, as gaps) and draws (of the bootstrap).
    """
    generator = np.random.default_rng(seed)
    t, m, k = len(tops.points), len(tops.landmarks), tops.top.shape[1]
    asked = tops.candidates
    counts_t = generator.multinomial(asked, np.full(asked, 1 / asked), DRAWS).T.astype(np.float32)[tops.place]
    counts_l = generator.multinomial(m, np.full(m, 1 / m), DRAWS).T.astype(np.float32)  # (m, draws)
    rows, kept = [], []
    for one in found:
        gap = Gap(one, tops)
        V = gap.all_agreements()
        top_v = np.take_along_axis(V, tops.top, 1)
        psi, random = (tops.weight * top_v).sum(1), V.mean(1)
        draws = resampled(V, top_v, tops, counts_t, counts_l)
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        observed = float(psi.mean())
        null = gap.null(PERMUTATIONS, generator)
        kept.append((*np.quantile(null - random.mean(), [0.025, 0.975]), draws.astype(np.float32)))
        rows.append(
            (one.name, one.kind, observed - float(random.mean()), low, high, observed, float(random.mean()),
             permutation_p(observed, null), np.nan, t, int(_missing(one)[tops.points].sum()), "", np.nan)
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    table["q"] = benjamini_hochberg(table["p"].to_numpy(float))
    _explain(table, found, tops, generator)
    assert k <= m
    if keep_draws:
        table[["null_low", "null_high", "draws"]] = pd.DataFrame(kept)
    return table.sort_values("gap", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def resampled(V: np.ndarray, top_v: np.ndarray, tops: Tops, counts_t: np.ndarray, counts_l: np.ndarray) -> np.ndarray:
    """The gap under resampled test points and landmarks (draws,): both are samples, and points share landmarks.

    Args:
        V: agreements (t, m); top_v: those of the top landmarks (t, K).
        counts_t: (t, draws); counts_l: (m, draws): how often each was drawn.
    """
    random = (V @ counts_l) / counts_l.sum(0)  # (t, draws)
    psi, total = np.zeros_like(random), np.zeros_like(random)
    for j in range(tops.top.shape[1]):
        weight = counts_l[tops.top[:, j]] * tops.weight[:, j, None].astype(np.float32)
        psi += weight * top_v[:, j, None]
        total += weight
    # a point none of whose top landmarks was drawn says nothing in that draw
    share = counts_t * (total > 0)
    return ((psi / np.where(total > 0, total, 1) - random) * share).sum(0) / share.sum(0)


def gaps_of_points(one: Feature, tops: Tops) -> np.ndarray:
    """Ψ − Ψ_rand of each test point (t,)."""
    V = Gap(one, tops).all_agreements()
    return (tops.weight * np.take_along_axis(V, tops.top, 1)).sum(1) - V.mean(1)


def _missing(one: Feature) -> np.ndarray:
    return one.values == -1 if one.kind == "categorical" else np.isnan(one.values)


def _explain(table: pd.DataFrame, found: list[Feature], tops: Tops, generator: np.random.Generator) -> None:
    """Name, for every significant gap, the column within whose groups nothing of it is left.

    The landmarks' values are permuted among landmarks of the same value (or quantile bin) of the other column: what
    then remains above the null is not owed to it.
    """
    significant = [i for i, q in enumerate(table["q"]) if q <= FDR]
    for i in significant:
        gap, best = Gap(found[i], tops), None
        for j in sorted(set(significant) - {i}, key=lambda j: -abs(table.at[j, "gap"])):
            strata = found[j].groups()[tops.landmarks]
            null = gap.null(99, generator, strata)
            left = table.at[i, "agreement"] - float(null.mean())
            p = permutation_p(table.at[i, "agreement"], null)
            if best is None or abs(left) < abs(best[0]):
                best = (left, p, table.at[j, "column"])
        if best is not None:
            table.at[i, "gap_given"] = best[0]
            table.at[i, "explained_by"] = best[2] if best[1] > 0.05 else ""


def group_table(one: Feature, tops: Tops, seed: int, level: float = 0.95) -> pd.DataFrame:
    """The gap of a categorical feature within each of its groups of test points.

    Returns:
        a table with columns column, group, gap, low, high, share (of the group's influence that comes from its own
        landmarks), random (share of landmarks), n, landmarks, small. Groups of fewer than 20 points have no interval.
    """
    if one.kind != "categorical":
        raise ConfigError(f"column '{one.name}' is numeric; groups are of categorical columns")
    generator = np.random.default_rng(seed)
    V = Gap(one, tops).all_agreements()
    top_v = np.take_along_axis(V, tops.top, 1)
    each = gaps_of_points(one, tops)
    mine = one.values[tops.points]
    rows = []
    for code in sorted(set(mine.tolist())):
        inside = np.flatnonzero(mine == code)
        low = high = np.nan
        if len(inside) >= FEWEST:
            t, m = len(inside), V.shape[1]
            counts_t = generator.multinomial(t, np.full(t, 1 / t), DRAWS).T.astype(np.float32)
            counts_l = generator.multinomial(m, np.full(m, 1 / m), DRAWS).T.astype(np.float32)
            part = Tops(tops.points[inside], tops.landmarks, tops.top[inside], tops.weight[inside], np.arange(t), t)
            draws = resampled(V[inside], top_v[inside], part, counts_t, counts_l)
            low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        own = one.values[tops.landmarks] == code
        rows.append(
            (one.name, "(missing)" if code < 0 else one.labels[code], float(each[inside].mean()), low, high,
             float((tops.weight * top_v).sum(1)[inside].mean()), float(own.mean()), len(inside), int(own.sum()),
             len(inside) < SMALL)
        )  # fmt: skip
    names = ["column", "group", "gap", "low", "high", "share", "random", "n", "landmarks", "small"]
    return pd.DataFrame(rows, columns=pd.Index(names))
