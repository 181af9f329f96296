"""Selections that stay on the server under short names, and what a group of samples has in common."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from krepes.app.columns import MISSING, OTHER, STEPS, Column, Columns, as_labels
from krepes.app.pieces import Pieces
from krepes.app.points import can_name
from krepes.errors import ConfigError
from krepes.stored import StoredRun

KEPT = 24  # selections; the oldest goes first
VERTICES = 5000  # of a polygon
COMMON = 10  # landmarks of a group that are told
DIFFERENT = 12  # columns in which a group differs that are told


@dataclass(frozen=True)
class Selection:
    """A group of samples.

    Attributes:
        name: such as "s1".
        positions: ascending (k,), int32.
    """

    name: str
    positions: np.ndarray


class Selections:
    """The last selections by name; safe for threads."""

    def __init__(self):
        self._lock, self._count = threading.Lock(), 0
        self._kept: OrderedDict[str, Selection] = OrderedDict()

    def add(self, positions: np.ndarray) -> Selection:
        """A new name for some samples."""
        with self._lock:
            self._count += 1
            made = Selection(f"s{self._count}", np.asarray(positions, np.int32))
            self._kept[made.name] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def __getitem__(self, name: str) -> Selection:
        """A selection by its name.

        Raises:
            ConfigError: there is none, or none any more.
        """
        with self._lock:
            if name not in self._kept:
                raise ConfigError(f"there is no selection {name[:20]!r}, or it is gone: select the samples again")
            self._kept.move_to_end(name)
            return self._kept[name]


def polygon_of(vertices: Any) -> np.ndarray:
    """Vertices (v, 2) of a polygon that a page sent.

    Raises:
        ConfigError: they are no list of pairs of finite numbers, fewer than three, or more than `VERTICES`.
    """
    if not isinstance(vertices, list) or not 3 <= len(vertices) <= VERTICES:
        found = f"{len(vertices):,} vertices" if isinstance(vertices, list) else type(vertices).__name__
        raise ConfigError(f"polygon holds {found}; expected a list of 3 to {VERTICES:,} pairs [x, y]")
    for vertex in vertices:
        pair = isinstance(vertex, list) and len(vertex) == 2
        if not pair or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in vertex):
            raise ConfigError(f"polygon holds {str(vertex)[:80]}; expected pairs of numbers, [x, y]")
    try:
        found = np.array(vertices, np.float64)
    except OverflowError:
        found = np.array([[np.inf, np.inf]])
    if not np.isfinite(found).all() or np.abs(found).max() > 1e100:
        raise ConfigError("polygon holds a number that is not finite, or beyond 1e100; expected places on the map")
    return found


def positions_within(given: Any, n: int) -> np.ndarray:
    """Ascending positions that a page sent.

    Raises:
        ConfigError: they are no list of whole numbers from 0 to n − 1.
    """
    if not isinstance(given, list) or not given:
        raise ConfigError("positions is empty, or no list; expected whole numbers")
    odd = [p for p in given if not isinstance(p, int) or isinstance(p, bool) or not 0 <= p < n]
    if odd:
        raise ConfigError(f"positions holds {str(odd[0])[:40]}; expected whole numbers from 0 to {n - 1}")
    return np.unique(np.array(given, np.int64))


# ------------------------------------------------------------- common landmarks


@dataclass(frozen=True)
class Tops:
    """The top landmarks of every sample.

    Attributes:
        labels: ids of landmarks (m,).
        codes: of each sample's (n, k); m where it has fewer.
        share: of all samples that have each landmark among theirs (m,).
    """

    labels: list[str]
    codes: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, run: StoredRun, pieces: Pieces) -> "Tops | None":
        """From the column `landmarks` of points.parquet, `COMMON` of each sample at most; None where there is none."""
        if "landmarks" not in pieces.schema.names:
            return None
        kind = pieces.schema.field("landmarks").type
        if not pa.types.is_list(kind) or not can_name(kind.value_type):
            run.say("points.parquet", "Column landmarks of points.parquet holds no lists of ids.")
            return None
        column = pieces.column("landmarks")
        if not pa.types.is_list(column.type):
            return None
        if any((pc.max(c.value_lengths()).as_py() or 0) > COMMON for c in column.chunks):
            column = pa.chunked_array([pc.list_slice(c, 0, COMMON) for c in column.chunks])
            run.say("landmarks", f"Of longer lists of landmarks in points.parquet the first {COMMON} count.")
        lengths = np.concatenate([
            np.asarray(c.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)) for c in column.chunks
        ] or [np.zeros(0, int)])  # fmt: skip
        labels, flat = as_labels(pa.chunked_array([c.flatten() for c in column.chunks], column.type.value_type))
        m, k = len(labels), int(lengths.max(initial=0))
        flat = np.where(flat < 0, m, flat).astype(np.uint16 if m < 2**16 else np.int32)
        if (lengths == k).all():
            codes = flat.reshape(len(lengths), k)
        else:
            codes = np.full((len(lengths), k), m, flat.dtype)
            codes[np.arange(k) < lengths[:, None]] = flat
        share = np.bincount(codes.ravel(), minlength=m + 1)[:m] / max(len(codes), 1)
        return cls(labels, codes, share)

    def common(self, positions: np.ndarray) -> list[dict[str, Any]]:
        """The landmarks that most of a group has among its top ones: id, share, lift (against all samples)."""
        m = len(self.labels)
        counts = np.bincount(self.codes[positions].ravel(), minlength=m + 1)[:m] / max(len(positions), 1)
        order = np.lexsort((-counts / np.maximum(self.share, 1e-300), -counts))[:COMMON]
        return [
            {"id": self.labels[i], "share": float(counts[i]), "lift": float(counts[i] / self.share[i])}
            for i in order.tolist() if counts[i] > 0
        ]  # fmt: skip


# ------------------------------------------------------------- features of a group


def differences(columns: Columns, positions: np.ndarray) -> list[dict[str, Any]]:
    """How a group differs from all samples, largest first.

    `difference` is in [0, 1]: of numbers the largest distance of the two distribution functions (Kolmogorov–Smirnov),
    of categories half the sum of the shares' differences (total variation).

    Returns:
        of numbers {column, kind, difference, group, all} with means; of categories {column, kind, difference, value,
        group, all} with the shares of the value that sets the group apart most.
    """
    found = [difference(columns, columns.column(name), positions) for name in columns.names]
    told = [f for f in found if f is not None]
    return sorted(told, key=lambda f: -f["difference"])[:DIFFERENT]


def difference(columns: Columns, column: Column, positions: np.ndarray) -> dict[str, Any] | None:
    """One column's; None where nothing can be compared."""
    if column.kind == "other" or not len(positions):
        return None
    codes = columns.codes(column.name)
    kinds = STEPS + 1 if column.kind == "number" else MISSING + 1
    group, all_ = (np.bincount(c, minlength=kinds) for c in (codes[positions], codes))
    plain = {"column": column.name, "kind": column.kind}
    if column.kind == "number":
        group, all_ = group[:STEPS], all_[:STEPS]
        if not group.sum():
            return None
        apart = np.abs(np.cumsum(group / group.sum()) - np.cumsum(all_ / all_.sum())).max()
        numbers = columns.numbers(column.name)
        means = [float(np.nanmean(v, dtype=np.float64)) for v in (numbers[positions], numbers)]
        return {**plain, "difference": float(apart), "group": means[0], "all": means[1]}
    shares = group / group.sum(), all_ / all_.sum()
    apart = shares[0] - shares[1]
    most = int(apart.argmax()) if apart.max() > 0 else int(np.argmax(shares[0]))
    value = {OTHER: "(other)", MISSING: "(missing)"}.get(most) or column.values[most]
    return {**plain, "difference": float(np.abs(apart).sum() / 2), "value": value,
            "group": float(shares[0][most]), "all": float(shares[1][most])}  # fmt: skip
