"""Tables: from CSV to encoder inputs, with the raw units kept for the reader."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

import difflib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import torch
from torch import Tensor

from krepes.data.source import ArraySource
from krepes.errors import DataError, KrepesWarning

MISSING = ("", "?", "NA", "NaN", "nan")


def read_csv(
    path: str | Path,
    columns: Sequence[str] | None = None,
    skip_lines: int = 0,
    missing: Sequence[str] = MISSING,
) -> pd.DataFrame:
    """A CSV file as a table: cells stripped, missing tokens missing, columns numeric where every cell is.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.
        columns: names, for a file without a header.
        skip_lines: lines before the header or the first row.
        missing: cells that mean "missing".

    Raises:
        DataError: no such file, no rows, a ragged row (named), a repeated column, or another encoding.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        header = pa_csv.ReadOptions(
            column_names=list(columns) if columns else None, skip_rows=skip_lines, encoding="utf8"
        )
        # a first look for the names, a second one with every column read as text
        parse = pa_csv.ParseOptions(newlines_in_values=True)
        with pa_csv.open_csv(path, header, parse) as reader:
            names = reader.schema.names
        repeated = sorted({n.strip() for n in names if names.count(n) > 1})
        if repeated:
            raise DataError(f"{path}: the column names {', '.join(repeated)} occur more than once")
        text = pa_csv.ConvertOptions(
            column_types={n: pa.string() for n in names}, strings_can_be_null=False, check_utf8=True
        )
        table = pa_csv.read_csv(path, header, parse, text)
    except pa.ArrowInvalid as error:
        raise DataError(_explain_csv_error(path, str(error))) from error
    if table.num_rows == 0:
        raise DataError(f"{path} holds no rows")
    frame = pd.DataFrame(
        {n.strip(): np.asarray([v.strip() for v in table[n].to_pylist()], dtype=object) for n in names}
    )
    tokens = set(missing)
    return pd.DataFrame({name: _typed(frame[name], tokens) for name in frame.columns})


def _explain_csv_error(path: Path, message: str) -> str:
    if "UTF8" in message or "utf8" in message:
        return f"{path} is not UTF-8 ({message}); convert it, for example with iconv -t utf-8"
    if "Empty CSV" in message or "no rows" in message.lower():
        return f"{path} is empty"
    return f"{path}: {message.strip()}. Every row needs the same number of cells."


def _typed(column: pd.Series, tokens: set[str]) -> pd.Series:
    """Float64 when every cell that is not missing is a finite number, else text with None for missing."""
    gone = column.isin(tokens)
    numbers = pd.to_numeric(column.where(~gone), errors="coerce").astype(float)
    if bool((np.isfinite(numbers) | gone).all()) and not bool(gone.all()):
        return numbers
    return column.astype(object).where(~gone, None)


@dataclass(frozen=True)
class Column:
    """A feature as it was when the schema was fitted.

    Attributes:
        kind: "numeric" or "categorical".
        mean, std, minimum, maximum: in raw units (numeric).
        missing: missing cells when fitted.
        categories: values seen when fitted (categorical).
    """

    name: str
    kind: str
    mean: float = 0.0
    std: float = 1.0
    minimum: float = 0.0
    maximum: float = 0.0
    missing: int = 0
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Encoded columns: value and missing flag, or one per category and one each for missing and unseen."""
        return 1 + (self.missing > 0) if self.kind == "numeric" else len(self.categories) + 2


@dataclass(frozen=True)
class TableSchema:
    """How a table becomes encoder input, fitted on the training table and kept with the encoder."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str] | None = None,
        categorical: Sequence[str] = (),
        label: str | None = None,
    ) -> "TableSchema":
        """Kinds, ranges and categories of the features.

        Args:
            frame: the training table in raw units.
            features: columns to encode; default all but the label.
            categorical: numeric columns to take as categories.
            label: a column that never reaches the encoder.

        Raises:
            DataError: an unknown column, the label among the features, or a column without any value.
        """
        names = [c for c in frame.columns if c != label] if features is None else list(features)
        if label is not None and label in names:
            raise DataError(f"the label column '{label}' is among the features; labels never reach the encoder")
        for name in [*names, *categorical, *([label] if label else [])]:
            require_column(frame, name)
        return cls(tuple(_fit_column(frame[n], n, n in categorical) for n in names))

    @property
    def slices(self) -> dict[str, slice]:
        """Feature ↦ its encoded columns."""
        out, start = {}, 0
        for column in self.columns:
            out[column.name] = slice(start, start + column.width)
            start += column.width
        return out

    @property
    def width(self) -> int:
        """p, the number of encoded columns."""
        return sum(c.width for c in self.columns)

    def transform(self, frame: pd.DataFrame) -> Tensor:
        """Encoder inputs (n, p), float32.

        Numeric: standardised, missing at the mean with a flag. Categorical: one-hot, with a slot for missing and
        one for categories that the schema has not seen.

        Raises:
            DataError: a column is absent, or a numeric one holds text; names row and value.
        """
        return torch.from_numpy(
            np.concatenate([self._encode(frame[require_column(frame, c.name)], c) for c in self.columns], 1)
        )

    def _encode(self, values: pd.Series, column: Column) -> np.ndarray:
        missing = values.isna().to_numpy()
        if column.kind == "numeric":
            numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
            bad = ~np.isfinite(numbers) & ~missing
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise DataError(
                    f"column '{column.name}' is numeric, but row {row} holds {values.iloc[row]!r} ({int(bad.sum())} "
                    "such cells)"
                )
            if missing.any() and not column.missing:
                _warn(f"column '{column.name}' had no missing values when fitted; {int(missing.sum())} get its mean")
            scaled = np.where(missing, 0.0, (numbers - column.mean) / (column.std or 1.0))
            parts = [scaled] + ([missing.astype(float)] if column.missing else [])
            return np.stack(parts, 1).astype(np.float32)
        position = {c: i for i, c in enumerate(column.categories)}
        k = len(position)
        codes = np.array([k if m else position.get(str(v), k + 1) for v, m in zip(values, missing, strict=True)])
        unseen = int((codes == k + 1).sum())
        if unseen:
            _warn(f"column '{column.name}': {unseen} cells hold categories that the schema has not seen")
        return np.eye(k + 2, dtype=np.float32)[codes]

    def save(self, path: str | Path) -> None:
        """As JSON."""
        text = json.dumps([asdict(c) for c in self.columns], indent=1, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "TableSchema":
        """From JSON.

        Raises:
            DataError: no such file, or no schema.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"there is no schema {path}; it is written when the encoder is trained")
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(Column(**{**r, "categories": tuple(r["categories"])}) for r in records))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is no table schema: {error}") from error


def _fit_column(values: pd.Series, name: str, as_category: bool) -> Column:
    missing = int(values.isna().sum())
    present = values.dropna()
    if present.empty:
        raise DataError(f"column '{name}' has no values; leave it out of the features")
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and not as_category:
        numbers = present.to_numpy(float)
        std = float(numbers.std())
        if std <= 1e-12 * max(1.0, float(np.abs(numbers).max())):
            _warn(f"column '{name}' is constant ({numbers[0]:g}); it tells the encoder nothing")
            std = 0.0
        low, high = float(numbers.min()), float(numbers.max())
        if not all(map(math.isfinite, (low, high, std))):
            raise DataError(f"column '{name}' holds infinite values")
        return Column(name, "numeric", float(numbers.mean()), std, low, high, missing)
    return Column(name, "categorical", missing=missing, categories=tuple(sorted({str(v) for v in present})))


def require_column(frame: pd.DataFrame, name: str) -> str:
    """The name, if the table has it; else DataError with the nearest ones."""
    if name not in frame.columns:
        near = difflib.get_close_matches(name, list(map(str, frame.columns)), 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise DataError(f"unknown column '{name}'{hint} The table has {', '.join(map(str, frame.columns))}")
    return name


class TableSource(ArraySource):
    """A table as samples: encoded for the encoder, raw for the reader.

    Args:
        frame: the table in raw units.
        schema: fitted on the encoder's training table.
        ids: one per row; default the row numbers.
    """

    def __init__(self, frame: pd.DataFrame, schema: TableSchema, ids: Sequence[str] | None = None):
        shown = frame[[c.name for c in schema.columns]].reset_index(drop=True)
        super().__init__(schema.transform(frame), ids, shown, kind="table")
        self.schema = schema


def _warn(message: str) -> None:
    warnings.warn(message, KrepesWarning, stacklevel=4)
