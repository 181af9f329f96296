"""A table's columns as a schema knows them: the rules for their kinds, and what is fitted of each."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false, reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from krepes.data.cells import SAID, nearly_numeric
from krepes.data.columns import without_classes
from krepes.data.names import ByName
from krepes.data.schema_file import KINDS
from krepes.errors import ConfigError, DataError, warn

FEW = 20  # different texts that a column may have, however short the table
UNIQUE = 0.9  # share of different texts from which a column names rows
CONTAINERS = (list, tuple, dict, set, frozenset, np.ndarray)  # of several values in one cell
SHOWN = 40  # characters of a cell that a message shows


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


def chosen_features(frame: pd.DataFrame, label: str | None) -> list[str]:
    """All columns but the label and those that hold classes by their names; warns of the latter."""
    way = "say so with label=… or features=…; if not, name them among features=…"
    return list(without_classes(frame.drop(columns=[] if label is None else label), way, "the features").columns)


def fitted_columns(frame: pd.DataFrame, names: Sequence[str], kinds: Mapping[str, str]) -> tuple[Column, ...]:
    """The columns of those names; their kinds are found where `kinds` does not say them.

    Raises:
        ConfigError: an unknown kind, or one for another column.
        DataError: as `fit_column`, or a column with lists in its cells.
    """
    known, held = set(names), ByName(frame)
    for name, kind in kinds.items():
        if kind not in KINDS or name not in known:
            raise ConfigError(f"kinds: {name!r} ↦ {kind!r}; expected a feature and one of {', '.join(KINDS)}")
    columns = []
    for name in names:
        values = held[str(name)]
        refuse_lists(values, str(name))
        kind = kinds.get(name) or kind_of_column(values)
        columns.append(fit_column(values, str(name), kind))
        if name in kinds or kind != "categorical":
            continue
        near = nearly_numeric(values) if name not in frame.attrs.get(SAID, ()) else None
        different = len(columns[-1].categories)
        if near is not None:
            way = f"say kinds={{'{name}': 'categorical'}}"
            near.say(str(name), "the data frame", f"row {near.row}", way)
        elif different > max(FEW, UNIQUE * len(frame)):
            warn(
                f"column '{name}' has {different} different texts in {len(frame)} rows: it names rows and is no "
                "feature. Leave it out with features=…"
            )
    return tuple(columns)


def refuse_lists(values: pd.Series, name: str) -> None:
    """Raise DataError naming the first cell that is no single value, such as a list or an array."""
    if isinstance(values.dtype, pd.ArrowDtype) and pa.types.is_nested(values.dtype.pyarrow_dtype):
        held = values.notna().to_numpy()
    elif values.dtype == object and pd.api.types.infer_dtype(values, skipna=True).startswith("mixed"):
        held = np.array([isinstance(v, CONTAINERS) or not isinstance(v, Hashable) for v in values])
    else:
        return
    if held.any():
        row = int(np.flatnonzero(held)[0])
        cell = values.iloc[row]
        text = " ".join(repr(cell).split())
        raise DataError(
            f"column '{name}': row {row} holds the {type(cell).__name__} {text[:SHOWN]}{' …' * (len(text) > SHOWN)}; "
            "expected one number, text or truth value in each cell. Make columns of its parts, or leave it out with "
            "features=…"
        )


def kind_of_column(values: pd.Series) -> str:
    """The kind that a column's cells have by the rules of `TableSchema.fit`."""
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        return "ordinal"
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return "numeric"
    labels = set(labelled(values)[1])
    return "boolean" if labels and labels <= {"False", "True"} else "categorical"


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
        warn(f"column '{name}' is constant ({numbers[0]:g}); it tells the encoder nothing")
        std = 0.0
    low, high = float(numbers.min()), float(numbers.max())
    if not all(map(math.isfinite, (low, high, std))):
        raise DataError(f"column '{name}' holds infinite values")
    return Column(name, "numeric", float(numbers.mean()), std, low, high, missing)


def _in_order(values: pd.Series, texts: Sequence[str], kind: str) -> list[str]:
    """Different texts: in the order of the column's own, of numbers, or of the alphabet."""
    if kind == "ordinal":
        if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
            return labelled(pd.Series(values.cat.categories))[1]
        try:
            return sorted(set(texts), key=float)
        except ValueError:
            pass
    return sorted(set(texts))


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
