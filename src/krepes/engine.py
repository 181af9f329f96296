"""How the numbers are computed, as opposed to which: memory, precision, where features are kept."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from krepes.errors import ConfigError
from krepes.kernel.ntk import PRECISIONS, ROWS, TILE_NUMBERS
from krepes.objectives.base import KEEP_BYTES
from krepes.objectives.simclr import ROWS as SIMCLR_ROWS

STORES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
BLOCK = 2048  # samples per block of the stream at most; more saves no work
DEFAULT_MEMORY = 2 * 2**30
FEWEST = 64  # samples per tile, if the budget holds them: fewer rows leave the products waiting for memory


@dataclass(frozen=True)
class Engine:
    """Settings that change time and memory, and the result by rounding at most.

    Args:
        memory: what krepes may allocate beside what the process already holds, such as "4GiB" or a number of
            bytes; block sizes follow from it. None: 2 GiB.
        precision: of the products with the landmarks: "float32" (exact), "tf32" or "bfloat16", where the device has
            them. The kernel's error against float32 is then measured among landmarks and reported.
        store: the type in which objectives that need the features of all pairs (SimCLR, BYOL) keep them on disk:
            "float32", "float16", "bfloat16"; or "recompute", which keeps nothing. Moment objectives keep no features.
    """

    memory: str | int | None = None
    precision: str = "float32"
    store: str = "float32"

    def __post_init__(self):
        parse_bytes(self.memory)
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")
        if self.store not in (*STORES, "recompute"):
            raise ConfigError(f"store={self.store!r} is unknown; expected {', '.join(STORES)} or 'recompute'")


def parse_bytes(text: str | int | None) -> int:
    """Bytes of "4GiB", "500 MB", a number, or None (the default).

    Raises:
        ConfigError: no such amount.
    """
    if text is None:
        return DEFAULT_MEMORY
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(text))
    if isinstance(text, bool) or not match or match[2].lower() not in UNITS or float(match[1]) <= 0:
        raise ConfigError(f"memory={text!r} is no amount of memory; expected such as '4GiB', '500MB' or bytes")
    return int(float(match[1]) * UNITS[match[2].lower()])


def in_words(number: float) -> str:
    """Bytes as "1.2 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def peak_resident() -> int | None:
    """Bytes that the process held in memory at most, since it started; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the process was forked from
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if found:
            return int(found[0].split()[1]) * 1024
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rank_tolerance(dtype: torch.dtype, precision: str) -> float:
    """Relative cut of K_mm's eigenvalues, below which rows of the kernel hold more rounding than signal.

    With errors of relative size e in the rows, the feature of eigenvalue Λ_i has a signal-to-noise ratio of about
    Λ_i/(e Λ_1) times a factor between 1 and √m: docs/method.md.
    """
    if dtype == torch.float64:
        return 1e-12
    return {"float32": 1e-7, "tf32": 1e-5, "bfloat16": 1e-4}[precision]


@dataclass(frozen=True)
class MemoryPlan:
    """Block sizes under a budget.

    Attributes:
        budget: bytes.
        fixed: what is held throughout: name ↦ bytes.
        per_sample: bytes per sample of a tile.
        tile: samples whose gradients are formed together.
        block: samples per block of the stream, a multiple of the views' blocks where it is above one of them.
        keep: whether the landmarks' features are held.
        disk: bytes of the feature store, 0 without one.
    """

    budget: int
    fixed: dict[str, int]
    per_sample: int
    tile: int
    block: int
    keep: bool
    disk: int = 0

    @property
    def total(self) -> int:
        """Bytes that the plan needs."""
        return sum(self.fixed.values()) + self.tile * self.per_sample

    def sentence(self) -> str:
        """For the log."""
        held = ", ".join(f"{name} {in_words(size)}" for name, size in self.fixed.items() if size)
        landmarks = "" if self.keep else "; landmark gradients do not fit and are computed anew for every tile"
        disk = f"; {in_words(self.disk)} on disk" if self.disk else ""
        return (
            f"{in_words(self.total)} of {in_words(self.budget)} planned: {held}; tiles of {self.tile} samples at "
            f"{in_words(self.per_sample)} each{landmarks}{disk}"
        )


def plan_memory(engine: Engine, gradients, m: int, h: int, n: int, batch: int | None, view_block: int) -> MemoryPlan:
    """Tile and block sizes for m landmarks.

    Args:
        gradients: the `GradientMap`.
        h: dimension of the representation.
        n: samples, for the feature store of a streaming objective.
        batch: pairs per batch of a streaming objective; None for a moment objective.
        view_block: samples whose views are made together.

    Raises:
        ConfigError: the budget cannot hold a tile of one sample; says the smallest that can.
    """
    budget = parse_bytes(engine.memory)
    size = torch.finfo(gradients.encoder.dtype).bits // 8
    numbers = gradients.features_per_sample()
    lowered = engine.precision == "bfloat16"
    fixed = fixed_memory(engine, m, h, n, batch, size)
    # gradients of a tile while they are formed (twice) and its rows against all landmarks
    feature = 2 * numbers * (size + 2 if lowered else size)
    per_sample = feature + gradients.activation_bytes() + m * 8 * 4
    kept = m * numbers * (2 if lowered else size)
    # rows of a block in double precision, and the features of both views
    per_row = m * (8 + 3 * size)
    least = min(n, view_block)
    left = budget - sum(fixed.values()) - least * per_row
    keep = kept + 16 * per_sample <= left
    if not keep:
        kept, per_sample = 0, per_sample + feature
    cpu = gradients.encoder.device.type == "cpu"
    most = min(ROWS, max(FEWEST, TILE_NUMBERS // max(1, numbers))) if cpu else ROWS
    tile = min(most, int((left - kept) // per_sample))
    if tile < 1:
        smallest = sum(fixed.values()) + least * per_row + per_sample
        raise ConfigError(
            f"memory={engine.memory!r} cannot hold a block of one sample with {m} landmarks; the smallest budget that "
            f"works is {in_words(smallest * 1.05)}. Take more memory, fewer landmarks, or project= in the kernel."
        )
    tile -= tile % view_block if tile > view_block else 0
    spare = left - kept - tile * per_sample
    block = min(BLOCK, n, least + int(spare / 2 / per_row))
    block -= block % view_block if block > view_block else 0
    fixed |= {"block of rows": block * per_row, "landmark gradients": kept}
    disk = 2 * n * m * (STORES[engine.store].itemsize if batch is not None and engine.store in STORES else 0)
    return MemoryPlan(budget, fixed, per_sample, tile, max(view_block, block), keep, disk)


def fixed_memory(engine: Engine, m: int, h: int, n: int, batch: int | None, size: int) -> dict[str, int]:
    """What is held whatever the blocks are: name ↦ bytes, for numbers of `size` bytes."""
    # K_mm, its eigenvectors and the eigensolver's copies
    fixed = {"landmark kernel": 8 * m * m * 6, "step": 16 * m * h * 8}
    if batch is None:
        return fixed | {"moments": 3 * m * m * (8 * 3 + size)}
    # features of a batch, some rows of its 2N × 2N matrix, and the embeddings that a linearisation keeps
    fixed["batch of pairs"] = 2 * batch * m * (8 + size) + 4 * size * SIMCLR_ROWS * 2 * batch
    fixed["embeddings of the pairs"] = min(KEEP_BYTES, 2 * n * (h + 2) * size)
    return fixed
