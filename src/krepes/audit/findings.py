"""All that an audit asks beside the scores: concepts, alignment gaps, training samples, figures against labels."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from krepes.audit.concepts import FEWEST, Concept, Direction, steps
from krepes.audit.discovery import AutomaticConcept
from krepes.audit.feature_gap import SAMPLES, TOP_K, features, gap_table, group_table
from krepes.audit.selection import positions
from krepes.audit.statistics import FEWEST as FEWEST_POINTS
from krepes.audit.statistics import benjamini_hochberg, resampled_means
from krepes.data.source import Source, Subset
from krepes.data.stream import VIEW_BLOCK, SubsetViews
from krepes.errors import ConfigError, DataError, KrepesError, KrepesWarning, refuse_wrong_types

if TYPE_CHECKING:
    from krepes.auditor import Auditor

QUERIES = 32  # explained samples that training samples are attributed to
ATTRIBUTED = 10  # training samples that raise, and that lower, each of them
MOST_GROUPS = 12  # of a categorical column whose groups are listed
EVALUATED = 2000  # labelled samples
MOST_CLASSES = 200


@dataclass(frozen=True)
class AuditPlan:
    """What an audit asks beside the scores.

    Args:
        concepts: name ↦ a query on the samples' table, a list of ids, or {"positive": …, "negative": …} of these.
        concept_folder: a folder per concept; see `Auditor.concepts_from`.
        automatic_concepts: whether directions are looked for without labels.
        features: columns whose alignment gaps are measured; None: all that can be compared; (): none.
        points: test points of gaps and concept scores, drawn with the seed.
        attribution: training samples that are attributed to each explained sample: all if there are no more than so
            many, else whole view blocks of so many drawn with the seed; 0: none. Costs one pass over their views.
    """

    concepts: Mapping[str, Any] = field(default_factory=dict)
    concept_folder: str | Path | None = None
    automatic_concepts: bool = True
    features: Sequence[str] | None = None
    points: int = SAMPLES
    attribution: int = 200_000

    def __post_init__(self):
        refuse_wrong_types(self, ("points", "attribution"), ("automatic_concepts",))
        few = self.points is None or self.points < FEWEST_POINTS
        if few or self.attribution is None or self.attribution < 0:
            raise ConfigError(
                f"AuditPlan: points={self.points}, attribution={self.attribution}; expected at least {FEWEST_POINTS} "
                "points and no negative number"
            )
        if not isinstance(self.concepts, Mapping) or not all(isinstance(name, str) for name in self.concepts):
            raise ConfigError(f"AuditPlan: concepts={self.concepts!r}; expected name ↦ query, ids or sides")
        if isinstance(self.features, str) or not isinstance(self.features, Sequence | None):
            raise ConfigError(f"AuditPlan: features={self.features!r}; expected a list of columns, or None for all")
        if not isinstance(self.concept_folder, str | Path | None):
            raise ConfigError(f"AuditPlan: concept_folder={self.concept_folder!r}; expected a path")

    def check(self, source: Source) -> None:
        """Refuse concepts and columns that the samples do not have, before anything is computed.

        Raises:
            ConfigError, DataError: says which.
        """
        for name, asked in self.concepts.items():
            for side, wanted in zip(("positive", "negative"), sides(name, asked), strict=True):
                if wanted is None:
                    continue
                found = positions(source, wanted, f"the {side} side of concept {name!r}")
                if len(found) < FEWEST:
                    raise DataError(f"concept {name!r} has {len(found)} {side} samples; expected at least {FEWEST}")
        if self.concept_folder is not None:
            if not Path(self.concept_folder).is_dir():
                raise ConfigError(f"there is no folder {self.concept_folder} of concepts")
            twice = sorted(p.name for p in Path(self.concept_folder).iterdir() if p.name in self.concepts)
            if twice:
                raise ConfigError(f"concepts share a name: {', '.join(twice)}")
        if self.features:
            table = source.metadata()
            if table is None:
                raise ConfigError("features names columns, but the samples have no table")
            features(table, self.features)


def sides(name: str, asked: Any) -> tuple[Any, Any]:
    """The positive and the negative side that a plan names."""
    if not isinstance(asked, Mapping):
        return asked, None
    if not set(asked) <= {"positive", "negative"} or "positive" not in asked:
        raise ConfigError(f"concept {name!r} has {', '.join(map(str, asked))}; expected positive, and maybe negative")
    return asked["positive"], asked.get("negative")


@dataclass(frozen=True)
class Findings:
    """What was found; a table is None where it could not be had, and `notes` says why.

    Attributes:
        concepts: one row per concept.
        feature_gap: one row per column.
        group_gap: one row per group of every categorical column of at most twelve groups.
        attribution: the training samples that raise and lower each explained sample's target.
        evaluation: figures against labels.
        notes: what was left out, and why.
        attributed: how many training samples were looked at.
    """

    concepts: pd.DataFrame | None = None
    feature_gap: pd.DataFrame | None = None
    group_gap: pd.DataFrame | None = None
    attribution: pd.DataFrame | None = None
    evaluation: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    attributed: int = 0


@dataclass
class _Notes:
    """Runs one part after another and keeps what each could not do."""

    said: list[str] = field(default_factory=list)

    def __call__(self, what: str, make: Callable[[], Any]) -> Any:
        """The part's result, or None with a note."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", KrepesWarning)
            try:
                result = make()
            except KrepesError as error:
                result = None
                self.said.append(f"{what}: not available; {error}")
        for one in caught:
            if issubclass(one.category, KrepesWarning):
                self.said.append(f"{what}: {one.message}")
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        return result


def find(auditor: "Auditor", plan: AuditPlan, explained: Sequence[int], labels: np.ndarray | None = None) -> Findings:
    """Everything that the plan asks.

    Args:
        auditor: fitted.
        explained: positions of the samples that the report explains.
        labels: one class per audited sample, None where it is missing; they reach the evaluation alone.
    """
    source, notes, progress = auditor.source_, _Notes(), auditor.progress
    if labels is not None and labels.shape != (len(source),):
        raise DataError(f"labels has shape {labels.shape}; expected ({len(source)},), one class or None per sample")
    seed = auditor.settings.seed
    points = np.sort(np.random.default_rng(seed).permutation(len(source))[: plan.points])
    with progress.stage("concepts"):
        concepts = notes("concepts", lambda: concept_table(auditor, plan, points, notes))
    gaps = groups = evaluation = attribution = None
    attributed = 0
    if source.metadata() is not None and (plan.features is None or len(plan.features)):
        with progress.stage("gaps"):
            gaps, groups = notes("alignment gaps", lambda: gaps_with_draws(auditor, plan)) or (None, None)
    if plan.attribution and len(explained):
        found = notes("training samples", lambda: attribution_table(auditor, plan, list(explained)[:QUERIES]))
        attribution, attributed = found if found is not None else (None, 0)
    if labels is not None:
        with progress.stage("evaluation"):
            evaluation = notes("figures against labels", lambda: evaluated(auditor, labels))
    return Findings(concepts, gaps, groups, attribution, evaluation, tuple(notes.said), attributed)


# --------------------------------------------------------------------- concepts


def concept_table(
    auditor: "Auditor", plan: AuditPlan, points: np.ndarray, notes: Callable[[str, Callable[[], Any]], Any]
) -> pd.DataFrame | None:
    """One row per concept: how good it is, how the step pushes the points along it, and its landmarks.

    Columns: concept, origin ("given", "representation", "step"), usable, verdict, accuracy, accuracy_null, p_concept,
    stability, share, n_positive, n_negative, push, low, high, null_low, null_high, p, q (over usable concepts), n,
    landmarks, weights, members, direction (h), draws (bootstrap means of the push).
    """
    found: list[Direction] = []
    for name, asked in plan.concepts.items():
        positive, negative = sides(name, asked)
        one = notes(f"concept {name!r}", lambda p=positive, n=negative, name=name: auditor.concept(p, n, name))
        found += [] if one is None else [one]
    if plan.concept_folder is not None:
        found += auditor.concepts_from(plan.concept_folder)
    if plan.automatic_concepts:
        for space in ("representation", "step"):
            found += notes(f"automatic concepts ({space})", lambda s=space: auditor.automatic_concepts(s)) or []
    if not found:
        return None
    moved, seed = steps(auditor, Subset(auditor.source_, points)), auditor.settings.seed
    table = pd.DataFrame([_concept_row(c, moved, seed) for c in found])
    # of usable concepts: others are not tested, they are left out
    tested = table["usable"].to_numpy(bool)
    table["q"] = np.nan
    table.loc[tested, "q"] = benjamini_hochberg(table.loc[tested, "p"].to_numpy(float))
    return table


def _concept_row(concept: Direction, moved: torch.Tensor, seed: int) -> dict[str, Any]:
    score = concept.score_of(moved, seed)
    top = concept.landmarks(10)
    row: dict[str, Any] = {"concept": concept.name, "origin": "given", "usable": False, "verdict": ""}
    row |= dict.fromkeys(("accuracy", "accuracy_null", "p_concept", "stability", "share"), float("nan"))
    row |= {"n_positive": 0, "n_negative": 0, "members": []}
    if isinstance(concept, Concept):
        row |= {"accuracy": concept.accuracy, "accuracy_null": float(concept.null.mean()), "p_concept": concept.p,
                "n_positive": concept.n_positive, "n_negative": concept.n_negative}  # fmt: skip
    if isinstance(concept, AutomaticConcept):
        row |= {"origin": concept.space, "p_concept": concept.p, "share": concept.share,
                "members": list(concept.members)}  # fmt: skip
    if isinstance(concept, Concept | AutomaticConcept):
        row |= {"usable": concept.usable, "verdict": concept.verdict, "stability": concept.stability}
    interval = score.interval
    return row | {
        "push": interval.estimate, "low": interval.low, "high": interval.high, "null_low": score.null_low,
        "null_high": score.null_high, "p": score.p, "n": interval.n, "landmarks": top["landmark"].tolist(),
        "weights": top["weight"].tolist(), "direction": concept.direction.tolist(),
        "draws": resampled_means(score.values, seed).astype(np.float32),
    }  # fmt: skip


# -------------------------------------------------------------- alignment gaps


def gaps_with_draws(auditor: "Auditor", plan: AuditPlan) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The table of `Auditor.feature_gap` with the bootstrap's draws as a last column, and that of `group_gap`."""
    source, seed = auditor.source_, auditor.settings.seed
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[: plan.points])
    found = features(auditor._raw_table(None), plan.features)
    tops = auditor._tops(np.isin(np.arange(len(source)), chosen), min(TOP_K, len(auditor.landmark_ids_) - 1))
    parts = [
        group_table(one, tops, seed) for one in found if one.kind == "categorical" and len(one.labels) <= MOST_GROUPS
    ]
    groups = pd.concat(parts, ignore_index=True) if parts else None
    return gap_table(found, tops, seed, keep_draws=True), groups


# ------------------------------------------------------------ training samples


def attribution_table(auditor: "Auditor", plan: AuditPlan, explained: list[int]) -> tuple[pd.DataFrame, int]:
    """The training samples that raise and lower each explained sample's target most.

    Returns:
        columns sample, target, effect ("raises", "lowers"), rank, training_sample, position (among the training
        samples), score; and how many training samples were looked at.
    """
    source, (training, views) = auditor.source_, auditor._trained_on(None, None)
    among = None
    if len(training) > plan.attribution:
        among = drawn_blocks(len(training), plan.attribution, auditor.settings.seed)
    x = source.batch(explained)
    whole = views.views if isinstance(views, SubsetViews) else views
    if callable(whole):
        target = "local invariance"
        scores = auditor._attributed(x, None, "invariance", among=among)
    else:  # fixed views: none can be drawn of a sample
        target = "length along itself"
        scores = auditor._attributed(x, torch.nn.functional.normalize(auditor.transform(x), dim=1), None, among=among)
    looked = np.arange(len(training)) if among is None else among
    k = min(ATTRIBUTED, len(looked))
    rows = []
    for t, position in enumerate(explained):
        for effect, sign in (("raises", 1), ("lowers", -1)):
            top = (sign * scores[t]).topk(k)
            for rank, (value, column) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True), 1):
                if value <= 0:
                    break
                place = int(looked[column])
                rows.append(
                    (source.ids[position], target, effect, rank, training.ids[place], place, float(sign * value))
                )
    columns = ["sample", "target", "effect", "rank", "training_sample", "position", "score"]
    return pd.DataFrame(rows, columns=pd.Index(columns)), len(looked)


def drawn_blocks(n: int, size: int, seed: int) -> np.ndarray:
    """Ascending positions of at least `size` of n samples: whole view blocks, as views are made block by block."""
    starts = np.arange(0, n, VIEW_BLOCK)
    chosen = np.sort(np.random.default_rng(seed).permutation(starts)[: -(-size // VIEW_BLOCK)])
    found = (chosen[:, None] + np.arange(VIEW_BLOCK)).ravel()
    return found[found < n]


# ---------------------------------------------------------------------- labels


def evaluated(auditor: "Auditor", labels: np.ndarray) -> pd.DataFrame:
    """Figures against labels on a seeded draw of the labelled samples; see `Auditor.evaluate`."""
    source = auditor.source_
    known = np.flatnonzero(~pd.isna(labels))
    classes = len(np.unique(labels[known].astype(str)))
    if classes > MOST_CLASSES:
        raise DataError(f"the labels are {classes} different values; expected at most {MOST_CLASSES} classes")
    order = np.random.default_rng(auditor.settings.seed).permutation(len(known))[:EVALUATED]
    chosen = np.sort(known[order])
    x = Subset(source, chosen)
    return auditor.evaluate(x, labels[chosen], labels[np.asarray(auditor.fit_.indices)])
