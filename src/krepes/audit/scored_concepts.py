"""The concepts of a plan as a table: how good each is, and how the step pushes samples along it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from krepes.audit.concepts import Concept, Direction, steps
from krepes.audit.discovery import AutomaticConcept
from krepes.audit.movement import procrustes
from krepes.audit.refits import Refit
from krepes.audit.statistics import benjamini_hochberg, interval_of, over_points, over_refits, resampled_means
from krepes.data.source import Subset
from krepes.errors import ConfigError

if TYPE_CHECKING:
    from krepes.audit.findings import AuditPlan
    from krepes.auditor import Auditor

Notes = Callable[[str, Callable[[], Any]], Any]


def sides(name: str, asked: Any) -> tuple[Any, Any]:
    """The positive and the negative side that a plan names."""
    if not isinstance(asked, Mapping):
        return asked, None
    if not set(asked) <= {"positive", "negative"} or "positive" not in asked:
        raise ConfigError(f"concept {name!r} has {', '.join(map(str, asked))}; expected positive, and maybe negative")
    return asked["positive"], asked.get("negative")


def concept_table(
    auditor: "Auditor", plan: "AuditPlan", points: np.ndarray, again: Sequence[Refit], notes: Notes
) -> pd.DataFrame | None:
    """One row per concept: how good it is, how the step pushes the points along it, and its landmarks.

    Columns: concept, origin ("given", "representation", "step"), usable, verdict, accuracy, accuracy_null, p_concept,
    stability, share, n_positive, n_negative, push, low, high, null_low, null_high, p, q (over the usable concepts of
    one origin), n, landmarks, weights, members, direction (h), draws (bootstrap means of the push over points),
    refit_pushes (R,).

    Args:
        again: scores of the points by refits.
        notes: runs a part, and keeps what it could not do.
    """
    found: list[Direction] = []
    for name, asked in plan.concepts.items():
        positive, negative = sides(name, asked)
        one = notes(f"concept {name!r}", lambda p=positive, n=negative, name=name: auditor.concept(p, n, name))
        found += [] if one is None else [one]
    if plan.concept_folder is not None:
        found += from_folders(auditor, plan, notes)
    if plan.automatic_concepts:
        for space in ("representation", "step"):
            found += notes(f"automatic concepts ({space})", lambda s=space: auditor.automatic_concepts(s)) or []
    if not found:
        return None
    part, seed = Subset(auditor.source_, points), auditor.settings.seed
    moved, f = steps(auditor, part), auditor.transform(part)
    turned = [in_coordinates_of(f, one) for one in again]
    table = pd.DataFrame([concept_row(c, moved, turned, seed) for c in found])
    table["q"] = np.nan
    for origin in table["origin"].unique():  # given directions and found ones have nulls of their own
        tested = table["usable"].to_numpy(bool) & (table["origin"] == origin).to_numpy()
        table.loc[tested, "q"] = benjamini_hochberg(table.loc[tested, "p"].to_numpy(float))
    return table


def from_folders(auditor: "Auditor", plan: "AuditPlan", notes: Notes) -> list[Concept]:
    """The concepts of the plan's folder, each on its own: a spoilt one does not take the others with it."""
    from krepes.audit.concept_sides import folder_sides

    folder, seed = plan.concept_folder or "", auditor.settings.seed
    transform = getattr(auditor.source_, "preprocess", None)  # images are prepared as the audited ones are
    read = notes("concept folder", lambda: folder_sides(auditor, folder, transform, None, seed))
    made = (
        notes(f"concept {name!r}", lambda x=x, others=others, name=name: auditor.concept(x, others, name))
        for name, (x, others) in (read or {}).items()
    )
    return [one for one in made if one is not None]


def in_coordinates_of(f: torch.Tensor, refit: Refit) -> torch.Tensor:
    """A refit's mean step relative to f's length, turned onto the audit's coordinates, as directions act on it (h,)."""
    relative = (refit.step / refit.f.norm(dim=1, keepdim=True).clamp_min(1e-300)).mean(0)
    return relative @ procrustes(f, refit.f)


def concept_row(concept: Direction, moved: torch.Tensor, turned: Sequence[torch.Tensor], seed: int) -> dict[str, Any]:
    """One concept's figures; each refit takes one of its resampled directions, where it has such."""
    score, top = concept.score_of(moved, seed), concept.landmarks(10)
    row: dict[str, Any] = {"concept": concept.name, "origin": "given", "usable": False, "verdict": ""}
    row |= dict.fromkeys(("accuracy", "accuracy_null", "p_concept", "stability", "share"), float("nan"))
    row |= {"n_positive": 0, "n_negative": 0, "members": []}
    resampled = concept.direction[None]
    if isinstance(concept, Concept):
        row |= {"accuracy": concept.accuracy, "accuracy_null": float(concept.null.mean()), "p_concept": concept.p,
                "n_positive": concept.n_positive, "n_negative": concept.n_negative}  # fmt: skip
        resampled = concept.resampled
    if isinstance(concept, AutomaticConcept):
        row |= {"origin": concept.space, "p_concept": concept.p, "share": concept.share,
                "members": list(concept.members)}  # fmt: skip
    if isinstance(concept, Concept | AutomaticConcept):
        row |= {"usable": concept.usable, "verdict": concept.verdict, "stability": concept.stability}
    pushes = np.array([float(step @ resampled[i % len(resampled)].to(step)) for i, step in enumerate(turned)])
    n = len(score.values)
    interval = interval_of(score.interval.estimate, (over_points(score.values), over_refits(pushes)), n)
    return row | {
        "push": interval.estimate, "low": interval.low, "high": interval.high, "null_low": score.null_low,
        "null_high": score.null_high, "p": score.p, "n": n, "landmarks": top["landmark"].tolist(),
        "weights": top["weight"].tolist(), "direction": concept.direction.tolist(),
        "draws": resampled_means(score.values, seed).astype(np.float32), "refit_pushes": pushes.astype(np.float32),
    }  # fmt: skip
