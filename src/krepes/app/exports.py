"""What is seen as files: a selection as CSV."""

import csv
import io
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from krepes.app.state import State

PLACE = ("id", "position", "x", "y", "is_landmark")
ROWS = 4096  # that are written together
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for a formula when a text starts with it


def selection_csv(state: "State", positions: np.ndarray) -> Iterator[bytes]:
    """Ids, places and shown columns of some samples as CSV in UTF-8, part by part."""
    names = state.columns.names
    yield lines([[*PLACE, *names]])
    for start in range(0, len(positions), ROWS):
        rows = state.rows(positions[start : start + ROWS].tolist())
        yield lines([[*(row[key] for key in PLACE), *(row["cells"].get(name) for name in names)] for row in rows])


def lines(rows: list[list[Any]]) -> bytes:
    """CSV lines with quoted text; text that a spreadsheet would run as a formula starts with an apostrophe."""
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC).writerows([[harmless(cell) for cell in row] for row in rows])
    return buffer.getvalue().encode("utf-8")


def harmless(cell: Any) -> Any:
    """A cell as a spreadsheet shows it and does not run it."""
    return f"'{cell}" if isinstance(cell, str) and is_formula(cell) else cell


def is_formula(text: str) -> bool:
    """Whether a text begins with a formula's sign, of any width, behind spaces and characters that are not seen."""
    if text.startswith(("\t", "\r", "\n")):
        return True
    first = next((c for c in text if unicodedata.category(c)[0] not in "CZ"), "")
    return unicodedata.normalize("NFKC", first).startswith(FORMULA)
