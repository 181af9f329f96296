"""Anything that gives batches, such as a torch DataLoader, as samples."""

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.chunks import Chunks, ChunkWriter
from krepes.data.columns import checked_metadata
from krepes.data.ids import checked_ids, joined
from krepes.data.problems import check_rows
from krepes.data.source import kind_of
from krepes.errors import DataError, KrepesError
from krepes.files import one_writer

FIX = "Use shuffle=False, and leave random augmentation to views"


class LoaderSource:
    """Batches that are read once, in order, into memory-mapped files.

    A shuffling loader gives other samples at every pass, so that ids would mean nothing: the first batch is read twice
    and, after the reading, the whole loader once more.

    Args:
        loader: gives batches (B, ...) of one shape; iterated anew at each pass.
        take: index or key of the samples in a batch that is a tuple, list or dictionary; the rest is never read.
        cache: a folder to keep the samples in; a complete one is taken as it is. Default a temporary one.
        ids, metadata, show_label: see `ArraySource`.
        n: the first samples only.
        check: compare a second pass with the first. Without it a generator, which has one pass, can be read.

    Example:
        >>> source = LoaderSource(DataLoader(dataset, batch_size=64), take=0, cache="cache/photos")
        >>> source.batch(range(256)).shape
        torch.Size([256, 3, 32, 32])

    Raises:
        DataError: no batches, labels without `take`, batches of other shapes or that raise an error, a shuffling
            loader, or a second pass that differs.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        take: int | str | None = None,
        cache: str | Path | None = None,
        ids: Sequence[str] | None = None,
        metadata: pd.DataFrame | None = None,
        n: int | None = None,
        check: bool = True,
        show_label: bool = False,
    ):
        check_rows(n, "n")
        if check and isinstance(loader, Iterator):
            raise DataError(
                f"a {type(loader).__name__} can be read once only, so that its order cannot be checked; pass the "
                "loader itself, or check=False"
            )
        if check and not _same(_first(loader, take), _first(loader, take)):
            raise DataError(f"the loader gives another first batch each time: it shuffles or augments. {FIX}")
        self._temporary = tempfile.TemporaryDirectory(prefix="krepes-") if cache is None else None
        folder = Path(self._temporary.name if self._temporary else cache)  # pyright: ignore[reportArgumentType]
        self._chunks = self._read(loader, take, folder, n, check)
        self.ids = checked_ids(ids, len(self._chunks))
        self._metadata = checked_metadata(metadata, self.ids, show_label)
        self.kind = kind_of(self._chunks.shape)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._chunks)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...)."""
        return self._chunks.batch(indices)

    def metadata(self) -> pd.DataFrame | None:
        """The table given with the samples."""
        return self._metadata

    def fingerprint(self) -> str:
        """sha256 over ids and samples; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for part in joined(self.ids):
                digest.update(part)
            self._chunks.update(digest)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @staticmethod
    def _read(loader: Iterable[Any], take: int | str | None, folder: Path, n: int | None, check: bool) -> Chunks:
        with one_writer(folder):
            writer = ChunkWriter(folder, {"what": "loader", "take": take, "n": n})
            if not writer.complete:
                writer.restart()  # a loader has no way to go on from the middle
                for number, batch in enumerate(_batches(loader, take, n)):
                    for sample in batch:
                        try:
                            writer.add(sample, "")
                        except DataError as error:
                            raise DataError(f"batch {number} of the loader: {error}. Resize or crop to one.") from error
                        writer.item_done()
            elif not check:
                return writer.finish()
            chunks, place = writer.finish(), 0
        for number, batch in enumerate(_batches(loader, take, n) if check else ()):
            if place + len(batch) > len(chunks) or not _same(batch, chunks.batch(range(place, place + len(batch)))):
                raise DataError(
                    f"batch {number} of the loader differs from what {folder} holds from the first pass: it shuffles "
                    f"or augments, or the folder is another loader's. {FIX}; choose another folder"
                )
            place += len(batch)
        if check and place != len(chunks):
            raise DataError(f"the loader gave {len(chunks)} samples at first and {place} in the second pass. {FIX}")
        return chunks


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two batches have one shape, one type and the same values; NaN is NaN."""
    # samples that hold NaN are refused later, by name
    alike = a.shape == b.shape and a.dtype == b.dtype
    return alike and np.array_equal(a.numpy(), b.numpy(), equal_nan=a.is_floating_point())


def _first(loader: Iterable[Any], take: int | str | None) -> Tensor:
    batch = next(_batches(loader, take, None), None)
    if batch is None:
        raise DataError("there are no samples: the loader gives no batch")
    return batch


def _batches(loader: Iterable[Any], take: int | str | None, n: int | None) -> Iterator[Tensor]:
    """The samples of each batch (B, ...), n at most in all."""
    left, batches = n, iter(loader)
    for number in itertools.count():
        if left == 0:
            return
        try:
            batch = next(batches)
        except StopIteration:
            return
        except KrepesError:
            raise
        except Exception as error:  # the loader's code is the user's
            raise DataError(
                f"batch {number} of the loader cannot be read: it raises {type(error).__name__}: {error}"
            ) from error
        samples = _taken(batch, take, number)
        samples = samples if left is None else samples[:left]
        left = None if left is None else left - len(samples)
        yield samples


def _taken(batch: Any, take: int | str | None, number: int) -> Tensor:
    if take is not None:
        try:
            batch = batch[take]
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"batch {number} of the loader has no part take={take!r}: {error!r}") from error
    elif isinstance(batch, tuple | list | dict):
        raise DataError(
            f"batch {number} of the loader is a {type(batch).__name__} of {len(batch)}: it seems to carry labels. Say "
            "which part the samples are: take=0"
        )
    try:
        made = batch if isinstance(batch, Tensor) else torch.as_tensor(np.asarray(batch))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"batch {number} of the loader is a {type(batch).__name__}; expected a tensor or array"
        ) from error
    if made.ndim < 1 or len(made) == 0:
        raise DataError(f"batch {number} of the loader has shape {tuple(made.shape)}; expected (B, ...)")
    made = made.detach().cpu()
    return made.float() if made.dtype == torch.bfloat16 else made  # which numpy has not
