"""The trust gate: label-free figures with thresholds, and one verdict."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from krepes.data.source import Source
from krepes.data.stream import names
from krepes.encoders.frozen import FrozenEncoder
from krepes.kernel.ntk import refuse_non_finite
from krepes.solver import Status

SAMPLE = 2048  # samples on which the figures are estimated
COLOURS = ("green", "amber", "red")


@dataclass(frozen=True)
class TrustFigure:
    """One figure of the gate; `value` is None where it could not be had."""

    name: str
    value: float | None
    display: str
    threshold: str
    verdict: str
    meaning: str


@dataclass(frozen=True)
class TrustGate:
    """All figures and the verdict: the worst of them."""

    verdict: str
    sentence: str
    figures: list[TrustFigure]

    def as_dict(self) -> dict[str, Any]:
        """For `trust.json`."""
        return asdict(self)

    @classmethod
    def of_dict(cls, plain: dict[str, Any]) -> "TrustGate":
        """From `trust.json`."""
        return cls(plain["verdict"], plain["sentence"], [TrustFigure(**f) for f in plain["figures"]])


def assess(fit, encoder: FrozenEncoder, source: Source, seed: int) -> TrustGate:
    """The gate's figures on a seeded subset of at most 2,048 samples.

    Args:
        fit: the `pipeline.Fit`.
        encoder: the audited network, for the fidelity.
        source: the samples.
        seed: of the subset.
    """
    subset = _subset(len(source), seed)
    blocks = [source.batch(subset[i : i + 256]) for i in range(0, len(subset), 256)]
    kernel = [fit.rows(b) for b in blocks]
    K, diagonal = torch.cat([k for k, _ in kernel]).double(), torch.cat([d for _, d in kernel])
    phi = fit.nystrom.features(K)
    total = float(diagonal.sum())
    error = 1 - float(phi.square().sum()) / total if total > 0 else math.nan
    embedded = torch.cat([encoder(b) for b in blocks]).double().cpu()
    refuse_non_finite(torch.isfinite(embedded).all(1), names(source, subset), "embeddings")
    z = embedded.numpy()
    f0, f = (phi @ B for B in (fit.nystrom.B0, fit.nystrom.B0 + fit.step.dB))
    outcome = fit.step.outcome
    drop = outcome.loss_before - outcome.loss_after
    relative_drop = drop / max(abs(outcome.loss_before), 1e-300)
    share = float(phi.matmul(fit.step.dB).norm() / f0.norm().clamp_min(1e-300))
    figures = [
        _figure("loss decrease", relative_drop, f"{outcome.loss_before:.4g} → {outcome.loss_after:.4g}",
                (0.0, 0.0), "> 0", "The step must lower the objective that it is said to explain.", strict=True),
        _figure("gain ratio", outcome.gain_ratio, None, (0.25, 0.0), "≥ 0.25",
                "Actual over predicted decrease: near 1, the one-step model describes the objective."),
        TrustFigure("linear solve", _finite(outcome.residual),
                    f"residual {outcome.residual:.1e} after {outcome.iterations} iterations", "converged",
                    {Status.CONVERGED: "green", Status.ITERATION_LIMIT: "amber"}.get(outcome.status, "red"),
                    outcome.status.value),
        _figure("fidelity R²", fidelity(f, z), None, (0.7, 0.4), "≥ 0.7",
                "Variance of the network's embedding that a linear map of the kernel representation predicts on "
                "held-out samples."),
        _figure("Nyström error", error, None, (0.3, 0.6), "≤ 0.3",
                "Share of the kernel's trace that the landmarks leave out.", at_most=True),
        _figure("step size", share, None, (1e-3, 1e-6), "≥ 0.001",
                "Size of the objective's step in representation space relative to its start; near 0 there is "
                "nothing to explain."),
    ]  # fmt: skip
    if fit.kernel_error is not None:
        figures.append(_figure(
            "kernel error", fit.kernel_error.centred, f"{fit.kernel_error.centred:.1e}", (0.1, 0.3), "≤ 0.1",
            "Relative error of the centred kernel that sketching, projection or lower precision cost, measured among "
            "landmarks.", at_most=True,
        ))  # fmt: skip
    if outcome.full_residual is not None:
        figures.append(_figure(
            "curvature subset", outcome.full_residual, f"residual {outcome.full_residual:.1e} from "
            f"{outcome.curvature_samples:,} pairs", (0.1, 0.3), "≤ 0.1",
            "Residual of the step under the curvature of all pairs, of which the solve knew a random subset.",
            at_most=True,
        ))  # fmt: skip
    worst = max((f.verdict for f in figures), key=COLOURS.index)
    bad = [f.name for f in figures if f.verdict == worst]
    sentence = {
        "green": "All figures are within their thresholds.",
        "amber": f"Read with care: {', '.join(bad)} outside the comfortable range.",
        "red": f"Do not rely on this explanation: {', '.join(bad)} failed.",
    }[worst]
    return TrustGate(worst, sentence, figures)


def fidelity(f: torch.Tensor, z: np.ndarray) -> float:
    """R² on held-out samples of z (t, d) predicted linearly from f (t, h); variance-weighted over outputs."""
    from sklearn.linear_model import RidgeCV  # takes half a second to import, and only this function needs it

    x = f.double().cpu().numpy()
    half = len(x) // 2
    if half < 8 or not np.isfinite(x).all():
        return math.nan
    scale = x[:half].std(0) + 1e-12 * np.abs(x[:half]).max() + 1e-300
    model = RidgeCV(alphas=np.logspace(-6, 3, 10)).fit(x[:half] / scale, z[:half])
    residual = ((z[half:] - model.predict(x[half:] / scale)) ** 2).sum()
    spread = ((z[half:] - z[:half].mean(0)) ** 2).sum()
    return float(1 - residual / spread) if spread > 0 else math.nan


def _subset(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:SAMPLE].tolist()


def _figure(name, value, display, limits, threshold, meaning, strict=False, at_most=False) -> TrustFigure:
    """Green up to limits[0], amber up to limits[1], red beyond or where the value is not a number.

    Args:
        strict: the limit itself is beyond.
        at_most: small values are good; else large ones.
    """

    def within(limit: float) -> bool:
        good = value <= limit if at_most else value >= limit
        return good and not (strict and value == limit)

    verdict = "green" if within(limits[0]) else "amber" if within(limits[1]) else "red"
    shown = display or ("–" if not math.isfinite(value) else f"{value:.3g}")
    return TrustFigure(name, _finite(value), shown, threshold, verdict, meaning)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
