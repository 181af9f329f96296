"""What `Auditor.attribute` is asked: checked, and turned into gradients of the representation."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from krepes.audit import attribution, targets, training
from krepes.audit.places import check_place, place_of
from krepes.data.source import ArraySource, Subset, as_source
from krepes.data.stream import SubsetViews, Views, make_views, names, read
from krepes.errors import ConfigError, DataError
from krepes.influence import scored
from krepes.pipeline import Fit

if TYPE_CHECKING:
    from krepes.auditor import Auditor

VIEWS = 128  # of each explained sample, for its local invariance


def attributed(
    auditor: "Auditor",
    x: Any,
    direction: Any = None,
    target: "str | Callable[[Tensor], Tensor] | None" = None,
    source: Any = None,
    views: Views | None = None,
    among: np.ndarray | None = None,
    draws: int | None = None,
    at: str = "encoder",
    damping: float | None = None,
    starts: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Scores of `Auditor.attribute` and their standard errors over draws, None of a single one.

    Args:
        among: positions of the training samples that are asked for (k,); default all.

    Returns:
        (t, n), (Q, n), or with k columns.
    """
    if direction is not None and target is not None:
        raise ConfigError("direction and target are two ways to ask; give one of them")
    fitted, settings = auditor.fit_, auditor.settings
    source, views = auditor.seen_.given(source, views)
    redrawable = callable(views.views if isinstance(views, SubsetViews) else views)
    shape = tuple(fitted.samples.shape[1:])
    if shape and tuple(getattr(x, "shape", ())) == shape:
        raise DataError(f"x has shape {shape}, that of one sample; expected samples (t, ...): give x[None]")
    explained = as_source(x)
    check_place(settings, fitted, at, damping)
    draws = attribution.check_draws(draws, redrawable)
    starts = training.check_starts(starts, at, settings.objective)
    if direction is None:
        targets.check_target(target, redrawable)
    else:
        if at == "training":
            raise ConfigError(
                "f after a training from random starts has no coordinates that a direction could mean: ask a target "
                'that a rotation of f leaves as it is, or at="encoder"'
            )
        h = fitted.nystrom.h if at == "step" else auditor.encoder.n_outputs or 0
        direction = targets.as_direction(direction, len(explained), h)
    phi = fitted.nystrom.features(scored(fitted, explained)[0])
    ask = gradients_at(fitted, explained, views, settings.seed + 1, phi, direction, target)
    if at == "training":
        own = callable(target)
        return training.attribute(fitted, settings, source, views, ask, own, auditor.progress, among, draws, starts)
    place = place_of(fitted, settings, source, at, damping)
    gradients = ask(place.end)
    return attribution.attribute(fitted, settings, place, source, views, gradients, auditor.progress, among, draws)


def gradients_at(
    fit: Fit,
    x: Any,
    views: Views,
    seed: int,
    phi: Tensor,
    direction: Tensor | None,
    target: str | Callable[[Tensor], Tensor] | None,
) -> Callable[..., Tensor]:
    """B, and whether a function's values must be finite (they must) ↦ ∇T of every query (Q, r, h).

    Args:
        x: samples with features phi (t, r).
    """
    if direction is not None:
        return lambda B, finite=True: phi[:, :, None] * direction.to(phi)[:, None]
    if target is not None and not isinstance(target, str):
        return lambda B, finite=True: targets.gradients_of(target, phi, B, finite)
    phi_views = features_of_views(fit, x, views, seed)
    return lambda B, finite=True: targets.invariance_gradients(phi, phi_views, B)


def features_of_views(fit: Fit, x: Any, views: Views, seed: int) -> Tensor:
    """Features of 128 seeded views of every sample, (t, 128, r): the same wherever the sample stands in x."""
    views = views.views if isinstance(views, SubsetViews) else views
    source, half = as_source(x), VIEWS // 2
    phi = torch.empty(len(source), 2 * half, fit.nystrom.rank, dtype=torch.float64, device=fit.nystrom.U.device)
    for i in range(len(source)):
        copies = Subset(ArraySource(read(source, [i]), ids=[source.ids[i]]), np.zeros(half, dtype=np.int64))
        pair = make_views(copies, views, range(half), seed)
        named = names(copies, [0] * (2 * half), " (a view)")
        phi[i] = fit.nystrom.features(fit.rows(torch.cat(pair), named)[0])
    return phi
