"""What a fit has seen: samples and their views, and how these are known again when they are given anew."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.audit.selection import positions_of
from krepes.data.source import Source, as_source
from krepes.data.stream import VIEW_BLOCK, Views, check_views, make_views, probe_of, read
from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import DataError, NotFittedError
from krepes.kernel.ntk import gradient_map
from krepes.pipeline import Settings

SPREAD = 256  # samples whose outputs are looked at, from all over the source


@dataclass(frozen=True, eq=False)
class Seen:
    """Samples and views of a fit, None where they are not at hand, as after `krepes.load`.

    Attributes:
        audited: the samples that positions of landmarks point to.
        training: those that the objective saw; others than `audited` only after a counterfactual that kept landmarks.
        views: of the training samples.
        seed: of the views' draws.
        fingerprint: of the training samples, as a run folder tells it.
        behaviour: `behaviour` of them, as a run folder tells it.
    """

    audited: Source | None
    training: Source | None
    views: Views | None
    seed: int
    fingerprint: str | None = None
    behaviour: dict[str, list[float]] | None = None

    def given(self, source: Any = None, views: Views | None = None) -> tuple[Source, Views]:
        """The training samples and their views: given ones, if they are those of the fit, or the fit's own.

        Raises:
            NotFittedError: they are neither given nor at hand.
            ConfigError: what is given are no views.
            DataError: other ones are given.
        """
        samples = self.samples(source)
        if views is None and (self.views is None or (source is not None and not callable(self.views))):
            raise NotFittedError(
                "this auditor holds no views of these samples; call with_samples(source, views) with those of its fit, "
                "or give source=… and views=… where they are asked for"
            )
        if views is None or views is self.views:
            assert self.views is not None
            return samples, self.views
        views = check_views(views, samples)
        self._refuse_other_views(samples, views)
        return samples, views

    def samples(self, source: Any = None) -> Source:
        """The training samples: given ones, if they are those of the fit, or the fit's own; raises as `given`."""
        found = self.training if source is None else as_source(source)
        if found is None:
            raise NotFittedError(
                "this auditor holds no samples; call with_samples(source, views) with those of its fit, or give "
                "source=… and views=… where they are asked for"
            )
        if found is not self.training:
            wanted = self.fingerprint if self.training is None else self.training.fingerprint()
            if wanted is not None and found.fingerprint() != wanted:
                raise DataError(
                    f"these {len(found)} samples are not those that the auditor was fitted on: their fingerprint "
                    "differs. Give the same samples with the same ids."
                )
        return found

    def _refuse_other_views(self, samples: Source, views: Views) -> None:
        known = self.behaviour if self.views is None else views_of_first(samples, self.views, self.seed)
        if known is None:
            return
        for name, numbers in views_of_first(samples, views, self.seed).items():
            if not np.allclose(numbers, known[name], rtol=1e-3, atol=1e-5):
                raise DataError(
                    "these views are not those that the auditor was fitted with: they make something else of the "
                    "first samples. Give the same views, with the same settings."
                )


def landmarks_among(samples: Source, ids: Sequence[str], landmarks: Tensor) -> list[int]:
    """Positions of a fit's landmarks (m, ...) among samples that are given again.

    Raises:
        DataError: a landmark is none of them, or another sample than in the fit.
    """
    known = positions_of(samples.ids, set(ids))
    if missing := [name for name in ids if name not in known]:
        raise DataError(
            f"landmark {missing[0]} is none of the {len(samples)} samples. Give all training samples of the fit; if a "
            "counterfactual kept landmarks that it removed, ask the audit that it was made of."
        )
    found = [known[name] for name in ids]
    for name, now, then in zip(ids, read(samples, found), landmarks, strict=True):
        if now.shape != then.shape or not torch.equal(now.to(then), then):
            raise DataError(f"landmark {name} is another sample than in the fit. Give the samples of the fit.")
    return found


def behaviour(settings: Settings, encoder: FrozenEncoder, source: Source, views: Views) -> dict[str, list[float]]:
    """What the encoder, its gradients and the views make of the first samples, in a few numbers.

    The forward pass and a view's settings are code, which no fingerprint of weights or names sees.
    """
    first = read(source, range(min(3, len(source))))
    gradients = gradient_map(settings.kernel, encoder, probe_of(source))
    spread = sorted({round(i * (len(source) - 1) / (SPREAD - 1)) for i in range(SPREAD)})
    seen = {
        "first outputs": checks(encoder(first)),
        "kernel": checks(gradients(first).inner(gradients(first))),
        "outputs": checks(encoder(read(source, spread))),  # of many, as a branch of the code may concern few
    }
    return seen | views_of_first(source, views, settings.seed)


def views_of_first(source: Source, views: Views, seed: int) -> dict[str, list[float]]:
    """What the views make of the first samples, in a few numbers."""
    pair = make_views(source, views, range(min(VIEW_BLOCK, len(source))), seed)
    return {f"view {which}": checks(view[:3]) for which, view in zip("ab", pair, strict=True)}


def checks(values: Tensor) -> list[float]:
    """Three numbers per sample that change with any of its values: mean, root mean square, a seeded projection."""
    flat = values.detach().flatten(1).double().cpu()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64) / math.sqrt(flat.shape[1])
    return torch.stack([flat.mean(1), flat.square().mean(1).sqrt(), flat @ weights], 1).flatten().tolist()
