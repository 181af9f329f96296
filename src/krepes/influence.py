"""Scores of landmarks for samples, from kernel rows. All are free of the eigenvectors' arbitrary signs."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.source import as_source
from krepes.data.stream import blocks, names, read
from krepes.errors import DataError
from krepes.pipeline import Fit

BLOCK = 256  # samples at a time


def scored(fit: Fit, x: Any) -> tuple[Tensor, Tensor]:
    """Kernel rows (t, M) and representations f = K (Ã₀ + ΔÃ) (t, h) of samples (t, ...), float64.

    Raises:
        DataError: the samples have another shape or type than those of the fit.
    """
    source = as_source(x)
    first, expected = source.batch([0]), fit.samples
    if first.shape[1:] != expected.shape[1:]:
        raise DataError(
            f"samples have shape {tuple(first.shape[1:])}; the auditor was fitted on {tuple(expected.shape[1:])}"
        )
    if first.is_floating_point() != expected.is_floating_point():
        raise DataError(f"samples are {first.dtype}; the auditor was fitted on {expected.dtype}")
    parts = [fit.rows(read(source, b), names(source, b))[0].double() for b in blocks(range(len(source)), BLOCK)]
    K = torch.cat(parts)
    return K, K @ (fit.A0 + fit.dA)


def sample_influence(K: Tensor, dA: Tensor) -> Tensor:
    """IS(l, t) = ‖k(x̃_l, x_t) ΔÃ_l‖₂ = |k| · ‖ΔÃ_l‖₂.

    Args:
        K: kernel rows (t, M).
        dA: the step's dual coefficients ΔÃ (M, h).

    Returns:
        influence (t, M), unsigned.
    """
    return K.abs() * dA.norm(dim=1)


def signed_contribution(K: Tensor, dA: Tensor, f: Tensor) -> Tensor:
    """c(l, t) = ⟨k(x̃_l, x_t) ΔÃ_l, f(x_t)/‖f(x_t)‖⟩: attract > 0, repel < 0.

    Args:
        K: kernel rows (t, M).
        dA: ΔÃ (M, h).
        f: representations after the step (t, h).

    Returns:
        contributions (t, M); a row sums to the step's share of f along itself.
    """
    unit = f / f.norm(dim=1, keepdim=True).clamp_min(torch.finfo(f.dtype).tiny)
    return K * (unit @ dA.T)


def top_table(
    influence: Tensor,
    contribution: Tensor,
    sample_ids: list[str],
    landmark_ids: list[str],
    top_k: int,
    by: str,
) -> pd.DataFrame:
    """The top_k landmarks of each sample.

    Args:
        influence, contribution: scores (t, m).
        by: "influence", or "contribution" for the largest in absolute value.

    Returns:
        a table with columns sample, rank (from 1), landmark, influence, contribution.
    """
    scores = influence if by == "influence" else contribution.abs()
    top = torch.topk(scores, min(top_k, scores.shape[1]), dim=1).indices
    t, k = top.shape
    return pd.DataFrame(
        {
            "sample": np.repeat(np.asarray(sample_ids, dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), t),
            "landmark": np.asarray(landmark_ids, dtype=object)[top.cpu().numpy().ravel()],
            "influence": influence.gather(1, top).cpu().numpy().ravel(),
            "contribution": contribution.gather(1, top).cpu().numpy().ravel(),
        }
    )
