"""The report's sections on concepts, alignment gaps, training samples and labels."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from krepes.audit.feature_gap import FDR
from krepes.audit.findings import Findings
from krepes.report import figures

PICTURES = 5  # training samples of each effect that are shown
ROWS = 40  # of a chart


def sections(found: Findings, n_training: int) -> dict[str, Any]:
    """What the template shows of the findings."""
    concepts, gaps = found.concepts, found.feature_gap
    usable = None if concepts is None else concepts.loc[concepts["usable"]].head(ROWS)
    return {
        "concepts": [] if concepts is None else concepts.to_dict("records"),
        "concept_chart": figures.pushes(usable) if usable is not None and len(usable) else None,
        "gaps": [] if gaps is None else gaps.to_dict("records"),
        "gap_chart": figures.gaps(gaps.head(ROWS)) if gaps is not None and len(gaps) else None,
        "groups": groups_by_column(found.group_gap),
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


def attributed_to(found: Findings, sample: str, picture: Any) -> list[dict[str, Any]]:
    """The training samples that raise and lower a sample's target, as the template shows them.

    Args:
        picture: position among the training samples ↦ a data URI or None; and its `cells`.
    """
    if found.attribution is None:
        return []
    table = found.attribution
    mine = table.loc[table["sample"] == sample]
    widest = max([abs(v) for v in mine["score"]] + [1e-300])
    out = []
    for effect in ("raises", "lowers"):
        rows = mine.loc[mine["effect"] == effect].head(PICTURES)
        shown = [
            {"id": r["training_sample"], "thumbnail": picture(r["position"]), "score": r["score"],
             "width": abs(r["score"]) / widest, "cells": picture.cells(r["position"])}
            for r in rows.to_dict("records")
        ]  # fmt: skip
        out.append({"effect": effect, "target": "" if mine.empty else mine["target"].iloc[0], "samples": shown})
    return out


def sentences(found: Findings, number: Callable[[Any], str]) -> list[str]:
    """What was found, in plain words with figures."""
    said = []
    gaps = found.feature_gap
    if gaps is not None:
        clear = gaps.loc[gaps["q"] <= FDR]
        if len(clear):
            first = clear.iloc[0]
            owed = f", explained by {first['explained_by']}" if first["explained_by"] else ""
            said.append(
                f"{len(clear)} of {len(gaps)} columns show an alignment gap (false discovery rate {FDR:.0%}); the "
                f"largest is {first['column']}, {first['gap']:+.3f} [{first['low']:+.3f}, {first['high']:+.3f}]{owed}."
            )
        else:
            said.append(f"None of {len(gaps)} columns shows an alignment gap (false discovery rate {FDR:.0%}).")
    if found.concepts is not None:
        said += concept_sentences(found.concepts)
    if found.evaluation is not None:
        tau = found.evaluation.set_index("figure").loc["Kendall τ"]
        said.append(
            f"Against labels, which nothing else here has seen: Kendall τ between the probes {number(tau['value'])} "
            f"[{number(tau['low'])}, {number(tau['high'])}]."
        )
    return said


def concept_sentences(concepts: pd.DataFrame) -> list[str]:
    """Of the concepts that were given, and of those that were found."""
    given, automatic = (concepts.loc[mask] for mask in (concepts["origin"] == "given", concepts["origin"] != "given"))
    said = [
        f"The step pushes samples {'toward' if row['push'] > 0 else 'away from'} the concept {row['concept']} by "
        f"{abs(row['push']):.3f} of their length [{row['low']:+.3f}, {row['high']:+.3f}]."
        for row in given.loc[given["usable"] & (given["q"] <= FDR)].head(3).to_dict("records")
    ]
    left = given.loc[~given["usable"].to_numpy(bool)]
    if len(left):
        said.append(f"Not usable as concepts: {', '.join(left['concept'].astype(str).head(5))}.")
    if len(automatic):
        stable = int(automatic["usable"].to_numpy(bool).sum())
        said.append(f"{stable} of {len(automatic)} directions that were found without labels are stable.")
    return said
