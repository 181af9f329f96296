"""CSV files as tables in little memory: numbers as float64, text as categories."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from krepes.data.cells import (
    EXACT,
    MISSING,
    SAID,
    as_column,
    as_frame,
    nearly_numeric,
    numbers,
    say_rounded,
    stripped,
)
from krepes.data.csv_errors import cut_off, explained, refuse_wide, settled_encoding
from krepes.data.csv_quotes import CELL_LINES, Row, broken_rows, line_numbers, said_of
from krepes.data.names import existing, refuse_repeated, require_name
from krepes.data.problems import NAMED, OnError, check_on_error
from krepes.errors import ConfigError, DataError, warn

KEPT = 1000  # left out rows that a frame remembers
WHOLE = r"^[+-]?\d{16,}$"  # a whole number that may be beyond 2^53
ENDS = (b"\n", b"\r")
CHUNK = 2 * 2**20  # bytes of text that are parsed at a time; a row has to fit


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
            plainly another one; or a name in `text` that is no column.
        ConfigError: no such encoding, or a separator that is not one character.
    """
    check_on_error(on_error)
    path = existing(path)
    file = CsvFile(path, columns, skip_lines, settled_encoding(path, encoding), checked_separator(separator), on_error)
    with named_errors(file, cell_lines):
        names = file.header()
        _say_no_header(file, names)
        refuse_wide(path, file.encoding, separator, columns, skip_lines)
        for name in text:
            require_name([n.strip() for n in names], name)
        numeric, present = {n: n.strip() not in text for n in names}, dict.fromkeys(names, False)
        rows, several = 0, False
        for batch in file.batches(names):
            several = several or _has_line_ends(batch)
            for name in names:
                cells = stripped(batch[name], missing)
                present[name] |= cells.null_count < len(cells)
                numeric[name] = numeric[name] and numbers(cells) is not None
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
        rounded: set[str] = set()
        for batch in file.batches(names):
            for name in names:
                cells = stripped(batch[name], missing)
                made = numbers(cells) if chosen[name] else None
                parts[name].append(cells.dictionary_encode() if made is None else made)
                if made is not None and name not in rounded and _has_rounded(cells, made):
                    rounded.add(name)
    # a column's chunks are free once it stands
    frame = as_frame({name.strip(): as_column(pa.chunked_array(parts.pop(name))) for name in names})
    for name in sorted(rounded):
        say_rounded(path, name.strip())
    _say_nearly(file, frame, text, [row for row, _, _ in ragged])
    return _without(file, frame, ragged, broken) if ragged or broken else frame


@contextmanager
def named_errors(file: "CsvFile", cell_lines: int = CELL_LINES) -> Iterator[None]:
    """A parser's errors as DataError, with the place, the cause and what to do."""
    try:
        yield
    except (pa.ArrowInvalid, UnicodeError) as error:
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


def _has_rounded(cells: pa.Array, values: pa.Array) -> bool:
    """Whether a cell is a whole number beyond those that float64 can all tell apart."""
    far = pc.max(pc.abs(values)).as_py()
    return far is not None and far >= EXACT and pc.any(pc.match_substring_regex(cells, WHOLE)).as_py()


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
    warn(
        f"{len(why)} of {whole} rows of {file.path} {ragged_only} and are left out: "
        f"{few}{' …' if len(why) > NAMED else ''}"
    )
    frame.attrs["problems"] = tuple(zip(lines, shown.values(), strict=True))
    return frame


def _say_no_header(file: "CsvFile", names: Sequence[str]) -> None:
    """Warn when the header looks like a row of data."""
    found = [n for n in names if n.strip() and numbers(pa.array([n.strip()])) is not None]
    if found and not file.columns:
        warn(
            f"the header of {file.path} holds numbers ({', '.join(found[:3])}): it may be the first row of a file "
            "without a header, which is then lost. Name the columns with columns=…"
        )


def _say_nearly(file: "CsvFile", frame: pd.DataFrame, text: Sequence[str], ragged: list[int]) -> None:
    """Warn of columns that a few cells alone keep from being numeric, and list them in the frame's attrs."""
    first = file.skip_lines + (not file.columns) + 1
    for name, values in [(str(n), v) for n, v in frame.items() if n not in text]:
        near = nearly_numeric(values)
        if near is None:
            continue
        row = near.row
        for left_out in sorted(row - first for row in ragged):
            row += left_out <= row
        (line,) = line_numbers(file.path, file.encoding, file.separator, file.skip_lines, [row + first])
        near.say(name, file.path, f"line {line}", "name the column in text=…")
        frame.attrs[SAID] = [*frame.attrs.get(SAID, ()), name]


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
