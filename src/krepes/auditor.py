"""The public face: fit once, then ask why samples lie where they lie."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from krepes import influence, objectives, pipeline
from krepes.audit import attribution, targets
from krepes.audit.places import check_place, place_of
from krepes.audit.trust import Trust, TrustGate, assess
from krepes.data.source import ArraySource, Source, Subset, as_source
from krepes.data.stream import (
    VIEW_BLOCK,
    SubsetViews,
    Views,
    blocks,
    check_views,
    make_views,
    names,
    probe_of,
    read,
)
from krepes.encoders.frozen import FrozenEncoder
from krepes.engine import Engine
from krepes.engine import rank_tolerance as cut_at
from krepes.errors import ConfigError, DataError, LandmarkError, NotFittedError, is_whole
from krepes.explanation import SAMPLES, Explanation
from krepes.files import one_writer, remove_unfinished
from krepes.kernel.ntk import NTK, KernelError, gradient_map
from krepes.landmarks import KMeansPlusPlus, Sampler
from krepes.progress import Progress
from krepes.report.notebook import landmark_pictures
from krepes.solver import Newton, Outcome
from krepes.work import Work, key_of
from krepes.workers import current

if TYPE_CHECKING:
    from krepes.audit.concepts import Concept
    from krepes.audit.discovery import AutomaticConcept
    from krepes.audit.feature_gap import Tops
    from krepes.audit.findings import AuditPlan, Findings

BLOCK = 256  # samples per block of the scores that are returned as one table


class Auditor:
    """Explains a frozen self-supervised encoder through representer landmarks.

    Args:
        encoder: an `nn.Module` (B, ...) -> (B, d) in eval mode; copied, never changed.
        objective: the objective that trained it, or its name; see `krepes.objectives`.
        kernel: `NTK(...)`, or the name of a variant.
        landmarks: a number, "sqrt" for ⌈√n⌉, explicit positions in the source, or a sampler. A number means
            k-means++ in kernel space.
        newton: settings of the step.
        n_components: h, the dimension of the kernel representation; default d.
        seed: of landmarks, views, and everything random but the kernel's directions and projections (`NTK.seed`).
        device: a torch device; default CPU.
        dtype: torch.float32 or torch.float64, of the encoder's copy and the gradients.
        rank_tolerance: relative cut of K_mm's eigenvalues; default 1e-7 in float32, 1e-12 in float64, and
            more in lower precision (`krepes.engine.rank_tolerance`).
        progress: reports stages; default quiet.
        engine: memory budget, precision and feature store; see `krepes.Engine`.
        trust: thresholds of the trust gate; see `krepes.Trust`.
        landmark_rows: what stands in the kernel for a landmark: its sample ("samples"), or the first of the two views
            that the fit draws of it ("views"), by which attribution may predict retraining better, contributions
            predict it worse, and rankings hang more on the seed (docs/defaults.md).

    Example:
        >>> auditor = krepes.Auditor(encoder, objective="barlow_twins", landmarks=200)
        >>> auditor.fit(samples, views=lambda batch, generator: batch + noise(batch, generator))
        >>> auditor.explain(samples[:3], top_k=5)

    Raises:
        ConfigError: a setting is unknown or out of range.
        EncoderError: the encoder is in train mode.

    Source: "Interpretable Self-Supervised Learning via Representer Landmarks and Nyström Approximation",
    arXiv 2509.24467; docs/method.md.
    """

    def __init__(
        self,
        encoder: nn.Module,
        objective: "str | objectives.Objective" = "barlow_twins",
        kernel: str | NTK = "trace",
        landmarks: "int | str | Sequence[int] | Tensor | Sampler" = "sqrt",
        newton: Newton | None = None,
        n_components: int | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        rank_tolerance: float | None = None,
        progress: Progress | None = None,
        engine: Engine | None = None,
        trust: Trust | None = None,
        landmark_rows: str = "samples",
    ):
        if dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"dtype={dtype}; expected torch.float32 or torch.float64")
        if n_components is not None and not (is_whole(n_components) and n_components >= 1):
            raise ConfigError(f"n_components={n_components!r}; expected a positive whole number")
        if not is_whole(seed) or not 0 <= seed < 10**12:
            raise ConfigError(f"seed={seed!r}; expected a whole number, at least 0 and below 10**12")
        if rank_tolerance is not None and not 0 <= rank_tolerance < 1:
            raise ConfigError(f"rank_tolerance={rank_tolerance!r}; expected a number, at least 0 and below 1")
        kernel = NTK(kernel) if isinstance(kernel, str) else kernel
        self.settings = pipeline.Settings(
            objective=objectives.by_name(objective) if isinstance(objective, str) else objective,
            kernel=kernel,
            landmarks=as_landmarks(landmarks),
            newton=newton or Newton(),
            n_components=n_components,
            rank_tolerance=cut_at(dtype, (engine or Engine()).precision) if rank_tolerance is None else rank_tolerance,
            seed=seed,
            engine=engine or Engine(),
            landmark_rows=landmark_rows,
        )
        self.encoder = FrozenEncoder(encoder, kernel.params, device, dtype)
        self.progress = progress or Progress()
        self.thresholds = trust or Trust()
        self._fit: pipeline.Fit | None = None
        self._source: Source | None = None
        self._training: Source | None = None
        self._views: Views | None = None

    # ------------------------------------------------------------------ fit
    def fit(self, source: Any, views: Views, work: str | Path | None = None, work_key: str | None = None) -> "Auditor":
        """Choose landmarks, stream the views once, take the Newton step.

        Args:
            source: unlabelled samples: a tensor or array (n, ...), a torch Dataset, or a krepes source.
            views: a callable (batch, generator) -> batch, called twice per block of 256 samples with its own seeds,
                or two tensors aligned with the source.
            work: a folder for finished blocks. A later call with the same encoder, samples, views and settings goes
                on from them, with the result of an uninterrupted run.
            work_key: what stands for the views in that comparison; default their repr, unless it holds an
                address, as a plain function's does: then nothing is reused.

        Raises:
            DataError, NonFiniteError: the samples or views are unusable.
            EncoderError: the encoder is not a deterministic function of one sample.
            LandmarkError: too few samples, or the landmarks do not span h dimensions.
            ConfigError: the memory budget cannot hold one block.
            RunFolderError: the work folder cannot be written; what is finished stays.
        """
        source = as_source(source)
        views = check_views(views, source)
        if work is None:
            return self.fit_with(source, views, Work())
        workers = current()
        with one_writer(Path(work)) if workers.first else nullcontext():
            if workers.first:
                remove_unfinished(Path(work))
            workers.check_shared(Path(work))
            key = workers.same(self._work_key(source, views, work_key))
            return self.fit_with(source, views, Work(Path(work), key))

    def fit_with(self, source: Source, views: Views, work: Work) -> "Auditor":
        """`fit` with blocks kept in a `Work` whose key the caller has made."""
        views = check_views(views, source)
        self._fit = pipeline.fit(self.encoder, source, views, self.settings, self.progress, work)
        self._source, self._training, self._views = source, source, views
        self._landmark_ids = [source.ids[i] for i in self._fit.indices]
        self._trust = None
        return self

    def _work_key(self, source: Source, views: Views, name: str | None) -> str:
        from krepes.results import describe_settings, versions

        if name is None:
            name = str([as_source(v).fingerprint() for v in views]) if isinstance(views, tuple) else repr(views)
            if " at 0x" in name:  # an address, which the next function may have
                name = uuid4().hex
        parts = {
            "settings": describe_settings(self.settings),
            "encoder": self.encoder.fingerprint(),
            "data": source.fingerprint(),
            "device": self.encoder.device.type,
            "dtype": str(self.encoder.dtype),
            "versions": versions(),
            "views": name,
            "behaviour": self.behaviour(source, views),
        }
        return key_of(parts)

    def behaviour(self, source: Source, views: Views) -> dict[str, list[float]]:
        """What the encoder, its gradients and the views make of the first samples, in a few numbers.

        The forward pass and a view's settings are code, which no fingerprint of weights or names sees.
        """
        first = read(source, range(min(3, len(source))))
        gradients = gradient_map(self.settings.kernel, self.encoder, probe_of(source))
        pair = make_views(source, views, range(min(VIEW_BLOCK, len(source))), self.settings.seed)
        spread = sorted({round(i * (len(source) - 1) / 255) for i in range(256)})
        outputs = checks(self.encoder(read(source, spread)))
        seen = {"first outputs": self.encoder(first), "kernel": gradients(first).inner(gradients(first)),
                "view a": pair[0][: len(first)], "view b": pair[1][: len(first)]}  # fmt: skip
        # of many samples, as a branch of the code may concern few of them
        return {name: checks(values) for name, values in seen.items()} | {"outputs": outputs}

    @property
    def fit_(self) -> pipeline.Fit:
        """The stages' results."""
        if self._fit is None:
            raise NotFittedError("this auditor is not fitted; call fit(source, views=...) or krepes.load(folder)")
        return self._fit

    @property
    def source_(self) -> Source:
        """The samples that `fit` saw."""
        if self._source is None:
            raise NotFittedError("this auditor holds no samples; call fit(source, views=...)")
        return self._source

    @property
    def landmark_ids_(self) -> list[str]:
        """Ids of the landmarks (m,), in the order of the scores' columns."""
        return self._landmark_ids

    @property
    def training_ids_(self) -> Sequence[str]:
        """Ids of the samples that the objective saw (n,), in the order of `attribute`'s columns."""
        return self._trained_on(None, None)[0].ids

    @property
    def A0_(self) -> Tensor:
        """Ã₀, the principal-component start (M, h), float64."""
        return self.fit_.A0

    @property
    def dA_(self) -> Tensor:
        """ΔÃ, the objective's step (M, h), float64."""
        return self.fit_.dA

    @property
    def outcome_(self) -> Outcome:
        """How the step ended."""
        return self.fit_.step.outcome

    @property
    def kernel_plan_(self) -> pd.DataFrame:
        """How each parameter's gradient is computed and what it costs; see `krepes.kernel.GradientMap.table`."""
        return self.fit_.rows.gradients.table()

    @property
    def kernel_error_(self) -> KernelError | None:
        """Measured error of a projected or lower-precision kernel; None where it is exact."""
        return self.fit_.kernel_error

    def inspect(self, source: Any) -> tuple[pd.DataFrame, str]:
        """The kernel's plan and the memory's plan for these samples, before anything is fitted.

        Returns:
            the table of `kernel_plan_`, and the memory plan as a sentence.
        """
        source = as_source(source)
        gradients = gradient_map(self.settings.kernel, self.encoder, probe_of(source))
        return gradients.table(), pipeline.planned_memory(self.settings, gradients, len(source)).sentence()

    @property
    def trust_(self) -> TrustGate:
        """The trust gate: every figure, its threshold, its verdict."""
        if self._trust is None:
            training, views = self._trained_on(None, None)
            with self.progress.stage("trust"):
                self._trust = assess(
                    self.fit_, self.settings, self.encoder, self.source_, training, views, self.thresholds
                )
        return self._trust

    # --------------------------------------------------------------- scores
    def kernel(self, x: Any) -> Tensor:
        """Kernel rows of x against the landmarks, (t, M), float64."""
        return self._scores(x)[0]

    def transform(self, x: Any) -> Tensor:
        """f(x) = (Ã₀ + ΔÃ)ᵀ k_m(x), (t, h), float64; columns have arbitrary signs."""
        return self._scores(x)[1]

    def influence(self, x: Any) -> Tensor:
        """Sample influence ‖k(x̃_l, x_t) ΔÃ_l‖, (t, m), unsigned."""
        return influence.sample_influence(self._scores(x)[0], self.dA_)

    def contribution(self, x: Any) -> Tensor:
        """Signed contribution ⟨k(x̃_l, x_t) ΔÃ_l, f(x_t)/‖f(x_t)‖⟩, (t, m): attract > 0, repel < 0."""
        K, f = self._scores(x)
        return influence.signed_contribution(K, self.dA_, f)

    def explain(self, x: Any, top_k: int = 10, by: str = "influence", ids: Sequence[str] | None = None) -> Explanation:
        """The top landmarks of each sample.

        Args:
            x: samples (t, ...), anything that `fit` takes.
            top_k: landmarks per sample; all of them when there are fewer.
            by: rank by "influence", or by the absolute "contribution".
            ids: the samples' ids in the table; default: the source's, or 0 … t − 1.

        Returns:
            a table with columns sample, rank, landmark, influence, contribution, which a notebook shows as pictures
            and bars.
        """
        if by not in ("influence", "contribution"):
            raise ConfigError(f"by={by!r}; expected 'influence' or 'contribution'")
        if top_k < 1:
            raise ConfigError(f"top_k={top_k}; expected a positive number")
        source = as_source(x)
        names = [str(i) for i in (source.ids if ids is None else ids)]
        if len(names) != len(source):
            raise DataError(f"{len(names)} ids for {len(source)} samples; expected one each")
        K, f = self._scores(source)
        scores = influence.sample_influence(K, self.dA_)
        signed = influence.signed_contribution(K, self.dA_, f)
        table = influence.top_table(scores, signed, names, self.landmark_ids_, top_k, by)
        shown = table["landmark"].head(SAMPLES * top_k).unique().tolist()
        return Explanation.of(table, landmark_pictures(self, shown))

    def _repr_html_(self) -> str:
        from krepes.report.notebook import auditor

        return auditor(self)

    def attribute(
        self,
        x: Any,
        direction: Tensor | Sequence[float] | None = None,
        target: str | Callable[[Tensor], Tensor] | None = None,
        *,
        at: str = "encoder",
        damping: float | None = None,
        draws: int | None = None,
        source: Any = None,
        views: Views | None = None,
    ) -> Tensor:
        """Influence of every training sample on what the representation makes of x.

        The derivative of a number T by the weight of each training sample in the objective: positive, the sample
        raises T; counting it twice adds about its score, removing it subtracts as much. All queries share one block of
        solves and one pass over the training samples' views.

        It is taken where training has ended: f is the encoder's own output, up to a constant where the kernel is
        centred, as the kernel's features give it by least squares, and a weight moves it by the implicit function
        theorem (an influence function with the Gauss–Newton curvature of the objective in place of its Hessian).
        `at="step"` takes the audit's step instead, for which the scores are exact with landmarks and λ held fixed, and
        which `counterfactual` solves again. Which of them predicts real retraining is measured in docs/defaults.md.

        One draw of a sample's views decides most of its derivative, and says little of the sample: scores are the mean
        over several draws, the curvature held. `draws=1` is the derivative at the very views that the fit saw.

        Args:
            x: samples (t, ...), anything that `fit` takes.
            direction: of f, (d,) or (t, d), at the step (h,) or (t, h): T = ⟨f(x_t), direction⟩.
            target: "invariance" (the default): the mean cosine between f(x_t) and f of 128 of its views, which are a
                sample's own wherever it stands in x; or a differentiable function of f (t, d), at the step (t, h),
                float64, that returns one number or (Q,). Fixed views need a function, or a direction.
            at: "encoder" or "step".
            damping: at the encoder, λ relative to the mean curvature; default 0.1. The step has its own.
            draws: of views that each training sample is weighed with; default 8, and 1 for two fixed tensors of views.
            source, views: the training samples and views, for an auditor that was loaded from a folder.

        Returns:
            scores (t, n), or (Q, n), in the encoder's type.

        Raises:
            ConfigError: both direction and target are given, one of them is of another shape, not finite, not real or
                not computed from f, or asks for views that cannot be drawn; at, damping or draws is none; the scores
                leave the type; or at the step the auditor took none, or several.
            DataError: x is one sample or of another shape; source or views are not those of the fit.
            NonFiniteError: a sample, view, gradient or output is not finite, the encoder is collapsed, so that there is
                no curvature, or a solve broke down.
            NotFittedError: there is no fit, or no training samples and views.

        Warns:
            KrepesWarning: a solve, or the step, did not converge; or the kernel's features give less than 70 % of the
                variance of the encoder's outputs.

        Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", 2017, arXiv 1703.04730;
        docs/method.md.
        """
        return self._attributed(x, direction, target, source, views, draws=draws, at=at, damping=damping)[0]

    def _attributed(
        self,
        x: Any,
        direction: Any,
        target: "str | Callable[[Tensor], Tensor] | None",
        source: Any = None,
        views: Views | None = None,
        among: Any = None,
        draws: int | None = None,
        at: str = "encoder",
        damping: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`attribute`, of the training samples at the positions `among` (k,) if given: (t, k), and standard errors."""
        if direction is not None and target is not None:
            raise ConfigError("direction and target are two ways to ask; give one of them")
        fitted, settings = self.fit_, self.settings
        source, views = self._trained_on(source, views)
        redrawable = callable(views.views if isinstance(views, SubsetViews) else views)
        shape = tuple(fitted.samples.shape[1:])
        if shape and tuple(getattr(x, "shape", ())) == shape:
            raise DataError(f"x has shape {shape}, that of one sample; expected samples (t, ...): give x[None]")
        explained = as_source(x)
        check_place(settings, fitted, at, damping)
        draws = attribution.check_draws(draws, redrawable)
        if direction is None:
            targets.check_target(target, redrawable)
        else:
            h = fitted.nystrom.h if at == "step" else self.encoder.n_outputs or 0
            direction = targets.as_direction(direction, len(explained), h)
        place = place_of(fitted, settings, source, at, damping)
        phi, B = fitted.nystrom.features(self._scores(explained)[0]), place.end
        if direction is not None:
            gradients = phi[:, :, None] * direction.to(phi)[:, None]
        elif callable(target):
            gradients = targets.gradients_of(target, phi, B)
        else:
            gradients = targets.invariance_gradients(phi, self._features_of_views(explained, views), B)
        return attribution.attribute(fitted, settings, place, source, views, gradients, self.progress, among, draws)

    def concept(self, positive: Any, negative: Any = None, name: str = "concept", draws: int = 50) -> "Concept":
        """A direction with a meaning: the unit normal of a linear separator of two sets of samples.

        Args:
            positive: samples with the concept: a tensor, array, Dataset or source; or a query on the audited samples'
                table such as `sex == "Female"`, a list of their ids, or a mask.
            negative: samples without it; default the others of the audited samples.
            name: for tables.
            draws: random concepts of the null, at least 19: the same samples with their sides drawn at random.

        Returns:
            a `Concept`: direction (h,), accuracy, null, stability, whether it is usable, `.influence(x)` (t, m).

        Raises:
            ConfigError: a side is empty or has no counterpart, the sides overlap, or draws is below 19.
            DataError: fewer than ten samples on a side.

        Source: Kim et al., "Interpretability beyond feature attribution: TCAV", 2018; the paper, §3.
        """
        from krepes.audit.concept_sides import sets
        from krepes.audit.concepts import concept

        f = sets(self, positive, negative, name, self.settings.seed)
        return concept(self, *f, name, self.settings.seed, draws)

    def concepts_from(
        self, folder: str | Path, transform: Callable[[Any], Tensor] | None = None, negative: str | None = None
    ) -> "list[Concept]":
        """One concept per subfolder of samples; see `concept`.

        Args:
            folder: holds a subfolder per concept with `.npy` files or images.
            transform: PIL image ↦ tensor: the encoder's own preprocessing; needed for images.
            negative: the subfolder that is every concept's negative side; default a seeded draw of the audited samples
                that are in none of the folders.

        Raises:
            ConfigError: no such folder, no subfolder, images without a transform.
            DataError: a file cannot be read or holds other shapes, or a concept has fewer than ten samples.
        """
        from krepes.audit.concept_sides import concept_folders

        return concept_folders(self, Path(folder), transform, negative, self.settings.seed)

    def automatic_concepts(self, space: str = "representation", k: int | None = None) -> "list[AutomaticConcept]":
        """Directions found without labels, by sparse non-negative factorisation of f/‖f‖ or of the step ΔÃ.

        Args:
            space: "representation", of 1,000 seeded samples; or "step", of the landmarks' coefficients ΔÃ.
            k: number of directions; default the one of 2, 4, 8, 12, 16, 24, 32 whose k-means starts are most
                stable, beyond those in Gaussian data of the same covariance.

        Returns:
            the directions, usable ones first: stability over resamples, p against the surrogate, share, members; and
            everything that a `Concept` does: `.influence(x)`, `.score(x)`, `.landmarks()`.

        Raises:
            ConfigError: an unknown space, or a k that the rows do not allow.
            DataError: fewer than 20 rows, or all of them the same.

        Source: Mairal et al., "Online dictionary learning for sparse coding", 2009, by scikit-learn.
        """
        from krepes.audit.discovery import automatic_concepts

        return automatic_concepts(self, space, k)

    def feature_gap(
        self,
        table: pd.DataFrame | None = None,
        columns: Sequence[str] | None = None,
        *,
        samples: Any = None,
        top_k: int = 10,
        refits: int = 10,
    ) -> pd.DataFrame:
        """The alignment gap of raw columns: what samples share with the landmarks that move them, more than with any.

        AG_ξ is the mean over test points of the influence-weighted agreement with their top landmarks minus the mean
        agreement with all landmarks. Numbers agree by 1 − min(|Δ|/Δ_ξ, 1), Δ_ξ the distance of the column's 1 % and
        99 % quantiles; categories, booleans and missing cells by equality; ordered categoricals count as numbers.

        Args:
            table: one row per audited sample, in raw units; default the samples' own table.
            columns: which; default all that can be compared.
            samples: the test points, as a query, ids or a mask; default 1,000 drawn with the seed. Landmarks among
                them are left out.
            top_k: landmarks per test point.
            refits: on random halves of the training samples with landmarks of their own; their variance is part of
                the intervals. 0: intervals of the fit at hand, over test points alone, which are too narrow for
                anything that is said of other data or another seed.

        Returns:
            one row per column, largest gap first: column, kind, gap, low, high (95 %, over test points, training
            samples and landmarks), agreement, random, p (landmarks' values permuted), q (Benjamini–Hochberg), n,
            missing, refits (that succeeded), explained_by (a column within whose groups most of the gap is gone) and
            gap_given (what is left there). Gap, interval, p and q are NaN where all landmarks share one value.

        Raises:
            DataError: no table, another number of rows, a listed column that is constant or names rows, or fewer than
                20 test points.

        Source: the paper, §3; the statistics are described in docs/method.md.
        """
        from krepes.audit.columns import features
        from krepes.audit.feature_gap import gap_table

        found = features(self._raw_table(table), columns)
        return gap_table(found, *self._tops(samples, top_k, refits), self.settings.seed)

    def group_gap(
        self,
        column: str,
        table: pd.DataFrame | None = None,
        *,
        samples: Any = None,
        top_k: int = 10,
        refits: int = 10,
    ) -> pd.DataFrame:
        """`feature_gap` of one categorical column within each of its groups of test points.

        Returns:
            one row per group: column, group, gap, low, high, share (of the group's influence that comes from landmarks
            of the same group), random (share of landmarks), p, q (over the groups), n, landmarks, refits, small (fewer
            than 100 test points or 5 landmarks). Groups of fewer than 20 points have no interval and no p; those of no
            landmark have no gap.
        """
        from krepes.audit.columns import features
        from krepes.audit.feature_gap import group_table

        (feature,) = features(self._raw_table(table), [column])
        return group_table(feature, *self._tops(samples, top_k, refits), self.settings.seed)

    def feature_influence(self, x: Any, rows: pd.DataFrame, column: str, table: pd.DataFrame | None = None) -> Tensor:
        """Sample influence × agreement in one raw column, (t, m).

        Args:
            x: samples (t, ...).
            rows: their raw rows (t rows).
            column: of both tables.
            table: one raw row per audited sample; default the samples' own table. The distance at which numbers stop
                to agree, the categories and their order are its own, whatever the rows hold.

        Raises:
            ConfigError: no such column.
            DataError: the rows are not one for each sample, or hold values of another kind than the table's.
        """
        from krepes.audit.columns import features
        from krepes.audit.features_of_rows import column_of, values_of_rows

        raw, given = column_of(self._raw_table(table), column, "the table"), column_of(rows, column, "rows")
        scores = self.influence(x)
        if len(given) != len(scores):
            raise DataError(f"rows has {len(given)} rows for {len(scores)} samples; expected one each")
        (feature,) = features(pd.DataFrame({column: raw}), [column])
        mine, theirs = values_of_rows(feature, raw, given), feature.values[np.asarray(self.fit_.indices)]
        return scores * torch.as_tensor(feature.agreement_of(mine[:, None], theirs[None])).to(scores)

    def _raw_table(self, table: pd.DataFrame | None) -> pd.DataFrame:
        found = self.source_.metadata() if table is None else table
        if found is None:
            raise DataError("the audited samples have no table; give one: a raw row for each of them")
        if len(found) != len(self.source_):
            raise DataError(
                f"the table has {len(found)} rows for {len(self.source_)} audited samples; expected one each"
            )
        return found

    def _tops(self, samples: Any, top_k: int, refits: int = 0) -> "tuple[Tops, list[Tops]]":
        """Test points among the audited samples and their top landmarks, in this fit and in refits."""
        from krepes.audit.feature_gap import SAMPLES, Tops
        from krepes.audit.refits import refits as refitted
        from krepes.audit.selection import positions

        if not is_whole(refits) or refits < 0:
            raise ConfigError(f"refits={refits!r}; expected a whole number, at least 0")
        source, seed = self.source_, self.settings.seed
        if samples is None:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:SAMPLES])
        else:
            chosen = positions(source, samples, "samples")
        influence = self.influence(Subset(source, chosen)).cpu().numpy()
        tops = Tops.of(chosen, np.asarray(self.fit_.indices), influence, top_k)
        again = (Tops.of_refit(chosen, one, top_k) for one in refitted(self, chosen, refits))
        return tops, [one for one in again if one is not None]

    @property
    def spectral_entropy_(self) -> float:
        """Entropy of the spectrum of ÃᵀÃ over log h, in [0, 1]: a label-free figure for choosing λ, m or a checkpoint.

        Source: the paper, §3.
        """
        from krepes.audit.spectrum import spectral_entropy

        return spectral_entropy(self.A0_ + self.dA_)

    def entropy_path(self, dampings: Sequence[float] = (10.0, 1.0, 0.1, 0.01, 0.001)) -> pd.DataFrame:
        """`spectral_entropy_` as a function of the relative damping λ, from one multi-shift solve.

        Returns:
            one row per λ, largest first: damping, entropy, loss, gain_ratio, residual.
        """
        from krepes.audit.spectrum import entropy_path

        return entropy_path(self, dampings)

    def entropy_over(
        self, landmarks: Sequence[int] = (), encoders: Mapping[str, nn.Module] | None = None
    ) -> pd.DataFrame:
        """`spectral_entropy_` of refits with other numbers of landmarks, or of other encoders, such as checkpoints.

        Args:
            landmarks: numbers of landmarks, chosen by the same sampler.
            encoders: name ↦ network of the same input, in eval mode; fitted with this auditor's settings.

        Returns:
            one row per refit: landmarks or encoder, entropy, loss, gain_ratio, damping (relative).

        Raises:
            ConfigError: neither or both are given, or landmarks for an auditor whose landmarks were chosen by hand.
        """
        from krepes.audit.spectrum import entropy_over

        return entropy_over(self, landmarks, encoders or {})

    def evaluate(self, x: Any, labels: Any, landmark_labels: Any) -> pd.DataFrame:
        """Figures that need labels: class coverage κ, precision@1, confidence drop, probe accuracies and Kendall's τ.

        Accuracy gap and τ compare probes on f with probes on the network's outputs; *network in the kernel* compares,
        instead of f, these outputs as the landmarks' kernel gives them by least squares over the training samples.

        Labels are used here and nowhere else. Test samples that are landmarks are left out.

        Args:
            x: test samples (t, ...).
            labels: their classes (t,).
            landmark_labels: classes of the landmarks (m,), in the order of `landmark_ids_`, None where unknown; 1 and
                1.0 are one class.

        Returns:
            one row per figure: figure, value, low, high (95 % bootstrap over test samples), n, note.

        Raises:
            DataError: labels that do not fit, are missing or of mixed kinds, one class alone, or fewer than 20 test
                samples.

        Source: the paper, §3 and §4; the protocols are described in docs/method.md.
        """
        from krepes.audit.evaluation import evaluate

        return evaluate(self, x, labels, landmark_labels, self.settings.seed)

    def counterfactual(
        self, remove: Any, *, keep_landmarks: bool = False, source: Any = None, views: Views | None = None
    ) -> "Auditor":
        """This audit without some training samples: the step is solved again, nothing is linearised.

        The other samples keep the views that they had. A removed sample that is a landmark leaves the basis, too,
        and everything is streamed again; with the landmarks kept, a moment objective needs a pass over the removed
        samples alone.

        Args:
            remove: ids, a boolean mask (n,), or a query on the samples' table such as `sex == "Female"`.
            keep_landmarks: removed landmarks stay in the basis, so that f before and after share their coordinates.
            source, views: the training samples and views, for an auditor that was loaded from a folder.

        Returns:
            a fitted auditor; `krepes.movement(self, it, x)` says what moved.

        Raises:
            ConfigError: ids do not exist, the query is none, or too little remains.
        """
        from krepes.audit.counterfactual import without
        from krepes.audit.selection import positions

        fitted = self.fit_
        source, views = self._trained_on(source, views)
        removed = positions(source, remove, "remove")
        refit = without(
            fitted, self.settings, self.encoder, source, views, removed, self.landmark_ids_, self._source or source,
            keep_landmarks, self.progress,
        )  # fmt: skip
        other = copy(self)
        other._fit, other._source, other._training, other._views = refit.fit, refit.shown, refit.training, refit.views
        other._landmark_ids = [refit.shown.ids[i] for i in refit.fit.indices]
        other._trust = None
        return other

    def _trained_on(self, source: Any, views: Views | None) -> tuple[Source, Views]:
        """The training samples and their views: given ones, or those of `fit`."""
        found = self._training if source is None else as_source(source)
        if found is None:
            raise NotFittedError("this auditor holds no samples; fit it, or give source=… and views=…")
        if found is not self._training:
            wanted = self._data_print if self._training is None else self._training.fingerprint()
            if wanted is not None and found.fingerprint() != wanted:
                raise DataError(
                    f"these {len(found)} samples are not those that the auditor was fitted on: their fingerprint "
                    "differs. Give the same samples with the same ids."
                )
        if views is None and (self._views is None or (source is not None and not callable(self._views))):
            raise NotFittedError("this auditor holds no views of these samples; give source=… and views=…")
        if views is not None and views is not self._views:
            views, known = check_views(views, found), self._behaviour

            def seen(views: Views) -> dict[str, list[float]]:
                pair = make_views(found, views, range(min(VIEW_BLOCK, len(found))), self.settings.seed)
                return {f"view {which}": checks(view[:3]) for which, view in zip("ab", pair, strict=True)}

            if self._views is not None:
                known = seen(self._views)
            for name, numbers in ({} if known is None else seen(views)).items():
                if known is not None and not np.allclose(numbers, known[name], rtol=1e-3, atol=1e-5):
                    raise DataError(
                        "these views are not those that the auditor was fitted with: they make something else of the "
                        "first samples. Give the same views, with the same settings."
                    )
        views = self._views if views is None else check_views(views, found)
        assert views is not None
        return found, views

    def _features_of_views(self, x: Any, views: Views) -> Tensor:
        """Features of 128 seeded views of every sample, (t, 128, r): the same wherever the sample stands in x."""
        views = views.views if isinstance(views, SubsetViews) else views
        source, fitted = as_source(x), self.fit_
        half, r = attribution.VIEWS // 2, fitted.nystrom.rank
        phi = torch.empty(len(source), 2 * half, r, dtype=torch.float64, device=fitted.nystrom.U.device)
        for i in range(len(source)):
            copies = Subset(ArraySource(read(source, [i]), ids=[source.ids[i]]), np.zeros(half, dtype=np.int64))
            pair = make_views(copies, views, range(half), self.settings.seed + 1)
            named = names(copies, [0] * (2 * half), " (a view)")
            phi[i] = fitted.nystrom.features(fitted.rows(torch.cat(pair), named)[0])
        return phi

    def represent(self, batch: Tensor) -> Tensor:
        """f (B, h) of one batch of samples (B, ...), float64, without checks."""
        return self.fit_.rows(batch)[0].double() @ (self.fit_.A0 + self.fit_.dA)

    def _scores(self, x: Any) -> tuple[Tensor, Tensor]:
        """Kernel rows (t, M) and representations (t, h)."""
        fitted, source = self.fit_, as_source(x)
        expected = fitted.samples.shape[1:]
        found = source.batch([0]).shape[1:]
        if found != expected:
            raise DataError(f"samples have shape {tuple(found)}; the auditor was fitted on {tuple(expected)}")
        if source.batch([0]).is_floating_point() != fitted.samples.is_floating_point():
            raise DataError(f"samples are {source.batch([0]).dtype}; the auditor was fitted on {fitted.samples.dtype}")
        parts = [fitted.rows(read(source, b), names(source, b))[0].double() for b in blocks(range(len(source)), BLOCK)]
        K = torch.cat(parts)
        return K, K @ (fitted.A0 + fitted.dA)

    # ------------------------------------------------------------- keeping
    def save(self, folder: str | Path) -> Path:
        """Write the fitted auditor (without the encoder's code) as a folder that `krepes.load` reads."""
        from krepes.results import save_auditor

        if current().first:
            save_auditor(self, Path(folder))
        current().wait()
        return Path(folder)

    def findings(
        self, plan: "AuditPlan | None" = None, explain: Sequence[int | str] | None = None, labels: Any = None
    ) -> "Findings":
        """Concepts, alignment gaps, attributed training samples and figures against labels: all that a plan asks.

        Args:
            plan: default `krepes.AuditPlan()`.
            explain: positions or ids of the samples that training samples are attributed to; default six, seeded.
            labels: one class per audited sample, None where it is missing; they reach the evaluation alone.

        Returns:
            tables, each None where it could not be had, and notes that say why.

        Raises:
            ConfigError, DataError: the plan asks for concepts or columns that the samples do not have.
        """
        from krepes.audit.findings import AuditPlan, find
        from krepes.audit.selection import explained_positions

        plan = plan or AuditPlan()
        plan.check(self.source_)
        chosen = explained_positions(self.source_, 6 if explain is None else explain, self.settings.seed)
        return find(self, plan, chosen, None if labels is None else np.asarray(labels, dtype=object))

    def report(
        self,
        path: str | Path,
        title: str = "Audit of a self-supervised encoder",
        findings: "Findings | None" = None,
        *,
        thumbnails: bool = True,
        redact: Sequence[str] = (),
    ) -> Path:
        """Write the report, one offline HTML file.

        Args:
            findings: what `findings()` gave; default its defaults, which take some seconds.
            thumbnails: whether pictures of samples stand in it.
            redact: columns of the samples' table whose values do not.
        """
        from krepes.run import report_of

        found = self.findings() if findings is None else findings
        return report_of(self, Path(path), title, found, thumbnails, redact)

    _trust: TrustGate | None = None
    _landmark_ids: list[str]
    _data_print: str | None = None  # of the training samples, for a loaded auditor
    _behaviour: dict[str, list[float]] | None = None  # of its views on the first samples


def checks(values: Tensor) -> list[float]:
    """Three numbers per sample that change with any of its values: mean, root mean square, a seeded projection."""
    flat = values.detach().flatten(1).double().cpu()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(flat.shape[1], generator=generator, dtype=torch.float64) / math.sqrt(flat.shape[1])
    return torch.stack([flat.mean(1), flat.square().mean(1).sqrt(), flat @ weights], 1).flatten().tolist()


def as_landmarks(wanted: Any) -> Sampler | list[int]:
    """A sampler, or explicit positions."""
    if isinstance(wanted, bool) or wanted is None:
        raise ConfigError(f"landmarks={wanted}; expected a number, 'sqrt', positions, or a sampler")
    if isinstance(wanted, str):
        if wanted != "sqrt":
            raise ConfigError(f"landmarks={wanted!r}; expected a number, 'sqrt', positions, or a sampler")
        return KMeansPlusPlus()
    if isinstance(wanted, Integral):
        return KMeansPlusPlus(m=int(wanted))
    if isinstance(wanted, Sampler):
        return wanted
    try:
        positions = [float(i) for i in wanted]
    except TypeError as error:
        raise ConfigError(f"landmarks={wanted!r}; expected a whole number, 'sqrt', positions, or a sampler") from error
    if not positions:
        raise LandmarkError("landmarks is empty; expected at least one position")
    if any(not math.isfinite(p) or p != int(p) for p in positions):
        raise ConfigError("landmarks holds values that are no whole numbers; expected positions in the source")
    return [int(p) for p in positions]
