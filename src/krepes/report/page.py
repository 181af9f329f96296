"""From a run folder to the report, one self-contained HTML page."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import TemplateError
from markupsafe import Markup

from krepes.audit.findings import Findings
from krepes.report import views
from krepes.report.audited import audited
from krepes.report.charts import charts, map_of
from krepes.report.content import (
    Page,
    cards,
    every_landmark,
    findings_of,
    guarded,
    key_findings,
    landmark_table,
    removed_groups,
    shown_findings,
)
from krepes.report.explained import Explained, explained
from krepes.report.findings import counted, sections, sentences
from krepes.report.words import flatten, number, templates
from krepes.stored import StoredRun, first_line


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
