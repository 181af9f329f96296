"""The whole method on one page, stage by stage, in the order of the folders.

    samples → frozen encoder → kernel → landmarks → Nyström features → moments of the views → Newton step

Scores (`influence.py`) and the audit (`audit/`) read the `Fit` that comes out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krepes import landmarks as landmark_stage
from krepes.data.source import Source, check_finite
from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError, DataError, LandmarkError
from krepes.kernel.ntk import NTK, KernelColumns, KernelRows, LinearColumns, gradient_map
from krepes.landmarks.samplers import Sampler, default_m
from krepes.nystrom import Nystrom, decompose
from krepes.objectives import BYOL, Moments, Objective, Problem
from krepes.objectives.pairs import Pairs
from krepes.progress import Progress
from krepes.solver import Newton, Step, solve

BLOCK = 256  # samples per block of the stream; the views' seeds hang on it, results on nothing else
PILOT = 256  # pool members whose mean stands for the landmarks' while landmarks are searched

Views = Callable[[Tensor, torch.Generator], Tensor] | tuple[Any, Any]


@dataclass(frozen=True)
class Settings:
    """Everything that the result depends on beside the encoder and the data."""

    objective: Objective
    kernel: NTK
    landmarks: Sampler | Sequence[int]
    newton: Newton
    n_components: int | None
    rank_tolerance: float
    seed: int


@dataclass(frozen=True)
class Fit:
    """What the stages produced.

    Attributes:
        indices: the landmarks' positions in the source (m,).
        rows: x ↦ kernel rows against the landmarks.
        nystrom: kept eigenpairs of K_mm and B₀.
        moments: the views' moments over all samples (moment objectives), else None.
        step: ΔB and the outcome.
        A0, dA: dual coefficients (M, h), float64.
    """

    indices: list[int]
    rows: KernelRows
    nystrom: Nystrom
    moments: Moments | None
    step: Step
    A0: Tensor
    dA: Tensor


def fit(encoder: FrozenEncoder, source: Source, views: Views, settings: Settings, progress: Progress) -> Fit:
    """Run every stage."""
    with progress.stage("encoder") as note:
        probe = read(source, range(min(3, len(source))))
        gradients = gradient_map(settings.kernel, encoder, probe)
        kinds = list(gradients.plan.values())
        note(", ".join(f"{kinds.count(k)} parameters {k}" for k in ("factored", "explicit", "generic") if k in kinds))

    with progress.stage("landmarks") as note:
        indices = choose_landmarks(settings, source, gradients)
        ids = [source.ids[i] for i in indices]
        rows = KernelRows(settings.kernel, gradients, read(source, indices), ids)
        note(f"{len(indices)} of {len(source)} samples")

    with progress.stage("nystrom") as note:
        h = settings.n_components or encoder.n_outputs or 0
        nystrom = decompose(rows.K_mm, h, settings.rank_tolerance)
        note(f"rank {nystrom.rank}, representation in {h} dimensions")

    with progress.stage("views", total=len(source)) as note:
        stream = view_features(source, views, rows, nystrom, settings.seed, encoder.dtype, note)
        if settings.objective.streaming:
            moments, problem = None, streamed_problem(settings, stream, len(source), nystrom)
        else:
            moments = sum_moments(stream)
            problem = moment_problem(settings.objective, moments)

    with progress.stage("newton") as note:
        generator = torch.Generator().manual_seed(settings.seed)
        step = solve(settings.newton, problem, nystrom.B0, nystrom.eigenvalues, generator, note)

    return Fit(indices, rows, nystrom, moments, step, nystrom.dual(nystrom.B0), nystrom.dual(step.dB))


def read(source: Source, indices: Sequence[int]) -> Tensor:
    """The samples at these positions, checked to be finite."""
    batch = source.batch(list(indices))
    check_finite(batch, [source.ids[i] for i in indices])
    return batch


def choose_landmarks(settings: Settings, source: Source, gradients) -> list[int]:
    """Positions of the landmarks in the source: ascending, or in the order in which they were given."""
    n, wanted = len(source), settings.landmarks
    if not isinstance(wanted, Sampler):
        return explicit_landmarks(list(wanted), n)
    m = wanted.m or default_m(n)
    if m > n:
        raise LandmarkError(f"{m} landmarks are asked for, but there are only {n} samples; expected at most {n}")
    generator = torch.Generator().manual_seed(settings.seed)
    # a seeded pool keeps the search within O(n·√n) however large n is
    pool_size = min(n, max(20 * m, 4096))
    pool = torch.sort(torch.randperm(n, generator=generator)[:pool_size]).values
    samples = torch.cat([read(source, block.tolist()) for block in pool.split(BLOCK)])
    if wanted.space == "input":
        columns = LinearColumns(samples)
    elif isinstance(wanted, landmark_stage.Uniform):
        columns = LinearColumns(torch.zeros(pool_size, 1))  # looks at no kernel
    else:
        pilot = torch.randperm(pool_size, generator=generator)[:PILOT]
        ids = [source.ids[i] for i in pool.tolist()]
        columns = KernelColumns(settings.kernel, gradients, samples, pilot, ids)
    return pool[landmark_stage.choose(wanted, columns, m, generator)].tolist()


def explicit_landmarks(indices: list[int], n: int) -> list[int]:
    """The user's landmarks, checked, in the given order."""
    if not indices:
        raise LandmarkError("landmarks is empty; expected at least one position")
    outside = [i for i in indices if not 0 <= int(i) < n]
    if outside:
        raise LandmarkError(f"landmark positions {outside[:5]} are outside 0 … {n - 1}")
    repeated = sorted({int(i) for i in indices if indices.count(i) > 1}) if len(set(indices)) < len(indices) else []
    if repeated:
        raise LandmarkError(f"duplicate landmarks: positions {repeated[:5]} are given more than once")
    return [int(i) for i in indices]


def view_features(
    source: Source, views: Views, rows: KernelRows, nystrom: Nystrom, seed: int, dtype: torch.dtype, note
) -> Iterator[tuple[Tensor, Tensor]]:
    """Nyström features (B, r) of both views, block by block."""
    for start in range(0, len(source), BLOCK):
        indices = range(start, min(start + BLOCK, len(source)))
        ids = [source.ids[i] for i in indices]
        pair = []
        for which, view in enumerate(make_views(source, views, indices, seed)):
            check_finite(view, ids)
            K, _ = rows(view, [f"{i} (view {'ab'[which]})" for i in ids])
            pair.append(nystrom.features(K).to(dtype))
        yield pair[0], pair[1]
        note(indices.stop)


def make_views(source: Source, views: Views, indices: range, seed: int) -> tuple[Tensor, Tensor]:
    """Two views of a block: from the callable with one seed per block and view, or from two aligned tensors."""
    if isinstance(views, tuple):
        a, b = (torch.as_tensor(v[indices.start : indices.stop]) for v in views)
        return a, b
    batch = read(source, indices)
    out = []
    for which in (0, 1):
        # a spread of the three numbers over 63 bits, so that no two blocks share a stream
        mixed = (seed * 1_000_003 + which) * 2_654_435_761 + indices.start
        view = views(batch.clone(), torch.Generator().manual_seed(mixed % 2**63))
        if not isinstance(view, Tensor) or view.shape != batch.shape:
            got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
            raise DataError(f"views returned {got} for a batch of shape {tuple(batch.shape)}; expected the same shape")
        out.append(view)
    return out[0], out[1]


def check_views(views: Views, source: Source) -> Views:
    """The views, as a callable or two aligned tensors.

    Raises:
        ConfigError: views is neither.
        DataError: a view's shape differs from the samples'.
    """
    if callable(views):
        return views
    if not isinstance(views, tuple | list) or len(views) != 2:
        raise ConfigError(
            f"views is a {type(views).__name__}; expected a callable (batch, generator) -> batch, or two tensors "
            "aligned with the source"
        )
    shape = (len(source), *source.batch([0]).shape[1:])
    for name, view in zip("ab", views, strict=True):
        if tuple(view.shape) != shape:
            raise DataError(f"view {name} has shape {tuple(view.shape)}; the samples have {shape}")
    return views[0], views[1]


def sum_moments(stream: Iterator[tuple[Tensor, Tensor]]) -> Moments:
    """Moments of all samples from their blocks."""
    total = Moments.of(*next(stream))
    for phi_a, phi_b in stream:
        total = total + Moments.of(phi_a, phi_b)
    return total


def moment_problem(objective: Any, moments: Moments) -> Callable[[Tensor], Problem]:
    """B ↦ the objective on the moments; nothing is held fixed at B."""
    problem = objective.problem(moments)
    return lambda B: problem


def streamed_problem(settings: Settings, stream, n: int, nystrom: Nystrom) -> Callable[[Tensor], Problem]:
    """B ↦ the objective on stored features of the pairs, with BYOL's target held at B."""
    blocks = list(stream)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
    pairs = Pairs(torch.cat([a for a, _ in blocks]), torch.cat([b for _, b in blocks]), order.to(nystrom.U.device))
    objective: Any = settings.objective
    if isinstance(objective, BYOL):
        return lambda B: objective.problem(pairs, B)
    problem = objective.problem(pairs)
    return lambda B: problem
