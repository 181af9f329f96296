"""All that an audit asks beside the scores: concepts, alignment gaps, training samples, figures against labels."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from krepes.audit.asked import attributed
from krepes.audit.attribution import DRAWS
from krepes.audit.columns import features, raw_table
from krepes.audit.concept_sides import refuse_shared
from krepes.audit.concepts import FEWEST
from krepes.audit.counterfactuals import counterfactual_table
from krepes.audit.feature_gap import gap_table, group_table
from krepes.audit.places import EXPECTED, PLACES
from krepes.audit.refits import REFITS, Refit, refits
from krepes.audit.scored_concepts import concept_table, sides
from krepes.audit.selection import positions
from krepes.audit.statistics import FEWEST as FEWEST_POINTS
from krepes.audit.top_landmarks import SAMPLES, TOP_K, of_refits, top_landmarks
from krepes.data.source import Source, Subset
from krepes.data.stream import VIEW_BLOCK, SubsetViews
from krepes.errors import ConfigError, DataError, KrepesError, KrepesWarning, is_whole, refuse_wrong_types
from krepes.workers import WorkerError, current

if TYPE_CHECKING:
    from krepes.auditor import Auditor

QUERIES = 32  # explained samples that training samples are attributed to
FEWEST_DRAWS = 4  # of a training sample's views, where not all samples can be looked at
SAID_OF_PLACES = {"encoder": "", "step": " (at the step)", "training": " (after a training)"}
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
        refits: on random halves of at most 4,096 training samples (more with more than 512 landmarks), whose variance
            is part of the intervals of gaps and concept scores. 0: intervals of the fit at hand.
        attribution: pairs of views that are made of training samples to attribute them to each explained sample: up to
            eight of each sample and at least four, of all samples if there are so many, else of whole view blocks drawn
            with the seed; 0: no attribution.
        attribution_at: where they are asked for: "encoder", "step" or "training"; see `Auditor.attribute`.
        counterfactuals: name ↦ training samples without which the step is solved again: a query, ids, or a number k for
            the k strongest landmarks.
    """

    concepts: Mapping[str, Any] = field(default_factory=dict)
    concept_folder: str | Path | None = None
    automatic_concepts: bool = True
    features: Sequence[str] | None = None
    points: int = SAMPLES
    refits: int = REFITS
    attribution: int = 200_000
    counterfactuals: Mapping[str, Any] = field(default_factory=dict)
    attribution_at: str = "encoder"

    def __post_init__(self):
        refuse_wrong_types(self, ("points", "refits", "attribution"), ("automatic_concepts",))
        few = self.points is None or self.points < FEWEST_POINTS
        numbers = (self.attribution, self.refits)
        if few or any(value is None or value < 0 for value in numbers):
            raise ConfigError(
                f"AuditPlan: points={self.points}, refits={self.refits}, attribution={self.attribution}; expected at "
                f"least {FEWEST_POINTS} points and no negative number"
            )
        if self.attribution_at not in PLACES:
            raise ConfigError(f"AuditPlan: attribution_at={self.attribution_at!r}; expected {EXPECTED}")
        if not isinstance(self.concepts, Mapping) or not all(isinstance(name, str) for name in self.concepts):
            raise ConfigError(f"AuditPlan: concepts={self.concepts!r}; expected name ↦ query, ids or sides")
        if not isinstance(self.counterfactuals, Mapping) or not all(isinstance(n, str) for n in self.counterfactuals):
            raise ConfigError(
                f"AuditPlan: counterfactuals={self.counterfactuals!r}; expected name ↦ query, ids or a number"
            )
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
            chosen = []
            for side, wanted in zip(("positive", "negative"), sides(name, asked), strict=True):
                if wanted is None:
                    continue
                chosen.append(positions(source, wanted, f"the {side} side of concept {name!r}"))
                if len(chosen[-1]) < FEWEST:
                    raise DataError(
                        f"concept {name!r} has {len(chosen[-1])} {side} samples; expected at least {FEWEST}"
                    )
            if len(chosen) == 2:
                refuse_shared(source, chosen[0], chosen[1], name)
        if self.concept_folder is not None:
            if not Path(self.concept_folder).is_dir():
                raise ConfigError(f"there is no folder {self.concept_folder} of concepts")
            twice = sorted(p.name for p in Path(self.concept_folder).iterdir() if p.name in self.concepts)
            if twice:
                raise ConfigError(f"concepts share a name: {', '.join(twice)}")
        for name, wanted in self.counterfactuals.items():
            if not is_whole(wanted):
                positions(source, wanted, f"counterfactual {name!r}")
        if self.features:
            table = source.metadata()
            if table is None:
                raise ConfigError("features names columns, but the samples have no table")
            features(table, self.features)


@dataclass(frozen=True)
class Findings:
    """What was found; a table is None where it could not be had, and `notes` says why.

    Attributes:
        concepts: one row per concept.
        feature_gap: one row per column.
        group_gap: one row per group of every categorical column of at most twelve groups.
        attribution: the training samples that raise and lower each explained sample's target.
        evaluation: figures against labels.
        path: spectral entropy, loss and gain ratio over λ, for objectives of moments.
        counterfactuals: what moves without each group of training samples.
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
    path: pd.DataFrame | None = None
    counterfactuals: pd.DataFrame | None = None

    def _repr_html_(self) -> str:
        from krepes.report.notebook import findings

        return findings(self)


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
            except WorkerError:
                raise
            except KrepesError as error:
                current().share_error(what, error)
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
    with progress.stage("refits") as note:
        again = refits(auditor, points, plan.refits)
        note(f"{len(again)} of {plan.refits} on random halves")
    if len(again) < plan.refits:
        notes.said.append(f"intervals: {len(again)} of {plan.refits} refits on random halves could be had")
    with progress.stage("concepts"):
        concepts = notes("concepts", lambda: concept_table(auditor, plan, points, again, notes))
    gaps = groups = evaluation = attribution = None
    attributed = 0
    if source.metadata() is not None and (plan.features is None or len(plan.features)):
        with progress.stage("gaps"):
            gaps, groups = notes("alignment gaps", lambda: gaps_with_draws(auditor, plan, points, again)) or (
                None,
                None,
            )
    if plan.attribution and len(explained) > QUERIES:
        notes.said.append(f"training samples: attributed to the first {QUERIES} of {len(explained)} explained samples")
    if plan.attribution and len(explained):
        source, few = auditor.source_, list(explained)[:QUERIES]
        ids = [source.ids[p] for p in few]
        found = notes("training samples", lambda: attribution_table(auditor, plan, source.batch(few), ids))
        attribution, attributed = found if found is not None else (None, 0)
    if labels is not None:
        with progress.stage("evaluation"):
            evaluation = notes("figures against labels", lambda: evaluated(auditor, labels))
    path = None
    if not auditor.settings.objective.streaming:  # of the others each λ's loss is a pass over all pairs
        with progress.stage("path"):
            path = notes("λ path", auditor.entropy_path)
    removed = None
    if plan.counterfactuals:
        with progress.stage("counterfactuals"):
            removed = notes(
                "counterfactuals", lambda: counterfactual_table(auditor, plan.counterfactuals, explained, points)
            )
    said = tuple(notes.said)
    return Findings(concepts, gaps, groups, attribution, evaluation, said, attributed, path, removed)


# -------------------------------------------------------------- alignment gaps


def gaps_with_draws(
    auditor: "Auditor", plan: AuditPlan, points: np.ndarray, again: Sequence[Refit]
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The table of `Auditor.feature_gap` with the draws that comparisons need, and that of `group_gap`."""
    seed, top_k = auditor.settings.seed, min(TOP_K, len(auditor.landmark_ids_) - 1)
    found = features(raw_table(auditor), plan.features)
    tops, others = top_landmarks(auditor, points, top_k), of_refits(points, again, top_k)
    parts = [
        group_table(one, tops, others, seed)
        for one in found
        if one.kind == "categorical" and len(one.labels) <= MOST_GROUPS
    ]
    groups = pd.concat(parts, ignore_index=True) if parts else None
    return gap_table(found, tops, others, seed, keep_draws=True), groups


# ------------------------------------------------------------ training samples


def attribution_table(
    auditor: "Auditor", plan: AuditPlan, x: torch.Tensor, ids: Sequence[str], count: int = ATTRIBUTED
) -> tuple[pd.DataFrame, int]:
    """The training samples that raise and lower each explained sample's target most.

    Args:
        x: the explained samples (t, ...).
        ids: theirs, for the table (t,).
        count: of training samples that raise, and of those that lower, each.

    Returns:
        columns sample, target, effect ("raises", "lowers"), rank, training_sample, position (among the training
        samples), score, error (its standard error over draws of the views), reliability (of the sample's scores: the
        share of their variance that is not such error); and how many training samples were looked at.
    """
    training, views = auditor.seen_.given()
    whole = views.views if isinstance(views, SubsetViews) else views
    streaming = auditor.settings.objective.streaming
    draws, among = draws_and_samples(len(training), plan.attribution, streaming, auditor.settings.seed)
    asked = "local invariance"
    if callable(whole):
        scores, errors = attributed(auditor, x, target="invariance", among=among, draws=draws, at=plan.attribution_at)
    else:  # fixed views: none can be drawn of a sample
        asked = "length along itself"
        scores, errors = attributed(auditor, x, target=along_itself, among=among, at=plan.attribution_at)
    asked += SAID_OF_PLACES[plan.attribution_at]
    errors = torch.full_like(scores, torch.nan) if errors is None else errors
    reliability = (1 - errors.square().mean(1) / scores.var(1).clamp_min(1e-300)).clamp_min(0)
    looked = np.arange(len(training)) if among is None else among
    k = min(count, len(looked))
    rows = []
    for t, name in enumerate(ids):
        for effect, sign in (("raises", 1), ("lowers", -1)):
            top = (sign * scores[t]).topk(k)
            for rank, (value, column) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True), 1):
                if value <= 0:
                    break
                place = int(looked[column])
                rows.append(
                    (name, asked, effect, rank, training.ids[place], place, float(sign * value),
                     float(errors[t, column]), float(reliability[t]))
                )  # fmt: skip
    columns = ["sample", "target", "effect", "rank", "training_sample", "position", "score", "error", "reliability"]
    return pd.DataFrame(rows, columns=pd.Index(columns)), len(looked)


def along_itself(f: torch.Tensor) -> torch.Tensor:
    """⟨f, its own direction as it is now⟩, (t,)."""
    return (f * torch.nn.functional.normalize(f.detach(), dim=1)).sum(1)


def draws_and_samples(n: int, pairs: int, streaming: bool, seed: int) -> tuple[int, np.ndarray | None]:
    """Draws of views per training sample, and the samples that are looked at (None: all), within a number of pairs.

    One draw says little of a sample, so that fewer samples are looked at rather than fewer than four draws; a streaming
    objective sees all of its samples whichever are asked for.
    """
    draws = min(DRAWS, max(1 if streaming else FEWEST_DRAWS, pairs // n))
    size = max(pairs // draws, 1)
    return draws, None if n <= size else drawn_blocks(n, size, seed)


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
