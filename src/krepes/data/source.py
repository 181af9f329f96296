"""Samples with stable ids."""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from krepes.data.columns import checked_metadata
from krepes.data.ids import ChosenIds, checked_ids, joined
from krepes.data.mapped import MappedFile
from krepes.errors import DataError, KrepesError, NonFiniteError


@runtime_checkable
class Source(Protocol):
    """Unlabelled samples.

    Attributes:
        ids: one unique, stable id per sample.
        kind: "image", "table" or "vector": how a sample is shown.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def kind(self) -> str: ...
    def __len__(self) -> int: ...
    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...)."""
        ...

    def metadata(self) -> pd.DataFrame | None:
        """One row per sample in raw units, for display."""
        ...

    def fingerprint(self) -> str:
        """sha256 over ids and content."""
        ...


class ArraySource:
    """Samples in memory.

    Args:
        array: a tensor or numeric array (n, ...).
        ids: one id per sample; default "0" … "n − 1".
        metadata: a table of n rows, shown with the samples, never seen by the encoder. An index that holds the given
            ids, as text, says which row is whose.
        show_label: leave columns in the metadata that hold classes by their names, such as `label`; else they are left
            out with a warning.

    Raises:
        DataError: no samples, an object array, a wrong number of ids, or duplicated ones.
    """

    def __init__(
        self,
        array: Any,
        ids: Sequence[str] | None = None,
        metadata: pd.DataFrame | None = None,
        kind: str | None = None,
        show_label: bool = False,
    ):
        if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
            raise DataError("the array is masked; fill the masked cells, or take the samples out")
        if isinstance(array, Tensor) and array.layout != torch.strided:
            raise DataError(f"the samples are a {array.layout} tensor; expected a dense one: call .to_dense()")
        if isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
            raise DataError(f"the array holds {array.dtype} values; expected numbers")
        if isinstance(array, np.ndarray) and min(array.strides, default=0) < 0:
            array = array.copy()  # torch takes no reversed view
        self._mapped = MappedFile.of(array)
        try:
            with warnings.catch_warnings():
                # a read-only memory map is never written to: batches are copies
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                self._array = torch.as_tensor(array)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"cannot read a {type(array).__name__} as samples: {error}") from error
        if self._array.ndim < 1 or self._array.numel() == 0:
            raise DataError(f"there are no samples: the array has shape {tuple(self._array.shape)}")
        self.ids = checked_ids(ids, len(self._array))
        self._metadata = checked_metadata(metadata, self.ids, show_label)
        self.kind = kind or kind_of(self._array.shape[1:])

    def __len__(self) -> int:
        return len(self._array)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...)."""
        if self._mapped is not None:
            self._mapped.check()
        index = slice_of(indices, len(self))
        return self._array[index].clone() if isinstance(index, slice) else self._array[index]

    def metadata(self) -> pd.DataFrame | None:
        """The table given with the samples."""
        return self._metadata

    def fingerprint(self) -> str:
        """sha256 over ids, shape, dtype and bytes."""
        return fingerprint(self)


class DatasetSource:
    """A map-style torch Dataset.

    Args:
        dataset: items are samples of one shape; tuples, lists and dictionaries need `take`.
        take: index or key of the sample inside an item; the rest (labels) is never read.
        ids, metadata, show_label: see `ArraySource`.

    Raises:
        DataError: no samples, items with labels and no `take`, or items that are no tensors or arrays.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids: Sequence[str] | None = None,
        metadata: pd.DataFrame | None = None,
        take: int | str | None = None,
        show_label: bool = False,
    ):
        try:
            n = len(dataset)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise DataError(
                f"{type(dataset).__name__} has no length; expected a map-style Dataset. For a stream use "
                "krepes.data.HubSource or LoaderSource with a cache folder."
            ) from error
        if n == 0:
            raise DataError("there are no samples: the dataset has length 0")
        self._dataset, self._take = dataset, take
        self.ids = checked_ids(ids, n)
        self._metadata = checked_metadata(metadata, self.ids, show_label)
        self._shape = self._item(0).shape
        self.kind = kind_of(self._shape)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...).

        Raises:
            DataError: a sample has another shape, or the dataset raises an error; names it.
        """
        items = []
        for i in indices:
            item = self._item(int(i))
            if item.shape != self._shape:
                raise DataError(
                    f"sample {self.ids[i]} has shape {tuple(item.shape)}; the first sample has {tuple(self._shape)}. "
                    "Resize or crop to one shape."
                )
            items.append(item)
        return torch.stack(items)

    def metadata(self) -> pd.DataFrame | None:
        """The table given with the samples."""
        return self._metadata

    def fingerprint(self) -> str:
        """sha256 over ids, shape, dtype and bytes; reads every sample once."""
        return fingerprint(self)

    def _item(self, index: int) -> Tensor:
        try:
            item = self._dataset[index]
        except KrepesError:
            raise
        except Exception as error:  # the dataset's code is the user's
            raise DataError(
                f"sample {self.ids[index]} cannot be read: the dataset raises {type(error).__name__}: {error}"
            ) from error
        if self._take is not None:
            try:
                item = item[self._take]
            except (KeyError, IndexError, TypeError) as error:
                raise DataError(
                    f"sample {self.ids[index]} of the dataset has no part take={self._take!r}: {error!r}"
                ) from error
        elif isinstance(item, tuple | list | dict):
            raise DataError(
                f"an item of the dataset is a {type(item).__name__} of {len(item)}: it seems to carry a label. krepes "
                "takes unlabelled samples; use krepes.data.DatasetSource(dataset, take=0)."
            )
        try:
            return torch.as_tensor(np.asarray(item) if not isinstance(item, Tensor) else item)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"sample {self.ids[index]} of the dataset is a {type(item).__name__}; expected a tensor or array"
            ) from error


class Subset:
    """Some samples of a source, under the ids that they have there.

    Args:
        source: the whole.
        positions: ascending positions (k,) in it.
    """

    def __init__(self, source: Source, positions: np.ndarray):
        self.source, self.positions = source, positions
        self.ids = ChosenIds(source.ids, positions)  # pyright: ignore[reportArgumentType]
        self.kind = source.kind

    def __len__(self) -> int:
        return len(self.positions)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...)."""
        return self.source.batch(self.positions[np.asarray(indices, dtype=np.int64)].tolist())

    def metadata(self) -> pd.DataFrame | None:
        """Those rows of the whole's table."""
        table = self.source.metadata()
        return None if table is None else table.iloc[self.positions].reset_index(drop=True)

    def fingerprint(self) -> str:
        """sha256 over ids, shape, dtype and bytes."""
        return fingerprint(self)


def as_source(samples: Any) -> Source:
    """A source from a tensor, an array, a torch Dataset, or a source.

    Raises:
        DataError: the samples are something else, or labelled.
    """
    if isinstance(samples, Source):
        return samples
    if isinstance(samples, pd.DataFrame):
        raise DataError(
            "the samples are a pandas DataFrame; encode it with krepes.data.TableSchema.fit(frame) and pass "
            "krepes.data.TableSource(frame, schema); for any other data frame TableSource.of(frame, schema)"
        )
    if isinstance(samples, Dataset):
        return DatasetSource(samples)
    if isinstance(samples, tuple):
        raise DataError(
            f"the samples are a tuple of {len(samples)}: labels are not wanted here; pass the samples alone"
        )
    return ArraySource(samples)


def check_finite(batch: Tensor, ids: Sequence[str]) -> None:
    """Raise NonFiniteError naming the samples that hold NaN or infinity."""
    if not batch.is_floating_point():
        return
    bad = ~torch.isfinite(batch.flatten(1) if batch.ndim > 1 else batch[:, None]).all(1)
    if bool(bad.any()):
        where = bad.nonzero().flatten().tolist()
        named = ", ".join(str(ids[i]) for i in where[:5])
        raise NonFiniteError(
            f"{len(where)} of {len(batch)} samples hold NaN or infinity: {named}"
            f"{' …' if len(where) > 5 else ''}. Remove or impute them."
        )


def fingerprint(source: Source) -> str:
    """sha256 over a source's ids and samples, block by block."""
    digest = hashlib.sha256()
    for part in joined(source.ids):
        digest.update(part)
    for start in range(0, len(source), 1024):
        block = source.batch(range(start, min(start + 1024, len(source)))).cpu().contiguous()
        digest.update(f"{tuple(block.shape)}{block.dtype}".encode())
        digest.update(block.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def kind_of(shape: Sequence[int]) -> str:
    """ "image" for (H, W) or (C, H, W) with 1 or 3 channels, else "vector"."""
    return "image" if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)) else "vector"


def slice_of(indices: Sequence[int] | Tensor, n: int) -> slice | Tensor:
    """An ascending range of positions below n as a slice, everything else as a tensor of positions."""
    if isinstance(indices, range) and indices.step == 1 and 0 <= indices.start <= indices.stop <= n:
        return slice(indices.start, indices.stop)
    return torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices), dtype=torch.long)
