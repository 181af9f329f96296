"""Values of a query: a table's columns by kind, constants, and how they compare."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

WORDS = {"number": "numbers", "truth": "truth values", "text": "text", "time": "dates", "span": "durations",
         "ordered": "ordered categories", "mixed": "values of several kinds",
         "nothing": "no value"}  # fmt: skip
OPERATIONS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
              ">=": operator.ge}  # fmt: skip
MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class Column:
    """One value per row.

    Attributes:
        kind: a key of `WORDS`.
        values: (n,), an array; of a missing cell anything of the kind.
        missing: (n,).
        categories: of ordered categories, whose values are codes.
        zone: of dates.
        name: for messages.
    """

    kind: str
    values: Any
    missing: np.ndarray
    categories: tuple[Any, ...] = ()
    zone: Any = None
    name: str = ""

    @property
    def words(self) -> str:
        """What it holds."""
        return WORDS[self.kind]


@dataclass(frozen=True)
class Constant:
    """A number, text or truth value of the query."""

    value: bool | int | float | str
    missing: bool = False

    @property
    def words(self) -> str:
        """What it is."""
        return (
            "a truth value" if isinstance(self.value, bool) else "text" if isinstance(self.value, str) else "a number"
        )


def column_of(cells: pd.Series, name: str) -> Column:
    """A table's column.

    Raises:
        ValueError: it holds lists or other values that no constant could equal.
    """
    missing = cells.isna().to_numpy(bool)
    if isinstance(cells.dtype, pd.CategoricalDtype):
        if cells.dtype.ordered:
            return Column("ordered", cells.cat.codes.to_numpy(), missing, tuple(cells.dtype.categories), name=name)
        cells = pd.Series(cells.cat.categories.to_numpy(object)[cells.cat.codes], dtype=object)
    present, types = cells[~missing], pd.api.types
    untold = cells.dtype == object or isinstance(cells.dtype, pd.ArrowDtype)
    kind = types.infer_dtype(present) if untold else ""
    if types.is_bool_dtype(cells.dtype) or kind == "boolean":
        return Column("truth", cells.where(~missing, False).to_numpy(bool), missing, name=name)
    if kind in ("date", "datetime", "datetime64"):
        cells = pd.to_datetime(cells.astype(object))
    if kind in ("timedelta", "timedelta64"):
        cells = pd.to_timedelta(cells.astype(object))
    if types.is_datetime64_any_dtype(cells.dtype):
        return Column("time", cells.array, missing, zone=cells.dt.tz, name=name)
    if types.is_timedelta64_dtype(cells.dtype):
        return Column("span", cells.array, missing, name=name)
    if types.is_complex_dtype(cells.dtype):
        raise ValueError(f"column {name!r} holds complex numbers")
    if types.is_numeric_dtype(cells.dtype) or kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        numbers = _numbers(cells, missing)
        return Column("number", numbers, missing | np.isnan(numbers), name=name)
    if missing.all():
        return Column("nothing", np.full(len(cells), np.nan), missing, name=name)
    values = np.empty(len(cells), dtype=object)
    values[:] = [v.item() if isinstance(v, np.generic) else v for v in cells]
    if all(isinstance(v, str) for v in values[~missing]):
        return Column("text", np.where(missing, "", values), missing, name=name)
    odd = [v for v in values[~missing] if not isinstance(v, bool | int | float | str)]
    if odd:
        raise ValueError(f"column {name!r} holds values of type {type(odd[0]).__name__}, which no query compares")
    return Column("mixed", values, missing, name=name)


def _numbers(cells: pd.Series, missing: np.ndarray) -> np.ndarray:
    """Whole numbers as they are, others in float64."""
    filled = cells.to_numpy(object).copy() if missing.any() or cells.dtype == object else cells.to_numpy()
    if filled.dtype == object:
        filled[missing] = 0
        whole = all(isinstance(v, int | np.integer) for v in filled[~missing])
        return filled.astype(np.int64 if whole and _fit(filled) else np.float64)
    return filled if filled.dtype.kind in "iu" else filled.astype(np.float64)


def _fit(values: np.ndarray) -> bool:
    return all(-(2**63) <= v < 2**63 for v in values)


def is_numeric(value: Column | Constant) -> bool:
    """Whether arithmetic takes it."""
    if isinstance(value, Constant):
        return isinstance(value.value, int | float) and not isinstance(value.value, bool)
    return value.kind in ("number", "nothing")


def numbers_of(value: Column | Constant) -> Any:
    """In float64."""
    return np.float64(value.value) if isinstance(value, Constant) else value.values.astype(np.float64)


def compare(one: Column | Constant, sign: str, other: Column | Constant) -> np.ndarray:
    """Truth of `one sign other` for each row (n,); of missing cells anything.

    Raises:
        ValueError: they are of different kinds.
    """
    if isinstance(one, Constant):
        assert isinstance(other, Column)
        return compare(other, MIRRORED[sign], one)
    apply = OPERATIONS[sign]
    if one.kind == "nothing" or (isinstance(other, Column) and other.kind == "nothing"):
        return np.zeros(len(one.missing), dtype=bool)
    if isinstance(other, Constant):
        if one.kind == "mixed":
            return _mixed(one, sign, other)
        with np.errstate(all="ignore"):
            return np.asarray(apply(one.values, fitting(one, other, ordering=sign not in ("==", "!="))), dtype=bool)
    if one.kind != other.kind or one.kind == "mixed":
        raise ValueError(f"{one.name or 'a result'} holds {one.words}, {other.name or 'a result'} {other.words}")
    if one.categories != other.categories:
        raise ValueError(f"columns {one.name!r} and {other.name!r} have different ordered categories")
    if (one.zone is None) != (other.zone is None):
        raise ValueError(f"of {one.name!r} and {other.name!r} only one has a time zone")
    return np.asarray(apply(one.values, other.values), dtype=bool)


def member_of(one: Column, constants: Sequence[Constant]) -> np.ndarray:
    """Whether each row's value is one of the constants (n,)."""
    found = np.zeros(len(one.missing), dtype=bool)
    for constant in constants:
        found |= compare(one, "==", constant)
    return found


def fitting(column: Column, constant: Constant, ordering: bool) -> Any:
    """A constant in the column's own terms: a code, a moment, a number.

    Raises:
        ValueError: it is of another kind.
    """
    value, kind = constant.value, column.kind
    if kind == "ordered":
        if value in column.categories:
            return column.categories.index(value)
        if ordering:
            listed = " < ".join(map(str, column.categories[:20]))
            raise ValueError(f"{value!r} is no category of column {column.name!r}: {listed}")
        return -2  # equal to none
    if kind in ("time", "span") and isinstance(value, str):
        return _moment(column, value)
    if kind == "truth" and (isinstance(value, bool) or value in (0, 1)):
        return bool(value)
    fits = {"text": isinstance(value, str), "number": is_numeric(constant)}
    if not fits.get(kind, False):
        raise ValueError(f"column {column.name!r} holds {column.words}, {value!r} is {constant.words}")
    return value


def _moment(column: Column, text: str) -> pd.Timestamp | pd.Timedelta:
    moment = pd.Timedelta(text) if column.kind == "span" else pd.Timestamp(text)
    if not isinstance(moment, pd.Timestamp | pd.Timedelta):  # "NaT"
        raise ValueError(f"{text!r} is no date or duration")
    if isinstance(moment, pd.Timedelta):
        return moment
    if column.zone is None and moment.tzinfo is not None:
        raise ValueError(f"{text!r} has a time zone, column {column.name!r} has none")
    return moment if column.zone is None or moment.tzinfo is not None else moment.tz_localize(column.zone)


def _mixed(column: Column, sign: str, constant: Constant) -> np.ndarray:
    """Equality in a column of several kinds: text equals text, numbers numbers, truth values truth values."""
    if sign not in ("==", "!="):
        raise ValueError(f"column {column.name!r} holds {column.words}: they can be equal, but have no order")

    def group(value: Any) -> str:
        return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"

    wanted = group(constant.value)
    same = np.array([group(v) == wanted and v == constant.value for v in column.values], dtype=bool)
    return same if sign == "==" else ~same
