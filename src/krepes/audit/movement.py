"""What moves between two audits of the same samples: after a counterfactual, by another objective or checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.audit.statistics import bootstrap_mean
from krepes.data.source import Subset
from krepes.errors import ConfigError, DataError

if TYPE_CHECKING:
    from krepes.audit.concepts import Concept
    from krepes.auditor import Auditor

REFERENCE = 500  # samples on which two representations are turned onto each other
NEIGHBOURS = 10


@dataclass(frozen=True)
class Movement:
    """What moved.

    Attributes:
        samples: one row per sample: sample, shift (‖f' − f‖/‖f‖ after alignment), cosine, neighbours (share of its
            ten nearest reference samples that stay).
        summary: figure, before, after, difference, low, high (95 % paired bootstrap over samples), n. For "shift" and
            "neighbours that stay", which are themselves about the two audits, the figure stands in `difference`. From
            20 samples on.
    """

    samples: pd.DataFrame
    summary: pd.DataFrame

    def _repr_html_(self) -> str:
        from krepes.report.notebook import captioned

        return captioned({"What moved": self.summary, "Samples": self.samples})


def movement(
    before: "Auditor",
    after: "Auditor",
    x: Any,
    *,
    concepts: Sequence[tuple["Concept", "Concept"]] = (),
    columns: Sequence[str] = (),
    ids: Sequence[str] | None = None,
) -> Movement:
    """How far samples, concept scores and alignment gaps move from one audit to another.

    Intervals are over samples, of these two audits: what moves because another seed or landmarks were drawn is part of
    the difference. After a counterfactual compare with the removal of random groups of the same size.

    The representation's columns have no meaning of their own: unless both audits share their start Ã₀, f' is turned
    onto f by the orthogonal matrix that fits best on 500 samples of `after`'s training samples.

    Args:
        before, after: fitted auditors of one encoder input, such as `auditor` and `auditor.counterfactual(…)`.
        x: samples (t, ...).
        concepts: pairs of one concept in both audits, (before.concept(…), after.concept(…)).
        columns: raw columns whose alignment gaps are compared, over the samples that both audits hold.
        ids: of the samples; default the source's.

    Raises:
        ConfigError: before or after is no auditor, or concepts are no pairs.
        DataError: fewer than 20 samples for concepts or columns, whose differences need an interval; another number of
            dimensions; or columns without a common table.
    """
    from krepes.auditor import Auditor
    from krepes.data.source import as_source

    for name, given in (("before", before), ("after", after)):
        if not isinstance(given, Auditor):
            raise ConfigError(f"{name} is a {type(given).__name__}; expected a fitted krepes.Auditor")
    for pair in concepts:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError("concepts holds a single concept; expected pairs, (before.concept(…), after.concept(…))")
    source = as_source(x)
    if ids is not None and len(ids) != len(source):
        raise DataError(f"{len(ids)} ids for {len(source)} samples; expected one each")
    f, g = before.transform(source), after.transform(source)
    if f.shape != g.shape:
        raise DataError(f"the audits have {f.shape[1]} and {g.shape[1]} dimensions; expected as many")
    reference = reference_samples(after)
    f_ref, g_ref = before.transform(reference), after.transform(reference)
    turn = rotation(before, after, f_ref, g_ref)
    g, g_ref = g @ turn, g_ref @ turn
    shift = (g - f).norm(dim=1) / f.norm(dim=1).clamp_min(1e-300)
    cosine = torch.cosine_similarity(g, f, dim=1)
    stay = staying(nearest(f, f_ref), nearest(g, g_ref))
    names = [str(i) for i in (source.ids if ids is None else ids)]
    samples = pd.DataFrame(
        {"sample": names, "shift": shift.cpu().numpy(), "cosine": cosine.cpu().numpy(), "neighbours": stay}
    )
    seed = before.settings.seed
    rows = []
    if len(samples) >= 20:
        for name, values in (("shift", samples["shift"]), ("neighbours that stay", samples["neighbours"])):
            interval = bootstrap_mean(values.to_numpy(float), seed)
            rows.append((name, np.nan, np.nan, interval.estimate, interval.low, interval.high, interval.n))
    for one, other in concepts:
        rows.append(_paired(f"concept {one.name}", one.push(source), other.push(source), seed))
    rows += gap_differences(before, after, columns, seed) if columns else []
    figures = pd.DataFrame(rows, columns=pd.Index(["figure", "before", "after", "difference", "low", "high", "n"]))
    return Movement(samples, figures)


def rotation(before: "Auditor", after: "Auditor", f: Tensor, g: Tensor) -> Tensor:
    """The orthogonal R (h, h) for which ‖gR − f‖ is least; the identity where both share Ã₀ and thus coordinates."""
    if before.A0_.shape == after.A0_.shape and torch.equal(before.A0_, after.A0_):
        return torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
    return procrustes(f, g)


def procrustes(f: Tensor, g: Tensor) -> Tensor:
    """The orthogonal R (h, h) for which ‖gR − f‖ is least, of two representations (k, h) of the same samples.

    Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    U, _, Vh = torch.linalg.svd(g.T @ f)
    return U @ Vh


def reference_samples(auditor: "Auditor"):
    """Seeded samples of an auditor's training samples."""
    training = auditor.seen_.samples()
    chosen = np.random.default_rng(auditor.settings.seed).permutation(len(training))[:REFERENCE]
    return Subset(training, np.sort(chosen))


def nearest(f: Tensor, reference: Tensor) -> np.ndarray:
    """Positions of the ten reference samples of the largest cosine (t, 10); a sample itself counts as any other."""
    unit = (a / a.norm(dim=1, keepdim=True).clamp_min(1e-300) for a in (f, reference))
    one, other = unit
    return (one @ other.T).topk(min(NEIGHBOURS, len(reference)), dim=1).indices.cpu().numpy()


def staying(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of each row's members that are in the other's row, too (t,)."""
    return (one[:, :, None] == other[:, None]).any(2).mean(1)


def gap_differences(before: "Auditor", after: "Auditor", columns: Sequence[str], seed: int) -> list[tuple]:
    """Alignment gaps over the same test points in both audits, their paired difference and its interval.

    Columns are measured as `before` measures them: its ranges, its categories.
    """
    from krepes.audit.columns import features, raw_table
    from krepes.audit.feature_gap import Gap
    from krepes.audit.top_landmarks import SAMPLES, TOP_K, Tops

    found = features(raw_table(before), list(columns))
    place = {name: i for i, name in enumerate(before.source_.ids)}
    landmarks = [[place.get(name, -1) for name in auditor.landmark_ids_] for auditor in (before, after)]
    if any(-1 in positions for positions in landmarks):
        raise DataError(
            "columns are compared in the table of the first audit, which does not hold the other's landmarks"
        )
    marks = set(landmarks[0]) | set(landmarks[1])
    shared = [i for name in after.source_.ids if (i := place.get(name)) is not None and i not in marks]
    chosen = np.sort(np.random.default_rng(seed).permutation(shared)[:SAMPLES])
    x, gaps = Subset(before.source_, chosen), []
    for auditor, positions in zip((before, after), landmarks, strict=True):
        tops = Tops.of(chosen, np.array(positions), auditor.influence(x).cpu().numpy(), TOP_K)
        gaps.append({one.name: Gap.of(one, tops).each for one in found})
    return [
        _paired(f"gap {name}", torch.as_tensor(gaps[0][name]), torch.as_tensor(gaps[1][name]), seed) for name in columns
    ]


def _paired(name: str, one: Tensor, other: Tensor, seed: int) -> tuple:
    a, b = one.double().cpu().numpy(), other.double().cpu().numpy()
    interval = bootstrap_mean(b - a, seed)
    return (name, float(a.mean()), float(b.mean()), interval.estimate, interval.low, interval.high, interval.n)
