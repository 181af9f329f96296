"""The trust gate: label-free figures with thresholds, and one verdict."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from krepes.audit.recognition import SAME, recognised
from krepes.audit.spectrum import entropy_of_variances
from krepes.audit.stability import Stability, stability
from krepes.data.source import Source
from krepes.data.stream import Views, names
from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError, refuse_wrong_types
from krepes.kernel.ntk import refuse_non_finite
from krepes.pipeline import Fit, Settings
from krepes.solver import Status

SAMPLE = 2048  # samples on which the figures are estimated
COLOURS = ("green", "amber", "red")
FEWEST_FITTED = 8  # samples that fidelity's linear map is fitted on, below which there is none
FEWEST = 2 * FEWEST_FITTED  # samples of a figure over all of them


@dataclass(frozen=True)
class Trust:
    """Thresholds of the trust gate, each (green, amber): a figure is green up to the first, amber up to the second.

    The defaults are conventions (docs/method.md). Figures marked ↓ are good when small.

    Args:
        gain_ratio, fidelity, step_size, output_dimensions, rank, views, seed_stability, random_landmarks: at least; a
            gain ratio is amber as far above 1 as green allows below, too.
        nystrom_error, kernel_error, curvature_subset, randomised_weights: ↓ at most.
        refits: whether the audit is refitted for the last three: with another seed, with random landmarks and with
            shuffled weights, each on at most 4,096 samples.
    """

    gain_ratio: tuple[float, float] = (0.25, 0.0)
    fidelity: tuple[float, float] = (0.7, 0.4)
    nystrom_error: tuple[float, float] = (0.3, 0.6)
    rank: tuple[float, float] = (2.0, 1.2)
    step_size: tuple[float, float] = (1e-3, 1e-6)
    output_dimensions: tuple[float, float] = (1.5, 1.0)  # 1 is the least there is
    views: tuple[float, float] = (0.02, 0.01)  # of 256 samples, noise alone has 0 ± 0.004
    kernel_error: tuple[float, float] = (0.1, 0.3)
    curvature_subset: tuple[float, float] = (0.1, 0.3)
    seed_stability: tuple[float, float] = (0.33, 0.14)  # half of the ten landmarks, a quarter of them
    random_landmarks: tuple[float, float] = (-0.05, -0.2)
    randomised_weights: tuple[float, float] = (0.6, 0.85)
    refits: bool = True

    def __post_init__(self):
        refuse_wrong_types(self, flags=("refits",))
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "refits":
                continue
            numbers = isinstance(value, tuple | list) and len(value) == 2
            if not numbers or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
                raise ConfigError(f"Trust: {f.name}={value!r}; expected two numbers, the limits of green and amber")
            green, amber = value
            if (amber < green) if f.name in AT_MOST else (amber > green):
                order = "not below" if f.name in AT_MOST else "not above"
                raise ConfigError(f"Trust: {f.name}={value!r}; the limit of amber must be {order} that of green")
            object.__setattr__(self, f.name, (float(green), float(amber)))


AT_MOST = ("nystrom_error", "kernel_error", "curvature_subset", "randomised_weights")


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

    def _repr_html_(self) -> str:
        from krepes.report.notebook import gate

        return gate(self)

    def as_dict(self) -> dict[str, Any]:
        """For `trust.json`."""
        return asdict(self)

    @classmethod
    def of_dict(cls, plain: dict[str, Any]) -> "TrustGate":
        """From `trust.json`."""
        return cls(plain["verdict"], plain["sentence"], [TrustFigure(**f) for f in plain["figures"]])


def assess(
    fit: Fit, settings: Settings, encoder: FrozenEncoder, source: Source, training: Source, views: Views, trust: Trust
) -> TrustGate:
    """The gate's figures on a seeded subset of at most 2,048 samples.

    Args:
        encoder: the audited network.
        source: the samples that are audited.
        training, views: those that the objective saw, for the refits.
    """
    subset = _subset(len(source), settings.seed)
    samples = torch.cat([source.batch(subset[i : i + 256]) for i in range(0, len(subset), 256)])
    blocks = samples.split(256)
    kernel = [fit.rows(b) for b in blocks]
    K, diagonal = torch.cat([k for k, _ in kernel]).double(), torch.cat([d for _, d in kernel])
    phi = fit.nystrom.features(K)
    total = float(diagonal.sum())
    error = 1 - float(phi.square().sum()) / total if total > 0 else math.nan
    embedded = torch.cat([encoder(b) for b in blocks]).double().cpu()
    refuse_non_finite(torch.isfinite(embedded).all(1), names(source, subset), "embeddings")
    z = embedded.numpy()
    f0, f = (phi @ B for B in (fit.nystrom.B0, fit.nystrom.B0 + fit.step.dB))
    outcome, nystrom = fit.step.outcome, fit.nystrom
    drop = outcome.loss_before - outcome.loss_after
    relative_drop = drop / max(abs(outcome.loss_before), 1e-300)
    share = float(phi.matmul(fit.step.dB).norm() / f0.norm().clamp_min(1e-300))
    found = fidelity(f, z)
    make = _Figures(trust)
    figures = [
        make("loss decrease", relative_drop, f"{outcome.loss_before:.4g} → {outcome.loss_after:.4g}",
             "The step must lower the objective that it is said to explain."),
        _gain_figure(make, outcome.gain_ratio),
        TrustFigure("linear solve", _finite(outcome.residual),
                    f"residual {outcome.residual:.1e} after {outcome.iterations} iterations", "converged",
                    {Status.CONVERGED: "green", Status.ITERATION_LIMIT: "amber"}.get(outcome.status, "red"),
                    outcome.status.value),
        make("fidelity", found, None,
             "R²: variance of the network's embedding that a linear map of the kernel representation predicts on "
             "held-out samples.", missing="red"),
        make("nystrom error", error, None, "Share of the kernel's trace that the landmarks leave out."),
        make("rank", nystrom.rank / nystrom.h, f"{nystrom.rank} for {nystrom.h} dimensions",
             "Kernel dimensions that the landmarks span, per dimension of the representation: at 1 the step has no "
             "room."),
        make("step size", share, None,
             "Size of the objective's step in representation space relative to its start; near 0 there is nothing to "
             "explain."),
    ]  # fmt: skip
    if embedded.shape[1] > 2:  # two outputs have two dimensions at most, and correlated ones few more than one
        figures.append(_dimensions_figure(make, embedded))
    figures.append(_views_figure(make, *recognised(encoder, training, views, settings.seed)))
    if fit.kernel_error is not None:
        figures.append(make(
            "kernel error", fit.kernel_error.centred, f"{fit.kernel_error.centred:.1e}",
            "Relative error of the centred kernel that sketching, projection or lower precision cost, measured among "
            "landmarks.",
        ))  # fmt: skip
    if outcome.full_residual is not None:
        figures.append(make(
            "curvature subset", outcome.full_residual, f"residual {outcome.full_residual:.1e} from "
            f"{outcome.curvature_samples:,} pairs",
            "Residual of the step under the curvature of all pairs, of which the solve knew a random subset.",
        ))  # fmt: skip
    if trust.refits and outcome.step_length > 0 and math.isfinite(outcome.relative_damping):
        figures += _refit_figures(make, stability(fit, settings, encoder, training, views, samples), found, z)
    return judged(figures)


def judged(figures: list[TrustFigure]) -> TrustGate:
    """The worst verdict, and which figures gave it."""
    worst = max((f.verdict for f in figures), key=COLOURS.index)
    bad = ", ".join(f.name for f in figures if f.verdict == worst and f.value is not None)
    unknown = ", ".join(f.name for f in figures if f.verdict == worst and f.value is None)
    if worst == "green":
        return TrustGate(worst, "All figures are within their thresholds.", figures)
    said = [f"{bad} {'failed' if worst == 'red' else 'outside the comfortable range'}"] if bad else []
    said += [f"{unknown} could not be computed"] if unknown else []
    start = "Do not rely on this explanation" if worst == "red" else "Read with care"
    return TrustGate(worst, f"{start}: {'; '.join(said)}.", figures)


def _gain_figure(make: "_Figures", ratio: float) -> TrustFigure:
    """Green on both sides of 1: a loss that falls by far more than predicted was not predicted either."""
    meaning = "Actual over predicted decrease: near 1, the one-step model describes the objective."
    figure, largest = make("gain ratio", ratio, None, meaning), 2 - make.trust.gain_ratio[0]
    beyond = figure.verdict == "green" and ratio > largest
    return replace(
        figure, threshold=f"{figure.threshold}, ≤ {largest:g}", verdict="amber" if beyond else figure.verdict
    )


def _dimensions_figure(make: "_Figures", z: torch.Tensor) -> TrustFigure:
    """Whether nearly all variance of the outputs (t, d) lies along one direction."""
    found = effective_dimensions(z)
    return make(
        "output dimensions", found, None if isinstance(found, str) else f"{found:.3g} of {z.shape[1]}",
        "Effective number of dimensions in which the network's outputs vary: near 1, one direction holds nearly all of "
        "their variance.",
    )  # fmt: skip


def _views_figure(make: "_Figures", beyond: float, found: str) -> TrustFigure:
    """Whether the views are of their samples; two that are the same are, and yet there is nothing to learn of them."""
    meaning = (
        "Share of samples whose other view is the nearest to theirs among others' in the network's outputs, beyond "
        "chance: near 0, the views say nothing of their samples, or the network does not."
    )
    figure = make("views", beyond, found, meaning)
    return replace(figure, verdict="amber") if found == SAME else figure


def _refit_figures(make: "_Figures", seen: Stability, found: float | str, z: np.ndarray) -> list[TrustFigure]:
    """What refits with another seed, random landmarks and shuffled weights say."""
    overlap, randomised = seen.jaccard, seen.randomised
    gain, both = beyond_random(seen.random_landmarks, found, z)
    return [
        make("seed stability", overlap,
             None if isinstance(overlap, str) else f"Jaccard {overlap:.2f} (chance {seen.chance:.2f})",
             "Overlap of the ten most influential landmarks of a sample with those of another seed of the views (and "
             "of a sketch's directions), the landmarks held."),
        make("random landmarks", gain, both,
             "Fidelity less that of as many landmarks drawn at random: below 0, choosing them did harm."),
        make("randomised weights", randomised,
             None if isinstance(randomised, str) else f"rank correlation {randomised:.2f}",
             "Rank correlation of influences with those of the same network with shuffled weights: near 1, the "
             "ranking is not about what the network learned."),
    ]  # fmt: skip


def beyond_random(f: torch.Tensor | str, found: float | str, z: np.ndarray) -> tuple[float | str, str | None]:
    """The fidelity less that of random landmarks and both in words, or why they cannot be compared."""
    if isinstance(f, str):
        return f"random landmarks give no representation: {f}", None
    if isinstance(found, str):
        return f"there is no fidelity to compare: {found}", None
    by_random = fidelity(f, z)
    if isinstance(by_random, str):
        return f"random landmarks have no fidelity: {by_random}", None
    return found - by_random, f"fidelity {found:.3g} against {by_random:.3g}"


def effective_dimensions(z: torch.Tensor) -> float | str:
    """The exponential of the entropy of the covariance's normalised spectrum, of outputs z (t, d), 1 … d.

    Or why there is none: as many samples as dimensions bound it, too.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, with variances
    in place of singular values.
    """
    if len(z) < FEWEST:
        return f"{len(z)} samples; expected at least {FEWEST}"
    scaled = z / z.abs().max().clamp_min(1e-300)  # the squares of huge or tiny numbers are none
    centred = scaled - scaled.mean(0)
    return math.exp(entropy_of_variances(centred / centred.abs().max().clamp_min(1e-300)))


def fidelity(f: torch.Tensor, z: np.ndarray) -> float | str:
    """R² on held-out samples of z (t, d) predicted linearly from f (t, h), or why there is none.

    Variance-weighted over outputs.
    """
    parts = fidelity_parts(f.double().cpu().numpy(), z)
    if len(f) < FEWEST:
        return f"{len(f)} samples; expected at least {FEWEST}, half of them held out"
    if parts is None:
        return "the kernel representation is not finite"
    if parts[1].sum() <= 0:
        return "the network's embedding is the same for all held-out samples"
    return float(1 - parts[0].sum() / parts[1].sum())


def fidelity_parts(f: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Squared residual and spread of each held-out sample (t − t/2,) for a ridge map f ↦ z fitted on the first half.

    R² is 1 − Σ residual/Σ spread. None: fewer than eight samples to fit on, or values that are not finite.
    """
    from sklearn.linear_model import RidgeCV  # takes half a second to import, and only this function needs it

    half = len(f) // 2
    if half < FEWEST_FITTED or not np.isfinite(f).all():
        return None
    scale = f[:half].std(0) + 1e-12 * np.abs(f[:half]).max() + 1e-300
    model = RidgeCV(alphas=np.logspace(-6, 3, 10)).fit(f[:half] / scale, z[:half])
    residual = ((z[half:] - model.predict(f[half:] / scale)) ** 2).sum(1)
    return residual, ((z[half:] - z[:half].mean(0)) ** 2).sum(1)


def _subset(n: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:SAMPLE].tolist()


@dataclass(frozen=True)
class _Figures:
    """Figures with their verdicts by the thresholds."""

    trust: Trust

    def __call__(
        self, name: str, value: float | str, display: str | None, meaning: str, missing: str = "amber"
    ) -> TrustFigure:
        """Green up to the first limit, amber up to the second, red beyond or where the value is not a number.

        A value that could not be had is the reason, in words: never green, `missing` is its verdict.
        """
        key = name.replace(" ", "_")
        limits, at_most = getattr(self.trust, key, (0.0, 0.0)), key in AT_MOST
        strict = key == "loss_decrease"  # a step that changes nothing explains nothing
        sign = "≤" if at_most else ">" if strict else "≥"
        label, threshold = LABELS.get(key, name), f"{sign} {limits[0]:g}"
        if isinstance(value, str):
            return TrustFigure(label, None, f"not computed: {value}", threshold, missing, meaning)

        def within(limit: float) -> bool:
            good = value <= limit if at_most else value >= limit
            return good and not (strict and value == limit)

        verdict = "green" if within(limits[0]) else "amber" if within(limits[1]) else "red"
        shown = display or ("–" if not math.isfinite(value) else f"{value:.3g}")
        return TrustFigure(label, _finite(value), shown, threshold, verdict, meaning)


LABELS = {"fidelity": "fidelity R²", "nystrom_error": "Nyström error", "views": "views recognised"}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
