"""card.md: a section of a model card, in Markdown."""

import html
import re

from krepes.audit.findings import Findings
from krepes.report.content import Page, findings_of, guarded, key_findings, landmark_table
from krepes.report.findings import sentences
from krepes.report.page import head, warning
from krepes.report.words import number
from krepes.stored import StoredRun

LIMITS = (
    "A one-step, local account of the objective at the trained weights, on the landmarks given; the trust figures say "
    "how well it holds. It is not a causal claim about retraining."
)


def build_card(run: StoredRun) -> str:
    """The card of a run folder, complete or not.

    Returns:
        Markdown that starts with a heading of level 2; names of the data are escaped.
    """
    page = Page(run, thumbnails=False)
    top = guarded(run, "manifest.json", lambda: head(page)) or {"title": "", "subtitle": "", "space": "", "note": ""}
    landmarks = guarded(run, "landmarks.parquet", lambda: landmark_table(page))
    found = guarded(run, "findings", lambda: findings_of(page)) or Findings()
    said = guarded(run, "findings", lambda: key_findings(run, landmarks) + sentences(found, number)) or []
    gate, lines = run.trust, ["## Audit of the representation", ""]
    lines += [f"{plain(top['title'])}: {plain(top['subtitle'])}. Audited: {plain(top['space'])}.", ""]
    if top["note"]:
        lines += [f"> {plain(top['note'])}", ""]
    lowered = warning(run)
    if lowered:
        lines += [f"**{plain(lowered)}**", ""]
    lines += ["### Trust", ""]
    if gate is None:
        lines += ["Not known: the run has no trust figures.", ""]
    else:
        lines += [f"**{gate.verdict.upper()}**: {plain(gate.sentence)}", ""]
        lines += ["| figure | found | wanted | verdict |", "|---|---|---|---|"]
        lines += [
            f"| {plain(f.name)} | {plain(f.display)} | {plain(f.threshold)} | {plain(f.verdict)} |"
            for f in gate.figures
        ]
        lines.append("")
    lines += ["### Findings", "", *(f"* {plain(s)}" for s in said or ["none"]), ""]
    lines += ["### Limits", "", LIMITS, ""]
    prints, versions = run.section("fingerprints"), run.section("versions")
    told = [f"{name} {value}" for name, value in versions.items()] + [
        f"{name} sha256 {str(value)[:12]}…" for name, value in prints.items()
    ]
    lines += ["### Made with", "", plain(", ".join(told) or "unknown") + ".", ""]
    if run.problems:
        lines += ["### Not all of this run could be read", "", *(f"* {plain(p)}" for p in run.problems.values()), ""]
    return "\n".join(lines)


def plain(text: object) -> str:
    """Text of the data that Markdown and HTML take for nothing else."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]()#|~!$@])", r"\\\1", html.escape(flat, quote=False))
