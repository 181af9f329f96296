"""Tables as encoder inputs, with the raw units kept for the reader."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

import difflib
import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.source import checked_ids, slice_of
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

    def codes(self, frame: pd.DataFrame) -> "Codes":
        """The table with one code per categorical feature; raises as `transform`."""
        slices, dense, dense_columns, hot = self.slices, [], [], []
        for c in self.columns:
            values = frame[require_column(frame, c.name)]
            if c.kind == "numeric":
                dense += self._numeric(values, c)
                dense_columns += range(slices[c.name].start, slices[c.name].stop)
            else:
                hot.append(slices[c.name].start + self._categories(values, c))
        n = len(frame)
        return Codes(
            torch.from_numpy(np.stack(dense, 1)) if dense else torch.zeros(n, 0),
            torch.tensor(dense_columns, dtype=torch.long),
            torch.from_numpy(np.stack(hot, 1).astype(np.int32)) if hot else torch.zeros(n, 0, dtype=torch.int32),
            self.width,
        )

    def _numeric(self, values: pd.Series, column: Column) -> list[np.ndarray]:
        """The standardised values (n,), and the flag of missing ones where the schema has it."""
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
        return [p.astype(np.float32) for p in ([scaled, missing] if column.missing else [scaled])]

    def _categories(self, values: pd.Series, column: Column) -> np.ndarray:
        """Category numbers (n,); k for missing and k + 1 for unseen cells, of k categories."""
        position = {c: i for i, c in enumerate(column.categories)}
        k = len(position)
        found, kinds = pd.factorize(values)
        known = np.array([position.get(str(v), k + 1) for v in kinds] + [k])  # factorize marks missing cells by −1
        codes = known[found]
        unseen = int((codes == k + 1).sum())
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
    return Column(name, "categorical", missing=missing, categories=tuple(sorted({str(v) for v in present.unique()})))


def require_column(frame: pd.DataFrame, name: str) -> str:
    """The name, if the table has it; else DataError with the nearest ones."""
    if name not in frame.columns:
        near = difflib.get_close_matches(name, list(map(str, frame.columns)), 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise DataError(f"unknown column '{name}'{hint} The table has {', '.join(map(str, frame.columns))}")
    return name


@dataclass(frozen=True)
class Codes:
    """A table before one-hot encoding.

    Attributes:
        dense: standardised values and flags of missing ones (n, w), float32.
        dense_columns: where they stand in the encoded row (w,).
        hot: per categorical feature the encoded column that is one (n, c), int32.
        width: p, the number of encoded columns.
    """

    dense: Tensor
    dense_columns: Tensor
    hot: Tensor
    width: int

    def expand(self, index) -> Tensor:
        """Encoded rows (B, p), float32."""
        return self.fill(self.dense[index], self.hot[index])

    def fill(self, dense: Tensor, hot: Tensor) -> Tensor:
        """Encoded rows (B, p) of given values (B, w) and columns (B, c)."""
        out = torch.zeros(len(dense), self.width)
        out[:, self.dense_columns] = dense
        return out.scatter_(1, hot.long(), 1.0)


class TableSource:
    """A table as samples: encoded for the encoder, raw for the reader.

    The encoded rows are made when they are asked for; what is held is the raw table and one code per cell.

    Args:
        frame: the table in raw units.
        schema: fitted on the encoder's training table.
        ids: one per row; default the row numbers.
    """

    kind = "table"

    def __init__(self, frame: pd.DataFrame, schema: TableSchema, ids: Sequence[str] | None = None):
        if len(frame) == 0:
            raise DataError("there are no samples: the table has no rows")
        self.schema, self.codes = schema, schema.codes(frame)
        self.ids = checked_ids(ids, len(frame))
        self._frame = frame[[c.name for c in schema.columns]].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self._frame)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Encoded rows (B, p), float32."""
        return self.codes.expand(slice_of(indices))

    def metadata(self) -> pd.DataFrame:
        """The raw table; not to be changed."""
        return self._frame

    def fingerprint(self) -> str:
        """sha256 over ids, schema and codes."""
        digest = hashlib.sha256("\0".join(self.ids).encode())
        digest.update(repr(self.schema).encode())
        for part in (self.codes.dense, self.codes.hot):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()


def _warn(message: str) -> None:
    warnings.warn(message, KrepesWarning, stacklevel=4)
