"""Scores of landmarks for samples, from kernel rows. All are free of the eigenvectors' arbitrary signs."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor


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
