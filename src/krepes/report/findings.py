"""The report's sections on concepts, alignment gaps, training samples and labels."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from krepes.audit.evaluation import SEEN
from krepes.audit.feature_gap import FDR
from krepes.audit.findings import Findings
from krepes.report import figures

PICTURES = 5  # training samples of each effect that are shown
RELIABLE = 0.5  # share of the scores' variance that is no luck of the views, below which a ranking is flagged
MEMBERS = 6  # samples that stand for a concept
NAMED = 3  # samples, or concepts, of a sentence
ROWS = 40  # of a chart


def sections(found: Findings, n_training: int) -> dict[str, Any]:
    """What the template shows of the findings."""
    concepts, gaps = found.concepts, found.feature_gap
    usable = None if concepts is None else concepts.loc[concepts["usable"]].head(ROWS)
    rows = [] if concepts is None else concepts.to_dict("records")
    rows = [{**row, "strongest": strongest(row), "pictures": []} for row in rows]
    folded = [row for row in rows if not row["usable"] and row["origin"] != "given"]
    return {
        "concepts": rows,
        "concepts_shown": [row for row in rows if row["usable"] or row["origin"] == "given"],
        "concepts_folded": folded,
        "concept_chart": figures.pushes(usable) if usable is not None and len(usable) else None,
        "gaps": [] if gaps is None else gaps.to_dict("records"),
        "gap_chart": figures.gaps(gaps.head(ROWS)) if gaps is not None and len(gaps) else None,
        "groups": groups_by_column(found.group_gap),
        "label_column": label_column(found),
        "evaluation": [] if found.evaluation is None else found.evaluation.to_dict("records"),
        "notes": list(found.notes),
        "attributed": found.attributed,
        "n_training": n_training,
    }


def groups_by_column(table: pd.DataFrame | None) -> dict[str, list[dict[str, Any]]]:
    """Column ↦ its groups' rows."""
    if table is None:
        return {}
    return {str(name): part.to_dict("records") for name, part in table.groupby("column", sort=False)}


def attributed_to(
    found: Findings, sample: str, picture: Callable[[str], Any], cells: Callable[[str], dict[str, str] | None]
) -> list[dict[str, Any]]:
    """The training samples that raise and lower a sample's target, as the template shows them.

    Args:
        picture, cells: sample id ↦ its picture and its raw cells, or None.
    """
    if found.attribution is None:
        return []
    table = found.attribution
    mine = table.loc[table["sample"] == sample]
    widest = max([abs(v) for v in mine["score"]] + [1e-300])
    out = []
    for effect in ("raises", "lowers"):
        part = mine.loc[mine["effect"] == effect].head(PICTURES)
        shown = [
            {"id": str(r["training_sample"]), "picture": picture(str(r["training_sample"])), "score": r["score"],
             "error": r["error"], "width": abs(r["score"]) / widest, "cells": cells(str(r["training_sample"]))}
            for r in part.to_dict("records")
        ]  # fmt: skip
        first = None if mine.empty else mine.iloc[0]
        target = "" if first is None else first["target"]
        reliability = float("nan") if first is None else float(first.get("reliability", float("nan")))
        out.append({"effect": effect, "target": target, "reliability": reliability, "samples": shown})
    return out


def strongest(row: Mapping[Any, Any]) -> list[str]:
    """The first ids that stand for a concept: members of an automatic one, else its strongest landmarks."""
    for key in ("members", "landmarks"):
        found = row.get(key)
        if found is not None and not isinstance(found, float) and len(found):
            return [str(i) for i in list(found)[:MEMBERS]]
    return []


def sentences(found: Findings, number: Callable[[Any], str]) -> list[str]:
    """What was found, or not found, in plain words with figures."""
    said = []
    if found.feature_gap is not None:
        said.append(gap_sentence(found.feature_gap))
    if found.concepts is not None:
        said += concept_sentences(found.concepts)
    if found.attribution is not None:
        said.append(attribution_sentence(found.attribution, found.attributed))
    figures = None if found.evaluation is None else found.evaluation.set_index("figure")
    if figures is not None and "Kendall τ" in figures.index:
        tau, column = figures.loc["Kendall τ"], label_column(found)
        seen = (
            f"column {column} of the table, which other figures see" if column else "which nothing else here has seen"
        )
        said.append(
            f"Against labels, {seen}: Kendall τ between the probes {number(tau['value'])} "
            f"[{number(tau['low'])}, {number(tau['high'])}]."
        )
    return said


def label_column(found: Findings) -> str | None:
    """The column of the samples' table that the labels are, as the evaluation found it; None: they are none."""
    notes = [] if found.evaluation is None else found.evaluation["note"].astype(str)
    named = [note.partition(SEEN)[2] for note in notes if SEEN in note]
    return named[0].removesuffix(" of the samples' table") if named else None


def gap_sentence(gaps: pd.DataFrame) -> str:
    """How many columns show a gap, and the largest of them."""
    q = gaps["q"].to_numpy(float)
    clear, untold = gaps.loc[q <= FDR], int(np.isnan(q).sum())
    rate = f"(false discovery rate {FDR:.0%}{f'; of {untold} it cannot be told' if untold else ''})"
    if not len(clear):
        return f"None of {counted(len(gaps), 'column')} shows an alignment gap {rate}."
    first = clear.iloc[0]
    together = f"; it goes with column {first['explained_by']}" if first["explained_by"] else ""
    verb = "shows" if len(clear) == 1 else "show"
    return (
        f"{len(clear)} of {counted(len(gaps), 'column')} {verb} an alignment gap {rate}; the largest is "
        f"{first['column']}, {first['gap']:+.3f} [{first['low']:+.3f}, {first['high']:+.3f}]{together}."
    )


def concept_sentences(concepts: pd.DataFrame) -> list[str]:
    """Of the concepts that were given, and of those that were found."""
    given, automatic = (concepts.loc[mask] for mask in (concepts["origin"] == "given", concepts["origin"] != "given"))
    usable = given["usable"].to_numpy(bool)
    pushed = given.loc[usable & (given["q"] <= FDR).to_numpy()]
    said = [push_sentence(row) for row in pushed.head(NAMED).to_dict("records")]
    if len(pushed) > NAMED:
        said.append(f"The step also pushes samples along {listed(pushed['concept'][NAMED:])}.")
    still = given.loc[usable & ~(given["q"] <= FDR).to_numpy()]
    if len(still):
        said.append(
            f"Along {listed(still['concept'])} the step pushes samples no more than along random directions (false "
            f"discovery rate {FDR:.0%})."
        )
    if not usable.all():
        said.append(f"Not usable as concepts: {listed(given.loc[~usable, 'concept'])}.")
    if len(automatic):
        said.append(automatic_sentence(automatic))
    return said


def push_sentence(row: dict[str, Any]) -> str:
    """How far the step pushes along one concept; its interval has the direction of the words."""
    toward = row["push"] > 0
    sign, ends = (1, ("low", "high")) if toward else (-1, ("high", "low"))
    push, low, high = (sign * row[key] for key in ("push", *ends))
    return (
        f"The step pushes samples {'toward' if toward else 'away from'} the concept {row['concept']} by {push:.3f} of "
        f"their length [{low:.3f}, {high:.3f}]."
    )


def automatic_sentence(automatic: pd.DataFrame) -> str:
    """How many directions of either space are usable."""
    parts = []
    for space, rows in automatic.groupby("origin", sort=False):
        good = int(rows["usable"].to_numpy(bool).sum())
        parts.append(f"{good or 'none'} of {counted(len(rows), 'direction')} of the {space}")
    return f"Usable among the directions that were found without labels: {' and '.join(parts)}."


def attribution_sentence(table: pd.DataFrame, looked_at: int) -> str:
    """The training samples that raise and lower the first explained sample's target most."""
    start = f"Of {counted(looked_at, 'training sample')}"
    if table.empty:
        return f"{start} none raises or lowers what was asked of the explained samples."
    first = table.iloc[0]
    mine = table.loc[table["sample"] == first["sample"]]
    parts = [
        f"{listed(ids)} {'raise' if len(ids) > 1 else 'raises'}" if effect == "raises" else
        f"{listed(ids)} {'lower' if len(ids) > 1 else 'lowers'}"
        for effect in ("raises", "lowers")
        if len(ids := mine.loc[mine["effect"] == effect, "training_sample"].head(NAMED))
    ]  # fmt: skip
    said = f"{start}, {parts[0]} the {first['target']} of {first['sample']} most"
    said = f"{said}, and {parts[1]} it most" if len(parts) > 1 else said
    return f"{said}{luck(first['reliability'])}."


def luck(reliability: float) -> str:
    """What a reader must know of scores that depend on which views were drawn."""
    if np.isnan(reliability) or reliability >= RELIABLE:
        return ""
    return f" (reliability {reliability:.2f}: other draws of the views would name others)"


def counted(n: int, noun: str) -> str:
    """1 column, 1,797 columns."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Any) -> str:
    """The first few names, and how many more there are."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return ", ".join(shown[:NAMED]) + more
