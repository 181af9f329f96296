"""Where an objective that looks at pairs finds their features: in memory, on disk, or computed when asked."""

import itertools
import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from krepes.data.stream import VIEW_BLOCK
from krepes.errors import RunFolderError

RESIDENT = 256 * 2**20  # bytes read from the map before its pages are given back


class ShardedStore:
    """Features (n, r) of one view, in a memory-mapped file per shard; read by every worker, each written by one.

    Args:
        folder: where the files are; all workers see it.
        name: what the files' names begin with.
        parts: the shards.
        r, dtype: see `FeatureStore`.
    """

    def __init__(self, folder: Path, name: str, parts: Sequence[range], r: int, dtype: torch.dtype):
        self._parts, self._shape = parts, (r, dtype)
        self._paths = [folder / f"{name}-{i:03d}.bin" for i in range(len(parts))]
        self._open: dict[int, FeatureStore] = {}
        self._ends = torch.tensor([part.stop for part in parts])
        self._read = 0

    def __len__(self) -> int:
        return self._parts[-1].stop

    def shard(self, i: int, create: bool = False) -> "FeatureStore":
        """One shard's rows, opened when they are first asked for.

        Raises:
            RunFolderError: the file is not there, or not whole; its worker may make it with `create`.
        """
        if i not in self._open:
            self._open[i] = FeatureStore(self._paths[i], len(self._parts[i]), *self._shape, create)
        return self._open[i]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows (|index|, r) at sorted positions, in the store's type."""
        index = index.cpu()
        bounds = [0, *torch.searchsorted(index, self._ends).tolist()]
        pieces = [
            self.shard(i)[index[start:stop] - self._parts[i].start]
            for i, (start, stop) in enumerate(itertools.pairwise(bounds))
            if stop > start
        ]
        self._read += sum(piece.nbytes for piece in pieces)
        if self._read > RESIDENT:
            self._read = 0
            for store in self._open.values():
                store.release()
        return torch.cat(pieces) if pieces else torch.empty(0, self._shape[0], dtype=self._shape[1])


class FeatureStore:
    """Features (n, r) of one shard and view in a memory-mapped file.

    Args:
        path: the file; made if it does not exist with the right size.
        dtype: float32, float16 or bfloat16.
        create: False: it must be there already.

    Raises:
        RunFolderError: the disk is full, or the file is not there or of another size.
    """

    def __init__(self, path: Path, n: int, r: int, dtype: torch.dtype, create: bool = True):
        self.path, self.shape, self.dtype = path, (n, r), dtype
        size = n * r * dtype.itemsize
        if not create and not whole(path, size):
            raise RunFolderError(f"{path} is not there or not whole: all workers must see what others write")
        with self._refusals():
            if create:
                reserve(path, size)
            # bfloat16 is unknown to numpy: kept by its bits
            kind = np.dtype(np.uint16) if dtype == torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch."))
            self._map = np.memmap(path, kind, "r+", shape=(n, r))
        self._read = 0

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            size = math.prod(self.shape) * self.dtype.itemsize
            raise RunFolderError(
                f"cannot keep the pairs' features ({size / 2**30:.1f} GiB) in {self.path}: {error}. Free space, or "
                "take engine.store float16 or recompute; finished blocks are kept and the same command goes on."
            ) from error

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows (|index|, r) in the store's type."""
        rows = torch.from_numpy(self._map[index.cpu().numpy()])
        self._read += rows.nbytes
        if self._read > RESIDENT:
            self.release()
        return rows.view(self.dtype) if self.dtype == torch.bfloat16 else rows

    def write(self, start: int, features: Tensor) -> None:
        """Keep the features (B, r) of a block that begins at this row."""
        lowered = features.detach().cpu().to(self.dtype).contiguous()
        self._map[start : start + len(lowered)] = (
            lowered.view(torch.uint16) if self.dtype == torch.bfloat16 else lowered
        ).numpy()

    def crc(self) -> int:
        """Checksum of all bytes."""
        return zlib.crc32(self._map.reshape(-1).view(np.uint8))  # pyright: ignore[reportArgumentType]

    def flush(self) -> None:
        """Bring the file to disk and give its pages back.

        Raises:
            RunFolderError: the disk does not take it.
        """
        with self._refusals():
            self._map.flush()
        self.release()

    def release(self) -> None:
        """Give the pages back to the system; the file and the page cache stay."""
        self._read = 0
        inner = getattr(self._map, "_mmap", None)
        if isinstance(inner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            inner.madvise(mmap.MADV_DONTNEED)


def whole(path: Path, size: int) -> bool:
    """Whether there is a file of this size."""
    return path.is_file() and path.stat().st_size == size


def reserve(path: Path, size: int) -> None:
    """A file of this size whose blocks the disk has promised; one of this size keeps what it holds.

    Without them a full disk would end the process with SIGBUS where the map is written to, and nobody could say why.
    """
    kept = whole(path, size)
    try:
        with path.open("r+b" if kept else "wb") as f:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(f.fileno(), 0, size)  # also of a file with holes, as a copy may be
            else:
                f.truncate(size)
    except OSError:
        if not kept:
            path.unlink(missing_ok=True)  # half a file would keep the space that the manifest needs
        raise


@dataclass
class Recomputed:
    """Features of one view, computed from the samples each time.

    Attributes:
        compute: (view block, which, positions inside it) ↦ features (·, r).
    """

    n: int
    which: int
    compute: Callable[[range, int, Tensor], Tensor]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows (|index|, r), for a sorted index."""
        parts = []
        starts = (index // VIEW_BLOCK) * VIEW_BLOCK
        for start in starts.unique().tolist():
            block = range(start, min(start + VIEW_BLOCK, self.n))
            parts.append(self.compute(block, self.which, index[starts == start] - start))
        return torch.cat(parts)
