"""Tables as encoder inputs, with the raw units kept for the reader."""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false
# pandas annotates a column lookup as a union of everything that it could ever return.

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from krepes.data.cells import MISSING
from krepes.data.ids import checked_ids, joined
from krepes.data.names import ByName
from krepes.data.problems import Problem, table_of_problems
from krepes.data.schema import TableSchema
from krepes.data.schema_columns import Column, labelled, plain_number
from krepes.data.source import slice_of
from krepes.errors import DataError

__all__ = ["Column", "TableSchema", "TableSource", "ids_of"]


def ids_of(frame: pd.DataFrame, name: str) -> list[str]:
    """A column's cells as ids; read it as text, so that 007 stays 007.

    Raises:
        DataError: no such column, two of them, or missing cells.
    """
    ids = ByName(frame)[name]
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
        ids: one per row, or the name of a column with them; default "row-0", "row-1", …

    Attributes:
        problems: the first rows of the file that were left out: id (empty), path and problem.

    Example:
        >>> source = TableSource(frame, TableSchema.load("schema.json"))
        >>> source.batch(range(256)).shape
        torch.Size([256, 121])

    Raises:
        DataError: no rows, a wrong number of ids or duplicated ones, or what `TableSchema.transform` raises.
    """

    kind = "table"

    @classmethod
    def of(
        cls, frame: Any, schema: TableSchema, ids: Sequence[str] | str | None = None, missing: Sequence[str] = MISSING
    ) -> "TableSource":
        """A data frame of any library as samples.

        Args:
            frame: see `krepes.data.frames.table_of`; columns that the schema does not name are not read.
            ids: one per row, or the name of a column with them.
        """
        from krepes.data.frames import table_of  # it fits schemas, and so needs this module

        id_column = [ids] if isinstance(ids, str) else []
        text = [c.name for c in schema.columns if c.kind != "numeric"]
        table = table_of(frame, [*(c.name for c in schema.columns), *id_column], missing, [*text, *id_column])
        return cls(table, schema, ids)

    def __init__(self, frame: pd.DataFrame, schema: TableSchema, ids: Sequence[str] | str | None = None):
        if len(frame) == 0:
            raise DataError("there are no samples: the table has no rows")
        self.schema, self.codes = schema, schema.codes(frame)
        left_out = frame.attrs.get("problems", ())
        if ids is None and left_out:  # rows that were left out keep their numbers
            ids = [f"row-{row}" for row in frame.index]
        self.ids = checked_ids(ids_of(frame, ids) if isinstance(ids, str) else ids, len(frame), "row-")
        self._fingerprint: str | None = None
        held = ByName(frame)
        columns = {c.name: _in_ranks(held[c.name], c) for c in schema.columns}
        self._frame = pd.DataFrame(columns, copy=False).reset_index(drop=True)
        self.problems = table_of_problems(Problem("", f"line {line}", why) for line, why in left_out)

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


def _in_ranks(values: pd.Series, column: Column) -> pd.Series:
    """An ordinal column's text as ordered categories, so that it compares as ranks; others as they are."""
    if column.kind != "ordinal" or pd.api.types.is_numeric_dtype(values):
        return values
    found, labels = labelled(values)
    known = {plain_number(c): c for c in column.categories}
    labels = [known.get(plain_number(v), v) for v in labels]
    order = [*column.categories, *sorted(set(labels) - set(column.categories))]
    codes = np.array([*(order.index(v) for v in labels), -1])[found]  # a missing cell is −1, the last
    return pd.Series(pd.Categorical.from_codes(codes, order, ordered=True), index=values.index)
