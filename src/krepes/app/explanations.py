"""Why a sample lies where it lies: its landmarks from the run's tables, or from the model where that is loaded."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api.types import is_numeric_dtype

from krepes.app.cache import Cache
from krepes.app.columns import kind_of
from krepes.app.pieces import Pieces
from krepes.app.points import as_text, can_name, truth
from krepes.stored import StoredRun

if TYPE_CHECKING:
    from torch import Tensor

    from krepes.app.landmarks import Landmarks

SHOWN = 10  # attracting and repelling landmarks that are told
COLUMNS = ("sample", "landmark", "influence", "contribution")
FOUND = 4096  # samples whose rows in an unordered file are kept


class Stored:
    """Explanations of influence.parquet and explained.parquet; safe for threads.

    Args:
        n: samples of the run.
    """

    def __init__(self, run: StoredRun, n: int):
        self._run, self._n = run, n
        self._pieces = Pieces(run, "influence.parquet", ["sample", "landmark"])
        gone = [c for c in COLUMNS if c not in self._pieces.schema.names]
        if self._pieces.n and gone:
            run.say("influence.parquet", f"influence.parquet lacks {', '.join(gone)}: another version wrote it.")
        odd = [] if gone else [*self._odd()]
        if odd:
            run.say("influence.parquet", f"influence.parquet holds no {odd[0]}: another version wrote it.")
        self.readable = not gone and not odd
        self._found = Cache(FOUND)
        self._once = Cache(1)

    def _odd(self) -> Iterator[str]:
        """What columns should hold and do not."""
        kinds = {name: self._pieces.schema.field(name).type for name in COLUMNS}
        yield from (f"ids in {name}" for name in COLUMNS[:2] if not can_name(kinds[name]))
        yield from (f"numbers in {name}" for name in COLUMNS[2:] if kind_of(kinds[name]) != "number")

    def scores(self, position: int, name: str) -> tuple[pd.DataFrame, bool] | None:
        """A sample's landmarks (landmark, influence, contribution), and whether they are all; None without any."""
        full = self._full().get(name)
        if full is not None:
            return full, True
        return None if (top := self._top(position, name)) is None else (top, False)

    def _full(self) -> dict[str, pd.DataFrame]:
        """Sample id ↦ its scores with all landmarks, for the samples that the audit explained."""

        def read() -> dict[str, pd.DataFrame]:
            table = self._run.table("explained.parquet", COLUMNS, COLUMNS, expected=False)
            if table is None:
                return {}
            if not table.columns.is_unique or not all(is_numeric_dtype(table[name]) for name in COLUMNS[2:]):
                self._run.say("explained.parquet", "explained.parquet holds no numbers: another version wrote it.")
                return {}
            return {str(i): part for i, part in table.groupby(table["sample"].astype(str), sort=False)}

        return self._once.get("explained", read)

    def _top(self, position: int, name: str) -> pd.DataFrame | None:
        if not self.readable or not self._pieces.n:
            return None
        k, rest = divmod(self._pieces.n, max(self._n, 1))
        if not rest:
            table = self._pieces.rows(position * k, (position + 1) * k, COLUMNS)
            if table is not None and set(table.column("sample").to_pylist()) == {name}:
                return table.to_pandas()
        return self._found.get(name, lambda: self._search(name))

    def _search(self, name: str) -> pd.DataFrame | None:
        """A sample's rows by rank in a file of another order: they may lie anywhere; None without any."""
        columns = [*COLUMNS, *(["rank"] if "rank" in self._pieces.schema.names else [])]
        found = []
        for number in range(self._pieces.groups):
            table = self._pieces.group(number, columns)
            if table is None:
                continue
            mine = table.filter(pa.array(truth(pc.equal(as_text(table.column("sample")), name))))
            found += [mine.to_pandas()] if mine.num_rows else []
        if not found:
            return None
        rows = pd.concat(found, ignore_index=True)
        return rows.sort_values("rank", kind="stable", ignore_index=True) if "rank" in rows else rows


def told(
    names: Sequence[str],
    influence: np.ndarray,
    contribution: np.ndarray,
    landmarks: "Landmarks",
    cells: dict[str, Any],
    complete: bool,
) -> dict[str, Any]:
    """Attracting and repelling landmarks of a sample, and what all others add.

    Args:
        names: of the landmarks whose scores are known (k,).
        influence, contribution: (k,).
        cells: the sample's own.
        complete: whether these are all landmarks, so that the bars add up.

    Returns:
        total, attract, repel, rest, others, complete, and notes: landmarks without finite scores are left out.
    """
    known = np.isfinite(contribution) & np.isfinite(influence)
    unknown = int((~known).sum())
    names = [names[i] for i in np.flatnonzero(known).tolist()]
    influence, contribution = influence[known], contribution[known]
    complete = complete and not unknown
    notes = [f"{unknown:,} landmarks have no finite score of this sample and are left out."] if unknown else []
    order = np.argsort(-contribution, kind="stable")
    attract = [i for i in order[:SHOWN].tolist() if contribution[i] > 0]
    repel = [i for i in order[::-1][:SHOWN].tolist() if contribution[i] < 0]

    def item(i: int) -> dict[str, Any]:
        mark = landmarks.by_id(names[i])
        theirs = mark.get("cells", {})
        agrees = [k for k, v in cells.items() if v is not None and theirs.get(k) == v]
        return {"landmark": names[i], "position": mark.get("position"), "contribution": float(contribution[i]),
                "influence": float(influence[i]), "cells": theirs, "agrees": agrees}  # fmt: skip

    total = float(contribution.sum()) if complete else None
    shown = float(contribution[attract + repel].sum())
    m = len(names) if complete else max(landmarks.m, len(names))
    return {"total": total, "attract": [item(i) for i in attract], "repel": [item(i) for i in repel],
            "rest": None if total is None else total - shown, "others": m - len(attract) - len(repel),
            "complete": complete, "notes": notes}  # fmt: skip


def of_model(K: "Tensor", f: "Tensor", dA: "Tensor") -> tuple[np.ndarray, np.ndarray]:
    """Influence and signed contribution of all landmarks for one sample, (m,) each."""
    from krepes import influence

    scores, signed = influence.sample_influence(K, dA), influence.signed_contribution(K, dA, f)
    return scores[0].cpu().numpy(), signed[0].cpu().numpy()
