"""CSV and Parquet as tables in little memory: numbers as float64, text as categories."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from krepes.errors import DataError

MISSING = ("", "?", "NA", "NaN", "nan")
CHUNK = 2 * 2**20  # bytes of text that are parsed at a time; a row has to fit


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    skip_lines: int = 0,
    missing: Sequence[str] = MISSING,
    text: Sequence[str] = (),
) -> pd.DataFrame:
    """A Parquet file (.parquet or .pq) or else a CSV file as a table (n, columns).

    Args:
        columns: for CSV the names, when it has no header; for Parquet the columns to read.
        skip_lines: of a CSV file, lines before the header or the first row.
        missing, text: see `read_csv`.

    Raises:
        DataError: as `read_csv` and `read_parquet`, or skip_lines for a Parquet file.
    """
    if not is_parquet(path):
        return read_csv(path, columns, skip_lines, missing, text)
    if skip_lines:
        raise DataError(f"skip_lines={skip_lines} for {path}: a Parquet file has no lines to skip; leave it out")
    return read_parquet(path, columns, missing, text)


def is_parquet(path: str | Path) -> bool:
    """Whether the file's name says Parquet."""
    return Path(path).suffix.lower() in (".parquet", ".pq")


def read_csv(
    path: str | Path,
    columns: Sequence[str] | None = None,
    skip_lines: int = 0,
    missing: Sequence[str] = MISSING,
    text: Sequence[str] = (),
) -> pd.DataFrame:
    """A CSV file as a table: cells stripped, missing tokens missing.

    A column is numeric (float64) when every cell that is not missing is a finite number, else it is categorical text.
    The file is parsed twice, first for the columns' types, so that its text is never held as a whole.

    Args:
        path: a UTF-8 file, with or without a byte-order mark.
        columns: names, for a file without a header.
        skip_lines: lines before the header or the first row.
        missing: cells that mean "missing".
        text: columns that stay text whatever they hold, such as ids: "007" is not 7.

    Raises:
        DataError: no such file, no rows, a ragged row (named), a repeated column, or another encoding.
    """
    path = existing(path)
    try:
        names = header(path, columns, skip_lines)
        numeric, rows = {n: n.strip() not in text for n in names}, 0
        present = dict.fromkeys(names, False)
        for batch in text_batches(path, names, columns, skip_lines):
            rows += len(batch)
            for name in names:
                cells = stripped(batch[name], missing)
                present[name] |= cells.null_count < len(cells)
                numeric[name] = numeric[name] and numbers(cells) is not None
        if rows == 0:
            raise DataError(f"{path} holds no rows")
        chosen = {name: numeric[name] and present[name] for name in names}
        parts: dict[str, list[pa.Array]] = {name: [] for name in names}
        for batch in text_batches(path, names, columns, skip_lines):
            for name in names:
                cells = stripped(batch[name], missing)
                parts[name].append(numbers(cells) if chosen[name] else cells.dictionary_encode())
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(_explain_csv_error(path, str(error))) from error
    # a column's chunks are free once it stands
    return as_frame({name.strip(): as_column(pa.chunked_array(parts.pop(name))) for name in names})


def header(path: Path, columns: Sequence[str] | None, skip_lines: int) -> list[str]:
    """The column names as they stand in the file."""
    with pa_csv.open_csv(path, *csv_options(columns, skip_lines)) as reader:
        names = reader.schema.names
    refuse_repeated([n.strip() for n in names], path)
    return names


def csv_options(columns: Sequence[str] | None, skip_lines: int) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions]:
    names = list(columns) if columns else None
    read = pa_csv.ReadOptions(column_names=names, skip_rows=skip_lines, encoding="utf8", block_size=CHUNK)
    return read, pa_csv.ParseOptions(newlines_in_values=True)


def text_batches(
    path: Path, names: list[str], columns: Sequence[str] | None, skip_lines: int
) -> Iterator[pa.RecordBatch]:
    """The rows with every column as text."""
    convert = pa_csv.ConvertOptions(
        column_types={n: pa.string() for n in names}, strings_can_be_null=False, check_utf8=True
    )
    with pa_csv.open_csv(path, *csv_options(columns, skip_lines), convert) as reader:
        yield from reader


def stripped(cells: pa.Array, missing: Sequence[str]) -> pa.Array:
    """Cells without surrounding blanks, null where they mean "missing"."""
    cells = pc.utf8_trim_whitespace(cells)
    gone = pc.is_in(cells, value_set=pa.array(list(missing), cells.type))
    return pc.if_else(gone, pa.scalar(None, cells.type), cells)


def numbers(cells: pa.Array) -> pa.Array | None:
    """Cells as float64; None when one of them is no finite number."""
    try:
        values = pc.cast(cells, pa.float64())
    except pa.ArrowInvalid:
        try:  # the cast refuses +5
            values = pc.cast(pc.replace_substring_regex(cells, r"^\+([0-9.])", r"\1"), pa.float64())
        except pa.ArrowInvalid:
            return None
    return values if pc.all(pc.is_finite(values)).as_py() is not False else None


def as_column(column: pa.ChunkedArray) -> Any:
    """Float64 (n,), or a Categorical with missing cells as NaN."""
    if pa.types.is_dictionary(column.type):
        return column.unify_dictionaries().combine_chunks().to_pandas()
    # one chunk comes as a view of Arrow's memory, which a frame could not change
    return np.require(column.to_numpy(), np.float64, "W")


def as_frame(columns: dict[str, Any]) -> pd.DataFrame:
    """The columns as they are: to join them in one block would copy them."""
    return pd.DataFrame(columns, copy=False)


def existing(path: str | Path) -> Path:
    """The path, if a file is there; else DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return path


def refuse_repeated(names: Sequence[str], path: Path) -> None:
    """Raise DataError naming the columns that occur more than once."""
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise DataError(f"{path}: the column names {', '.join(repeated)} occur more than once")


def require_name(names: Iterable[Any], name: str) -> str:
    """The name, if it is there; else DataError with the nearest one."""
    if name not in (known := list(map(str, names))):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise DataError(f"unknown column '{name}'{hint} The table has {', '.join(known)}")
    return name


def _explain_csv_error(path: Path, message: str) -> str:
    if "UTF8" in message or "utf8" in message:
        return f"{path} is not UTF-8 ({message}); convert it, for example with iconv -t utf-8"
    if "Empty CSV" in message or "no rows" in message.lower():
        return f"{path} is empty"
    return f"{path}: {message.strip()}. Every row needs the same number of cells."


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
        text: columns that become text whatever they hold, such as ids.

    Raises:
        DataError: no such file, a damaged one, no rows, an unknown or repeated column, or one whose type is neither
            number, text nor boolean.
    """
    path = existing(path)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            refuse_repeated(schema.names, path)
            wanted = [require_name(schema.names, c) for c in dict.fromkeys(columns or schema.names)]
            if file.metadata.num_rows == 0:
                raise DataError(f"{path} holds no rows")
            parts: dict[str, list[pa.Array]] = {name: [] for name in wanted}
            for batch in file.iter_batches(columns=wanted, batch_size=65_536):
                for name in wanted:
                    parts[name].append(typed(path, name, batch[name], missing, name in text))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}. Write it again.") from error
    return as_frame({name: as_column(pa.chunked_array(parts.pop(name))) for name in wanted})


def column_names(path: str | Path) -> list[str]:
    """Names of a Parquet file's columns.

    Raises:
        DataError: no such file, or a damaged one.
    """
    path = existing(path)
    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}. Write it again.") from error


def typed(path: Path, name: str, cells: pa.Array, missing: Sequence[str], text: bool) -> pa.Array:
    """A Parquet column's cells as float64 or as a dictionary of text."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells, kind = cells.dictionary_decode(), kind.value_type
    if pa.types.is_boolean(kind):
        # the text that a table of Python's booleans has
        return pc.if_else(cells, "True", "False").dictionary_encode()
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if words or pa.types.is_null(kind) or (number and text):
        return stripped(pc.cast(cells, pa.string()), missing).dictionary_encode()
    if number:
        return pc.cast(cells, pa.float64(), safe=False)
    raise DataError(
        f"{path}: column '{name}' holds {kind}; expected numbers, text or booleans. Convert it, or leave it out with "
        "data.columns."
    )
