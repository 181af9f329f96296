"""Rows of a CSV file by its quotes: on which lines they stand, and into which a stray quote has swallowed others."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from krepes.data.csv_errors import text_of

CELL_LINES = 100  # lines that a quoted cell may span
QUOTES = re.compile('"+')


@dataclass(frozen=True)
class Row:
    """A row that is not blank, the header among them.

    Attributes:
        line: on which it begins, from 1.
        lines: that it spans.
        quote: the line on which a quote opens that is wrong; 0 for none.
        fault: what is wrong with it, as the rest of a sentence.
    """

    line: int
    lines: int
    quote: int = 0
    fault: str = ""


def rows_of(path: Path, encoding: str, separator: str, skip_lines: int, cell_lines: int = CELL_LINES) -> Iterator[Row]:
    """The rows as the parser splits them: a quote opens a cell only at its beginning, and "" inside is a quote."""
    stop = re.compile(f"[{re.escape(separator)}\r\n]")
    begin = quote = number = 0  # of the row, of the open quote, of the line
    wrong, fault = 0, ""
    with text_of(path, encoding, skip_lines) as text:
        for number, line in enumerate(text, skip_lines + 1):
            begin = begin or number
            if quote or '"' in line:
                before, (quote, stray) = quote, _quote_after(line, number, quote, stop)
                if stray and not wrong:
                    wrong, fault = before, f"is closed in the middle of a cell on line {number}"
                if before and quote != before and number - before >= cell_lines and not wrong:
                    wrong, fault = before, f"is closed only on line {number}"
            if quote:
                continue
            if begin < number or line.strip("\r\n"):
                yield Row(begin, number - begin + 1, wrong, fault)
            begin, wrong, fault = 0, 0, ""
    if quote:
        yield Row(begin, number - begin + 1, wrong or quote, fault or "is never closed")


def _quote_after(line: str, number: int, quote: int, stop: re.Pattern[str]) -> tuple[int, bool]:
    """The line whose quote is open after this line, 0 for none, and whether one from before ends before other text."""
    place, stray = 0, False
    while place < len(line):
        if quote:
            closing = next((m for m in QUOTES.finditer(line, place) if len(m.group()) % 2), None)
            if closing is None:
                return quote, stray
            place = closing.end()
            stray |= quote < number and place < len(line) and stop.match(line, place) is None
            quote = 0
        elif line[place] == '"':
            place, quote = place + 1, number
            continue
        found = stop.search(line, place)
        place = len(line) if found is None else found.end()
    return quote, stray


def line_numbers(path: Path, encoding: str, separator: str, skip_lines: int, rows: Sequence[int]) -> list[int]:
    """The lines (from 1) on which rows begin, that a parser counted without blank lines, those skipped included."""
    wanted, found = set(rows), {}
    for number, row in enumerate(rows_of(path, encoding, separator, skip_lines), skip_lines + 1):
        if number in wanted:
            found[number] = row.line
            if len(found) == len(wanted):
                break
    return [found.get(row, row) for row in rows]


def broken_rows(path: Path, encoding: str, separator: str, skip_lines: int, cell_lines: int) -> dict[int, Row]:
    """Number ↦ row, by the parser's count, of those whose quotes are wrong."""
    rows = enumerate(rows_of(path, encoding, separator, skip_lines, cell_lines), skip_lines + 1)
    return {number: row for number, row in rows if row.quote}


def said_of(path: Path, row: Row) -> str:
    """What is wrong with a row's quotes, and what to do."""
    return (
        f"{path}: the quote that opens on line {row.quote} {row.fault}, and the row takes in {row.lines} lines. Remove "
        "it, or write \"\" for a quote inside a quoted cell; on_error='skip' leaves the row out, and cell_lines=… lets "
        "quoted cells span more lines"
    )
