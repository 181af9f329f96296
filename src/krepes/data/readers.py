"""CSV and Parquet as tables in little memory: numbers as float64, text as categories."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

import difflib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from krepes.data.csv_errors import cut_off, explained, refuse_wide, settled_encoding
from krepes.data.csv_quotes import CELL_LINES, Row, broken_rows, line_numbers, said_of
from krepes.data.problems import NAMED, OnError, check_on_error
from krepes.errors import ConfigError, DataError, KrepesWarning

MISSING = ("", "?", "NA", "NaN", "nan")
KEPT = 1000  # left out rows that a frame remembers
NEARLY = 0.95  # share of numbers from which other cells of a column seem mistakes
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
COMMA = r"^[+-]?\d+(\.\d{3})*,\d+$"
ENDS = (b"\n", b"\r")
CHUNK = 2 * 2**20  # bytes of text that are parsed at a time; a row has to fit


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


def read_csv(
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
    """A CSV file as a table: cells stripped, missing tokens missing.

    A column is numeric (float64) when every cell that is not missing is a finite number, else it is categorical text.
    The file is parsed twice, first for the columns' types, so that its text is never held as a whole.

    Args:
        path: a file, maybe compressed (.gz, .bz2, .zst).
        columns: names, for a file without a header.
        skip_lines: lines before the header or the first row.
        missing: cells that mean "missing".
        text: columns that stay text whatever they hold, such as ids: "007" is not 7.
        encoding: any of Python's. A byte-order mark of UTF-8, UTF-16 or UTF-32 is obeyed without it.
        separator: between cells: one character, such as "," ";" "|" or a tab.
        on_error: of rows with another number of cells: "raise" names the first; "skip" leaves them out with a warning.
            The frame's index then counts them too, and `attrs["problems"]` lists up to a thousand: (line, reason).
            The same for rows that a quote has swallowed others into, with the number of lines that are lost.
        cell_lines: that a quoted cell may span. A longer one, one that is never closed, and one over several lines
            that is closed in the middle of a cell come from a stray quote.

    Raises:
        DataError: no such file, no rows, a ragged row (named), a repeated column, bytes that are none of the encoding
            (named by line and offset), a stray quote (its line named), a file that is cut off, or a separator that is
            plainly another one.
        ConfigError: no such encoding, or a separator that is not one character.
    """
    check_on_error(on_error)
    path = existing(path)
    file = CsvFile(path, columns, skip_lines, settled_encoding(path, encoding), checked_separator(separator), on_error)
    with named_errors(file, cell_lines):
        names = file.header()
        _say_no_header(file, names)
        refuse_wide(path, file.encoding, separator, columns, skip_lines)
        numeric, present = {n: n.strip() not in text for n in names}, dict.fromkeys(names, False)
        nearly = {n: NearlyNumeric() for n in names if numeric[n]}
        rows, several = 0, False
        for batch in file.batches(names):
            several = several or _has_line_ends(batch)
            for name in names:
                cells = stripped(batch[name], missing)
                present[name] |= cells.null_count < len(cells)
                made = numbers(cells) if numeric[name] or name in nearly else None
                numeric[name] = numeric[name] and made is not None
                if name in nearly and not nearly[name].add(cells, made is not None, rows):
                    del nearly[name]
            rows += len(batch)
        ragged, broken = list(file.ragged), {}
        if several or any(lines > 1 for _, _, lines in ragged):
            broken = broken_rows(path, file.encoding, separator, skip_lines, cell_lines)
            if broken and on_error == "raise":
                raise DataError(said_of(path, next(iter(broken.values()))))
        if rows == 0:
            raise DataError(f"{path} holds no rows" + (f" of {len(names)} cells" if ragged else ""))
        chosen = {name: numeric[name] and present[name] for name in names}
        parts: dict[str, list[pa.Array]] = {name: [] for name in names}
        for batch in file.batches(names):
            for name in names:
                cells = stripped(batch[name], missing)
                parts[name].append(numbers(cells) if chosen[name] else cells.dictionary_encode())
    # a column's chunks are free once it stands
    frame = as_frame({name.strip(): as_column(pa.chunked_array(parts.pop(name))) for name in names})
    _say_nearly(file, {name: near for name, near in nearly.items() if not chosen[name]}, ragged)
    return _without(file, frame, ragged, broken) if ragged or broken else frame


@contextmanager
def named_errors(file: "CsvFile", cell_lines: int = CELL_LINES) -> Iterator[None]:
    """A parser's errors as DataError, with the place, the cause and what to do."""
    try:
        yield
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        said = explained(file.path, str(error), file.encoding, file.separator)
        if "is not " not in said:  # of bytes that are none of the encoding lines cannot be counted
            broken = broken_rows(file.path, file.encoding, file.separator, file.skip_lines, cell_lines)
            said = said_of(file.path, next(iter(broken.values()))) if broken else said
        raise DataError(said) from error
    except OSError as error:
        raise DataError(cut_off(file.path, error)) from error


def _has_line_ends(batch: pa.RecordBatch) -> bool:
    """Whether a cell holds a line's end, or one of a neighbouring batch that shares its memory."""
    texts = [column.buffers()[2] for column in batch.columns]
    return any(end in content for text in texts if text is not None for content in [text.to_pybytes()] for end in ENDS)


def _without(
    file: "CsvFile", frame: pd.DataFrame, ragged: list[tuple[int, int, int]], broken: dict[int, Row]
) -> pd.DataFrame:
    """The frame under the numbers that its rows have in the file, less the broken ones; warns of what is left out."""
    first, whole = file.skip_lines + (not file.columns) + 1, len(frame) + len(ragged)
    if min(broken, default=first) < first:
        raise DataError(said_of(file.path, next(iter(broken.values()))))
    frame.index = pd.Index(np.setdiff1d(np.arange(whole), [row - first for row, _, _ in ragged]))
    frame = frame.drop(index=[row - first for row in broken], errors="ignore")
    if frame.empty:
        raise DataError(f"{file.path}: every row is ragged or broken by a quote; none is left")
    why = {row: f"it has {cells} cells" for row, cells, _ in ragged}
    for row, b in broken.items():
        why[row] = f"the quote that opens on line {b.quote} {b.fault}: {b.lines} lines are lost"
    shown = dict(sorted(why.items())[:KEPT])
    lines = line_numbers(file.path, file.encoding, file.separator, file.skip_lines, list(shown))
    few = "; ".join(
        f"line {line} ({reason.removeprefix('it has ')})"
        for line, reason in zip(lines[:NAMED], shown.values(), strict=False)
    )
    few = few if broken else few.replace("; ", ", ")
    ragged_only = "have another number of cells" if not broken else "have another number of cells or a stray quote"
    warnings.warn(
        f"{len(why)} of {whole} rows of {file.path} {ragged_only} and are left out: "
        f"{few}{' …' if len(why) > NAMED else ''}",
        KrepesWarning,
        stacklevel=3,
    )
    frame.attrs["problems"] = tuple(zip(lines, shown.values(), strict=True))
    return frame


def _say_no_header(file: "CsvFile", names: Sequence[str]) -> None:
    """Warn when the header looks like a row of data."""
    found = [n for n in names if n.strip() and numbers(pa.array([n.strip()])) is not None]
    if found and not file.columns:
        warnings.warn(
            f"the header of {file.path} holds numbers ({', '.join(found[:3])}): it may be the first row of a file "
            "without a header, which is then lost. Name the columns with columns=…",
            KrepesWarning,
            stacklevel=4,
        )


@dataclass
class NearlyNumeric:
    """Counts a column's numbers until they are plainly not most of it.

    Attributes:
        cells, numbers, commas: that are not missing; numbers among them; numbers with a decimal comma.
        bad: the first cell that is no number, with its row.
    """

    cells: int = 0
    numbers: int = 0
    commas: int = 0
    bad: tuple[int, str] | None = None

    def add(self, cells: pa.Array, all_numbers: bool, before: int) -> bool:
        """Count more cells, after so many rows; False when they are not worth counting on."""
        there = len(cells) - cells.null_count
        self.cells += there
        if all_numbers:
            self.numbers += there
            return True
        good = pc.fill_null(pc.match_substring_regex(cells, NUMBER), True)
        self.numbers += (pc.sum(good).as_py() or 0) - cells.null_count
        self.commas += pc.sum(pc.match_substring_regex(cells, COMMA)).as_py() or 0
        if self.bad is None and not pc.all(good).as_py():
            place = pc.index(good, False).as_py()
            self.bad = before + place, cells[place].as_py()
        return self.most

    @property
    def most(self) -> bool:
        """Whether nearly all cells are numbers, decimal commas among them."""
        return self.numbers + self.commas >= NEARLY * self.cells


def _say_nearly(file: "CsvFile", found: dict[str, NearlyNumeric], ragged: list[tuple[int, int, int]]) -> None:
    """Warn of columns that a few cells alone keep from being numeric."""
    first = file.skip_lines + (not file.columns) + 1
    gone = {row - first for row, _, _ in ragged}
    for name, near in found.items():
        if near.bad is None or not near.most:
            continue
        row = near.bad[0]
        for left_out in sorted(gone):
            row += left_out <= row
        (line,) = line_numbers(file.path, file.encoding, file.separator, file.skip_lines, [row + first])
        commas = " Some are numbers with a decimal comma: replace it by a point." if near.commas else ""
        warnings.warn(
            f"{near.numbers:,} of {near.cells:,} cells of column '{name.strip()}' of "
            f"{file.path} are numbers; line "
            f"{line} holds {near.bad[1]!r}, so that all become categories.{commas} Mend the cells, "
            "add them to missing=…, or name the column in text=…",
            KrepesWarning,
            stacklevel=4,
        )


@dataclass(frozen=True)
class CsvFile:
    """A CSV file and how it is parsed; the attributes are `read_csv`'s.

    Attributes:
        ragged: (row, cells, lines) of the rows that the last pass left out, by the parser's count.
    """

    path: Path
    columns: Sequence[str] | None = None
    skip_lines: int = 0
    encoding: str = "utf-8"
    separator: str = ","
    on_error: OnError = "raise"
    ragged: list[tuple[int, int, int]] = field(default_factory=list)

    def header(self) -> list[str]:
        """The column names as they stand in the file."""
        with self._open() as reader:
            names = reader.schema.names
        refuse_repeated([n.strip() for n in names], self.path)
        return names

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows with every column as text."""
        found: list[tuple[int, int, int]] = []
        convert = pa_csv.ConvertOptions(
            column_types={n: pa.string() for n in names}, strings_can_be_null=False, check_utf8=True
        )
        with self._open(convert, found) as reader:
            yield from reader
        self.ragged[:] = found

    def _open(
        self, convert: pa_csv.ConvertOptions | None = None, ragged: list[tuple[int, int, int]] | None = None
    ) -> pa_csv.CSVStreamingReader:
        # a list of its own: a reader that is closed may still read ahead
        found = [] if ragged is None else ragged
        names = list(self.columns) if self.columns else None
        read = pa_csv.ReadOptions(
            column_names=names, skip_rows=self.skip_lines, encoding=self.encoding, block_size=CHUNK,
            use_threads=self.on_error != "skip",  # only a serial parser numbers the rows that it leaves out
        )  # fmt: skip

        def leave_out(row: pa_csv.InvalidRow) -> str:
            found.append((row.number or 0, row.actual_columns, len((row.text or "").splitlines())))
            return "skip"

        parse = pa_csv.ParseOptions(
            delimiter=self.separator,
            newlines_in_values=True,
            invalid_row_handler=leave_out if self.on_error == "skip" else None,
        )
        return pa_csv.open_csv(self.path, read, parse, convert)


def checked_separator(separator: str) -> str:
    """The separator, if it is one; else ConfigError."""
    if len(separator) != 1 or not separator.isascii() or separator.isalnum() or separator in '"\r\n':
        raise ConfigError(f"separator={separator!r}; expected one character, such as ',', ';', '|' or a tab ('\\t')")
    return separator


def column_names_of_csv(path: str | Path, encoding: str = "utf-8", separator: str = ",") -> list[str]:
    """Names in a CSV file's header.

    Raises:
        DataError: no such file, or no header.
    """
    path = existing(path)
    file = CsvFile(path, encoding=settled_encoding(path, encoding), separator=checked_separator(separator))
    with named_errors(file):
        return [name.strip() for name in file.header()]


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
        raise DataError(
            f"{path}: the column names {', '.join(repeated)} occur more than once; name the columns "
            "of a file without a header with columns=…"
        )


def require_name(names: Iterable[Any], name: str) -> str:
    """The name, if it is there; else DataError with the nearest one."""
    if name not in (known := list(map(str, names))):
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise DataError(f"unknown column '{name}'{hint} The table has {', '.join(known)}")
    return name


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


def typed(path: Path | str, name: str, cells: pa.Array, missing: Sequence[str], text: bool) -> pa.Array:
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
