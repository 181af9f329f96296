"""A table's cells: numbers as float64, text as categories, and cells that keep a column from being numeric."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from krepes.errors import DataError, warn

MISSING = ("", "?", "NA", "NaN", "nan")
NEARLY = 0.95  # share of numbers from which other cells of a column seem mistakes
EXACT = 2.0**53  # from here on float64 skips whole numbers
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
COMMA = r"^[+-]?\d+(\.\d{3})*,\d+$"
SAID = "nearly_numeric"  # where a frame's attrs list the columns that were warned of


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


def typed(path: Path | str, name: str, cells: pa.Array, missing: Sequence[str], text: bool) -> pa.Array:
    """A column's cells as float64 or as a dictionary of text."""
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


def as_column(column: pa.ChunkedArray) -> Any:
    """Float64 (n,), or a Categorical with missing cells as NaN."""
    if pa.types.is_dictionary(column.type):
        return column.unify_dictionaries().combine_chunks().to_pandas()
    # one chunk comes as a view of Arrow's memory, which a frame could not change
    return np.require(column.to_numpy(), np.float64, "W")


def as_frame(columns: dict[str, Any]) -> pd.DataFrame:
    """The columns as they are: to join them in one block would copy them."""
    return pd.DataFrame(columns, copy=False)


def holds_rounded(kind: pa.DataType, values: Any) -> bool:
    """Whether a column of whole numbers (n,) reaches beyond those that float64 can all tell apart."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not pa.types.is_integer(kind) or kind.bit_width < 64 or not isinstance(values, np.ndarray):
        return False
    return bool(np.abs(values).max(initial=0.0, where=~np.isnan(values)) >= EXACT)


def say_rounded(where: Path | str, name: str) -> None:
    """Warn of a column whose whole numbers float64 rounds."""
    warn(
        f"column '{name}' of {where} holds whole numbers beyond 2^53, which float64 rounds, so that neighbours become "
        f"one number; ids and codes are kept as they stand by text=['{name}']"
    )


@dataclass(frozen=True)
class NearlyNumeric:
    """A column of text that is numbers but for a few cells.

    Attributes:
        cells, numbers, commas: that are not missing; numbers among them; numbers with a decimal comma.
        row, bad: the first cell that is no number.
    """

    cells: int
    numbers: int
    commas: int
    row: int
    bad: str

    def say(self, name: str, where: Path | str, place: str, way: str) -> None:
        """Warn of the column; `place` is the bad cell's, such as "line 7", `way` how to say that all is meant."""
        commas = " Some are numbers with a decimal comma: replace it by a point." if self.commas else ""
        warn(
            f"{self.numbers:,} of {self.cells:,} cells of column '{name}' of {where} are numbers; {place} holds "
            f"{self.bad!r}, so that all become categories.{commas} Mend the cells, add them to missing=…, or {way}"
        )


def nearly_numeric(values: pd.Series) -> NearlyNumeric | None:
    """What keeps a column of text (n,) from being numeric, where that is a few cells only."""
    if pd.api.types.is_numeric_dtype(values):
        return None
    codes, different = pd.factorize(values)  # a missing cell is −1
    labels = [str(v) for v in different]
    texts, count = pa.array(labels, pa.string()), np.bincount(codes[codes >= 0], minlength=len(labels))
    good = _matches(texts, NUMBER)
    commas, found, cells = (int(count[some].sum()) for some in (_matches(texts, COMMA), good, slice(None)))
    if found == cells or found + commas < NEARLY * cells:
        return None
    row = int(np.flatnonzero(np.append(~good, False)[codes])[0])
    return NearlyNumeric(cells, found, commas, row, labels[codes[row]])


def _matches(texts: pa.Array, pattern: str) -> np.ndarray:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False).astype(bool)
