"""What attribution is asked for: directions and targets of the representation, checked, and their gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.errors import ConfigError


def as_direction(direction: Any, t: int, like: Tensor) -> Tensor:
    """A direction for each of t queries (t, h), from (h,) or (t, h) finite numbers.

    Args:
        like: B (r, h), whose h, type and device it takes.

    Raises:
        ConfigError: it holds something else.
    """
    h = like.shape[1]
    try:
        given = direction if isinstance(direction, Tensor) else torch.as_tensor(np.asarray(direction))
    except (TypeError, ValueError, RuntimeError) as error:  # text, None, lists of different lengths
        raise ConfigError(
            f"direction={direction!r:.200} holds more than numbers; expected ({h},) or ({t}, {h})"
        ) from error
    if given.is_complex():
        raise ConfigError(f"direction holds {str(given.dtype).removeprefix('torch.')}; expected real numbers")
    v = given.detach().to(like)
    if v.shape not in ((h,), (t, h)):
        raise ConfigError(f"direction has shape {tuple(v.shape)}; expected ({h},) or ({t}, {h})")
    if not torch.isfinite(v).all():
        raise ConfigError(f"direction holds {_first_odd(v)}; expected finite numbers")
    return v.expand(t, -1)


def _first_odd(v: Tensor) -> str:
    where = (~torch.isfinite(v)).nonzero()[0].tolist()
    return f"{float(v[tuple(where)])} at {', '.join(map(str, where))}"


def gradients_of(target: Callable[[Tensor], Tensor], B: Tensor) -> Tensor:
    """∇T_k(B) of every value T_k of target(B) (Q,), as (Q, r, h).

    Raises:
        ConfigError: the values are not real, finite and differentiable, or there is none; names them.
    """
    leaf = B.detach().clone().requires_grad_(True)
    values = target(leaf)
    if not isinstance(values, Tensor) or values.ndim > 1 or values.is_complex() or not values.requires_grad:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        kind = " of complex numbers" if isinstance(values, Tensor) and values.is_complex() else ""
        raise ConfigError(
            f"target returned {got}{kind}; expected differentiable real values, one number or one per query (Q,), "
            "computed from f"
        )
    values = values.reshape(-1)
    if not len(values):
        raise ConfigError("target returned no value; expected one number, or one per query (Q,)")
    odd = listed(~torch.isfinite(values))
    if odd:
        raise ConfigError(f"target is not finite for query {odd}; expected real numbers")
    found = [torch.autograd.grad(v, leaf, retain_graph=True, allow_unused=True)[0] for v in values]
    constant = [k for k, gradient in enumerate(found) if gradient is None]
    if constant:
        raise ConfigError(
            f"target returned a constant for query {', '.join(map(str, constant[:5]))}: it was not computed from f"
        )
    return torch.stack([gradient for gradient in found if gradient is not None])


def invariance(phi: Tensor, phi_views: Tensor) -> Callable[[Tensor], Tensor]:
    """B ↦ mean cosine between f(x_t) and f of its views, (t,): what self-supervised training aims at.

    Args:
        phi: features of the samples (t, r).
        phi_views: features of their views (t, v, r).
    """

    def target(B: Tensor) -> Tensor:
        return torch.cosine_similarity((phi @ B)[:, None], phi_views @ B, dim=2).mean(1)

    return target


def listed(which: Tensor) -> str:
    """Positions at which a condition (Q,) holds, the first five of them."""
    found = which.nonzero().flatten().tolist()
    return ", ".join(map(str, found[:5])) + (" …" if len(found) > 5 else "")
