"""The map's points as arrays, in an order in which what lies together on the map lies together in memory."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from krepes.app.pieces import Pieces
from krepes.stored import StoredRun

BITS = 16  # of each coordinate in a Morton code
IDS_BYTES = 2 * 2**30  # of all ids
FINE = 2  # levels below a region's own at which it is covered by cells: the finer, the fewer points too many


@dataclass(frozen=True)
class Box:
    """x0 ≤ x < x1, y0 ≤ y < y1, in map units."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def side(self) -> float:
        """The longer side."""
        return max(self.x1 - self.x0, self.y1 - self.y0)


@dataclass(frozen=True)
class Points:
    """Points of a map.

    Attributes:
        ids: of all samples (n,), an Arrow array: a million Python strings would take seconds and 100 MB.
        x, y: float32 (n,); not finite where a sample has no place.
        is_landmark: (n,).
        world: the square that tiles divide.
        order: positions of the k points that have a place, by Morton code (k,).
        codes: their Morton codes, ascending (k,), uint32.
        sx, sy: their coordinates (k,).
    """

    ids: pa.ChunkedArray
    x: np.ndarray
    y: np.ndarray
    is_landmark: np.ndarray
    world: Box
    order: np.ndarray
    codes: np.ndarray
    sx: np.ndarray
    sy: np.ndarray

    @classmethod
    def of(cls, ids: pa.ChunkedArray, x: np.ndarray, y: np.ndarray, is_landmark: np.ndarray) -> "Points":
        """In Morton order."""
        placed = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).astype(np.int32)
        px, py = x[placed], y[placed]
        world = square(px, py)
        codes = morton(*(_cells(v, low, world.side) for v, low in ((px, world.x0), (py, world.y0))))
        by = np.argsort(codes)
        return cls(ids, x, y, is_landmark, world, placed[by], codes[by], px[by], py[by])

    @property
    def n(self) -> int:
        """Samples, with those that have no place."""
        return len(self.x)

    def id(self, position: int) -> str:
        """A sample's id."""
        return str(self.ids[position].as_py())

    def position_of(self, name: str) -> int | None:
        """Where an id is; None where it is not."""
        found = pc.index(self.ids, pa.scalar(name, self.ids.type)).as_py()
        return None if found < 0 else int(found)

    def matching(self, text: str) -> np.ndarray:
        """Positions whose ids contain a text, in upper or lower case."""
        return np.flatnonzero(truth(pc.match_substring(self.ids, text, ignore_case=True)))

    def slices(self, box: Box) -> list[slice]:
        """Ranges of the Morton order that hold every point of a region, and few others."""
        size = self.world.side
        if not len(self.codes) or box.x1 <= box.x0 or box.y1 <= box.y0:
            return []
        level = min(max(math.floor(math.log2(size / max(box.side, 1e-300))) + FINE, 0), BITS)
        cells = 1 << level
        spans = []
        for low, high, start in ((box.x0, box.x1, self.world.x0), (box.y0, box.y1, self.world.y0)):
            first, last = (int(np.clip((v - start) / size * cells, -1, cells)) for v in (low, high))
            if first >= cells or last < 0:
                return []
            spans.append(np.arange(max(first, 0), min(last, cells - 1) + 1, dtype=np.uint32))
        gx, gy = np.meshgrid(*spans)
        prefixes = np.sort(morton(gx.ravel(), gy.ravel())).astype(np.uint64)
        shift = np.uint64(2 * (BITS - level))
        starts = np.searchsorted(self.codes, (prefixes << shift).astype(np.uint32))
        last = ((prefixes + np.uint64(1)) << shift) - np.uint64(1)
        stops = np.searchsorted(self.codes, last.astype(np.uint32), side="right")
        merged: list[slice] = []
        for a, b in zip(starts.tolist(), stops.tolist(), strict=True):
            if a == b:
                continue
            if merged and merged[-1].stop == a:
                merged[-1] = slice(merged[-1].start, b)
            else:
                merged.append(slice(a, b))
        return merged

    def nearest(self, x: float, y: float, r: float) -> int | None:
        """Position of the nearest point within r map units."""
        found = self.slices(Box(x - r, y - r, x + r, y + r))
        best, at = r * r, None
        for part in found:
            d = (self.sx[part].astype(np.float64) - x) ** 2 + (self.sy[part].astype(np.float64) - y) ** 2
            i = int(d.argmin())
            if d[i] <= best:
                best, at = float(d[i]), int(self.order[part.start + i])
        return at

    def around(self, x: float, y: float, k: int) -> np.ndarray:
        """Positions of the k nearest points, nearest first."""
        d = (self.sx - np.float32(x)) ** 2 + (self.sy - np.float32(y)) ** 2
        near = np.argpartition(d, k)[:k] if k < len(d) else np.arange(len(d))
        return self.order[near[np.argsort(d[near])]]

    @cached_property
    def rows_by_y(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, x and y (k,) of the placed points by y, for polygons."""
        by = np.argsort(self.sy)
        return self.order[by], self.sx[by].astype(np.float64), self.sy[by].astype(np.float64)

    def inside(self, polygon: np.ndarray) -> np.ndarray:
        """Ascending positions of the points inside a polygon, by the even-odd rule.

        Each edge toggles the points to its left whose y it spans: a point within is toggled an odd number of times.

        Args:
            polygon: vertices (v, 2); the last is joined to the first.
        """
        order, x, y = self.rows_by_y
        within = np.zeros(len(order), bool)
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            if ay == by:
                continue
            low, high = np.searchsorted(y, sorted((ay, by)))
            part = slice(low, high)
            within[part] ^= x[part] < ax + (y[part] - ay) * ((bx - ax) / (by - ay))
        return np.sort(order[within])

    def boundaries(self, positions: np.ndarray) -> Box | None:
        """The least box around some samples; None where none has a place."""
        x, y = self.x[positions], self.y[positions]
        kept = np.isfinite(x) & np.isfinite(y)
        if not kept.any():
            return None
        return Box(*(float(f(v[kept])) for f, v in ((np.min, x), (np.min, y), (np.max, x), (np.max, y))))


def truth(column: pa.ChunkedArray) -> np.ndarray:
    """Truth values (n,), False where missing."""
    filled = column.fill_null(False) if pa.types.is_boolean(column.type) else column.is_valid()
    return np.asarray(filled.to_numpy(zero_copy_only=False), bool)


def take(values: np.ndarray, parts: list[slice]) -> np.ndarray:
    """Values of some ranges, one after the other."""
    return values[parts[0]] if len(parts) == 1 else np.concatenate([values[p] for p in parts] or [values[:0]])


def square(x: np.ndarray, y: np.ndarray) -> Box:
    """The square around some points, with a little room; around nothing, or one point, of side 1."""
    if not len(x):
        return Box(-0.5, -0.5, 0.5, 0.5)
    low = np.array([x.min(), y.min()], np.float64)
    high = np.array([x.max(), y.max()], np.float64)
    side, middle = float((high - low).max()) * 1.04, (low + high) / 2
    side = side if side > 1e-30 else 1.0
    x0, y0 = (middle - side / 2).tolist()
    return Box(x0, y0, x0 + side, y0 + side)


def _cells(values: np.ndarray, low: float, side: float) -> np.ndarray:
    cells = (values.astype(np.float64) - low) * ((1 << BITS) / side)
    return np.clip(cells, 0, (1 << BITS) - 1).astype(np.uint32)


def morton(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whole numbers below 2¹⁶ with their bits interleaved, x at the even places; uint32.

    Source: Morton, "A computer oriented geodetic data base", 1966.
    """
    return _spread(x.astype(np.uint32)) | (_spread(y.astype(np.uint32)) << np.uint32(1))


def _spread(v: np.ndarray) -> np.ndarray:
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        v = (v | (v << np.uint32(shift))) & np.uint32(mask)
    return v


def read_points(run: StoredRun, pieces: Pieces) -> Points:
    """The points of points.parquet; what is damaged has no place and no id, and `run.problems` says so."""
    gone = [name for name in ("id", "x", "y") if name not in pieces.schema.names]
    if pieces.n and gone:
        run.say("points.parquet", f"points.parquet lacks {', '.join(gone)}: another version of krepes wrote it.")
    x, y = (_numbers(run, pieces, name) for name in ("x", "y"))
    unplaced = int((~(np.isfinite(x) & np.isfinite(y))).sum())
    if unplaced:
        run.say("places", f"{unplaced:,} of {pieces.n:,} samples have no place on the map.")
    marks = _column(pieces, "is_landmark", truth)
    named = "id" in pieces.schema.names and can_name(pieces.schema.field("id").type)
    if "id" in pieces.schema.names and not named:
        run.say("points.parquet", "Column id of points.parquet holds no ids: another version wrote it.")
    found = _column(pieces, "id", _ids) if named else None
    if named and found is None:
        run.say("points.parquet", f"The ids in points.parquet take more than {IDS_BYTES:,} bytes, and are not read.")
    ids = pa.chunked_array([[str(i) for i in range(pieces.n)]], pa.string()) if found is None else found
    return Points.of(ids, x, y, np.zeros(pieces.n, bool) if marks is None else marks)


def _column(pieces: Pieces, name: str, use: Callable[[pa.ChunkedArray], Any]) -> Any:
    return use(pieces.column(name)) if name in pieces.schema.names else None


def can_name(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type can be ids: text or numbers."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(test(kind) for test in tests)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; of a type that `can_name`."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    plain = column if kind == column.type else column.cast(kind)
    return plain if pa.types.is_string(kind) or pa.types.is_large_string(kind) else plain.cast(pa.string())


def spelled_out(column: pa.ChunkedArray) -> int:
    """Bytes that the text of a dictionary's column takes without it: a few bytes of a file can stand for many."""
    size = 0
    for chunk in column.chunks:
        if pa.types.is_string(chunk.dictionary.type) or pa.types.is_large_string(chunk.dictionary.type):
            size += pc.sum(pc.binary_length(chunk.dictionary).cast(pa.int64()).take(chunk.indices)).as_py() or 0
    return size


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    if pa.types.is_dictionary(column.type) and spelled_out(column) > IDS_BYTES:
        return None
    plain = as_text(column)
    return plain.fill_null("(damaged)") if plain.null_count else plain


def _numbers(run: StoredRun, pieces: Pieces, name: str) -> np.ndarray:
    nothing = np.full(pieces.n, np.nan, np.float32)
    try:
        found = _column(pieces, name, lambda c: c.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False))
    except pa.ArrowException:
        run.say("points.parquet", f"Column {name} of points.parquet holds no numbers: another version wrote it.")
        return nothing
    return nothing if found is None else np.asarray(found, np.float32)
