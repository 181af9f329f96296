"""Raw columns of a table as numbers that can agree: which may be compared, in which units."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from krepes.audit.statistics import FEWEST
from krepes.data.order import in_order_of
from krepes.errors import ConfigError, DataError, warn

if TYPE_CHECKING:
    from krepes.auditor import Auditor

BINS = 5  # of a numeric column that another is compared within
UNIQUE = 0.9  # share of distinct labels from which a column names rows


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


def raw_table(auditor: "Auditor", table: pd.DataFrame | None = None) -> pd.DataFrame:
    """One raw row per audited sample, in the samples' order: the given ones, or the samples' own.

    Args:
        table: where its index holds ids that the user gave, it says which row is whose; else the rows are taken in
            the samples' order (see `in_order_of`).

    Raises:
        DataError: there is none, it is no DataFrame, or it has another number of rows.
    """
    if table is not None and not isinstance(table, pd.DataFrame):
        raise DataError(f"the table is a {type(table).__name__}; expected a pandas DataFrame with a row per sample")
    found = auditor.source_.metadata() if table is None else in_order_of(auditor.source_.ids, table)
    if found is None:
        raise DataError("the audited samples have no table; give one: a raw row for each of them")
    if len(found) != len(auditor.source_):
        raise DataError(
            f"the table has {len(found)} rows for {len(auditor.source_)} audited samples; expected one each"
        )
    return found


def features(table: pd.DataFrame, columns: Sequence[str] | None) -> list[Feature]:
    """The columns as features; without a list all that can be compared, the others named in a warning.

    Raises:
        ConfigError: a column does not exist, or `columns` is no list of names.
        DataError: a listed column cannot be compared, or two columns share a name.
    """
    names = [str(name) for name in table.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"the table has several columns named {', '.join(map(repr, twice[:5]))}; rename them")
    wanted = names if columns is None else asked(columns, names)
    found, left_out = [], []
    for name in wanted:
        try:
            found.append(feature(table.iloc[:, names.index(name)], name))
        except DataError as error:
            if columns is not None:
                raise
            left_out.append(str(error))
    if left_out:
        warn("left out: " + "; ".join(left_out))
    if not found:
        raise DataError("no column of the table can be compared")
    return found


def asked(columns: Any, names: list[str]) -> list[str]:
    """The listed columns, all of them in the table."""
    if isinstance(columns, str) or not isinstance(columns, Sequence) or not all(isinstance(c, str) for c in columns):
        raise ConfigError(f"columns={columns!r}; expected a list of names")
    if not columns or len(set(columns)) < len(columns):
        raise ConfigError(f"columns={columns!r}; expected a list of different names")
    unknown = [c for c in columns if c not in names]
    if unknown:
        raise ConfigError(f"columns {', '.join(unknown[:5])} are not in the table; it has {', '.join(names)}")
    return list(columns)


def feature(values: pd.Series, name: str) -> Feature:
    """One column.

    Raises:
        DataError: it is constant, holds one value per row, or values that cannot be compared.
    """
    try:
        numbers = as_numbers(values, name)
        if numbers is None:
            return categories(values, name)
        return numeric(numbers, name, may_count=pd.api.types.is_numeric_dtype(values))
    except DataError:
        raise
    except (TypeError, ValueError, NotImplementedError, pa.ArrowException) as error:  # lists, dictionaries, dates
        raise DataError(f"column '{name}' holds values that cannot be compared: {error}") from error


def as_numbers(values: pd.Series, name: str) -> np.ndarray | None:
    """Ordered categories, numbers, dates and durations as numbers (n,), NaN where missing; None for everything else."""
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        codes = values.cat.codes.to_numpy(float)
        return np.where(codes < 0, np.nan, codes)
    if pd.api.types.is_complex_dtype(values):
        raise DataError(f"column '{name}' holds complex numbers; give their parts as columns")
    if pd.api.types.is_datetime64_any_dtype(values):
        return values.astype("int64").where(values.notna()).to_numpy(float)
    if pd.api.types.is_timedelta64_dtype(values):
        return values.dt.total_seconds().to_numpy(float)
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return None
    numbers = values.to_numpy(float, na_value=np.nan)
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        warn(f"column '{name}' holds {infinite} infinite values; they count as missing")
    return np.where(np.isinf(numbers), np.nan, numbers)


def numeric(numbers: np.ndarray, name: str, may_count: bool = True) -> Feature:
    """A column of numbers; one value beside missing cells makes two categories.

    Args:
        may_count: whether different whole numbers are ids, as they are not in dates and durations.
    """
    present = numbers[~np.isnan(numbers)]
    different = len(np.unique(present))
    if different == 0 or (different == 1 and len(present) == len(numbers)):
        raise DataError(f"column '{name}' is constant: all samples agree in it")
    if may_count and len(present) >= FEWEST and different == len(present) and (present == np.round(present)).all():
        raise DataError(
            f"column '{name}' has one whole number per row ({different} for {len(present)} values): it names rows. If "
            "it measures something, give it in bins"
        )
    if different == 1:
        return Feature(name, "categorical", np.where(np.isnan(numbers), -1, 0), labels=(str(present[0]),))
    low, high = np.quantile(present, [0.01, 0.99]).tolist()  # Python's floats overflow without a warning
    width = (high - low) or float(present.max()) - float(present.min())
    if not np.isfinite(width):
        raise DataError(f"column '{name}' holds numbers too far apart to be compared: {low:g} … {high:g}")
    return Feature(name, "numeric", numbers, width)


def categories(values: pd.Series, name: str) -> Feature:
    """A column of labels; a missing cell is a category of its own."""
    codes, labels = pd.factorize(values, sort=False)
    present = int((codes >= 0).sum())
    if len(labels) + (present < len(values)) < 2:
        raise DataError(f"column '{name}' is constant: all samples agree in it")
    if len(labels) > UNIQUE * present and len(labels) > 2:
        raise DataError(f"column '{name}' has one value per row ({len(labels)} for {present} values): it names rows")
    return Feature(name, "categorical", codes, labels=tuple(map(str, labels)))
