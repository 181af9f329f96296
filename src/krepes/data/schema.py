"""How a table becomes encoder input: kinds, ranges and categories of its columns."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

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

from krepes.data.codes import Codes
from krepes.data.readers import require_name
from krepes.data.schema_file import as_yaml, is_yaml, read_records
from krepes.errors import DataError, KrepesWarning


@dataclass(frozen=True)
class Column:
    """A feature as it was when the schema was fitted.

    Attributes:
        kind: "numeric", "categorical", "ordinal" (categories in an order) or "boolean" (two categories).
        mean, std, minimum, maximum: in raw units (numeric).
        missing: missing cells when fitted.
        categories: values seen when fitted (all but numeric).
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
        return cls(tuple(fit_column(frame[n], n, _plain_kind(frame[n], n in categorical)) for n in names))

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
        """As YAML where the name says so (.yaml, .yml), else as JSON; both can be edited."""
        records = [asdict(c) for c in self.columns]
        text = as_yaml(records) if is_yaml(Path(path)) else json.dumps(records, indent=1, ensure_ascii=False) + "\n"
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "TableSchema":
        """From YAML or JSON.

        Raises:
            DataError: no such file, or no schema; names the line and the column of a mistake.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"there is no schema {path}; it is written when the encoder is trained")
        return cls(tuple(Column(**record) for record in read_records(path)))


def _plain_kind(values: pd.Series, as_category: bool) -> str:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return "numeric" if numeric and not as_category else "categorical"


def fit_column(values: pd.Series, name: str, kind: str) -> Column:
    """A column of that kind with its range or categories, ordered ones in their order.

    Raises:
        DataError: no values, infinite ones, text for numbers, or more than two values of a boolean.
    """
    missing = int(values.isna().sum())
    present = values.dropna()
    if present.empty:
        raise DataError(f"column '{name}' has no values; leave it out of the features")
    if kind != "numeric":
        labels = labelled(present)[1]
        if kind == "boolean" and len(labels) > 2:
            raise DataError(f"column '{name}' has {len(labels)} different values; a boolean has two")
        return Column(name, kind, missing=missing, categories=tuple(_in_order(values, labels, kind)))
    if not pd.api.types.is_numeric_dtype(values):
        raise DataError(f"column '{name}' holds {present.iloc[0]!r}; a numeric column holds numbers")
    numbers = present.to_numpy(float)
    std = float(numbers.std())
    if std <= 1e-12 * max(1.0, float(np.abs(numbers).max())):
        _warn(f"column '{name}' is constant ({numbers[0]:g}); it tells the encoder nothing")
        std = 0.0
    low, high = float(numbers.min()), float(numbers.max())
    if not all(map(math.isfinite, (low, high, std))):
        raise DataError(f"column '{name}' holds infinite values")
    return Column(name, "numeric", float(numbers.mean()), std, low, high, missing)


def _in_order(values: pd.Series, labels: Sequence[str], kind: str) -> list[str]:
    """Different labels: in the order of the column's own, of numbers, or of the alphabet."""
    if kind == "ordinal":
        if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
            return labelled(pd.Series(values.cat.categories))[1]
        try:
            return sorted(set(labels), key=float)
        except ValueError:
            pass
    return sorted(set(labels))


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


def _warn(message: str) -> None:
    warnings.warn(message, KrepesWarning, stacklevel=4)
