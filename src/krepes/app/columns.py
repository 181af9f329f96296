"""The samples' own table, columns named `data.*` in the run: cells, what colours stand for, queries, summaries."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from krepes.app.cache import Cache
from krepes.app.pieces import Pieces
from krepes.audit.query import condition
from krepes.stored import DATA, StoredRun, first_line

SHOWN = 200  # columns at most
VALUES = 12  # categories that have a colour of their own; rarer ones share one
SURVEYED = 3  # row groups that a column's categories and range are taken from
OTHER, MISSING = VALUES, VALUES + 1  # codes of rarer categories and missing cells
STEPS = 255  # of a number's range; the code STEPS is a missing cell
LONGEST = 2000  # characters of a cell
UNREADABLE = "(cannot be shown)"
# Arrow's dates, times and time zones may have no counterpart in Python or pandas
CANNOT = (pa.ArrowException, ValueError, OverflowError, KeyError, TypeError, OSError)
KEPT_BYTES = 256 * 2**20  # of columns that are held


@dataclass(frozen=True)
class Column:
    """A column as it is coloured and filtered.

    Attributes:
        name: without the prefix of the run's tables.
        kind: "number", "category", or "other" (lists, dates) that is shown in cells alone.
        values: the most frequent categories.
        more: whether there are others.
        low, high: the 1 % and 99 % quantiles of numbers, where colours end.
    """

    name: str
    kind: Literal["number", "category", "other"]
    values: tuple[str, ...] = ()
    more: bool = False
    low: float = math.nan
    high: float = math.nan

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        values = list(self.values) if self.values else None
        return {"name": self.name, "kind": self.kind, "values": values, "more": self.more, "low": self.low,
                "high": self.high}  # fmt: skip


@dataclass
class Columns:
    """Columns of points.parquet that may be shown; safe for threads.

    Args:
        run: told of damage.
        pieces: of points.parquet.
        hidden: raw names of columns that are redacted.
    """

    run: StoredRun
    pieces: Pieces
    hidden: frozenset[str]
    _kept: Cache = field(default_factory=lambda: Cache(KEPT_BYTES, lambda values: values.nbytes), repr=False)
    _known: Cache = field(default_factory=lambda: Cache(SHOWN), repr=False)

    def __post_init__(self):
        names = visible(self.pieces.schema.names, self.hidden)
        if len(names) > SHOWN:
            self.run.say("columns", f"The table has {len(names):,} columns; the first {SHOWN} are shown.")
        self.names = names[:SHOWN]

    def described(self) -> list[Column]:
        """What each column holds, by a look at a few row groups."""
        return [self.column(name) for name in self.names]

    def column(self, name: str) -> Column:
        """One of `names`.

        Raises:
            KeyError: there is no such column, or it is redacted.
        """
        if name not in self.names:
            raise KeyError(name)
        return self._known.get(name, lambda: self._look(name))

    def _look(self, name: str) -> Column:
        kind = kind_of(self.pieces.schema.field(DATA + name).type)
        groups = sorted({round(i * (self.pieces.groups - 1) / (SURVEYED - 1)) for i in range(SURVEYED)})
        tables = [t for i in groups if (t := self.pieces.read(i, [DATA + name])) is not None] if self.pieces.n else []
        if not tables or kind == "other":
            return Column(name, kind)
        cells = pa.concat_tables(tables, promote_options="permissive").column(0)
        if kind == "number":
            numbers = as_numbers(cells)
            numbers = numbers[np.isfinite(numbers)]
            low, high = np.quantile(numbers, [0.01, 0.99]).tolist() if len(numbers) else (math.nan, math.nan)
            return Column(name, kind, low=low, high=high)
        labels, codes = as_labels(cells)
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        order = np.argsort(-counts, kind="stable")
        seen = int((counts > 0).sum())
        if seen > max(VALUES, 0.5 * counts.sum()):  # it names rows
            return Column(name, "other")
        return Column(name, kind, tuple(labels[i] for i in order[:VALUES] if counts[i]), seen > VALUES)

    def codes(self, name: str) -> np.ndarray:
        """A colour's number for each sample (n,), uint8: of categories, OTHER and MISSING, or of STEPS steps."""
        return self._kept.get(("codes", name), lambda: self._codes(self.column(name)))

    def _codes(self, column: Column) -> np.ndarray:
        if column.kind == "number":
            width = (column.high - column.low) or 1.0
            with np.errstate(all="ignore"):
                scaled = np.clip((self.numbers(column.name) - column.low) / width, 0, 1) * (STEPS - 1)
            return np.where(np.isnan(scaled), STEPS, scaled).round().astype(np.uint8)
        labels, codes = as_labels(self.pieces.column(DATA + column.name))
        place = {value: i for i, value in enumerate(column.values)}
        found = np.array([*(place.get(label, OTHER) for label in labels), MISSING], np.uint8)
        return found[codes]

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers (n,), float32, NaN where missing."""
        return self._kept.get(("numbers", name), lambda: as_numbers(self.pieces.column(DATA + name)))

    def where(self, query: str, what: str = "where") -> np.ndarray:
        """Positions of the samples for which a query holds.

        Raises:
            ConfigError: the query holds something else than columns that are shown, constants and comparisons.
        """
        few = [t for i in range(self.pieces.groups) if (t := self.pieces.read(i, [DATA + n for n in self.names]))]
        head = few[0].slice(0, 50) if few else self.pieces.schema.empty_table().select([DATA + n for n in self.names])
        condition(self._frame(head), query, what)  # a mistake is told with the names of all columns
        named = [name for name in self.names if name in query]
        table = pa.table({DATA + name: self.pieces.column(DATA + name) for name in named})
        return np.flatnonzero(condition(self._frame(table), query, what))

    def _frame(self, table: pa.Table) -> pd.DataFrame:
        """Columns as pandas has them; without those that it cannot hold, which queries then do not know."""
        found = {}
        for name in table.column_names:
            try:
                found[name.removeprefix(DATA)] = table.column(name).to_pandas()
            except CANNOT as error:
                shown = name.removeprefix(DATA)
                self.run.say(f"column {shown}", f"Queries do without column {shown} ({first_line(error)}).")
        return pd.DataFrame(found, index=range(table.num_rows))

    def cells(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Column ↦ value of each of some samples; {} for one in a damaged row group."""
        out: list[dict[str, Any]] = [{} for _ in positions]
        if not self.names:
            return out
        group = np.searchsorted(self.pieces.starts, np.asarray(positions, np.int64), side="right") - 1
        for number in np.unique(group).tolist():
            table = self.pieces.group(number, [DATA + name for name in self.names])
            if table is None:
                continue
            mine = np.flatnonzero(group == number)
            rows = table.take(pa.array([positions[i] - int(self.pieces.starts[number]) for i in mine.tolist()]))
            for i, row in zip(mine.tolist(), plain_rows(rows), strict=True):
                out[i] = row
        return out


def visible(names: Sequence[str], hidden: frozenset[str]) -> list[str]:
    """Raw names of a table's columns that are not redacted; `x (2)` is a second column named x."""
    raw = [name.removeprefix(DATA) for name in names if name.startswith(DATA)]
    return [name for name in raw if not is_hidden(name, hidden)]


def is_hidden(name: str, hidden: frozenset[str]) -> bool:
    """Whether a column is redacted; so is a second one of that name."""
    return name in hidden or re.sub(r" \(\d+\)$", "", name) in hidden


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of `data.*` columns as JSON can hold them."""
    columns = {name.removeprefix(DATA): values_of(table.column(name)) for name in table.column_names}
    return [{name: plain(values[i]) for name, values in columns.items()} for i in range(table.num_rows)]


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """Cells as Python's values; `UNREADABLE` for those that Python has none for, such as dates beyond year 9999."""
    try:
        return column.to_pylist()
    except CANNOT:
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except CANNOT:
        return UNREADABLE


def plain(value: Any) -> Any:
    """A cell as JSON can hold it; None where it is missing."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    text = str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def kind_of(kind: pa.DataType) -> Literal["number", "category", "other"]:
    """What a column of an Arrow type is."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "category"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "other"


def as_numbers(cells: pa.ChunkedArray) -> np.ndarray:
    """Float32 (n,), NaN where missing."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    return np.asarray(cells.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32)


def as_labels(cells: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The different values as text, and the number of each cell's (n,), −1 where missing."""
    if not pa.types.is_dictionary(cells.type):
        cells = pc.dictionary_encode(cells)
    joined = cells.unify_dictionaries().combine_chunks()
    if isinstance(joined, pa.ChunkedArray):
        joined = joined.chunk(0) if joined.num_chunks else pa.array([], cells.type)
    codes = joined.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return [str(v) for v in joined.dictionary.to_pylist()], codes
