"""What a report shows of a run folder: its tables, checked, without what is redacted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from jinja2 import TemplateError

from krepes.audit.findings import Findings
from krepes.report.explained import cells_of
from krepes.report.findings import sections, sentences
from krepes.report.pictures import Sprites
from krepes.report.words import number
from krepes.stored import StoredRun, first_line

CARDS = 24  # strongest landmarks that are shown one by one
REPEATED = re.compile(r" \(\d+\)$")
TABLES = {
    "concepts.parquet": (
        "concept", "origin", "usable", "verdict", "accuracy", "accuracy_null", "stability", "push", "low", "high",
        "null_low", "null_high", "q", "members", "landmarks",
    ),
    "feature_gap.parquet": (
        "column", "kind", "gap", "low", "high", "null_low", "null_high", "agreement", "random", "p", "q", "n",
        "missing", "explained_by",
    ),
    "group_gap.parquet": ("column", "group", "gap", "low", "high", "q", "share", "random", "n", "small", "landmarks"),
    "attribution.parquet": ("sample", "target", "effect", "training_sample", "score", "error", "reliability"),
    "evaluation.parquet": ("figure", "value", "low", "high", "n", "note"),
    "path.parquet": ("damping", "entropy", "loss", "gain_ratio"),
    "counterfactuals.parquet": ("counterfactual", "removed", "figure", "value", "low", "high", "n", "random"),
}  # fmt: skip


@dataclass
class Page:
    """What a page is made of.

    Args:
        run: the run folder, as it stands.
        thumbnails: whether pictures of samples stand in the page.
        redact: columns of the samples' table whose values do not.

    Attributes:
        disclosed: ids of the samples whose raw cells stand in the page.
    """

    run: StoredRun
    thumbnails: bool = True
    redact: Sequence[str] = ()
    sprites: Sprites = field(init=False)

    def __post_init__(self):
        self.thumbnails = self.thumbnails and self.run.thumbnails
        self.redact = tuple(sorted({*self.redact, *self.run.redacted}))
        self.disclosed: set[str] = set()
        self.sprites = Sprites(self.run.pictures if self.thumbnails else {})

    def hides(self, column: str) -> bool:
        """Whether a column of the samples' table is redacted; so is a second one of that name, "NAME (2)"."""
        return column in self.redact or REPEATED.sub("", column) in self.redact

    def names(self, text: str) -> bool:
        """Whether a text names a redacted column, as a word of its own."""
        return any(re.search(rf"(?<!\w){re.escape(column)}(?!\w)", text) for column in self.redact)

    def told(self, sample: str, cells: dict[str, str]) -> dict[str, str]:
        """A sample's raw cells without the redacted columns; they are counted as disclosed."""
        kept = {k: v for k, v in cells.items() if not self.hides(k)}
        if kept:
            self.disclosed.add(sample)
        return kept


def guarded(run: StoredRun, name: str, make: Callable[[], Any]) -> Any:
    """A part of the page; None, and a problem of that file, where what was stored does not make sense."""
    try:
        return make()
    except (
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, TemplateError,
    ) as error:  # fmt: skip
        run.say(name, f"{name} lacks or misstates what this page shows of it ({type(error).__name__}: "
                f"{first_line(error)}).")  # fmt: skip
        return None


def findings_of(page: Page) -> Findings:
    """The tables that the run has, without the redacted columns' rows."""
    tables = {}
    for name, needed in TABLES.items():
        table = page.run.table(name, needed, expected=False)
        if table is not None and "column" in table:
            table = table.loc[[not page.hides(str(c)) for c in table["column"]]]
        if table is not None and "explained_by" in table:
            told = ["" if page.hides(str(c)) else c for c in table["explained_by"]]
            table = table.assign(explained_by=told)
        part = name.removesuffix(".parquet")
        if table is not None and guarded(page.run, name, lambda p=part, t=table: checked(p, t)):
            tables[part] = table
    notes = page.run.manifest.get("notes")
    said = [str(n) for n in notes] if isinstance(notes, list) else []
    attributed = page.run.manifest.get("attributed")
    kept = tuple(n for n in said if not page.names(n))
    return Findings(**tables, notes=kept, attributed=attributed if isinstance(attributed, int) else 0)


def checked(name: str, table: pd.DataFrame) -> bool:
    """True where charts and sentences can be made of a table; else whatever error it raises."""
    found = Findings(**{name: table})  # pyright: ignore[reportArgumentType]
    sections(found, 0)
    sentences(found, number)
    removed_groups(found)
    return True


def shown_findings(page: Page, found: Findings) -> dict[str, Any]:
    """What the sections on concepts, gaps and labels show."""
    n = page.run.manifest.get("samples")
    shown = sections(found, n if isinstance(n, int) else 0)
    for row in shown["concepts"]:
        row["pictures"] = [(name, page.sprites(name)) for name in row["strongest"]]
    return shown


def key_findings(run: StoredRun, landmarks: pd.DataFrame | None) -> list[str]:
    """Plain sentences with their numbers."""
    said, outcome = [], run.section("outcome")
    gate = run.trust
    size = next((f.value for f in gate.figures if f.name == "step size"), None) if gate is not None else None
    if size is not None and "loss_before" in outcome:
        said.append(
            f"The objective moves the representation by {number(size)} of its size; the loss goes from "
            f"{number(outcome['loss_before'])} to {number(outcome['loss_after'])}."
        )
    if landmarks is not None and len(landmarks):
        mean, m = landmarks["mean_influence"].to_numpy(float), len(landmarks)
        share = mean / max(mean.sum(), 1e-300)
        tenth = max(1, m // 10)
        said.append(
            f"The {tenth} strongest of {m} landmarks carry {share[:tenth].sum():.0%} of all influence ({tenth / m:.0%} "
            "would be an even share)."
        )
        said.append(
            f"The most influential landmark is {landmarks['landmark'].iloc[0]}, with {share[0] * m:.1f} times the "
            "landmarks' mean influence."
        )
    return said


def removed_groups(found: Findings) -> dict[str, dict[str, Any]]:
    """Counterfactual ↦ how many samples were removed, and its rows."""
    table = found.counterfactuals
    if table is None:
        return {}
    return {
        str(name): {"removed": int(part["removed"].iloc[0]), "rows": part.to_dict("records")}
        for name, part in table.groupby("counterfactual", sort=False)
    }


# ------------------------------------------------------------------- landmarks


def landmark_table(page: Page) -> pd.DataFrame | None:
    """Ranked landmarks, strongest first."""
    needed = ("rank", "landmark", "position", "norm", "mean_influence", "sign_balance")
    table = page.run.table("landmarks.parquet", needed)
    return None if table is None else table.sort_values("rank", kind="stable", ignore_index=True)


def cards(page: Page, landmarks: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The strongest landmarks with picture and raw cells."""
    if landmarks is None:
        return []
    return [
        {**row, "picture": page.sprites(str(row["landmark"])), "cells": cells_of(page, row) or None}
        for row in landmarks.head(CARDS).to_dict("records")
    ]


def every_landmark(page: Page, landmarks: pd.DataFrame | None) -> list[dict[str, Any]]:
    """All landmarks with their pictures."""
    if landmarks is None:
        return []
    names = ["rank", "landmark", "norm", "mean_influence", "sign_balance"]
    rows = landmarks.loc[:, names].to_dict("records")
    return [{**row, "picture": page.sprites(str(row["landmark"]))} for row in rows]
