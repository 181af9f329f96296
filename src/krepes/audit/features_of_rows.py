"""Rows beside a table in terms of its features: what agrees does not depend on which other rows are asked for."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from krepes.audit.columns import Feature, as_numbers, features, raw_table
from krepes.data.names import places_of
from krepes.errors import ConfigError, DataError

if TYPE_CHECKING:
    from krepes.auditor import Auditor

UNKNOWN = -2  # code of a category that the table does not have: equal to none, and not missing
SEVERAL = "values of several kinds"
WORDS = {"boolean": "truth values", "string": "text", "bytes": "bytes", "integer": "numbers", "floating": "numbers",
         "mixed-integer-float": "numbers", "decimal": "numbers", "complex": "complex numbers", "datetime": "dates",
         "datetime64": "dates", "date": "days", "timedelta": "durations", "timedelta64": "durations",
         "period": "periods", "interval": "intervals"}  # fmt: skip


def feature_influence(
    auditor: "Auditor", x: Any, rows: pd.DataFrame, column: str, table: pd.DataFrame | None
) -> torch.Tensor:
    """Sample influence × agreement in one raw column, (t, m); see `Auditor.feature_influence`."""
    raw, given = column_in(raw_table(auditor, table), column, "the table"), column_in(rows, column, "rows")
    scores = auditor.influence(x)
    if len(given) != len(scores):
        raise DataError(f"rows has {len(given)} rows for {len(scores)} samples; expected one each")
    (feature,) = features(pd.DataFrame({column: raw}), [column])
    mine, theirs = values_of_rows(feature, raw, given), feature.values[np.asarray(auditor.fit_.indices)]
    return scores * torch.as_tensor(feature.agreement_of(mine[:, None], theirs[None])).to(scores)


def values_of_rows(feature: Feature, table: pd.Series, rows: pd.Series) -> np.ndarray:
    """The rows' values as `feature.agreement_of` compares them with the feature's own (t,).

    A category that the table does not have agrees with nothing, a missing cell with missing cells.

    Args:
        feature: of `table`.
        table: the raw column that the feature was made of (n,).
        rows: the same column of other rows (t,).

    Raises:
        DataError: the rows hold values of another kind, such as text for numbers, or dates without the time zone.
    """
    rows = rows.astype(object) if isinstance(rows.dtype, pd.CategoricalDtype) else rows
    found, wanted = kind_of(rows), kind_of(table)
    if not found:
        return np.full(len(rows), np.nan if feature.kind == "numeric" else -1)
    if found != wanted and wanted != SEVERAL:
        raise DataError(
            f"column '{feature.name}' holds {found} in rows and {wanted} in the table; give the rows as the table's are"
        )
    if feature.kind == "categorical":
        _, first = np.unique(feature.values, return_index=True)
        known = {table.iloc[i]: int(feature.values[i]) for i in first if feature.values[i] >= 0}
        return coded(feature.name, rows, known, infinite_is_missing=pd.api.types.is_numeric_dtype(table.dtype))
    if isinstance(table.dtype, pd.CategoricalDtype):
        codes = coded(feature.name, rows, {value: code for code, value in enumerate(table.cat.categories)})
        return np.where(codes == -1, np.nan, np.where(codes == UNKNOWN, np.inf, codes))
    try:
        if not pd.api.types.is_numeric_dtype(table.dtype):
            rows = pd.Series(pd.array(rows.tolist(), dtype=table.dtype))
        elif rows.dtype == object:
            rows = pd.Series(rows.to_numpy(float, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise DataError(f"column '{feature.name}' in rows cannot be read as {table.dtype}: {error}") from error
    numbers = as_numbers(rows, feature.name)
    assert numbers is not None
    return numbers


def kind_of(column: pd.Series) -> str:
    """What a column's present cells are, in words; "" where there is none."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    present = column[column.notna()]
    if not len(present):
        return ""
    types = pd.api.types
    if types.is_datetime64_any_dtype(column.dtype):
        return "dates" if column.dt.tz is None else "dates with a time zone"
    if types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        return "complex numbers" if types.is_complex_dtype(column.dtype) else "numbers"
    kind = types.infer_dtype(present)
    aware = kind == "datetime" and any(getattr(v, "tzinfo", None) is not None for v in present)
    return "dates with a time zone" if aware else WORDS.get(kind, SEVERAL)


def coded(name: str, rows: pd.Series, known: dict[Any, int], infinite_is_missing: bool = False) -> np.ndarray:
    """Codes of the rows' values (t,): −1 where missing, −2 where the table does not have them."""
    missing = rows.isna().to_numpy(bool)
    if infinite_is_missing:
        missing = missing | np.isinf(rows.to_numpy(float, na_value=np.nan))
    try:
        return np.array(
            [-1 if m else known.get(v, UNKNOWN) for v, m in zip(rows, missing, strict=True)], dtype=np.int64
        )
    except TypeError as error:
        raise DataError(f"column '{name}' in rows holds values that cannot be compared: {error}") from error


def column_in(rows: pd.DataFrame, column: str, what: str) -> pd.Series:
    """One column of a table.

    Raises:
        ConfigError: it has no such column.
        DataError: it has several, or is no table.
    """
    if not isinstance(rows, pd.DataFrame):
        raise DataError(f"{what} is a {type(rows).__name__}; expected a DataFrame")
    places = places_of(rows).get(column, [])
    if not places:
        raise ConfigError(f"column '{column}' is not in {what}; it has {', '.join(map(str, rows.columns))}")
    if len(places) > 1:
        raise DataError(f"{what} has {len(places)} columns named '{column}'; rename them")
    return rows.iloc[:, places[0]].reset_index(drop=True)
