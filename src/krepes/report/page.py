"""From a run folder to the report, one self-contained HTML page."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import TemplateError
from markupsafe import Markup

from krepes.audit.findings import Findings
from krepes.report import figures, views
from krepes.report.audited import audited
from krepes.report.explained import Explained, cells_of, explained
from krepes.report.findings import counted, sections, sentences
from krepes.report.pictures import Sprites
from krepes.report.words import flatten, number, templates
from krepes.solver.newton import GAIN_RATIO
from krepes.stored import StoredRun, first_line

CARDS = 24  # strongest landmarks that are shown one by one
DOTS = 5000  # samples up to which each is a dot of the map
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


def build_page(run: StoredRun, thumbnails: bool = True, redact: Sequence[str] = ()) -> str:
    """The report of a run folder, complete or not; it says what is missing.

    Args:
        run: the run folder.
        thumbnails: whether pictures of samples stand in the page.
        redact: columns of the samples' table whose values do not.

    Returns:
        HTML that loads nothing and needs no script to be read.
    """
    page = Page(run, thumbnails, redact)
    found = guarded(run, "findings", lambda: findings_of(page)) or Findings()
    landmarks = guarded(run, "landmarks.parquet", lambda: landmark_table(page))
    content = {
        "head": guarded(run, "manifest.json", lambda: head(page)) or NOTHING_KNOWN,
        "trust": run.trust,
        "warning": warning(run),
        "findings": guarded(run, "findings", lambda: key_findings(run, landmarks) + sentences(found, number)) or [],
        "map": guarded(run, "points.parquet", lambda: map_of(page, landmarks)),
        "views": guarded(run, "views.json", lambda: views_of(page)),
        "landmarks": guarded(run, "landmarks.parquet", lambda: cards(page, landmarks)) or [],
        "every": guarded(run, "landmarks.parquet", lambda: every_landmark(page, landmarks)) or [],
        "explained": guarded(run, "explained.parquet", lambda: explained(page, found)) or Explained([]),
        "found": guarded(run, "findings", lambda: shown_findings(page, found)) or sections(Findings(), 0),
        "charts": charts(run, found, landmarks),
        "removed": guarded(run, "counterfactuals.parquet", lambda: removed_groups(found)) or {},
        "path": [] if found.path is None else found.path.to_dict("records"),
        "outcome": run.section("outcome"),
        "settings": guarded(run, "manifest.json", lambda: settings_of(page)) or {},
        "versions": {str(k): str(v) for k, v in run.section("versions").items()},
        "fingerprints": {str(k): str(v) for k, v in run.section("fingerprints").items()},
        "command": "left out: it could name what is redacted" if page.redact else run.manifest.get("command"),
    }
    return rendered(page, content)


def rendered(page: Page, content: dict[str, Any]) -> str:
    """The page's text; what a run of another version lacks is left empty and said."""
    run, (style, script) = page.run, (asset(name) for name in ("style.css", "page.js"))
    more = {
        "style": Markup(style),
        "script": Markup(script),
        "policy": f"default-src 'none'; img-src data:; style-src {hash_of(style)}; script-src {hash_of(script)}; "
        "base-uri 'none'; form-action 'none'",
        "pictures": list(page.sprites.used.values()),
        "embedded": embedded(page, content),
    }
    template = templates().get_template("template.html.j2")
    try:
        return template.render(content, problems=list(run.problems.values()), **more)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        run.say("version", f"Some tables are of another version of krepes, or damaged ({first_line(error)}): findings, "
                "landmarks and samples are left out.")  # fmt: skip
    content |= {"found": sections(Findings(), 0), "removed": {}, "path": [], "landmarks": [], "every": [],
                "explained": Explained([]), "outcome": {}}  # fmt: skip
    return template.render(content, problems=list(run.problems.values()), **more)


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


def asset(name: str) -> str:
    """A file of this package."""
    return (files("krepes.report") / name).read_text(encoding="utf-8")


def hash_of(text: str) -> str:
    """How a Content-Security-Policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ------------------------------------------------------------------------ head

NOTHING_KNOWN = {
    "title": "A run without a manifest", "subtitle": "", "created": "", "space": "", "note": "", "lines": [],
}  # fmt: skip


def head(page: Page) -> dict[str, Any]:
    """Title, subtitle, date, and what was audited."""
    manifest = page.run.manifest
    if not manifest:
        return NOTHING_KNOWN
    settings = page.run.section("settings")
    objective = (settings.get("objective") or {}).get("name", "unknown")
    n, m = manifest.get("samples"), len(manifest.get("landmark_ids") or ())
    A0 = page.run.tensor("A0")
    parts = [
        counted(n, "unlabelled sample") if isinstance(n, int) else "",
        f"{m:,} landmarks" if m else "",
        f"objective {objective}",
        f"representation of {A0.shape[1]} dimensions" if A0 is not None else "",
    ]
    created = manifest.get("created")
    when = datetime.fromisoformat(created).strftime("%d %B %Y, %H:%M UTC") if isinstance(created, str) else ""
    return {
        "title": str(manifest.get("title") or page.run.section("config").get("title") or page.run.folder.name),
        "subtitle": ", ".join(p for p in parts if p),
        "created": when,
        **audited(manifest),
    }


def warning(run: StoredRun) -> str | None:
    """What must be read before anything else: a step that did not lower the loss."""
    outcome = run.section("outcome")
    before, after = outcome.get("loss_before"), outcome.get("loss_after")
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return None
    return None if after < before else str(outcome.get("message", "The step did not lower the objective."))


def embedded(page: Page, content: dict[str, Any]) -> list[str]:
    """Which samples stand in the file itself."""
    said, (_, strips) = [], content["views"] or (None, 0)
    if page.sprites.used or strips:
        more = f" and, with their views, of {counted(strips, 'first sample')}" if strips else ""
        said.append(f"This file holds pictures of {counted(len(page.sprites.used), 'sample')}{more}.")
    elif page.run.section("source").get("kind") == "image":
        said.append("No picture of a sample is in this file.")
    if page.disclosed:
        said.append(f"It holds raw values of {counted(len(page.disclosed), 'sample')}.")
    if page.redact:
        said.append(f"Left out everywhere: {', '.join(page.redact)}.")
    return said


def settings_of(page: Page) -> dict[str, str]:
    """The configuration as resolved, or the auditor's settings; what names a redacted column is not shown."""
    told = page.run.section("config") or page.run.section("settings")
    flat = flatten(told)
    return {k: "redacted" if page.names(v) or page.names(k) else v for k, v in flat.items()}


# ------------------------------------------------------------- findings, tables


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


# ---------------------------------------------------------------------- charts


def map_of(page: Page, landmarks: pd.DataFrame | None) -> dict[str, Any] | None:
    """The map of all samples, and how many they are."""
    points = page.run.table("points.parquet", ("x", "y", "is_landmark"), ("x", "y", "is_landmark"))
    if points is None or len(points) < 2:
        return None
    every = points.loc[:, ["x", "y"]].to_numpy(float)
    placed = np.isfinite(every).all(1)
    marks, ranks, size, balance = np.empty((0, 2)), [], None, None
    if landmarks is not None:
        position = landmarks["position"].to_numpy(int)
        there = (position >= 0) & (position < len(every))
        there[there] = placed[position[there]]
        if not there.all():
            page.run.say("places", f"{(~there).sum()} landmarks are none of the samples on the map, and not drawn.")
        marks, ranks = every[position[there]], landmarks["rank"][there].tolist()
        size, balance = (landmarks[name].to_numpy(float)[there] for name in ("mean_influence", "sign_balance"))
    xy, lost = every[placed], int((~placed).sum())
    if len(xy) < 2:
        return None
    return {
        "svg": Markup(figures.representation_map(xy, marks, ranks, size, balance, DOTS)),
        "n": len(xy),
        "lost": lost,
        "density": len(xy) > DOTS,
    }


def charts(run: StoredRun, found: Findings, landmarks: pd.DataFrame | None) -> list[tuple[str, Markup]]:
    """Caption and chart: spectrum, coverage, convergence, damping and λ path, those that can be had."""
    outcome = run.section("outcome")

    def spectrum() -> str | None:
        values = run.tensor("eigenvalues")
        return None if values is None else figures.spectrum(values.numpy())

    def coverage() -> str | None:
        return None if landmarks is None else figures.coverage(landmarks["mean_influence"].to_numpy(float))

    def convergence() -> str | None:
        tolerance = (run.section("settings").get("newton") or {}).get("tol", 1e-4)
        return figures.convergence(outcome["history"], tolerance) if outcome.get("history") else None

    def damping() -> str | None:
        tried = [(t["damping"], t["gain_ratio"]) for t in outcome.get("trials") or ()]
        return figures.damping_path([d for d, _ in tried], [g for _, g in tried], GAIN_RATIO) if tried else None

    def path() -> str | None:
        return None if found.path is None else figures.entropy_path(found.path, outcome.get("relative_damping"))

    drawn = {
        "Spectrum of the landmark kernel": spectrum,
        "Coverage: what the strongest landmarks carry": coverage,
        "Spectral entropy of the coefficients over λ": path,
        "Gain ratio of the λ that were tried": damping,
        "Residual of the linear solve": convergence,
    }
    made = {caption: guarded(run, "charts", make) for caption, make in drawn.items()}
    return [(caption, Markup(svg)) for caption, svg in made.items() if svg]


def views_of(page: Page) -> tuple[Markup, int] | None:
    """The first samples and their views, and of how many there are pictures."""
    content = page.run.json(views.FILE, expected=False)
    if content is None:
        return None
    if content.get("kind") == "image":
        strips = content["strips"] if page.thumbnails else []
        if not all(isinstance(s, str) and s.startswith("data:image/png;base64,") for s in strips):
            raise ValueError("strips that are no pictures")
        content = {**content, "strips": strips}
    if content.get("kind") == "table":
        content = views.without_columns(content, page.redact)
        if content["columns"]:
            page.disclosed.update(map(str, content["ids"]))
    return Markup(views.rendered(content)), len(content.get("strips") or ())
