"""What is wrong with a CSV file, in words: where its bytes are of another encoding, and which separator it has."""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from krepes.errors import ConfigError, DataError

# longest first: the mark of UTF-32 begins with that of UTF-16
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf8"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
SEPARATORS = (",", ";", "\t", "|")
BLOCK = 2**20


def settled_encoding(path: Path, encoding: str) -> str:
    """The encoding that is asked for, or that of the byte-order mark.

    Raises:
        ConfigError: no such encoding.
        DataError: the file's mark contradicts it, or the file is empty or UTF-16 without a mark.
    """
    try:
        wanted = codecs.lookup(encoding).name
        "".encode(encoding)  # refuses base64 and its like
        codecs.getincrementaldecoder(encoding)
        if wanted in ("idna", "punycode"):  # of host names; inside the parser they end the process
            raise LookupError(wanted)
    except LookupError as error:
        raise ConfigError(
            f"encoding={encoding!r} is none that Python knows for text; expected, for example, utf-8, cp1252, latin-1 "
            "or utf-16"
        ) from error
    with _bytes_of(path) as file:
        try:
            start = file.read(256)
        except OSError as error:
            raise DataError(cut_off(path, error)) from error
    if not start:
        raise DataError(f"{path} is empty")
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if marked is not None:
        if wanted not in ("utf-8", "utf-8-sig") and wanted.split("-")[:2] != codecs.lookup(marked).name.split("-")[:2]:
            raise DataError(f"{path} begins with the byte-order mark of {marked}, and encoding={encoding!r}")
        return marked
    if wanted in ("utf-16", "utf-32"):
        raise DataError(
            f"{path} has no byte-order mark, and encoding={encoding!r} does not say the order of the bytes: say "
            f"encoding='{wanted}-le' or '{wanted}-be'"
        )
    if wanted in ("utf-8", "utf-8-sig", "ascii") and b"\0" in start:
        raise DataError(f"{path} holds zero bytes: it may be UTF-16 without a mark; say encoding='utf-16-le'")
    return "utf8" if wanted in ("utf-8", "utf-8-sig") else encoding


def explained(path: Path, message: str, encoding: str, separator: str) -> str:
    """A parser's message with the place, the cause and what to do."""
    found = undecodable(path, encoding)
    if found is not None:
        line, offset, wrong = found
        name = "UTF-8" if encoding == "utf8" else encoding
        other = "encoding='cp1252' (Windows) or 'latin-1'" if encoding != "cp1252" else "encoding='latin-1'"
        return (
            f"{path} is not {name}: line {line}, byte {offset}, holds 0x{wrong:02X}. Say what it is, such as {other}, "
            "or convert it, for example with iconv -t utf-8"
        )
    if "Empty CSV" in message or "no rows" in message.lower():
        return f"{path} is empty"
    said = f"{path}: {message.strip()}. Every row needs the same number of cells"
    guess = next((s for s in SEPARATORS if s != separator and s in message.rpartition("got 1:")[2]), None)
    if "got 1:" in message and guess is not None:
        return f"{said}; the separator seems to be {guess!r}, not {separator!r}."
    return f"{said}; on_error='skip' leaves others out." if "Expected" in message else f"{said}."


def cut_off(path: Path, error: OSError) -> str:
    """A file that cannot be read to its end, in words."""
    return f"{path} cannot be read: {error}. It is cut off or damaged; copy or download it again"


def undecodable(path: Path, encoding: str) -> tuple[int, int, int] | None:
    """Line (from 1), offset (from 0) and value of the first byte that is none of the encoding; None if all are."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    line, read = 1, 0
    with _bytes_of(path) as file:
        while True:
            block = file.read(BLOCK)
            waiting = len(decoder.getstate()[0])
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding, "replace")
                return line + before.count("\n"), read - waiting + error.start, error.object[error.start]
            except UnicodeError:  # of a codec that names no byte
                return None
            if not block:
                return None
            read += len(block)


def refuse_wide(path: Path, encoding: str, separator: str, columns: Sequence[str] | None, skip_lines: int) -> None:
    """Raise DataError when a table of one column plainly has several, between which another separator stands."""
    if columns and len(columns) > 1:
        return  # the parser counts the cells
    cells = [row[0] for row in itertools.islice(_rows(path, encoding, separator, skip_lines), 2) if len(row) == 1]
    for other in SEPARATORS:
        # the same number in the header and in the first row; one line alone tells nothing
        if len(cells) == 2 and other != separator and cells[0].count(other) == cells[1].count(other) > 0:
            raise DataError(
                f"{path} has one column {cells[0][:60]!r}: the separator seems to be {other!r}, not {separator!r}. "
                f"Say separator={other!r}."
            )


def _rows(path: Path, encoding: str, separator: str, skip_lines: int) -> Iterator[list[str]]:
    """Cells of the rows that are not blank, up to one that is too long to be one."""
    with text_of(path, encoding, skip_lines) as text:
        try:
            yield from (cells for cells in csv.reader(text, delimiter=separator) if cells)
        except csv.Error:  # a quote that is not closed, which the parser names
            return


def text_of(path: Path, encoding: str, skip_lines: int) -> io.TextIOWrapper:
    """The file's text after those lines, with its line ends as they are."""
    name = "utf-8-sig" if encoding == "utf8" else encoding
    text = io.TextIOWrapper(_bytes_of(path), name, errors="replace", newline="")  # pyright: ignore[reportArgumentType]
    for _ in range(skip_lines):
        text.readline()
    return text


def _bytes_of(path: Path) -> pa.NativeFile:
    """The file's bytes, decompressed as its name says."""
    try:
        return pa.input_stream(str(path), compression="detect")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error
