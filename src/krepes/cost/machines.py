"""How fast machines are: this one, measured with the audit's own encoder and data; others as their data sheets say."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from krepes.config.reading import Section, read_settings
from krepes.cost.counts import EIGEN, KINDS, OPERATIONS
from krepes.engine import parse_bytes
from krepes.errors import ConfigError

SPENT = 0.4  # seconds that each measurement takes at least, if one call is not longer
# of a data sheet's peak; of elementwise functions, of the bandwidth with which they read and write 4 bytes each
ACHIEVED = {"network": 0.25, "kernel": 0.5, "products": 0.5, "double": 0.5, "eigen": 0.02, "elementwise": 0.6}
ETHERNET, LATENCY = 10e9 / 8, 50e-6  # bytes a second between machines, seconds of a message


@dataclass(frozen=True)
class Machine:
    """One worker's machine, or its part of it.

    Attributes:
        name: as the user calls it.
        rates: kind (`krepes.cost.KINDS`) ↦ how much in a second, of one worker.
        memory: bytes of one worker; None: unknown.
        bandwidth: bytes a second that a worker sends to others.
        latency: seconds of a message.
        source: where the figures come from, in words.
    """

    name: str
    rates: Mapping[str, float]
    memory: int | None = None
    bandwidth: float = ETHERNET
    latency: float = LATENCY
    source: str = ""

    def seconds(self, counts: Mapping[str, float]) -> float:
        """Of counts, one kind after the other."""
        return sum(amount / self.rates[kind] for kind, amount in counts.items() if amount)

    def sum_seconds(self, numbers: float, sums: float, workers: int) -> float:
        """Of sums over workers in a ring: every worker sends 2(W − 1)/W of the numbers, float64."""
        if workers == 1:
            return 0.0
        return 2 * (workers - 1) * (8 * numbers / workers / self.bandwidth + sums * self.latency)


@dataclass(frozen=True)
class Sheet:
    """Peaks of a data sheet: operations a second in float32 and float64, bytes a second, bytes of memory."""

    single: float
    double: float
    bandwidth: float
    memory: int
    source: str


# dense, without sparsity, without TensorFloat-32; float64 with tensor cores
SHEETS = {
    "a100": Sheet(19.5e12, 19.5e12, 2.04e12, 80 * 2**30, "NVIDIA A100 80GB data sheet"),
    "h100": Sheet(67e12, 67e12, 3.35e12, 80 * 2**30, "NVIDIA H100 SXM data sheet"),
    "h200": Sheet(67e12, 67e12, 4.8e12, 141 * 10**9, "NVIDIA H200 SXM data sheet"),
}


class MachineConfig(Section):
    """A machine in a file: `rates` of one worker, as far as they are known; others are those of `like`."""

    name: str
    like: str = "here"
    rates: dict[str, float] = Field(default_factory=dict)
    memory: str | int | None = None
    bandwidth: float | None = Field(None, gt=0)
    latency: float | None = Field(None, ge=0)


def machine_named(name: str, here: Machine) -> Machine:
    """A machine by its name: "here", a data sheet's, or a YAML file with the keys of `MachineConfig`.

    Args:
        here: as it was measured. Reading samples and drawing views is work of CPUs, whose speed no accelerator's data
            sheet tells: as fast as here, per worker.

    Raises:
        ConfigError: no such machine; or its file is wrong.
    """
    known, path = ", ".join(["here", *SHEETS]), Path(name)
    if name.lower() in ("here", *SHEETS):
        return here if name.lower() == "here" else of_sheet(name.lower(), here)
    if not path.is_file():
        raise ConfigError(f"machine {name!r} is unknown; expected one of {known}, or a YAML file that describes one")
    settings = read_settings(path, MachineConfig, [], "bandwidth=1e9")
    if settings.like.lower() not in ("here", *SHEETS):
        raise ConfigError(f"{path}: like: {settings.like!r} is unknown; expected one of {known}")
    wrong = [k for k, rate in settings.rates.items() if k not in KINDS or not 0 < rate < math.inf]
    if wrong:
        raise ConfigError(f"{path}: rates.{wrong[0]}: expected positive numbers of {', '.join(KINDS)}")
    like = machine_named(settings.like, here)
    told: dict[str, Any] = {k: v for k in ("bandwidth", "latency") if (v := getattr(settings, k)) is not None}
    memory = like.memory if settings.memory is None else parse_bytes(settings.memory)
    others = "" if set(settings.rates) == set(KINDS) else f"; other rates: {like.source}"
    return replace(like, name=settings.name, rates={**like.rates, **settings.rates}, memory=memory,
                   source=f"{path}{others}", **told)  # fmt: skip


def of_sheet(name: str, here: Machine) -> Machine:
    """An accelerator, from its data sheet and the shares of the peak in `ACHIEVED`."""
    sheet = SHEETS[name]
    peak = {kind: sheet.double if kind in ("double", "eigen") else sheet.single for kind in OPERATIONS}
    peak["elementwise"] = sheet.bandwidth / 8
    rates = {**here.rates, **{kind: share * peak[kind] for kind, share in ACHIEVED.items()}}
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in ACHIEVED.items())
    source = f"{sheet.source}, not measured; of its peak: {shares}; samples, views and files as here"
    return Machine(name, rates, sheet.memory, here.bandwidth, here.latency, source)


def seconds_of(work: Callable[[], Any]) -> float:
    """Of one call, after a first one: the least of several within `SPENT` seconds."""
    work()
    synchronise()
    best, until = float("inf"), time.perf_counter() + SPENT
    while True:
        started = time.perf_counter()
        work()
        synchronise()
        now = time.perf_counter()
        best = min(best, now - started)
        if now >= until:
            return best


def synchronise() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product_rates(dtype: torch.dtype, device: torch.device, m: int) -> dict[str, float]:
    """What a second does of products as the stages make them, (2048, m) by (m, m), eigenproblems, and exponentials."""
    m = min(max(m, 32), 2048)
    found = {}
    for kind, kept in (("products", dtype), ("double", torch.float64)):
        a, b = (torch.ones(size, m, dtype=kept, device=device) for size in (2048, m))
        found[kind] = 2.0 * 2048 * m * m / seconds_of(lambda a=a, b=b: a @ b)
    size = min(m, 512)
    a = torch.rand(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    found["eigen"] = EIGEN * size**3 / seconds_of(lambda: torch.linalg.eigh(a @ a.T))
    x = torch.zeros(512, 2048, dtype=dtype, device=device)
    found["elementwise"] = x.numel() / seconds_of(lambda: x.exp_().sub_(1))
    return found
