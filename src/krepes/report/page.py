"""From a fitted auditor to the report's text."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from krepes import influence
from krepes.audit.findings import Findings
from krepes.data.source import Source
from krepes.report import figures
from krepes.report.audited import audited
from krepes.report.findings import attributed_to, sections, sentences
from krepes.report.views import views_section
from krepes.solver.newton import GAIN_RATIO

SHOWN = 5  # attracting and repelling landmarks per explained sample
LANDMARKS = 24
MAP_POINTS = 4000


def build_report(
    auditor,
    title: str,
    explain: Sequence[int] | None = None,
    command: str | None = None,
    settings: dict[str, Any] | None = None,
    landmarks: pd.DataFrame | None = None,
    findings: Findings | None = None,
    told: dict[str, Any] | None = None,
) -> str:
    """The report of a fitted auditor, one self-contained HTML page.

    Args:
        auditor: a fitted `Auditor` that holds its samples.
        explain: positions of the samples to explain; default six, spread by a seeded draw.
        command: how the run was started, for the last section.
        settings: printed as they are; default the auditor's.
        landmarks: what `rank_landmarks` made of all samples; default: of a seeded subset of 4,000.
        findings: concepts, gaps, attributions and figures against labels; default none of them.
        told: how a recipe's encoder was loaded: space, note, account and normalisation, as in the manifest.
    """
    from krepes.results import describe_settings, versions

    source, fit = auditor.source_, auditor.fit_
    n = len(source)
    subset = seeded_subset(n, MAP_POINTS, auditor.settings.seed)
    K, f = auditor._scores(_Part(source, subset))
    chosen = list(explain) if explain is not None else sorted(subset[:6])
    picture = _Pictures(source)
    f_landmarks = fit.rows.K_mm @ (fit.A0 + fit.dA)
    both = plane(torch.cat([f, f_landmarks]))
    points, marks = both[: len(f)], both[len(f) :]
    outcome = auditor.outcome_
    charts = {"map": figures.representation_map(points, marks) if len(points) > 1 else None,
              "spectrum": figures.spectrum(fit.nystrom.eigenvalues.cpu().numpy()),
              "convergence": figures.convergence(outcome.history, auditor.settings.newton.tol)
              if outcome.history else None,
              "damping": figures.damping_path([t.damping for t in outcome.trials],
                                              [t.gain_ratio for t in outcome.trials], GAIN_RATIO)
              if outcome.trials else None}  # fmt: skip
    landmarks = subset_landmarks(auditor, K, f) if landmarks is None else landmarks
    found, training = findings or Findings(), auditor._training or source
    shown = picture if training is source else _Pictures(training)
    environment = Environment(
        loader=PackageLoader("krepes", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = number
    return environment.get_template("template.html.j2").render(
        title=title,
        subtitle=f"{n:,} unlabelled samples, {len(fit.indices)} landmarks, objective "
        f"{auditor.settings.objective.name}, embedding of {auditor.encoder.n_outputs} dimensions",
        created=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        audited=audited(told, source),
        trust=auditor.trust_,
        warning=None if outcome.lowered else outcome.message,
        findings=key_findings(auditor, landmarks) + sentences(found, number),
        found=sections(found, len(training)),
        views=views_section(auditor),
        charts=charts,
        landmarks=[
            {**row, "thumbnail": picture(row["position"]), "cells": picture.cells(row["position"])}
            for row in landmarks.head(LANDMARKS).to_dict("records")
        ],
        explained=[e | {"training": attributed_to(found, e["id"], shown)} for e in explained(auditor, chosen, picture)],
        settings=flatten(settings or describe_settings(auditor.settings)),
        versions=versions(),
        fingerprints={"encoder": auditor.encoder.fingerprint(), "data": source.fingerprint()},
        command=command,
        outcome=outcome,
    )


def seeded_subset(n: int, size: int, seed: int) -> list[int]:
    """At most `size` positions, drawn without replacement."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:size].tolist()


@dataclass(frozen=True)
class Plane:
    """A principal plane.

    Attributes:
        mean: (h,).
        axes: (h, 2), each turned so that the farthest of the fitted points is positive.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, f: Tensor) -> "Plane":
        """Of representations (k, h)."""
        mean = f.mean(0)
        _, _, V = torch.linalg.svd(f - mean, full_matrices=False)
        axes = torch.zeros(f.shape[1], 2, dtype=f.dtype, device=f.device)
        axes[:, : min(2, len(V))] = V[:2].T
        points = (f - mean) @ axes
        far = points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
        return cls(mean, axes * torch.where(far == 0, 1.0, far))

    def project(self, f: Tensor) -> Tensor:
        """Coordinates (k, 2)."""
        return (f - self.mean.to(f)) @ self.axes.to(f)


def plane(f: Tensor) -> np.ndarray:
    """Coordinates of representations (k, h) in their principal plane: (k, 2)."""
    return Plane.of(f).project(f).cpu().numpy()


def subset_landmarks(auditor, K: Tensor, f: Tensor) -> pd.DataFrame:
    """Landmarks ranked over the samples of these kernel rows."""
    scores = influence.sample_influence(K, auditor.dA_)
    signed = influence.signed_contribution(K, auditor.dA_, f)
    return rank_landmarks(auditor, scores.mean(0), signed.sum(0), signed.abs().sum(0))


def rank_landmarks(auditor, mean_influence: Tensor, signed: Tensor, size: Tensor) -> pd.DataFrame:
    """Landmarks by mean influence: rank, landmark, position, norm ‖ΔÃ_l‖, mean_influence, sign_balance.

    Args:
        mean_influence, signed, size: per landmark (m,): mean influence, Σc and Σ|c| over samples.
    """
    table = pd.DataFrame(
        {
            "landmark": auditor.landmark_ids_,
            "position": auditor.fit_.indices,
            "norm": auditor.dA_.norm(dim=1).cpu().numpy(),
            "mean_influence": mean_influence.cpu().numpy(),
            "sign_balance": (signed / size.clamp_min(1e-300)).cpu().numpy(),
        }
    ).sort_values("mean_influence", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def key_findings(auditor, landmarks: pd.DataFrame) -> list[str]:
    """Plain sentences with their numbers."""
    outcome, m = auditor.outcome_, len(landmarks)
    mean = landmarks["mean_influence"].to_numpy()
    share = mean / max(mean.sum(), 1e-300)
    tenth = max(1, m // 10)
    size = next(f for f in auditor.trust_.figures if f.name == "step size").value
    return [
        f"The objective moves the representation by {number(size)} of its size; the loss goes from "
        f"{number(outcome.loss_before)} to {number(outcome.loss_after)}.",
        f"The {tenth} strongest of {m} landmarks carry {share[:tenth].sum():.0%} of all influence "
        f"({tenth / m:.0%} would be an even share).",
        f"The most influential landmark is {landmarks['landmark'][0]}, with {share[0] * m:.1f} times the "
        "landmarks' mean influence.",
    ]


def explained(auditor, chosen: Sequence[int], picture: "_Pictures") -> list[dict[str, Any]]:
    """Each chosen sample with its attracting and repelling landmarks, and what all others add."""
    if not chosen:
        return []
    source, ids = auditor.source_, auditor.landmark_ids_
    K, f = auditor._scores(_Part(source, chosen))
    scores = influence.sample_influence(K, auditor.dA_)
    signed = influence.signed_contribution(K, auditor.dA_, f)
    out = []
    for t, position in enumerate(chosen):
        c = signed[t]
        order = torch.argsort(c, descending=True).tolist()
        attract = [j for j in order[:SHOWN] if c[j] > 0]
        repel = [j for j in order[::-1][:SHOWN] if c[j] < 0]
        total, shown = float(c.sum()), float(c[attract + repel].sum())
        widest = max([abs(float(c[j])) for j in attract + repel] + [abs(total - shown), 1e-300])
        cells = picture.cells(position)

        def item(j: int, t=t, c=c, cells=cells, widest=widest, position=position) -> dict[str, Any]:
            p = auditor.fit_.indices[j]
            theirs = picture.cells(p)
            agrees = {k for k in theirs or {} if cells and theirs and cells.get(k) == theirs[k]}
            return {"landmark": ids[j], "contribution": float(c[j]), "influence": float(scores[t, j]),
                    "width": abs(float(c[j])) / widest, "thumbnail": picture(p), "cells": theirs,
                    "agrees": agrees, "self": p == position}  # fmt: skip

        out.append({"id": source.ids[position], "thumbnail": picture(position), "cells": cells,
                    "attract": [item(j) for j in attract], "repel": [item(j) for j in repel], "total": total,
                    "rest": total - shown, "rest_width": abs(total - shown) / widest,
                    "others": len(ids) - len(attract) - len(repel)})  # fmt: skip
    return out


class _Part:
    """Some samples of a source, as a source."""

    def __init__(self, source: Source, positions: Sequence[int]):
        self._source, self._positions = source, list(positions)
        self.ids = [source.ids[i] for i in self._positions]
        self.kind = source.kind

    def __len__(self) -> int:
        return len(self._positions)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return self._source.batch([self._positions[i] for i in indices])

    def metadata(self) -> pd.DataFrame | None:
        table = self._source.metadata()
        return None if table is None else table.iloc[self._positions]

    def fingerprint(self) -> str:
        return self._source.fingerprint()


class _Pictures:
    """How a sample is shown: a thumbnail for images, its row in raw units for tables."""

    def __init__(self, source: Source):
        self._source = source
        self._table = source.metadata()
        if source.kind == "image":
            some = source.batch(range(min(256, len(source)))).float()
            self._low, self._high = float(some.min()), float(some.max())

    def __call__(self, position: int) -> str | None:
        """PNG data URI of an image, else None."""
        if self._source.kind != "image":
            return None
        return figures.thumbnail(self._source.batch([position])[0].float().cpu().numpy(), self._low, self._high)

    def cells(self, position: int) -> dict[str, str] | None:
        """Column ↦ text of a table row, else None."""
        if self._table is None:
            return None
        return {str(k): cell(v) for k, v in self._table.iloc[position].items()}


def cell(value: Any) -> str:
    """A raw value as text; missing is said."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "missing"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def number(value: Any) -> str:
    """Three significant digits; – where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names."""
    out = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            out |= flatten(value, f"{prefix}{key}.")
        else:
            text = "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            out[f"{prefix}{key}"] = text if len(text) < 120 else text[:117] + "…"
    return out
