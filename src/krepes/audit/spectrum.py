"""Spectral entropy of the dual coefficients: a label-free figure by which λ, m or a checkpoint may be chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError, is_whole
from krepes.landmarks import Sampler
from krepes.pipeline import Fit, Stream, moment_problem, planned_memory, streamed_problem
from krepes.pipeline import fit as fit_again
from krepes.solver import solve_path
from krepes.work import Work

if TYPE_CHECKING:
    from krepes.auditor import Auditor


def spectral_entropy(A: Tensor) -> float:
    """Entropy of the normalised spectrum of AᵀA over log h, in [0, 1]; 1 where all directions weigh the same.

    Args:
        A: dual coefficients Ã (M, h).

    Source: the paper, §3.
    """
    return entropy_of_variances(A) / math.log(A.shape[1]) if A.shape[1] > 1 else 0.0


def entropy_of_variances(A: Tensor) -> float:
    """Entropy in nats of the normalised spectrum of AᵀA, for A (t, d); 0 where A is."""
    spectrum = torch.linalg.svdvals(A.double()).square()
    total = float(spectrum.sum())
    if total == 0:
        return 0.0
    p = spectrum / total
    return float(-(p * p.clamp_min(1e-300).log()).sum())


def entropy_path(auditor: "Auditor", dampings: Sequence[float]) -> pd.DataFrame:
    """The entropy of Ã₀ + ΔÃ(λ) for each relative λ; see `Auditor.entropy_path`."""
    fit, settings = auditor.fit_, auditor.settings
    dampings = as_list(dampings, "dampings")
    if not dampings or not all(isinstance(v, int | float) and 0 < v < math.inf for v in dampings):
        raise ConfigError(f"dampings={dampings!r}; expected a list of positive numbers")
    newton, B0 = settings.newton, fit.nystrom.B0
    if settings.objective.streaming:
        source, views = auditor.seen_.given()
        memory = fit.memory or planned_memory(settings, fit.rows.gradients, len(source))
        stream = Stream(source, views, fit.rows, fit.nystrom, settings, memory, Work())
        with auditor.progress.stage("views", total=len(source)) as note:
            problem = streamed_problem(settings, stream, note)(B0)
    else:
        assert fit.moments is not None
        problem = moment_problem(settings.objective, fit.moments)(B0)
    generator = torch.Generator().manual_seed(settings.seed)
    points = solve_path(
        problem, B0, fit.nystrom.eigenvalues, newton.ridge, dampings, generator, True, newton.tol, newton.max_iter,
        newton.curvature_samples,
    )  # fmt: skip
    rows = [
        (p.relative_damping, spectral_entropy(fit.A0 + fit.nystrom.dual(p.dB)), p.loss, p.gain_ratio, p.residual)
        for p in points
    ]
    return pd.DataFrame(rows, columns=pd.Index(["damping", "entropy", "loss", "gain_ratio", "residual"]))


def entropy_over(auditor: "Auditor", landmarks: Sequence[int], encoders: Mapping[str, nn.Module]) -> pd.DataFrame:
    """The entropy of refits with other numbers of landmarks, or of other encoders; see `Auditor.entropy_over`.

    Other numbers are chosen by the sampler of the fit. Explicit positions have none: which of them, or which others, a
    number would mean is not known, and another sampler's entropy could not be compared with the fit's.

    Raises:
        ConfigError: neither or both are given, a number is below 2, or the landmarks were given as positions.
    """
    landmarks = as_list(landmarks, "landmarks")
    if not isinstance(encoders, Mapping):
        raise ConfigError(f"encoders is a {type(encoders).__name__}; expected a name ↦ network mapping")
    if bool(landmarks) == bool(encoders):
        raise ConfigError("give either landmarks, a list of numbers, or encoders, a name ↦ network mapping")
    if not all(is_whole(m) and m >= 2 for m in landmarks):
        raise ConfigError(f"landmarks={list(landmarks)}; expected whole numbers, at least 2")
    settings, mine = auditor.settings, auditor.encoder
    sampler: Any = settings.landmarks
    if landmarks and not isinstance(settings.landmarks, Sampler):
        raise ConfigError(
            f"this auditor's {len(sampler)} landmarks were given as positions: no sampler says which {landmarks[0]} to "
            "take instead. Fit one with a sampler, such as landmarks=krepes.KMeansPlusPlus(), and ask it"
        )
    source, views = auditor.seen_.given()
    rows = []
    for m in landmarks:
        fit = fit_again(mine, source, views, replace(settings, landmarks=replace(sampler, m=int(m))), auditor.progress)
        rows.append((int(m), *_entropy_row(fit)))
    for name, module in encoders.items():
        encoder = FrozenEncoder(module, settings.kernel.params, mine.device, mine.dtype)
        fit = fit_again(encoder, source, views, settings, auditor.progress)
        rows.append((name, *_entropy_row(fit)))
    first = "landmarks" if landmarks else "encoder"
    return pd.DataFrame(rows, columns=pd.Index([first, "entropy", "loss", "gain_ratio", "damping"]))


def as_list(values: Any, name: str) -> list[Any]:
    """Plain values of a sequence, an array or a tensor; ConfigError for anything else."""
    if isinstance(values, str) or np.ndim(values) != 1:
        raise ConfigError(f"{name}={values!r}; expected a list of numbers")
    return [v.item() if hasattr(v, "item") else v for v in values]


def _entropy_row(fit: Fit) -> tuple[float, float, float, float]:
    outcome = fit.step.outcome
    return spectral_entropy(fit.A0 + fit.dA), outcome.loss_after, outcome.gain_ratio, outcome.relative_damping
