"""Whether views are of their samples at all: what no objective over them could be explained without."""

import numpy as np
import torch

from krepes.data.source import Source
from krepes.data.stream import VIEW_BLOCK, Views, make_views, names, read
from krepes.encoders.frozen import FrozenEncoder
from krepes.kernel.ntk import refuse_non_finite

SAME = "the two views of every sample are the same: the objective has nothing to make invariant"


def recognised(encoder: FrozenEncoder, training: Source, views: Views, seed: int) -> tuple[float, str]:
    """Share of one view block's samples whose other view is the nearest to theirs in the network's outputs.

    Beyond chance, (share − c)/(1 − c): 1, every sample is recognised; 0, the views say nothing of their samples.
    Ties are no recognition; equal samples are not held against each other, and c is the mean of 1/(1 + others).

    Args:
        seed: of the views, and of which whole block is looked at.

    Returns:
        the share beyond chance, and what was found, in words: `SAME` where both views are.

    Raises:
        NonFiniteError: an output is not finite.
    """
    whole = max(len(training) // VIEW_BLOCK, 1)
    start = VIEW_BLOCK * int(np.random.default_rng(seed).integers(whole))
    block = range(start, min(start + VIEW_BLOCK, len(training)))
    pair = make_views(training, views, block, seed)
    if torch.equal(*pair):
        return 1.0, SAME
    z_a, z_b = (encoder(view).double() for view in pair)
    for z in (z_a, z_b):
        refuse_non_finite(torch.isfinite(z).all(1), names(training, block), "outputs of views")
    distance = torch.cdist(z_a, z_b, compute_mode="donot_use_mm_for_euclid_dist")  # exact where views are near
    kinds = torch.unique(read(training, block).flatten(1), dim=0, return_inverse=True)[1]
    equal = (kinds[:, None] == kinds).to(distance.device)
    nearest_other = distance.masked_fill(equal, float("inf")).amin(1)
    share = float((distance.diagonal() < nearest_other).double().mean())
    chance = float((1 / (1 + (~equal).sum(1))).double().mean())
    beyond = (share - chance) / (1 - chance) if chance < 1 else 0.0
    return beyond, f"{share:.0%} of {len(block)} samples (chance {chance:.1%})"
