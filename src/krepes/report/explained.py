"""The report's explained samples: what holds each of them where it is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from krepes.audit.findings import Findings
from krepes.report.findings import attributed_to
from krepes.report.words import cell
from krepes.stored import DATA

if TYPE_CHECKING:
    from krepes.report.page import Page

SHOWN = 5  # attracting and repelling landmarks per explained sample


@dataclass(frozen=True)
class Explained:
    """What the section shows.

    Attributes:
        samples: one entry per explained sample.
        columns: of the raw rows that are shown.
        rows: how many different samples' raw rows are shown.
    """

    samples: list[dict[str, Any]]
    columns: list[str]
    rows: int = 0


def explained(page: "Page", found: Findings) -> Explained:
    """Each explained sample with its attracting and repelling landmarks, and what all others add."""
    needed = ("sample", "position", "landmark", "influence", "contribution")
    table = page.run.table("explained.parquet", needed)
    if table is None:
        return Explained([], [])
    landmarks = page.run.table("landmarks.parquet", ("landmark", "position"))
    place = {} if landmarks is None else dict(zip(landmarks["landmark"], landmarks["position"], strict=True))
    chosen = {int(p) for p in table["position"]}
    attributed = [] if found.attribution is None else found.attribution["position"].tolist()
    rows = raw_rows(page, {*chosen, *map(int, place.values()), *map(int, attributed)})
    samples = [
        one_sample(page, str(name), part, place, rows, found) for name, part in table.groupby("sample", sort=False)
    ]
    shown = {s["id"] for s in samples} | {i["landmark"] for s in samples for i in (*s["attract"], *s["repel"])}
    return Explained(samples, list(next(iter(rows.values()), {})), len(shown) if rows else 0)


def one_sample(
    page: "Page", name: str, part: pd.DataFrame, place: dict[str, int], rows: dict[int, dict[str, str]],
    found: Findings,
) -> dict[str, Any]:  # fmt: skip
    """One explained sample, from its rows over all landmarks."""
    rows_of = sorted(part.to_dict("records"), key=lambda row: -row["contribution"])
    up = [row for row in rows_of[:SHOWN] if row["contribution"] > 0]
    down = [row for row in rows_of[: -SHOWN - 1 : -1] if row["contribution"] < 0]
    total, *sums = (float(sum(row["contribution"] for row in some)) for some in (rows_of, up, down))
    widest = max([*(abs(row["contribution"]) for row in rows_of), 1e-300])
    cells = rows.get(int(rows_of[0]["position"]))

    def item(row: dict[Any, Any]) -> dict[str, Any]:
        landmark = str(row["landmark"])
        theirs = rows.get(int(place.get(landmark, -1)))
        agrees = {k for k in theirs or {} if cells and theirs and cells.get(k) == theirs[k]}
        return {"landmark": landmark, "contribution": float(row["contribution"]), "cells": theirs, "agrees": agrees,
                "influence": float(row["influence"]), "width": abs(float(row["contribution"])) / widest,
                "picture": page.sprites(landmark), "self": landmark == name}  # fmt: skip

    return {
        "id": name,
        "picture": page.sprites(name),
        "cells": cells,
        "attract": [item(row) for row in up],
        "repel": [item(row) for row in down],
        "up": sums[0],
        "down": sums[1],
        "total": total,
        "rest": total - sums[0] - sums[1],
        "others": len(rows_of) - len(up) - len(down),
        "training": attributed_to(found, name, page.sprites, rows),
    }


def raw_rows(page: "Page", positions: set[int]) -> dict[int, dict[str, str]]:
    """Position ↦ the sample's raw cells without the redacted columns; {} for samples without a table."""
    return {p: {k: v for k, v in row.items() if not page.hides(k)} for p, row in page.run.cells(positions).items()}


def cells_of(page: "Page", row: dict[str, Any]) -> dict[str, str] | None:
    """The raw cells among a row's columns data.NAME."""
    found = {k.removeprefix(DATA): cell(v) for k, v in row.items() if k.startswith(DATA) and not page.hides(k)}
    return found or None
