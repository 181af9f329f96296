"""Samples and their views block by block, the same whatever the size of the blocks that compute on them."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.data.ids import ChosenIds
from krepes.data.source import Source, Subset, check_finite
from krepes.errors import ConfigError, DataError, KrepesError, lacks_memory

# Samples whose views are drawn together with one seed. It is part of the result's definition, unlike the blocks that
# are computed on, which are unions of these.
VIEW_BLOCK = 256
SHARDS = 32  # a stage is kept on disk in about so many finished parts
SMALLEST_SHARD, LARGEST_SHARD = 4096, 2**18  # a shard's scores are held in memory
CANDIDATES = 32  # samples among which the encoder's probe is chosen


@dataclass(frozen=True)
class SubsetViews:
    """The views that some samples have in the whole source, so that taking samples out changes no other's view.

    Attributes:
        source, views: of the whole.
        positions: of the subset's samples in the whole, ascending.
    """

    source: Source
    views: "Callable[[Tensor, torch.Generator], Tensor] | tuple[Any, Any]"
    positions: np.ndarray
    _last: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def pair(self, indices: range, seed: int) -> tuple[Tensor, Tensor]:
        """Both views of the subset's samples at these positions in it."""
        wanted = self.positions[indices.start : indices.stop]
        parts = []
        for number in np.unique(wanted // VIEW_BLOCK):
            start = int(number) * VIEW_BLOCK
            inside = torch.as_tensor(wanted[wanted // VIEW_BLOCK == number] - start)
            parts.append([v[inside.to(v.device)] for v in self._whole(start, seed)])
        return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])

    def _whole(self, start: int, seed: int) -> tuple[Tensor, Tensor]:
        if (
            start,
            seed,
        ) not in self._last:  # a block's end and the next one's start often lie in one block of the whole
            block = range(start, min(start + VIEW_BLOCK, len(self.source)))
            made = make_views(self.source, self.views, block, seed)
            self._last.clear()
            self._last[start, seed] = made
        return self._last[start, seed]


Views = Callable[[Tensor, torch.Generator], Tensor] | tuple[Any, Any] | SubsetViews


def subset(source: Source, views: Views, chosen: np.ndarray) -> tuple[Subset, SubsetViews]:
    """Some samples with the views that they have among all."""
    if isinstance(views, SubsetViews):  # of a subset already: positions in the whole
        return Subset(source, chosen), SubsetViews(views.source, views.views, views.positions[chosen])
    return Subset(source, chosen), SubsetViews(source, views, chosen)


def shards(n: int) -> list[range]:
    """Contiguous parts of the samples, whole view blocks each and as equal as these allow; they depend on n alone."""
    size = min(max(SMALLEST_SHARD, -(-n // SHARDS)), LARGEST_SHARD)
    size += -size % VIEW_BLOCK
    count, whole = max(1, -(-n // size)), -(-n // VIEW_BLOCK)
    ends = [min(whole * i // count * VIEW_BLOCK, n) for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(ends) if stop > start]


def blocks(part: range, size: int) -> Iterator[range]:
    """A part in blocks of at most `size` samples."""
    for start in range(part.start, part.stop, size):
        yield range(start, min(start + size, part.stop))


def read(source: Source, indices: Sequence[int]) -> Tensor:
    """The samples at these positions, checked to be as many tensors as were asked for, and finite.

    Raises:
        DataError: the source raises an error, or gives something else; names the samples.
        NonFiniteError: names the samples that hold NaN or infinity.
    """
    try:
        batch = source.batch(indices)
    except KrepesError:
        raise
    except Exception as error:  # the source's code may be the user's
        if lacks_memory(error):
            raise
        raise DataError(
            f"{between(source, indices)} cannot be read: the source raises {type(error).__name__}: {error}"
        ) from error
    if not isinstance(batch, Tensor) or batch.shape[:1] != (len(indices),):
        found = f"shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"a {type(batch).__name__}"
        raise DataError(
            f"the source gives {found} for {between(source, indices)}; expected a tensor of {len(indices)} samples"
        )
    check_finite(batch, names(source, indices))
    return batch


def between(source: Source, indices: Sequence[int]) -> str:
    """Samples by the first and last one's id."""
    chosen = names(source, indices)
    return f"sample {chosen[0]}" if len(chosen) == 1 else f"one of the samples {chosen[0]} … {chosen[-1]}"


def probe_of(source: Source) -> Tensor:
    """Three samples on which an encoder is checked: from all over the source, different where it has such."""
    n = len(source)
    return spread_out(read(source, sorted({round(i * (n - 1) / (CANDIDATES - 1)) for i in range(CANDIDATES)})))


def spread_out(batch: Tensor) -> Tensor:
    """At most three samples of a batch, each as far as can be from those before it; equal ones only if all are."""
    flat = batch.flatten(1).double() if batch.ndim > 1 else batch[:, None].double()
    chosen = [int(flat.norm(dim=1).argmax())]
    while len(chosen) < min(3, len(batch)):
        distance = torch.cdist(flat, flat[chosen]).min(1).values
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return batch[chosen]


def check_repeatable(source: Source, views: Views, seed: int) -> None:
    """Refuse samples or views that are others when they are asked for again: every stage would see its own.

    Raises:
        DataError: says which.
    """
    block = range(min(VIEW_BLOCK, len(source)))
    if not torch.equal(read(source, block), read(source, block)):
        raise DataError("the source gives other samples when it is read again: take random augmentation out of it")
    one, other = (make_views(source, views, block, seed) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
        raise DataError(
            "views gives something else for the same batch and generator: draw all its randomness from the generator, "
            "such as torch.randn(batch.shape, generator=generator)"
        )


def names(source: Source, indices: Sequence[int], remark: str = "") -> Sequence[str]:
    """Ids of the samples at these positions, looked up when they are asked for."""
    return ChosenIds(source.ids, indices, remark)


def paired_views(source: Source, views: Views, block: range, seed: int) -> tuple[Tensor, Tensor]:
    """Both views of a block that begins at a multiple of `VIEW_BLOCK`."""
    pairs = [make_views(source, views, part, seed) for part in blocks(block, VIEW_BLOCK)]
    return (pairs[0][0], pairs[0][1]) if len(pairs) == 1 else (
        torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
    )  # fmt: skip


def make_views(source: Source, views: Views, indices: range, seed: int) -> tuple[Tensor, Tensor]:
    """Two views of a view block: from the callable with one seed per block and view, or from two aligned tensors."""
    if isinstance(views, SubsetViews):
        return views.pair(indices, seed)
    if isinstance(views, tuple):
        # copies: an encoder may begin in place
        out = [torch.as_tensor(v[indices.start : indices.stop]).clone() for v in views]
    else:
        batch, out = read(source, indices), []
        for which in (0, 1):
            # spreads the three numbers; PyTorch's CPU generator takes 32 of the bits, so that blocks of two views or
            # seeds may share a stream, millions of samples apart
            mixed = (seed * 1_000_003 + which) * 2_654_435_761 + indices.start
            # an object with a `pair` makes view a and view b in different ways
            make = getattr(views, "pair", (views, views))[which]
            try:
                view = make(batch.clone(), torch.Generator().manual_seed(mixed % 2**63))
            except KrepesError:
                raise
            except Exception as error:  # the user's code
                if lacks_memory(error):
                    raise
                raise DataError(
                    f"views raise {type(error).__name__}: {error}, called with a batch of shape {tuple(batch.shape)} "
                    f"({batch.dtype}) and a torch.Generator; expected a callable (batch, generator) -> batch"
                ) from error
            if not isinstance(view, Tensor) or view.shape != batch.shape:
                got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
                raise DataError(
                    f"views returned {got} for a batch of shape {tuple(batch.shape)}; expected the same shape"
                )
            if view.is_floating_point() != batch.is_floating_point():
                advice = "" if batch.is_floating_point() else ". Give samples that hold fractions: samples.float()"
                raise DataError(
                    f"views returned {view.dtype} for a batch of {batch.dtype}; expected the same kind{advice}"
                )
            out.append(view)
    for view in out:
        check_finite(view, names(source, indices))
    return out[0], out[1]


def check_views(views: Views, source: Source) -> Views:
    """The views, as a callable or two aligned tensors.

    Raises:
        ConfigError: views is neither.
        DataError: a view's shape differs from the samples'.
    """
    if callable(views) or isinstance(views, SubsetViews):
        return views
    if not isinstance(views, tuple | list) or len(views) != 2:
        raise ConfigError(
            f"views is a {type(views).__name__}; expected a callable (batch, generator) -> batch, or two tensors "
            "aligned with the source"
        )
    shape = (len(source), *source.batch([0]).shape[1:])
    for name, view in zip("ab", views, strict=True):
        if not hasattr(view, "shape"):
            raise ConfigError(f"view {name} is a {type(view).__name__}; expected a tensor or an array")
        if tuple(view.shape) != shape:
            raise DataError(f"view {name} has shape {tuple(view.shape)}; the samples have {shape}")
    return views[0], views[1]


def ahead(items: Iterator[tuple[Tensor, ...]], device: torch.device, depth: int = 2) -> Iterator[tuple[Tensor, ...]]:
    """The items, made by a thread `depth` steps ahead in pinned memory where the device is CUDA.

    On a CPU they are made in turn: a second thread would take the cores that the products need.
    """
    if device.type != "cuda":
        yield from items
        return
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in items:
                if not put(tuple(t.pin_memory() for t in item)):
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            put(error)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
