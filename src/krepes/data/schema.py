"""How a table becomes encoder input: kinds, ranges and categories of its columns."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.codes import Codes
from krepes.data.names import ByName, refuse_twice, require_name
from krepes.data.ranges import far_outside, say_far_outside
from krepes.data.schema_columns import Column, chosen_features, fitted_columns, labelled, plain_number
from krepes.data.schema_file import as_yaml, is_yaml, read_records
from krepes.errors import DataError, warn

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
        kinds: Mapping[str, str] | None = None,
    ) -> "TableSchema":
        """Kinds, ranges and categories of the features; `krepes.data.infer_schema` does it for any data frame.

        Numbers are numeric, text is categorical, truth values are boolean, ordered categories are ordinal. Warns of
        columns that a few cells keep from being numeric, and of text that names rows.

        Args:
            frame: the training table in raw units.
            features: columns to encode; default all but the label and, with a warning, columns that hold classes by
                their names, such as `target`.
            categorical: numeric columns to take as categories.
            label: a column that never reaches the encoder.
            kinds: column ↦ kind, where the rule is wrong.

        Raises:
            DataError: an unknown column, two features of one name, the label among the features, or a column without
                any value or with lists in its cells.
            ConfigError: an unknown kind, or one for a column that is no feature.
        """
        known = set(map(str, frame.columns))
        for name in [*(features or ()), *categorical, *([label] if label is not None else [])]:
            if name not in known:
                require_name(frame.columns, name)
        names = list(features) if features is not None else chosen_features(frame, label)
        if label is not None and label in names:
            raise DataError(f"the label column '{label}' is among the features; labels never reach the encoder")
        refuse_twice(list(map(str, frame.columns)), map(str, names))
        names = list(dict.fromkeys(names))
        return cls(fitted_columns(frame, names, dict.fromkeys(categorical, "categorical") | dict(kinds or {})))

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
        one for categories that the schema has not seen. Warns of numeric columns of which a fifth of the cells lies far
        outside the range that they had when the schema was fitted: mostly they are in another unit.

        Raises:
            DataError: a column is absent or stands there twice, or a numeric one holds text; names row and value.
        """
        return self.codes(frame).expand(slice(None))

    def codes(self, frame: pd.DataFrame) -> Codes:
        """The table with one code per categorical feature; raises as `transform`."""
        slices, held = self.slices, ByName(frame)
        numeric = [c for c in self.columns if c.kind == "numeric"]
        categorical = [c for c in self.columns if c.kind != "numeric"]
        dense_columns = [i for c in numeric for i in range(slices[c.name].start, slices[c.name].stop)]
        # filled column by column, so that one wide column at most stands beside the codes
        dense = np.empty((len(frame), len(dense_columns)), np.float32)
        hot = np.empty((len(frame), len(categorical)), np.int16 if self.width < 2**15 else np.int32)
        start, far = 0, []
        for c in numeric:
            dense[:, start : start + c.width], said = self._numeric(held[c.name], c)
            far += [] if said is None else [said]
            start += c.width
        say_far_outside(far)
        for i, c in enumerate(categorical):
            hot[:, i] = slices[c.name].start + self._categories(held[c.name], c)
        return Codes(
            torch.from_numpy(dense), torch.tensor(dense_columns, dtype=torch.long), torch.from_numpy(hot), self.width
        )

    def _numeric(self, values: pd.Series, column: Column) -> tuple[np.ndarray, str | None]:
        """The standardised values and, where the schema has it, the flag of missing ones: (n, 1) or (n, 2).

        Beside them what `far_outside` says of the column.
        """
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
            warn(f"column '{column.name}' had no missing values when fitted; {int(missing.sum())} get its mean")
        scaled = np.where(missing, 0.0, (numbers - column.mean) / (column.std or 1.0))
        return np.stack([scaled, missing] if column.missing else [scaled], 1), far_outside(numbers, column)

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
            warn(f"column '{column.name}': {unseen} cells hold categories that the schema has not seen")
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
