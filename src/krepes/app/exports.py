"""What is seen as files: a selection as CSV."""

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from krepes.app.state import State

PLACE = ("id", "position", "x", "y", "is_landmark")
ROWS = 4096  # that are written together
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula when a text starts with it


def selection_csv(state: "State", positions: np.ndarray) -> Iterator[bytes]:
    """Ids, places and shown columns of some samples as CSV in UTF-8, part by part."""
    names = state.columns.names
    yield lines([[*PLACE, *names]])
    for start in range(0, len(positions), ROWS):
        rows = state.rows(positions[start : start + ROWS].tolist())
        yield lines([[*(row[key] for key in PLACE), *(row["cells"].get(name) for name in names)] for row in rows])


def lines(rows: list[list[Any]]) -> bytes:
    """CSV lines; text that a spreadsheet would run as a formula starts with an apostrophe."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([[harmless(cell) for cell in row] for row in rows])
    return buffer.getvalue().encode("utf-8")


def harmless(cell: Any) -> Any:
    """A cell as a spreadsheet shows it and does not run it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell
