"""The report's explained samples: what holds each of them where it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from krepes.audit.findings import Findings
from krepes.report.findings import PICTURES, attributed_to
from krepes.report.words import cell
from krepes.stored import DATA

if TYPE_CHECKING:
    from krepes.report.content import Page

SHOWN = 5  # attracting and repelling landmarks per explained sample
Cells = Callable[[str], dict[str, str] | None]


@dataclass(frozen=True)
class Explained:
    """What the section shows.

    Attributes:
        samples: one entry per explained sample.
    """

    samples: list[dict[str, Any]]


def explained(page: "Page", found: Findings) -> Explained:
    """Each explained sample with its attracting and repelling landmarks, and what all others add."""
    table = page.run.table("explained.parquet", ("sample", "position", "landmark", "influence", "contribution"))
    if table is None:
        return Explained([])
    sides = {str(name): strongest_of(part) for name, part in table.groupby("sample", sort=False)}
    cells = raw_rows(page, {*sides, *(str(r["landmark"]) for s in sides.values() for r in s[0] + s[1]),
                            *attributed_ids(found)})  # fmt: skip
    return Explained([one_sample(page, name, *side, cells, found) for name, side in sides.items()])


def strongest_of(part: pd.DataFrame) -> tuple[list[dict[Any, Any]], list[dict[Any, Any]], list[float]]:
    """The most attracting and most repelling rows of a sample, and the contributions of all."""
    rows = sorted(part.to_dict("records"), key=lambda row: -row["contribution"])
    up = [row for row in rows[:SHOWN] if row["contribution"] > 0]
    down = [row for row in rows[: -SHOWN - 1 : -1] if row["contribution"] < 0]
    return up, down, [float(row["contribution"]) for row in rows]


def attributed_ids(found: Findings) -> set[str]:
    """Ids of the attributed training samples that are shown."""
    if found.attribution is None:
        return set()
    table = found.attribution
    return set(table.groupby(["sample", "effect"]).head(PICTURES)["training_sample"].astype(str))


def one_sample(
    page: "Page", name: str, up: list[dict[Any, Any]], down: list[dict[Any, Any]], every: list[float], cells: Cells,
    found: Findings,
) -> dict[str, Any]:  # fmt: skip
    """One explained sample."""
    total, *sums = (float(sum(c)) for c in (every, *([row["contribution"] for row in side] for side in (up, down))))
    widest, own = max([*map(abs, every), 1e-300]), cells(name)

    def item(row: dict[Any, Any]) -> dict[str, Any]:
        landmark, value = str(row["landmark"]), float(row["contribution"])
        theirs = cells(landmark)
        agrees = {k for k in theirs or {} if own and theirs and own.get(k) == theirs[k]}
        return {"landmark": landmark, "contribution": value, "cells": theirs, "agrees": agrees,
                "influence": float(row["influence"]), "width": abs(value) / widest,
                "picture": page.sprites(landmark), "self": landmark == name}  # fmt: skip

    return {
        "id": name,
        "picture": page.sprites(name),
        "cells": own,
        "attract": [item(row) for row in up],
        "repel": [item(row) for row in down],
        "up": sums[0],
        "down": sums[1],
        "total": total,
        "rest": total - sums[0] - sums[1],
        "others": len(every) - len(up) - len(down),
        "training": attributed_to(found, name, page.sprites, cells),
    }


def raw_rows(page: "Page", ids: set[str]) -> Cells:
    """Sample id ↦ its raw cells without the redacted columns; None for samples without a table, or that are not there.

    Samples are found by their ids: positions may count others, as among the training samples of a counterfactual.
    """
    place = page.run.positions(ids)
    rows = page.run.cells(list(place.values()))
    kept = {name: page.told(name, rows[p]) for name, p in place.items() if rows.get(p)}
    return kept.get


def cells_of(page: "Page", row: dict[Any, Any]) -> dict[str, str]:
    """The raw cells among a landmark's columns data.NAME."""
    raw = {str(k).removeprefix(DATA): cell(v) for k, v in row.items() if str(k).startswith(DATA)}
    return page.told(str(row["landmark"]), raw)
