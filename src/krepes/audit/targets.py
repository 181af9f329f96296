"""What attribution is asked for: directions and targets of the representation, checked, and their gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.errors import ConfigError


def check_target(target: Any, redrawable: bool) -> None:
    """Refuse what is no target, before anything is computed.

    Args:
        redrawable: whether views can be drawn of a sample.

    Raises:
        ConfigError: says what it is.
    """
    if callable(target):
        return
    if target is not None and not (isinstance(target, str) and target == "invariance"):
        raise ConfigError(f"target={target!r:.200}; expected 'invariance' or a function of f")
    if not redrawable:
        raise ConfigError(
            "target='invariance' draws views of x; this auditor was fitted on two fixed tensors of views: give "
            "direction= or target=, a function of f"
        )


def as_direction(direction: Any, t: int, h: int) -> Tensor:
    """A direction for each of t queries (t, h), float64, from (h,) or (t, h) finite numbers.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        given = direction if isinstance(direction, Tensor) else torch.as_tensor(np.asarray(direction))
    except (TypeError, ValueError, RuntimeError) as error:  # text, None, lists of different lengths
        raise ConfigError(
            f"direction={direction!r:.200} holds more than numbers; expected ({h},) or ({t}, {h})"
        ) from error
    if given.is_complex():
        raise ConfigError(f"direction holds {str(given.dtype).removeprefix('torch.')}; expected real numbers")
    v = given.detach().double()
    if v.shape not in ((h,), (t, h)):
        raise ConfigError(f"direction has shape {tuple(v.shape)}; expected ({h},) or ({t}, {h})")
    if not torch.isfinite(v).all():
        raise ConfigError(f"direction holds {_first_odd(v)}; expected finite numbers")
    return v.expand(t, -1)


def _first_odd(v: Tensor) -> str:
    where = (~torch.isfinite(v)).nonzero()[0].tolist()
    return f"{float(v[tuple(where)])} at {', '.join(map(str, where))}"


def gradients_of(target: Callable[[Tensor], Tensor], phi: Tensor, B: Tensor, finite: bool = True) -> Tensor:
    """∇T_k(B) of every value T_k of target(f) (Q,), f = φB, as (Q, r, h).

    Args:
        phi: features of the samples (t, r).
        finite: whether values must be.

    Raises:
        ConfigError: the values are not real, finite and differentiable, or there is none; names them.
    """
    with torch.enable_grad():
        f = (phi @ B).detach().requires_grad_(True)
        values = target(f.clone())  # which it may change in place
    if not isinstance(values, Tensor) or values.ndim > 1 or values.is_complex() or not values.requires_grad:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        kind = " of complex numbers" if isinstance(values, Tensor) and values.is_complex() else ""
        raise ConfigError(
            f"target returned {got}{kind}; expected differentiable real values, one number or one per query (Q,), "
            "computed from f"
        )
    with torch.enable_grad():
        each = values.reshape(-1).unbind()
    if not each:
        raise ConfigError("target returned no value; expected one number, or one per query (Q,)")
    if finite:
        _refuse_odd(values.reshape(-1))
    found = [torch.autograd.grad(v, f, retain_graph=True, allow_unused=True)[0] for v in each]
    constant = [k for k, gradient in enumerate(found) if gradient is None]
    if constant:
        raise ConfigError(
            f"target returned a constant for query {', '.join(map(str, constant[:5]))}: it was not computed from f"
        )
    return torch.stack([phi.T @ gradient for gradient in found if gradient is not None])


def invariance_gradients(phi: Tensor, phi_views: Tensor, B: Tensor) -> Tensor:
    """∇T_t(B) of the mean cosine between f(x_t) and f of its views, what self-supervised training aims at: (t, r, h).

    Args:
        phi: features of the samples (t, r).
        phi_views: features of their views (t, v, r).
    """
    with torch.enable_grad():
        f, g = ((x @ B).detach().requires_grad_(True) for x in (phi, phi_views))
        values = torch.cosine_similarity(f[:, None], g, dim=2).mean(1)
        total = values.sum()  # a value knows its own sample alone
    _refuse_odd(values)
    by_f, by_g = torch.autograd.grad(total, (f, g))
    return torch.einsum("tr,th->trh", phi, by_f) + torch.einsum("tvr,tvh->trh", phi_views, by_g)


def _refuse_odd(values: Tensor) -> None:
    """Raise ConfigError naming the queries whose value is not finite."""
    odd = listed(~torch.isfinite(values))
    if odd:
        raise ConfigError(f"target is not finite for query {odd}; expected real numbers")


def listed(which: Tensor) -> str:
    """Positions at which a condition (Q,) holds, the first five of them."""
    found = which.nonzero().flatten().tolist()
    return ", ".join(map(str, found[:5])) + (" …" if len(found) > 5 else "")
