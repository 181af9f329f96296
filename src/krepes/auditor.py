"""The public face: fit once, then ask why samples lie where they lie."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from krepes import influence, objectives, pipeline
from krepes.audit.trust import Trust, TrustGate, assess
from krepes.data.source import Source, as_source
from krepes.data.stream import Views, check_views, probe_of
from krepes.encoders.frozen import FrozenEncoder
from krepes.engine import Engine
from krepes.engine import rank_tolerance as cut_at
from krepes.errors import ConfigError, DataError, NotFittedError, is_whole
from krepes.explanation import SAMPLES, Explanation
from krepes.files import one_writer, remove_unfinished
from krepes.influence import scored
from krepes.kernel.ntk import NTK, KernelError, gradient_map
from krepes.landmarks import Sampler
from krepes.landmarks.samplers import as_landmarks
from krepes.progress import Progress
from krepes.report.notebook import landmark_pictures
from krepes.seen import Seen, behaviour, landmarks_among
from krepes.solver import Newton, Outcome
from krepes.work import Work, key_of
from krepes.workers import current

if TYPE_CHECKING:
    from krepes.audit.concepts import Concept
    from krepes.audit.discovery import AutomaticConcept
    from krepes.audit.findings import AuditPlan, Findings


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
        has_loss = not isinstance(objective, type) and callable(getattr(objective, "loss", None))
        if not (isinstance(objective, str) or has_loss):
            raise ConfigError(f"objective={objective!r}; expected an objective such as krepes.VICReg(), or its name")
        if not isinstance(kernel, str | NTK):
            raise ConfigError(f"kernel={kernel!r}; expected krepes.NTK(…), or the name of a variant")
        for name, value, wanted in (("newton", newton, Newton), ("engine", engine, Engine), ("trust", trust, Trust)):
            if value is not None and not isinstance(value, wanted):
                raise ConfigError(f"{name}={value!r}; expected krepes.{wanted.__name__}(…)")
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
        self._seen: Seen | None = None

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
        self._seen = Seen(source, source, views, self.settings.seed)
        self._landmark_ids = [source.ids[i] for i in self._fit.indices]
        self._trust = None
        return self

    def with_fit(
        self, fit: pipeline.Fit, seen: Seen, landmark_ids: Sequence[str], trust: TrustGate | None = None
    ) -> "Auditor":
        """This auditor with a fit that was made elsewhere, for refits and `krepes.load`; this one stays as it is.

        Args:
            fit: the stages' results.
            seen: the samples and views that they are of.
            landmark_ids: in the order of the scores' columns (m,).
            trust: the gate, where it is known; default computed when it is asked for.
        """
        other = copy(self)
        other._fit, other._seen, other._landmark_ids, other._trust = fit, seen, list(landmark_ids), trust
        return other

    def with_samples(self, source: Any, views: Views | None = None) -> "Auditor":
        """This auditor, which `krepes.load` read, with the samples and views of its fit: all can be asked of it again.

        Args:
            source: the training samples: those of the fit, with the same ids.
            views: theirs; without them nothing can be asked that draws views.

        Returns:
            an auditor; this one stays as it is. Its landmarks count as given by position, so that no other number of
            them can be asked for.

        Raises:
            NotFittedError: there is no fit.
            ConfigError: views are neither a callable nor two tensors.
            DataError: these are not the samples or the views of the fit, or a landmark is none of the samples, as after
                a counterfactual that kept removed ones.
        """
        fit, seen = self.fit_, self.seen_
        samples = seen.samples(source)
        now = replace(seen, audited=seen.audited or samples, training=samples)
        if views is not None:
            now = replace(now, views=now.given(views=views)[1])
        at = fit.indices if seen.audited is not None else landmarks_among(samples, self._landmark_ids, fit.samples)
        return self.with_fit(replace(fit, indices=at), now, self._landmark_ids, self._trust)

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
            "behaviour": behaviour(self.settings, self.encoder, source, views),
        }
        return key_of(parts)

    @property
    def is_fitted(self) -> bool:
        """Whether there is a fit."""
        return self._fit is not None

    @property
    def fit_(self) -> pipeline.Fit:
        """The stages' results."""
        if self._fit is None:
            raise NotFittedError("this auditor is not fitted; call fit(source, views=...) or krepes.load(folder)")
        return self._fit

    @property
    def source_(self) -> Source:
        """The samples that `fit` saw."""
        if self.seen_.audited is None:
            raise NotFittedError(
                "this auditor holds no samples; call with_samples(source, views) with those of its fit"
            )
        return self.seen_.audited

    @property
    def seen_(self) -> Seen:
        """Samples and views of the fit, as far as they are at hand."""
        if self._seen is None:
            raise NotFittedError("this auditor is not fitted; call fit(source, views=...) or krepes.load(folder)")
        return self._seen

    @property
    def landmark_ids_(self) -> list[str]:
        """Ids of the landmarks (m,), in the order of the scores' columns."""
        self.fit_  # noqa: B018  it says so where there is none
        return self._landmark_ids

    @property
    def training_ids_(self) -> Sequence[str]:
        """Ids of the samples that the objective saw (n,), in the order of `attribute`'s columns."""
        return self.seen_.samples().ids

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
            training, views = self.seen_.given()
            with self.progress.stage("trust"):
                self._trust = assess(
                    self.fit_, self.settings, self.encoder, self.source_, training, views, self.thresholds
                )
        return self._trust

    # --------------------------------------------------------------- scores
    def kernel(self, x: Any) -> Tensor:
        """Kernel rows of x against the landmarks, (t, M), float64."""
        return scored(self.fit_, x)[0]

    def transform(self, x: Any) -> Tensor:
        """f(x) = (Ã₀ + ΔÃ)ᵀ k_m(x), (t, h), float64; columns have arbitrary signs."""
        return scored(self.fit_, x)[1]

    def influence(self, x: Any) -> Tensor:
        """Sample influence ‖k(x̃_l, x_t) ΔÃ_l‖, (t, m), unsigned."""
        return influence.sample_influence(scored(self.fit_, x)[0], self.dA_)

    def contribution(self, x: Any) -> Tensor:
        """Signed contribution ⟨k(x̃_l, x_t) ΔÃ_l, f(x_t)/‖f(x_t)‖⟩, (t, m): attract > 0, repel < 0."""
        K, f = scored(self.fit_, x)
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
        if not is_whole(top_k) or top_k < 1:
            raise ConfigError(f"top_k={top_k!r}; expected a positive whole number")
        source = as_source(x)
        names = [str(i) for i in (source.ids if ids is None else ids)]
        if len(names) != len(source):
            raise DataError(f"{len(names)} ids for {len(source)} samples; expected one each")
        K, f = scored(self.fit_, source)
        scores = influence.sample_influence(K, self.dA_)
        signed = influence.signed_contribution(K, self.dA_, f)
        table = influence.top_table(scores, signed, names, self.landmark_ids_, top_k, by)
        shown = table["landmark"].head(SAMPLES * top_k).unique().tolist()
        return Explanation.of(table, landmark_pictures(self, shown))

    def __repr__(self) -> str:
        fit = "not fitted"
        if self._fit is not None:
            fit = f"{len(self._landmark_ids)} landmarks, h = {self._fit.nystrom.h}. {self.outcome_.message}"
        return f"<krepes.Auditor, {self.settings.objective.name}: {fit}>"

    def _repr_html_(self) -> str:
        from krepes.report.notebook import auditor

        return auditor(self, self._trust)

    def attribute(
        self,
        x: Any,
        direction: Tensor | Sequence[float] | None = None,
        target: str | Callable[[Tensor], Tensor] | None = None,
        *,
        at: str = "encoder",
        damping: float | None = None,
        draws: int | None = None,
        starts: int | None = None,
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
        `at="training"` is not taken at one place: the kernel machine is trained from random starts, on new views of the
        samples, and scores are the exact derivative of where it ends, the lengths of its steps, landmarks and starts
        held. It predicts real retraining as well or better where it was measured (docs/defaults.md), costs more, and
        does not know every objective or target. `at="step"` takes the
        audit's step, for which the scores are exact with landmarks and λ held fixed, and which `counterfactual` solves
        again.

        One draw of a sample's views decides most of its derivative, and says little of the sample: scores are the mean
        over several draws, the curvature held. `draws=1` is the derivative at the very views that the fit saw.

        Args:
            x: samples (t, ...), anything that `fit` takes.
            direction: of f, (d,) or (t, d), at the step (h,) or (t, h): T = ⟨f(x_t), direction⟩.
            target: "invariance" (the default): the mean cosine between f(x_t) and f of 128 of its views, which are a
                sample's own wherever it stands in x; or a differentiable function of f (t, d), at the step and after a
                training (t, h), float64, that returns one number or (Q,). Fixed views need a function, or a direction.
            at: "encoder", "training" or "step".
            damping: at the encoder, λ relative to the mean curvature; default 0.1. The step has its own, a training
                none.
            draws: of views that each training sample is weighed with, and that a training sees; default 8, and 1 for
                two fixed tensors of views.
            starts: of a training, whose scores are averaged; default 4, and 1 for objectives over pairs (SimCLR), each
                step of which passes over all samples.
            source, views: the training samples and views, for a loaded auditor without them (`with_samples`).

        Returns:
            scores (t, n), or (Q, n), in the encoder's type.

        Raises:
            ConfigError: both direction and target are given, one of them is of another shape, not finite, not real or
                not computed from f, or asks for views that cannot be drawn; at, damping, draws or starts is none; the
                scores leave the type; at the step the auditor took none, or several; or a training is asked for a
                direction, as f after it has no fixed coordinates, of BYOL, whose target moves with it, or of an
                objective of one's own over pairs, whose second derivatives are not known.
            DataError: x is one sample or of another shape; source or views are not those of the fit.
            NonFiniteError: a sample, view, gradient or output is not finite, the encoder is collapsed, so that there is
                no curvature, a solve broke down, or a training met no curvature or what is not finite.
            NotFittedError: there is no fit, or no training samples and views.

        Warns:
            KrepesWarning: a solve, or the step, did not converge; the kernel's features give less than 70 % of the
                variance of the encoder's outputs; or a target after a training changes when f is rotated.

        Source: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", 2017, arXiv 1703.04730;
        docs/method.md.
        """
        from krepes.audit.asked import attributed

        asked = {"draws": draws, "at": at, "damping": damping, "starts": starts}
        return attributed(self, x, direction, target, source, views, **asked)[0]

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
            table: one row per audited sample, in raw units; default the samples' own table. Rows whose index is the
                ids that were given to the source may be in any order, others stand in that of the samples.
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
        from krepes.audit.columns import features, raw_table
        from krepes.audit.feature_gap import gap_table
        from krepes.audit.top_landmarks import tops

        found = features(raw_table(self, table), columns)
        return gap_table(found, *tops(self, samples, top_k, refits), self.settings.seed)

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
        from krepes.audit.columns import features, raw_table
        from krepes.audit.feature_gap import group_table
        from krepes.audit.top_landmarks import tops

        (feature,) = features(raw_table(self, table), [column])
        return group_table(feature, *tops(self, samples, top_k, refits), self.settings.seed)

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
        from krepes.audit.features_of_rows import feature_influence

        return feature_influence(self, x, rows, column, table)

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

        It says what this audit would be, and little of a network that is trained again without them
        (docs/defaults.md). λ is that of this audit, also where damping="auto" would now choose another one; several
        automatic steps choose theirs again.

        The other samples keep the views that they had. A removed sample that is a landmark leaves the basis, too,
        and everything is streamed again; with the landmarks kept, a moment objective needs a pass over the removed
        samples alone.

        Args:
            remove: ids, a boolean mask (n,), or a query on the samples' table such as `sex == "Female"`.
            keep_landmarks: removed landmarks stay in the basis, so that f before and after share their coordinates.
            source, views: the training samples and views, for a loaded auditor without them (`with_samples`).

        Returns:
            a fitted auditor; `krepes.movement(self, it, x)` says what moved.

        Raises:
            ConfigError: ids do not exist, the query is none, or too little remains.
        """
        from krepes.audit.counterfactual import without
        from krepes.audit.selection import positions

        fitted, seen = self.fit_, self.seen_
        source, views = seen.given(source, views)
        removed = positions(source, remove, "remove")
        refit = without(
            fitted, self.settings, self.encoder, source, views, removed, self.landmark_ids_, seen.audited or source,
            keep_landmarks, self.progress,
        )  # fmt: skip
        now = Seen(refit.shown, refit.training, refit.views, self.settings.seed)
        return self.with_fit(refit.fit, now, [refit.shown.ids[i] for i in refit.fit.indices])

    def represent(self, batch: Tensor) -> Tensor:
        """f (B, h) of one batch of samples (B, ...), float64, without checks."""
        return self.fit_.rows(batch)[0].double() @ (self.fit_.A0 + self.fit_.dA)

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
            labels: one class per audited sample, None where it is missing; they reach the evaluation alone. A Series
                whose index is the ids that were given to the source may be in any order.

        Returns:
            tables, each None where it could not be had, and notes that say why.

        Raises:
            ConfigError, DataError: the plan asks for concepts or columns that the samples do not have.
        """
        from krepes.audit.findings import AuditPlan, find
        from krepes.audit.selection import explained_positions
        from krepes.data.order import in_order_of

        if plan is not None and not isinstance(plan, AuditPlan):
            raise ConfigError(f"plan is a {type(plan).__name__}; expected krepes.AuditPlan(…)")
        plan = plan or AuditPlan()
        plan.check(self.source_)
        chosen = explained_positions(self.source_, 6 if explain is None else explain, self.settings.seed)
        labels = in_order_of(self.source_.ids, labels, "labels")
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
