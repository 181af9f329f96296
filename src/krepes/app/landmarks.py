"""The landmarks of a run with their places on the map and their rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from krepes.app.columns import SHOWN, plain_rows, values_of, visible
from krepes.app.pieces import refuse_too_large, repeated
from krepes.app.points import Points, can_name
from krepes.stored import DATA, StoredRun, first_line

MOST = 1_000_000  # landmarks
FIGURES = {"rank": "rank", "norm": "norm", "influence": "mean_influence", "balance": "sign_balance"}


@dataclass(frozen=True)
class Landmarks:
    """Landmarks, strongest first where that is known.

    Attributes:
        rows: one per landmark: id, position (None where it is none of the samples), x, y, rank, norm, influence,
            balance, cells.
        index: id ↦ row.
    """

    rows: list[dict[str, Any]]
    index: dict[str, int]

    @property
    def m(self) -> int:
        """How many."""
        return len(self.rows)

    def by_id(self, name: str) -> dict[str, Any]:
        """A landmark's row; {} where there is none."""
        at = self.index.get(name)
        return {} if at is None else self.rows[at]


def read_landmarks(run: StoredRun, points: Points, hidden: frozenset[str]) -> Landmarks:
    """From landmarks.parquet; from the marks of the points where that is damaged, without figures."""
    table = _table(run, hidden)
    if table is None:
        found = np.flatnonzero(points.is_landmark).tolist()
        rows = [_placed({"id": points.id(p), "position": p, "cells": {}}, points) for p in found]
    else:
        names = [str(v) for v in table.column("landmark").to_pylist()]
        positions = _values(table, "position")
        shown = [DATA + name for name in visible(table.column_names, hidden)[:SHOWN]]
        cells = plain_rows(table.select(shown)) if shown else [{} for _ in names]
        figures = {key: _values(table, column) for key, column in FIGURES.items()}
        rows = [
            _placed({"id": name, "position": _position(positions[i], name, points), "cells": cells[i],
                     **{key: values[i] for key, values in figures.items()}}, points)
            for i, name in enumerate(names)
        ]  # fmt: skip
    return Landmarks(rows, {row["id"]: i for i, row in reversed(list(enumerate(rows)))})


def _table(run: StoredRun, hidden: frozenset[str]) -> pa.Table | None:
    file = run.parquet("landmarks.parquet")
    if file is None:
        return None
    try:
        with file:
            if file.metadata.num_rows > MOST:
                raise ValueError(f"{file.metadata.num_rows:,} rows; at most {MOST:,} are read")
            names = file.schema_arrow.names
            twice = repeated(names)
            if twice:
                run.say("landmarks.parquet", f"landmarks.parquet has {len(twice)} names that several columns share: "
                                             "none of these is shown.")  # fmt: skip
            shown = [DATA + name for name in visible(names, hidden)[:SHOWN]]
            wanted = [n for n in names if (n in shown or not n.startswith(DATA)) and n not in twice]
            for group in range(file.num_row_groups):
                refuse_too_large(file.metadata.row_group(group), wanted)
            table = file.read(wanted).select(wanted)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        run.say("landmarks.parquet", f"landmarks.parquet is damaged ({first_line(error)}).")
        return None
    if "landmark" not in table.column_names:
        run.say("landmarks.parquet", "landmarks.parquet lacks landmark: another version of krepes wrote it.")
        return None
    if not can_name(table.schema.field("landmark").type):
        run.say("landmarks.parquet", "landmarks.parquet holds no ids in landmark: another version of krepes wrote it.")
        return None
    return table


def _values(table: pa.Table, name: str) -> list[Any]:
    return values_of(table.column(name)) if name in table.column_names else [None] * table.num_rows


def _position(value: Any, name: str, points: Points) -> int | None:
    """A landmark's position among the samples; the file's own where that sample has its id."""
    if isinstance(value, int) and 0 <= value < points.n and points.id(value) == name:
        return value
    return points.position_of(name)


def _placed(row: dict[str, Any], points: Points) -> dict[str, Any]:
    p = row["position"]
    x, y = (None, None) if p is None else (float(points.x[p]), float(points.y[p]))
    return {**dict.fromkeys(FIGURES), **row, "x": x, "y": y}
