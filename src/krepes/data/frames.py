"""Data frames of any library as tables, and the schema that fits one."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportReturnType=false, reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from krepes.data.cells import MISSING, as_column, as_frame, holds_rounded, say_rounded, typed
from krepes.data.names import require_name
from krepes.data.schema import TableSchema
from krepes.errors import DataError


def table_of(
    frame: Any,
    columns: Sequence[str] | None = None,
    missing: Sequence[str] = MISSING,
    text: Sequence[str] = (),
) -> pd.DataFrame:
    """A data frame of any library as a table: numbers as float64, text as categories, ordered ones in their order.

    Args:
        frame: pandas, polars, pyarrow, or whatever else narwhals takes; a lazy one is collected.
        columns: to take; default all. The others may be of any type.
        missing: text cells that mean "missing", beside nulls.
        text: columns that become text whatever they hold, such as ids.

    Example:
        >>> table_of(pyarrow.table({"age": [20, 40], "job": ["a", "b"]})).dtypes.tolist()
        [dtype('float64'), CategoricalDtype(categories=['a', 'b'], ordered=False)]

    Raises:
        DataError: no data frame, no rows, an unknown or repeated column, or one whose type is neither number, text nor
            boolean.
    """
    import narwhals as nw

    try:
        wide = nw.from_native(frame)
        names = wide.collect_schema().names()
        wanted = [require_name(names, c) for c in dict.fromkeys(columns if columns is not None else names)]
        wide = wide.select(*wanted)
        wide = wide.collect() if isinstance(wide, nw.LazyFrame) else wide
    except TypeError as error:
        raise DataError(
            f"a {type(frame).__name__} is no data frame that narwhals knows, such as one of pandas, polars or pyarrow: "
            f"{error}"
        ) from error
    except nw.exceptions.NarwhalsError as error:
        raise DataError(f"the {type(frame).__name__} cannot be read as a table: {error}") from error
    if len(wide) == 0 or not wanted:
        raise DataError(f"the {type(frame).__name__} holds no {'rows' if wanted else 'columns'}")
    table = as_frame({name: _column(wide[name], name, missing, name in text) for name in wanted})
    table.attrs.update(getattr(frame, "attrs", {}))
    return table


def _column(values: Any, name: str, missing: Sequence[str], text: bool) -> Any:
    import narwhals as nw

    order = values.dtype.categories if isinstance(values.dtype, nw.Enum) else None
    try:
        cells = values.to_arrow()
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"column '{name}' holds values of several types: {error}. Convert it to one.") from error
    chunks = cells.chunks if isinstance(cells, pa.ChunkedArray) else [cells]
    made = as_column(pa.chunked_array([typed("the data frame", name, c, missing, text) for c in chunks]))
    if holds_rounded(cells.type, made):
        say_rounded("the data frame", name)
    if order is None or not isinstance(made, pd.Categorical | pd.Series) or made.dtype == float:
        return made
    kept = [str(c) for c in order if str(c) not in missing]
    return pd.Categorical(made, categories=kept, ordered=True)


def infer_schema(
    frame: Any,
    features: Sequence[str] | None = None,
    label: str | None = None,
    kinds: Mapping[str, str] | None = None,
    missing: Sequence[str] = MISSING,
) -> TableSchema:
    """Kinds, ranges and categories of a data frame's columns, to be looked at, edited and saved.

    The rules are those of `TableSchema.fit`.

    Args:
        frame: see `table_of`.
        features, label, kinds: see `TableSchema.fit`.
        missing: text cells that mean "missing".

    Example:
        >>> schema = infer_schema(frame, label="income", kinds={"zip": "categorical"})
        >>> schema.save("schema.yaml")
        >>> source = TableSource.of(frame, TableSchema.load("schema.yaml"))

    Raises:
        DataError: as `table_of`, the label among the features, or a column without any value.
        ConfigError: an unknown kind, or one for a column that is no feature.
    """
    table = table_of(frame, features, missing)
    if features is not None and label not in features:
        label = None  # it is not among the columns that were taken
    return TableSchema.fit(table, features, label=label, kinds=kinds)
