"""The audit as it would be without some training samples: a new fit, not a linearisation.

With the landmarks kept, the features φ of all other samples stay what they are: for a moment objective the sums over
the removed samples are subtracted, and the step is solved again. A landmark that is removed leaves the basis and the
kernel's centre, which changes every feature: then the rest is streamed again. λ of damping="auto" is the one that the
audit found: what moves then is owed to the samples alone. Several steps choose theirs anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from krepes.audit.selection import positions_of
from krepes.audit.stability import held
from krepes.data.source import Source, Subset
from krepes.data.stream import SubsetViews, Views, subset
from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError
from krepes.pipeline import (
    Fit,
    Settings,
    Stream,
    agreed_step,
    moment_problem,
    planned_memory,
    streamed_problem,
    sum_moments,
)
from krepes.pipeline import fit as fit_again
from krepes.progress import Progress
from krepes.solver import solve
from krepes.work import Work

FEWEST = 2  # samples that must remain: a covariance needs two


@dataclass(frozen=True)
class Refit:
    """A fit without some samples.

    Attributes:
        fit: the stages' results.
        training, views: the samples that remain and their views.
        shown: where the landmarks' positions point: `training`, or the whole if landmarks were removed and kept.
    """

    fit: Fit
    training: Subset
    views: SubsetViews
    shown: Source


def without(
    fit: Fit,
    settings: Settings,
    encoder: FrozenEncoder,
    source: Source,
    views: Views,
    removed: np.ndarray,
    landmark_ids: Sequence[str],
    shown: Source,
    keep_landmarks: bool,
    progress: Progress,
) -> Refit:
    """The fit on the samples that remain.

    Args:
        source, views: the training samples.
        removed: ascending positions (k,) among them.
        landmark_ids: of the fit; some may not be training samples any more.
        shown: where the fit's indices point.
        keep_landmarks: landmarks among the removed samples stay in the basis, where no objective sees them.

    Raises:
        ConfigError: too few samples or landmarks remain.
    """
    n = len(source)
    if settings.newton.damping == "auto":  # a λ that was given stays as it was given, an absolute one, too
        settings = held(fit, settings)
    remaining = np.setdiff1d(np.arange(n), removed, assume_unique=True)
    if len(remaining) < FEWEST:
        raise ConfigError(f"removing {len(removed)} of {n} samples leaves {len(remaining)}; nothing can be refitted")
    rest, rest_views = subset(source, views, remaining)
    known = positions_of(rest.ids, set(landmark_ids))
    landmarks = np.array([known.get(name, -1) for name in landmark_ids])
    lost = int((landmarks < 0).sum())
    if lost and not keep_landmarks:
        left = landmarks[landmarks >= 0].tolist()
        h = fit.nystrom.B0.shape[1]
        if len(left) <= h:
            raise ConfigError(
                f"removing these samples takes {lost} of {len(landmarks)} landmarks away and leaves {len(left)}, too "
                f"few for {h} dimensions. Use keep_landmarks=True, or an audit with more landmarks."
            )
        fresh = fit_again(encoder, rest, rest_views, replace(settings, landmarks=left), progress)
        return Refit(fresh, rest, rest_views, rest)
    memory = fit.memory or planned_memory(settings, fit.rows.gradients, n)
    stream = Stream(rest, rest_views, fit.rows, fit.nystrom, settings, memory, Work())
    if settings.objective.streaming:
        moments = None
        with progress.stage("views", total=len(rest)) as note:
            problem = streamed_problem(settings, stream, note)
    else:
        assert fit.moments is not None
        gone, gone_views = subset(source, views, removed)
        leaving = replace(stream, source=gone, views=gone_views)
        with progress.stage("removed samples", total=len(gone)) as note:
            moments = fit.moments - sum_moments(leaving, note)
        problem = moment_problem(settings.objective, moments)
    with progress.stage("newton") as note:
        generator = torch.Generator().manual_seed(settings.seed)
        step = solve(settings.newton, problem, fit.nystrom.B0, fit.nystrom.eigenvalues, generator, note)
        step = agreed_step(step, fit.nystrom)
    indices, shown = (fit.indices, shown) if lost else (landmarks.tolist(), rest)
    changed = replace(fit, indices=indices, moments=moments, step=step, dA=fit.nystrom.dual(step.dB), memory=memory)
    return Refit(changed, rest, rest_views, shown)
