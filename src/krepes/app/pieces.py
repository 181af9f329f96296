"""A Parquet file of a run read row group by row group, with its damage told."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from krepes.app.cache import Cache
from krepes.stored import StoredRun, first_line

KEPT_BYTES = 192 * 2**20  # of the row groups of one file that are held
READ_BYTES = 4 * 2**30  # of the columns of one row group, at most
ENTRIES, ALWAYS = 64, 2**20  # of the lists of one row group: so many a row, or so many in all, are read


class Pieces:
    """A Parquet file whose row groups are read when they are asked for; safe for threads.

    Args:
        run: told of damage.
        name: of the file.
        coded: columns of text that are read as dictionaries, which takes a fraction of the time and memory.
        expected: whether each run has the file.

    Attributes:
        schema: of the file; without columns where it cannot be read.
        starts: the row at which each group begins, and the number of rows (groups + 1,).
    """

    def __init__(self, run: StoredRun, name: str, coded: Sequence[str] | None = None, expected: bool = True):
        self._run, self._name = run, name
        self._lock = threading.Lock()
        self._groups = Cache(KEPT_BYTES, lambda table: 0 if table is None else table.nbytes)
        self.schema, self.starts = pa.schema([]), np.zeros(1, np.int64)
        file = run.parquet(name, expected)
        if file is None:
            self._file = None
            return
        schema = file.schema_arrow
        text = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        there = {file.schema.column(i).path for i in range(len(file.schema))}
        wanted = [name for name in (text if coded is None else coded) if name in there]
        path = run.path(name)
        self._file = pq.ParquetFile(path, read_dictionary=wanted) if wanted and path is not None else file
        twice = repeated(schema.names)
        if twice:
            run.say(name, f"{name} has {len(twice)} names that several columns share: none of these is shown.")
        self.schema = pa.schema([field for field in schema if field.name not in twice])
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))]).astype(np.int64)

    @property
    def n(self) -> int:
        """Rows."""
        return int(self.starts[-1])

    @property
    def groups(self) -> int:
        """Row groups."""
        return len(self.starts) - 1

    def group(self, number: int, columns: Sequence[str]) -> pa.Table | None:
        """Some columns of one row group; None where it is damaged."""
        return self._groups.get((number, tuple(columns)), lambda: self.read(number, columns))

    def read(self, number: int, columns: Sequence[str]) -> pa.Table | None:
        """`group`, not kept."""
        assert self._file is not None
        rows = range(int(self.starts[number]), int(self.starts[number + 1]))
        try:
            refuse_too_large(self._file.metadata.row_group(number), columns)
            with self._lock:
                table = self._file.read_row_group(number, columns=list(columns)).select(list(columns))
            table.validate(full=True)  # text that is no UTF-8 would fail later, cell by cell
            if table.num_rows != len(rows):
                raise ValueError(f"{table.num_rows} rows where {len(rows)} are announced")
            return table
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
            self._run.say(
                self._name,
                f"Rows {rows.start:,} to {rows.stop - 1:,} of {self._name} are damaged ({first_line(error)}).",
            )
            return None

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column (n,), null in damaged groups."""
        chunks: list[pa.Array] = []
        kind = None
        tables = [self.read(i, [name]) for i in range(self.groups)]
        for table in tables:
            kind = kind if table is None else table.schema.field(0).type
        kind = kind or pa.null()
        for i, table in enumerate(tables):
            rows = int(self.starts[i + 1] - self.starts[i])
            chunks += [pa.nulls(rows, kind)] if table is None else table.column(0).chunks
        return pa.chunked_array(chunks, kind)

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table | None:
        """Some columns of the rows start … stop − 1; None where one of them is damaged."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        for number in range(first, self.groups):
            begin = int(self.starts[number])
            if begin >= stop:
                break
            table = self.group(number, columns)
            if table is None:
                return None
            parts.append(table.slice(max(start - begin, 0), stop - max(start, begin)))
        return pa.concat_tables([_plain(p) for p in parts]) if parts else None


def refuse_too_large(group: Any, columns: Sequence[str]) -> None:
    """Raise ValueError where some columns of a row group would take too much memory; their data are not read.

    Args:
        group: what the file says of the row group.
    """
    chunks = [group.column(i) for i in range(group.num_columns)]
    asked = [c for c in chunks if c.path_in_schema in columns or c.path_in_schema.split(".")[0] in columns]
    size = sum(c.total_uncompressed_size for c in asked)
    if size > READ_BYTES:
        raise ValueError(f"{size:,} bytes; at most {READ_BYTES:,} are read at once")
    most = max(ENTRIES * group.num_rows, ALWAYS)
    long = [c for c in asked if c.num_values > most]
    if long:
        name = long[0].path_in_schema.split(".")[0]
        raise ValueError(f"lists of {name} with {long[0].num_values:,} entries in all; at most {most:,} are read")


def repeated(names: Sequence[str]) -> list[str]:
    """Names that stand there more than once."""
    return [name for name, times in Counter(names).items() if times > 1]


def _plain(table: pa.Table) -> pa.Table:
    """Dictionaries as what they stand for: a few rows of several groups have several."""
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table
