"""CSV and Parquet files as tables."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from krepes.data.cells import MISSING, SAID, as_column, as_frame, holds_rounded, nearly_numeric, say_rounded, typed
from krepes.data.csv_quotes import CELL_LINES
from krepes.data.csv_table import read_csv
from krepes.data.names import existing, refuse_repeated, require_name
from krepes.data.problems import OnError
from krepes.errors import DataError


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    skip_lines: int = 0,
    missing: Sequence[str] = MISSING,
    text: Sequence[str] = (),
    encoding: str = "utf-8",
    separator: str = ",",
    on_error: OnError = "raise",
    cell_lines: int = CELL_LINES,
) -> pd.DataFrame:
    """A Parquet file (.parquet or .pq) or else a CSV file as a table (n, columns).

    Args:
        columns: for CSV the names, when it has no header; for Parquet the columns to read.
        skip_lines: of a CSV file, lines before the header or the first row.
        missing, text, encoding, separator, on_error, cell_lines: see `read_csv`.

    Raises:
        DataError: as `read_csv` and `read_parquet`, or a CSV file's setting for a Parquet file.
    """
    if not is_parquet(path):
        return read_csv(path, columns, skip_lines, missing, text, encoding, separator, on_error, cell_lines)
    if skip_lines:
        raise DataError(f"skip_lines={skip_lines} for {path}: a Parquet file has no lines to skip; leave it out")
    for name, value, default in (("encoding", encoding, "utf-8"), ("separator", separator, ",")):
        if value != default:
            raise DataError(f"{name}={value!r} for {path}: a Parquet file has none; leave it out")
    return read_parquet(path, columns, missing, text)


def is_parquet(path: str | Path) -> bool:
    """Whether the file's name says Parquet."""
    return Path(path).suffix.lower() in (".parquet", ".pq")


def read_parquet(
    path: str | Path,
    columns: Sequence[str] | None = None,
    missing: Sequence[str] = MISSING,
    text: Sequence[str] = (),
) -> pd.DataFrame:
    """A Parquet file as a table: numbers as float64, text as categories, booleans as the categories False and True.

    Args:
        columns: to read; default all. The others may be of any type.
        missing: text cells that mean "missing", beside nulls.
        text: columns that become text whatever they hold, such as ids: float64 rounds whole numbers beyond 2^53, with
            a warning.

    Raises:
        DataError: no such file, a damaged one, no rows, an unknown or repeated column (in `columns` or `text`), or one
            whose type is neither number, text nor boolean.
    """
    path = existing(path)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            refuse_repeated(schema.names, path)
            for name in text:
                require_name(schema.names, name)
            wanted = [require_name(schema.names, c) for c in dict.fromkeys(columns or schema.names)]
            if file.metadata.num_rows == 0:
                raise DataError(f"{path} holds no rows")
            parts: dict[str, list[pa.Array]] = {name: [] for name in wanted}
            for batch in file.iter_batches(columns=wanted, batch_size=65_536):
                for name in wanted:
                    parts[name].append(typed(path, name, batch[name], missing, name in text))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}. Write it again.") from error
    frame = as_frame({name: as_column(pa.chunked_array(parts.pop(name))) for name in wanted})
    for name, values in [(str(n), v) for n, v in frame.items() if n not in text]:
        if holds_rounded(schema.field(name).type, values.to_numpy()):
            say_rounded(path, name)
        if near := nearly_numeric(values):
            near.say(name, path, f"row {near.row}", "name the column in text=…")
            frame.attrs[SAID] = [*frame.attrs.get(SAID, ()), name]
    return frame
