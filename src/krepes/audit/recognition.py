"""Whether views are of their samples at all: what no objective over them could be explained without."""

import numpy as np
import torch

from krepes.data.source import Source
from krepes.data.stream import VIEW_BLOCK, Views, make_views, names
from krepes.encoders.frozen import FrozenEncoder
from krepes.kernel.ntk import refuse_non_finite

SAME = "the two views of every sample are the same: the objective has nothing to make invariant"


def recognised(encoder: FrozenEncoder, training: Source, views: Views, seed: int) -> tuple[float, str]:
    """Share of one view block's samples whose other view is the nearest to theirs in the network's outputs.

    Beyond chance, (share − 1/n)/(1 − 1/n) of n samples: 1, every sample is recognised; 0, the views say nothing of
    their samples. Ties are no recognition.

    Args:
        seed: of the views, and of which whole block is looked at.

    Returns:
        the share beyond chance; nan where both views are the same; and what was found, in words.

    Raises:
        NonFiniteError: an output is not finite.
    """
    whole = max(len(training) // VIEW_BLOCK, 1)
    start = VIEW_BLOCK * int(np.random.default_rng(seed).integers(whole))
    block = range(start, min(start + VIEW_BLOCK, len(training)))
    pair = make_views(training, views, block, seed)
    if torch.equal(*pair):
        return float("nan"), SAME
    z_a, z_b = (encoder(view).double() for view in pair)
    for z in (z_a, z_b):
        refuse_non_finite(torch.isfinite(z).all(1), names(training, block), "outputs of views")
    distance = torch.cdist(z_a, z_b, compute_mode="donot_use_mm_for_euclid_dist")  # exact where views are near
    own = distance.diagonal().clone()
    nearest_other = distance.fill_diagonal_(float("inf")).amin(1)
    n, share = len(own), float((own < nearest_other).double().mean())
    beyond = (share - 1 / n) / (1 - 1 / n) if n > 1 else share
    return beyond, f"{share:.0%} of {n} samples (chance {1 / n:.1%})"
