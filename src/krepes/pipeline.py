"""The whole method on one page, stage by stage, in the order of the folders.

    samples → frozen encoder → kernel → landmarks → Nyström features → moments of the views → Newton step

Scores (`influence.py`) and the audit (`audit/`) read the `Fit` that comes out. Every stage is a sum or a list over
blocks of samples: memory is set by the block and by m, and finished blocks are kept in the `Work` folder.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes import landmarks as landmark_stage
from krepes.data.source import Source
from krepes.data.stream import (
    VIEW_BLOCK,
    SubsetViews,
    Views,
    ahead,
    blocks,
    check_repeatable,
    make_views,
    names,
    paired_views,
    probe_of,
    read,
    shards,
    subset,
)
from krepes.encoders.frozen import FrozenEncoder
from krepes.engine import STORES, Engine, MemoryPlan, plan_memory, rank_tolerance
from krepes.errors import ConfigError, LandmarkError, warn
from krepes.features import Recomputed, ShardedStore
from krepes.kernel.gradients import GradientMap
from krepes.kernel.ntk import (
    NTK,
    PROBE,
    KernelColumns,
    KernelError,
    KernelRows,
    LinearColumns,
    gradient_map,
    kernel_error,
    rounding_error,
)
from krepes.landmarks.samplers import Sampler, default_m
from krepes.nystrom import Nystrom, decompose
from krepes.objectives import BYOL, Moments, Objective, Problem
from krepes.objectives.pairs import Pairs
from krepes.progress import Progress
from krepes.solver import Newton, Outcome, Step, solve
from krepes.work import Work
from krepes.workers import current

MUCH = 500.0  # times smaller by centring: inputs far from zero; convolutional networks alone reach a tenth of it
UNROUNDED = 1e-6  # relative error of a kernel that was computed in float32
LANDMARK_ROWS = ("samples", "views")
PILOT = 256  # pool members whose mean stands for the landmarks' while landmarks are searched


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
    engine: Engine = field(default_factory=Engine)
    landmark_rows: str = "samples"

    def __post_init__(self):
        if self.landmark_rows not in LANDMARK_ROWS:
            raise ConfigError(f"landmark_rows={self.landmark_rows!r}; expected {' or '.join(map(repr, LANDMARK_ROWS))}")


@dataclass(frozen=True)
class Fit:
    """What the stages produced.

    Attributes:
        indices: the landmarks' positions in the source (m,).
        samples: the landmarks (m, ...); `rows` has these, or a view of each.
        rows: x ↦ kernel rows against what stands for the landmarks.
        nystrom: kept eigenpairs of K_mm and B₀.
        moments: the views' moments over all samples (moment objectives), else None.
        step: ΔB and the outcome.
        A0, dA: dual coefficients (M, h), float64.
        memory: the plan of the blocks; None for a loaded fit.
        kernel_error: of a projected or lower-precision kernel; None where it is exact.
    """

    indices: list[int]
    samples: Tensor
    rows: KernelRows
    nystrom: Nystrom
    moments: Moments | None
    step: Step
    A0: Tensor
    dA: Tensor
    memory: MemoryPlan | None = None
    kernel_error: KernelError | None = None


def fit(
    encoder: FrozenEncoder,
    source: Source,
    views: Views,
    settings: Settings,
    progress: Progress,
    work: Work | None = None,
) -> Fit:
    """Run every stage; blocks that `work` holds are not computed again."""
    work = work or Work()
    n = len(source)
    with progress.stage("encoder") as note:
        check_repeatable(source, views, settings.seed)
        gradients = gradient_map(settings.kernel, encoder, probe_of(source))
        h = settings.n_components or encoder.n_outputs or 0
        memory = planned_memory(settings, gradients, n)
        note(gradients.summary())
    progress.say(f"memory     {memory.sentence()}")

    with progress.stage("landmarks") as note:
        indices = kept_landmarks(settings, source, gradients, memory, work)
        samples, remark = read(source, indices), ""
        standing = samples
        if settings.landmark_rows == "views":
            drawn = work.once("landmark_views", lambda: {"a": views_of_landmarks(settings, source, views, indices)})
            standing, remark = drawn["a"], " (view a)"
        rows = KernelRows(
            settings.kernel, gradients, standing, names(source, indices, remark), memory.tile, memory.keep,
            settings.engine.precision,
        )  # fmt: skip
        error = kernel_error(rows)
        measured = f"; kernel error {error.raw:.1e} ({error.centred:.1e} centred)" if error else ""
        note(f"{len(indices)} of {n} samples{measured}")

    with progress.stage("nystrom") as note:
        nystrom = agreed_nystrom(decompose(rows.K_mm, h, rank_cut(settings, rows)))
        if rows.amplification > MUCH and encoder.dtype == torch.float32:
            warn(
                f"centring leaves 1/{rows.amplification:.0f} of the kernel: float32 rounding is that much larger in "
                "what remains, and small eigenvalues are cut. Standardise the encoder's inputs as it was trained, or "
                "use dtype=torch.float64."
            )
        note(f"rank {nystrom.rank}, representation in {h} dimensions")

    moments, step = take_step(Stream(source, views, rows, nystrom, settings, memory, work), progress)
    A0, dA = nystrom.dual(nystrom.B0), nystrom.dual(step.dB)
    return Fit(indices, samples, rows, nystrom, moments, step, A0, dA, memory, error)


def agreed_nystrom(nystrom: Nystrom) -> Nystrom:
    """The first worker's eigenpairs: others may round differently, or turn vectors of equal eigenvalues."""
    U, eigenvalues = current().same((nystrom.U.cpu(), nystrom.eigenvalues.cpu()))
    return Nystrom(U.to(nystrom.U.device), eigenvalues.to(nystrom.U.device), nystrom.h)


def take_step(stream: "Stream", progress: Progress) -> tuple[Moments | None, Step]:
    """The last two stages: the views' moments or features, and the Newton step."""
    settings, nystrom = stream.settings, stream.nystrom
    with progress.stage("views", total=len(stream.source)) as note:
        if settings.objective.streaming:
            moments, problem = None, streamed_problem(settings, stream, note)
        else:
            moments = sum_moments(stream, note)
            problem = moment_problem(settings.objective, moments)
    with progress.stage("newton") as note:

        def solved() -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(settings.seed)
            step = solve(settings.newton, problem, nystrom.B0, nystrom.eigenvalues, generator, note)
            text = json.dumps(step.outcome.as_plain()).encode()
            return {"dB": step.dB, "outcome": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

        found = stream.work.once("step", solved)
        outcome = Outcome.of_plain(json.loads(bytes(found["outcome"].tolist())))
    return moments, Step(found["dB"].to(nystrom.U.device), outcome)


def agreed_step(step: Step, nystrom: Nystrom) -> Step:
    """The first worker's step: others may round differently."""
    dB, outcome = current().same((step.dB.cpu(), step.outcome))
    return Step(dB.to(nystrom.U.device), outcome)


def rank_cut(settings: Settings, rows: KernelRows) -> float:
    """The cut of K_mm's eigenvalues: the user's, or the one below which rows hold more rounding than signal.

    Rows are rounded before they are centred: where centring leaves a small part of them, rounding is that much larger
    in what remains, and somewhat more where little remains (measured: docs/method.md). A precision that the device did
    not use counts as float32.
    """
    dtype, precision = rows.gradients.encoder.dtype, settings.engine.precision
    if settings.rank_tolerance != rank_tolerance(dtype, precision):
        return settings.rank_tolerance
    lost = rows.amplification
    return min(0.1, lost * min(10.0, max(1.0, lost / 100)) * effective_cut(settings, rows))


def effective_cut(settings: Settings, rows: KernelRows) -> float:
    """Of the precision that the device used."""
    dtype, precision = rows.gradients.encoder.dtype, settings.engine.precision
    if precision == "float32":
        return settings.rank_tolerance
    error = rounding_error(rows, rows.landmarks[:PROBE], rows.gradients.project)
    rounded = error is None or error.raw > UNROUNDED
    return settings.rank_tolerance if rounded else rank_tolerance(dtype, "float32")


def planned_memory(settings: Settings, gradients: GradientMap, n: int) -> MemoryPlan:
    """Block sizes for n samples under the engine's budget."""
    h, m = settings.n_components or gradients.encoder.n_outputs or 0, count_landmarks(settings, n)
    objective: Any = settings.objective
    batch = min(n, objective.batch_size or n) if objective.streaming else None
    return plan_memory(settings.engine, gradients, m, h, n, batch, VIEW_BLOCK)


# -------------------------------------------------------------------- landmarks


def count_landmarks(settings: Settings, n: int) -> int:
    """m, before the landmarks are chosen."""
    wanted = settings.landmarks
    m = (wanted.m or default_m(n)) if isinstance(wanted, Sampler) else len(list(wanted))
    if m > n:
        raise LandmarkError(f"{m} landmarks are asked for, but there are only {n} samples; expected at most {n}")
    return m


def kept_landmarks(
    settings: Settings, source: Source, gradients: GradientMap, memory: MemoryPlan, work: Work
) -> list[int]:
    """The landmarks that an earlier run chose, or new ones."""
    found = work.once(
        "landmarks", lambda: {"indices": torch.tensor(choose_landmarks(settings, source, gradients, memory))}
    )
    return found["indices"].tolist()


def pool_size(n: int, m: int) -> int:
    """Candidates among which m landmarks are looked for: they keep the search within O(n·√n) however large n is."""
    return min(n, max(20 * m, 4096))


def choose_landmarks(settings: Settings, source: Source, gradients: GradientMap, memory: MemoryPlan) -> list[int]:
    """Positions of the landmarks in the source: ascending, or in the order in which they were given."""
    n, wanted = len(source), settings.landmarks
    if not isinstance(wanted, Sampler):
        return explicit_landmarks(list(wanted), n)
    m = count_landmarks(settings, n)
    generator = torch.Generator().manual_seed(settings.seed)
    size = pool_size(n, m)
    pool = torch.sort(torch.randperm(n, generator=generator)[:size]).values
    if isinstance(wanted, landmark_stage.Uniform):
        columns = LinearColumns(torch.zeros(size, 1))  # looks at no kernel
        return pool[landmark_stage.choose(wanted, columns, m, generator)].tolist()
    samples = torch.cat([read(source, part.tolist()) for part in pool.split(VIEW_BLOCK)])
    if wanted.space == "input":
        columns = LinearColumns(samples)
    else:
        pilot = torch.randperm(size, generator=generator)[:PILOT]
        columns = KernelColumns(
            settings.kernel, gradients, samples, pilot, names(source, pool.tolist()), memory.budget // 4, memory.tile
        )
    return pool[landmark_stage.choose(wanted, columns, m, generator)].tolist()


def standing_for(settings: Settings, source: Source, views: Views, indices: Sequence[int]) -> Tensor:
    """What stands in the kernel for the landmarks at these positions, (m, ...)."""
    if settings.landmark_rows == "samples":
        return read(source, indices)
    return views_of_landmarks(settings, source, views, indices)


def views_of_landmarks(settings: Settings, source: Source, views: Views, indices: Sequence[int]) -> Tensor:
    """The first of the two views that the fit draws of each of these samples, (m, ...)."""
    positions = np.asarray(indices)
    order = np.argsort(positions)
    ascending, _ = subset(source, views, positions[order])[1].pair(range(len(order)), settings.seed)
    return ascending[torch.from_numpy(np.argsort(order))].detach()


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


# ------------------------------------------------------------------------ views


@dataclass(frozen=True)
class Stream:
    """The views' Nyström features, block by block."""

    source: Source
    views: Views
    rows: KernelRows
    nystrom: Nystrom
    settings: Settings
    memory: MemoryPlan
    work: Work

    @property
    def device(self) -> torch.device:
        return self.rows.gradients.encoder.device

    def features(self, part: range) -> Iterator[tuple[range, Tensor, Tensor]]:
        """Blocks of a part with the features (B, r) of both views."""
        parts = list(blocks(part, self.memory.block))
        pairs = ahead((paired_views(self.source, self.views, b, self.settings.seed) for b in parts), self.device)
        for block, (a, b) in zip(parts, pairs, strict=True):
            yield block, self._features(a, block, "a"), self._features(b, block, "b")

    def _features(self, view: Tensor, block: range | Sequence[int], which: str) -> Tensor:
        K, _ = self.rows(view, names(self.source, block, f" (view {which})"))
        return self.nystrom.features(K, self.rows.gradients.encoder.dtype)

    def one_view(self, block: range, which: int, inside: Tensor) -> Tensor:
        """Features of some samples of a view block, from the samples."""
        view = make_views(self.source, self.views, block, self.settings.seed)[which]
        return self._features(view[inside.to(view.device)], [block.start + i for i in inside.tolist()], "ab"[which])


def sum_moments(stream: Stream, note) -> Moments:
    """Moments of all samples from their shards, each kept when it is finished."""
    total, n, workers = no_moments(stream), len(stream.source), current()

    def sum_own() -> None:
        for i, shard in workers.own(shards(n)):
            name = f"moments-{i:03d}"
            kept = stream.work.load(name)
            if kept is None:
                part = no_moments(stream)
                for block, phi_a, phi_b in stream.features(shard):
                    part.add_(view_moments(stream.settings, phi_a, phi_b))
                    note(block.stop)
                stream.work.save(name, part.tensors())
            else:
                part = Moments(len(shard), **{k: t.to(stream.device) for k, t in kept.items()})
            total.add_(part)
            note(shard.stop)

    workers.together(sum_own)
    workers.add(*total.tensors().values())
    total.n = n
    return total


def no_moments(stream: Stream) -> Moments:
    """Moments of no sample of a stream."""
    difference = getattr(stream.settings.objective, "difference", False)
    return Moments.zero(stream.nystrom.rank, difference, stream.device)


def view_moments(settings: Settings, phi_a: Tensor, phi_b: Tensor) -> Moments:
    """Moments of a block; without centring the mean may dwarf the spread, and products need float64."""
    if not settings.kernel.center:
        phi_a, phi_b = phi_a.double(), phi_b.double()
    return Moments.of(phi_a, phi_b, getattr(settings.objective, "difference", False))


def moment_problem(objective: Any, moments: Moments) -> Callable[[Tensor], Problem]:
    """B ↦ the objective on the moments; nothing is held fixed at B."""
    problem = objective.problem(moments)
    return lambda B: problem


def streamed_problem(settings: Settings, stream: Stream, note) -> Callable[[Tensor], Problem]:
    """B ↦ the objective on the features of the pairs, with BYOL's target held at B."""
    n, place = len(stream.source), None
    if isinstance(stream.views, SubsetViews):  # the batches of the whole, without the samples that were taken out
        n = len(stream.views.source)
        place = torch.full((n,), -1)
        place[torch.as_tensor(stream.views.positions)] = torch.arange(len(stream.source))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(settings.seed))
    phi_a, phi_b = pair_features(stream, note)
    pairs = Pairs(phi_a, phi_b, order, place)
    objective: Any = settings.objective
    if isinstance(objective, BYOL):
        return lambda B: objective.problem(pairs, B)
    problem = objective.problem(pairs)
    return lambda B: problem


def pair_features(stream: Stream, note) -> tuple[Any, Any]:
    """Features of both views: tensors where the budget holds them, else a store on disk, or computed when asked."""
    n, r = len(stream.source), stream.nystrom.rank
    dtype, engine = stream.rows.gradients.encoder.dtype, stream.settings.engine
    if engine.store == "recompute":
        return Recomputed(n, 0, stream.one_view), Recomputed(n, 1, stream.one_view)
    together = current().size == 1 and stream.work.folder is None
    in_memory = together and 2 * n * r * dtype.itemsize <= stream.memory.budget // 4
    if in_memory and engine.store == "float32":
        a, b = (
            torch.empty(n, r, dtype=dtype, device=stream.device),
            torch.empty(n, r, dtype=dtype, device=stream.device),
        )
        for block, phi_a, phi_b in stream.features(range(n)):
            a[block.start : block.stop], b[block.start : block.stop] = phi_a, phi_b
            note(block.stop)
        return a, b
    kind = dtype if engine.store == "float32" else STORES[engine.store]
    parts, place = shards(n), stream.work.place()
    views = [ShardedStore(place, f"features-{v}", parts, r, kind) for v in "ab"]

    def write_own() -> None:
        for i, shard in current().own(parts):
            name, stores = f"features-{i:03d}", [view.shard(i, create=True) for view in views]
            kept = stream.work.load(name)
            if kept is None or kept["crc"].tolist() != [s.crc() for s in stores]:
                for block, *pair in stream.features(shard):
                    for store, phi in zip(stores, pair, strict=True):
                        store.write(block.start - shard.start, phi)
                    note(block.stop)
                for store in stores:
                    store.flush()
                stream.work.save(name, {"crc": torch.tensor([s.crc() for s in stores])})
            note(shard.stop)

    current().together(write_own)
    current().wait()  # batches hold samples of all shards
    return views[0], views[1]
