"""The cost of one audit: its stages' counts, and the seconds that machines would take for them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from krepes.audit.asked import VIEWS
from krepes.audit.attribution import DRAWS
from krepes.audit.findings import QUERIES, AuditPlan, draws_and_samples
from krepes.audit.places import ENCODED
from krepes.audit.refits import LARGEST, PER_LANDMARK
from krepes.audit.stability import POINTS, TRAINING
from krepes.audit.training import default_starts
from krepes.auditor import Auditor
from krepes.cost import counts
from krepes.cost.counts import Counts, Sizes, Stage
from krepes.cost.machines import Machine, product_rates, seconds_of
from krepes.data.source import Source
from krepes.data.stream import VIEW_BLOCK, Views, paired_views, probe_of, read
from krepes.engine import STORES, MemoryPlan
from krepes.errors import ConfigError
from krepes.kernel.gradients import GradientMap
from krepes.kernel.ntk import gradient_map
from krepes.landmarks import KMeansPlusPlus, LeverageScores, RPCholesky, Sampler, Uniform
from krepes.objectives import SimCLR
from krepes.pipeline import count_landmarks, planned_memory

SAMPLERS = {KMeansPlusPlus: "kmeans++", LeverageScores: "leverage", RPCholesky: "rpcholesky", Uniform: "uniform"}
TRUST_REFITS = 4  # of the trust gate (`krepes.audit.stability.stability`)
TILE_SECONDS, TILE_BYTES = 1.0, 2**30  # of the tile that is measured, at most
INSTANT = 1e15  # rate of what takes no time, such as views that were given


@dataclass(frozen=True)
class Cost:
    """What an audit takes.

    Attributes:
        sizes: what the counts depend on.
        stages: those that grow with the data, and refits.
        workers: among which samples are divided.
        machine: of each worker.
        memory: of each worker.
        disk: bytes of the work folder and the run folder, about.
        product_sum: numbers that a worker puts into sums in one product of the linear solve.
    """

    sizes: Sizes
    stages: tuple[Stage, ...]
    workers: int
    machine: Machine
    memory: MemoryPlan
    disk: float

    @property
    def product_sum(self) -> float:
        """Numbers that a worker puts into sums in one product of the linear solve; 0 of a moment objective."""
        return counts.curvature_product(self.sizes).exchanged if self.workers > 1 else 0.0

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds(stage) for stage in self.stages)

    def seconds(self, stage: Stage) -> float:
        """Of one stage on the worker that has most of it, sums included."""
        own = stage.share(self.workers) * self.machine.seconds(stage.counts)
        return own + self.machine.sum_seconds(stage.exchanged, stage.sums, self.workers)

    def as_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        stages = [
            {"stage": s.name, "seconds": self.seconds(s), "parts": s.parts, "operations": s.operations,
             "counts": dict(s.counts), "exchanged_numbers": s.exchanged, "at_most": s.bound}
            for s in self.stages
        ]  # fmt: skip
        return {
            "samples": self.sizes.n, "landmarks": self.sizes.m, "workers": self.workers, "machine": self.machine.name,
            "source": self.machine.source, "seconds": self.total, "memory_bytes": self.memory.total,
            "disk_bytes": self.disk, "numbers_per_product": self.product_sum, "stages": stages,
        }  # fmt: skip


def cost_of(
    auditor: Auditor, source: Source, views: Views, plan: AuditPlan, explained: int, machine: Machine, workers: int = 1,
    samples: int | None = None, gradients: GradientMap | None = None,
) -> Cost:  # fmt: skip
    """The cost of an audit, without running it.

    Args:
        plan, explained: what is asked beside the scores, and of how many samples.
        samples: as if there were so many; None: those of the source.
        gradients: of the auditor's kernel, if they are planned already, which takes a minute of a large network.

    Raises:
        ConfigError: no positive number of workers or samples.
        LandmarkError: more landmarks than samples.
    """
    n = len(source) if samples is None else samples
    if workers < 1 or n < 1:
        raise ConfigError(f"{workers} workers, {n} samples; expected at least one of each")
    gradients = gradients or gradient_map(auditor.settings.kernel, auditor.encoder, probe_of(source))
    memory = planned_memory(auditor.settings, gradients, n)
    sizes = sizes_of(auditor, gradients, read(source, range(min(2, len(source)))), memory, n)
    kept = 2.0 * n * 16 * min(sizes.m, 10) + 64 * n  # scores by shard, and the tables
    return Cost(sizes, counted(sizes, plan, min(explained, QUERIES)), workers, machine, memory, memory.disk + kept)


def sizes_of(auditor: Auditor, gradients: GradientMap, few: Tensor, memory: MemoryPlan, n: int) -> Sizes:
    """What the counts depend on, for n samples such as a few (b, ...)."""
    settings = auditor.settings
    objective: Any = settings.objective
    streaming = objective.streaming
    known = isinstance(settings.landmarks, Sampler)
    return Sizes(
        n=n,
        m=count_landmarks(settings, n),
        h=settings.n_components or auditor.encoder.n_outputs or 0,
        network=passes(gradients, few),
        pair=entry(gradients, few),
        inputs=few[0].numel(),
        sampler=SAMPLERS.get(type(settings.landmarks), "kmeans++") if known else "given",
        space=getattr(settings.landmarks, "space", "kernel"),
        kept=memory.keep,
        tile=memory.tile,
        streaming=streaming,
        batch=min(n, objective.batch_size or n) if streaming else 1,
        compared=min(n, objective.batch_size or n) if isinstance(objective, SimCLR) else 0,
        stored=STORES[settings.engine.store].itemsize if settings.engine.store in STORES else 0,
        iterations=settings.newton.max_iter * settings.newton.steps,
        curvature=settings.newton.curvature_samples or n,
        viewed=settings.landmark_rows == "views",
        gram=4 if getattr(objective, "difference", False) else 3,
    )


def passes(gradients: GradientMap, few: Tensor) -> float:
    """Operations of the passes that give a sample's gradient features; one per number where none is counted."""
    more = few[[i % len(few) for i in range(4)]]
    found = operations(lambda: gradients(more)) - operations(lambda: gradients(more[:2]))  # without what calls share
    return found / 2 or float(gradients.features_per_sample())


def entry(gradients: GradientMap, few: Tensor) -> float:
    """Operations of one kernel entry."""
    features = gradients(few)
    return operations(lambda: features.inner(features)) / len(few) ** 2 or 2.0 * gradients.features_per_sample()


def operations(work: Callable[[], Any]) -> float:
    """Of matrix products and convolutions that a call makes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def counted(sizes: Sizes, plan: AuditPlan, queries: int) -> tuple[Stage, ...]:
    """The stages of an audit; what looks at a bounded number of samples beside refits is not counted."""
    n = sizes.n
    stages = [f(sizes) for f in (counts.landmarks, counts.nystrom, counts.views, counts.newton)]
    stages.append(counts.scores(sizes, n))
    half = min(n, max(LARGEST, PER_LANDMARK * sizes.m)) // 2
    if plan.refits and half:
        stages.append(counts.refits(sizes, plan.refits, half, plan.points))
    if plan.attribution and queries:
        draws, among = draws_and_samples(n, plan.attribution, sizes.streaming, 0)
        looked = n if among is None or sizes.streaming else len(among)  # a streaming objective sees all of them
        fitted = counts.rows(sizes, min(n, max(ENCODED, 4 * sizes.m)))
        found = counts.attribution(sizes, looked, min(draws, DRAWS), queries, VIEWS)
        if plan.attribution_at == "training":
            starts = default_starts(sizes.streaming)
            stages += counts.along_training(sizes, looked, min(draws, DRAWS), queries, starts)
        else:
            stages.append(counts.adjoint(sizes, queries))
        stages.append(replace(found, counts=counts.added(found.counts, fitted)))
    stages.append(replace(counts.refits(sizes, TRUST_REFITS, min(n, TRAINING), POINTS), name="trust"))
    return tuple(stages)


def measured_here(
    auditor: Auditor, source: Source, views: Views, gradients: GradientMap | None = None, samples: int | None = None
) -> Machine:
    """This machine, in the units of the counts, with the audit's own encoder, samples and views; takes seconds.

    Args:
        gradients: of the auditor's kernel, if they are planned already.
        samples: as if there were so many; None: those of the source.
    """
    gradients = gradients or gradient_map(auditor.settings.kernel, auditor.encoder, probe_of(source))
    n = len(source) if samples is None else samples
    memory = planned_memory(auditor.settings, gradients, n)
    block = range(min(VIEW_BLOCK, len(source)))
    batch = read(source, block)
    pair = seconds_of(lambda: gradients(batch[:2]))
    tile = batch[: max(2, min(memory.tile, int(2 * TILE_SECONDS / pair), TILE_BYTES // memory.per_sample))]
    reading = seconds_of(lambda: read(source, block)) / len(block)
    drawing = seconds_of(lambda: paired_views(source, views, block, auditor.settings.seed)) / len(block) - reading
    forming, features = seconds_of(lambda: gradients(tile)), gradients(tile)
    pairing = seconds_of(lambda: features.inner(features))
    m = count_landmarks(auditor.settings, n)
    rates: Counts = {
        "samples": 1 / reading,
        "pairs": 1 / drawing if drawing > 0 else INSTANT,
        "network": passes(gradients, tile) * len(tile) / forming,
        "kernel": entry(gradients, tile[:2]) * len(tile) ** 2 / pairing,
        "disk": 1e9,
        **product_rates(auditor.encoder.dtype, auditor.encoder.device, m),
    }
    device = auditor.encoder.device
    total = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else physical_memory()
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return Machine("here", rates, total, source=f"measured now with this encoder, samples and views, {what}")


def physical_memory() -> int | None:
    """Bytes of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None
