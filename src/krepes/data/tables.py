"""Tables as encoder inputs, with the raw units kept for the reader."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.codes import Codes
from krepes.data.ids import checked_ids, joined
from krepes.data.readers import require_name
from krepes.data.source import slice_of
from krepes.errors import DataError, KrepesWarning


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


MANY = 20  # cells without a known category, and none with one: another coding, not rare values


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
        return self.codes(frame).expand(slice(None))

    def codes(self, frame: pd.DataFrame) -> Codes:
        """The table with one code per categorical feature; raises as `transform`."""
        slices = self.slices
        numeric = [c for c in self.columns if c.kind == "numeric"]
        categorical = [c for c in self.columns if c.kind != "numeric"]
        dense_columns = [i for c in numeric for i in range(slices[c.name].start, slices[c.name].stop)]
        # filled column by column, so that one wide column at most stands beside the codes
        dense = np.empty((len(frame), len(dense_columns)), np.float32)
        hot = np.empty((len(frame), len(categorical)), np.int16 if self.width < 2**15 else np.int32)
        start = 0
        for c in numeric:
            dense[:, start : start + c.width] = self._numeric(frame[require_column(frame, c.name)], c)
            start += c.width
        for i, c in enumerate(categorical):
            hot[:, i] = slices[c.name].start + self._categories(frame[require_column(frame, c.name)], c)
        return Codes(
            torch.from_numpy(dense), torch.tensor(dense_columns, dtype=torch.long), torch.from_numpy(hot), self.width
        )

    def _numeric(self, values: pd.Series, column: Column) -> np.ndarray:
        """The standardised values and, where the schema has it, the flag of missing ones: (n, 1) or (n, 2)."""
        missing = values.isna().to_numpy()
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
        return np.stack([scaled, missing] if column.missing else [scaled], 1)

    def _categories(self, values: pd.Series, column: Column) -> np.ndarray:
        """Category numbers (n,); k for missing and k + 1 for unseen cells, of k categories."""
        position = {c: i for i, c in enumerate(column.categories)}
        k = len(position)
        for i, c in enumerate(column.categories):  # a schema fitted when whole numbers were floats
            position.setdefault(c.removesuffix(".0"), i)
        found, labels = labelled(values)
        numbers = [position.get(v, position.get(plain_number(v), k + 1)) for v in labels]
        known = np.array([*numbers, k])  # a missing cell is −1, the last
        codes = known[found]
        unseen = int((codes == k + 1).sum())
        if unseen >= MANY and unseen == int((found >= 0).sum()):
            raise DataError(
                f"column '{column.name}': none of its {unseen} cells holds a category of the schema. There: "
                f"{', '.join(column.categories[:3])}; here: {', '.join(labels[:3])}. Read it as it was when the schema "
                "was fitted."
            )
        if unseen:
            _warn(f"column '{column.name}': {unseen} cells hold categories that the schema has not seen")
        return codes

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
    return Column(name, "categorical", missing=missing, categories=tuple(sorted(set(labelled(present)[1]))))


def plain_number(label: str) -> str:
    """A whole number's shortest text, for labels that a schema knows as numbers: 01 and 1.0 are 1."""
    try:
        number = float(label)
    except ValueError:
        return label
    return str(int(number)) if number.is_integer() else label


def labelled(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Each cell's label number (n,), −1 where missing, and the labels' text."""
    if values.dtype == object:
        # 1, 1.0 and True are one object to a hash table and three labels to a reader
        values = values.map(str, na_action="ignore")
    found, labels = pd.factorize(values)
    # plain Python numbers: a float32 and the same number as float64 read the same; so do 1 and 1.0, since a column of
    # integers becomes floats where cells are missing or a file does not say its types
    return found, [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in labels.tolist()]


def require_column(frame: pd.DataFrame, name: str) -> str:
    """The name, if the table has it; else DataError with the nearest ones."""
    return require_name(frame.columns, name)


def ids_of(frame: pd.DataFrame, name: str) -> list[str]:
    """A column's cells as ids; read it as text, so that 007 stays 007.

    Raises:
        DataError: no such column, or missing cells.
    """
    ids = frame[require_column(frame, name)]
    gone = np.flatnonzero(ids.isna())
    if len(gone):
        raise DataError(
            f"the id column '{name}' is missing in {len(gone)} rows, first in row {gone[0]}; each needs one"
        )
    return ids.astype(str).tolist()


class TableSource:
    """A table as samples: encoded for the encoder, raw for the reader.

    The encoded rows are made when they are asked for; what is held is the raw table and one code per cell.

    Args:
        frame: the table in raw units.
        schema: fitted on the encoder's training table.
        ids: one per row; default "row-0", "row-1", …

    Example:
        >>> source = TableSource(frame, TableSchema.load("schema.json"))
        >>> source.batch(range(256)).shape
        torch.Size([256, 121])

    Raises:
        DataError: no rows, a wrong number of ids or duplicated ones, or what `TableSchema.transform` raises.
    """

    kind = "table"

    def __init__(self, frame: pd.DataFrame, schema: TableSchema, ids: Sequence[str] | None = None):
        if len(frame) == 0:
            raise DataError("there are no samples: the table has no rows")
        self.schema, self.codes = schema, schema.codes(frame)
        self.ids = checked_ids(ids, len(frame), "row-")
        self._fingerprint: str | None = None
        self._frame = frame[[c.name for c in schema.columns]].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self._frame)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Encoded rows (B, p), float32."""
        return self.codes.expand(slice_of(indices, len(self)))

    def metadata(self) -> pd.DataFrame:
        """The raw table itself, not a copy; not to be changed."""
        return self._frame

    def row(self, position: int) -> dict[str, Any]:
        """Column ↦ raw value of one row, without a look at the others."""
        return {str(name): values.iloc[position] for name, values in self._frame.items()}

    def fingerprint(self) -> str:
        """sha256 over ids, schema and codes; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256(repr(self.schema).encode())
            for part in joined(self.ids):
                digest.update(part)
            for codes in (self.codes.dense, self.codes.hot):
                digest.update(codes.contiguous().numpy().data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def _warn(message: str) -> None:
    warnings.warn(message, KrepesWarning, stacklevel=4)
