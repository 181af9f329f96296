"""Hugging Face datasets as samples: map-style ones as they lie on disk, streams through a cache."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.columns import Columns
from krepes.data.encoded import EncodedImages
from krepes.data.hub_items import BLOCK, Encode, Wanted, checked_dataset, opened
from krepes.data.hub_loading import load_hub
from krepes.data.hub_stream import Streamed
from krepes.data.ids import RowIds, joined
from krepes.data.preprocess import MAX_PIXELS, Preprocess
from krepes.data.problems import OnError, Problem, check_on_error, repeated_ids, settle
from krepes.data.source import kind_of
from krepes.errors import ConfigError, DataError, is_whole


class HubSource:
    """One column of a Hugging Face dataset as samples: images, text as token ids, or arrays of numbers.

    Args:
        dataset: a `datasets.Dataset`, or a stream (`IterableDataset`), which is read once into `cache`.
        column: of the samples.
        preprocess: for images: what the encoder was trained with.
        tokenizer: for text: a list of B texts ↦ token ids (B, L), or a dictionary with them as "input_ids".
        length: with a tokenizer of transformers: L, to which it pads and truncates.
        tokenizer_name: of a stream: what the tokenizer is, where that cannot be told: a lambda, a closure, an object.
        ids: a column of ids; default an item's number in the dataset.
        metadata: columns shown with the samples, never seen by the encoder; a class becomes its name.
        hide: columns for `column` that are not shown, such as classes, whether `metadata` names them or not.
        n: the first items only.
        cache: of a stream: a folder for memory-mapped chunks. Interrupted, the same call goes on; complete, it is
            taken after a comparison with the stream's items. A stream that shuffles is refused.
        on_error: of items that cannot be used: "raise" names the first; "skip" leaves them out with a warning.
        verify: encode every item once now; else only images' headers and the first block of others. A stream is always
            encoded as a whole.
        max_pixels: of one image before preprocessing.
        origin: where the dataset comes from, as `load_hub` tells it.

    Attributes:
        problems: a table of id, path and problem of the items that are left out.
        origin: as given; {} where nobody said it.

    Example:
        >>> source = HubSource(load_dataset("cifar10", split="train"), "img", Preprocess(), metadata=["label"])
        >>> source.batch(range(2)).shape
        torch.Size([2, 3, 32, 32])

    Raises:
        DataError: no dataset, no such column, items that cannot be used, or a cache of something else.
        ConfigError: images without preprocess, text without tokenizer, a stream without cache.
    """

    def __init__(
        self,
        dataset: Any,
        column: str,
        preprocess: Preprocess | None = None,
        tokenizer: Callable[..., Any] | None = None,
        length: int | None = None,
        ids: str | None = None,
        metadata: Sequence[str] = (),
        n: int | None = None,
        cache: str | Path | None = None,
        on_error: OnError = "raise",
        verify: bool = True,
        max_pixels: int = MAX_PIXELS,
        tokenizer_name: str | None = None,
        hide: Sequence[str] = (),
        origin: Mapping[str, Any] | None = None,
    ):
        check_on_error(on_error)
        if n is not None and (not is_whole(n) or n < 1):
            raise ConfigError(f"n={n!r}; expected a positive whole number")
        beside = tuple(dict.fromkeys([*metadata, *hide]))
        dataset, stream = checked_dataset(dataset, [column, *([ids] if ids else []), *beside])
        encode = Encode(dataset, column, preprocess, tokenizer, length, max_pixels, tokenizer_name)
        what, columns = f"items of column '{column}'", Wanted(column, ids, beside)
        if stream and cache is None:
            raise ConfigError("a stream needs cache=…, a folder that its samples are read into once")
        if not stream and cache is not None:
            raise ConfigError("cache is for streams; this dataset lies on disk already")
        self._items: _Items
        if stream:
            self._items = Streamed(dataset, columns, encode, n, Path(cache or ""), on_error, what)
        else:
            dataset = dataset if n is None else dataset.select(range(min(n, len(dataset))))
            make = _Pictures if encode.kind == "image" else _Rows
            self._items = make(dataset, columns, encode, on_error, verify, max_pixels, what)
        self.preprocess, self.ids, self.problems = preprocess, self._items.ids, self._items.problems
        self.kind = "vector" if encode.kind == "text" else kind_of(self._items.shape)
        self._named, self._fingerprint = encode.named(), None
        table = self._items.table
        table = None if table is None else _with_class_names(table, dataset.features or {})
        self._columns = Columns(table, np.arange(len(self.ids)), hide, show_label=True)  # each was asked for by name
        self.origin = dict(origin or {})

    @classmethod
    def load(
        cls,
        path: str | Path,
        column: str,
        *,
        name: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        streaming: bool = False,
        **options: Any,
    ) -> "HubSource":
        """A dataset by its name, or of a folder.

        Args:
            path, name, split, revision, streaming: see `load_hub`.
            column, options: as for `HubSource`.

        Raises:
            DataError, ConfigError: as `load_hub` and `HubSource`.
        """
        dataset, origin = load_hub(path, name, split, revision, streaming)
        return cls(dataset, column, origin=origin, **options)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...): images as float32, token ids as int64.

        Raises:
            DataError: an item cannot be encoded; names it.
        """
        return self._items.batch(indices)

    def metadata(self) -> pd.DataFrame | None:
        """The columns that were named and are not hidden; None for none."""
        return self._columns.shown

    def column(self, name: str) -> np.ndarray:
        """One column of `metadata` or `hide` (n,), None where missing; raises DataError if there is none."""
        return self._columns.column(name)

    def fingerprint(self) -> str:
        """sha256 over ids, encoding and samples, of images their encoded bytes; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256(json.dumps(self._named, sort_keys=True).encode())
            for part in joined(self.ids):
                digest.update(part)
            self._items.update(digest)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


class _Items(Protocol):
    """The samples of one dataset."""

    ids: Sequence[str]
    problems: pd.DataFrame
    shape: tuple[int, ...]
    table: pd.DataFrame | None

    def batch(self, indices: Sequence[int]) -> Tensor: ...
    def update(self, digest: "hashlib._Hash") -> None: ...


class _Pictures:
    """Images of a dataset on disk, decoded when they are asked for."""

    def __init__(self, dataset, columns, encode, on_error, verify, max_pixels, what):
        names, known = _names(dataset, columns)
        values = dataset.select_columns([columns.sample])
        self._images = EncodedImages(
            names, names, lambda i: opened(values[i][columns.sample]), encode.preprocess, known, what, on_error, verify,
            max_pixels,
        )  # fmt: skip
        self.problems, self.shape, self.batch = self._images.problems, self._images.shape, self._images.batch
        self.ids, self.table = _chosen(dataset, columns, names, self._images.kept)

    def update(self, digest: "hashlib._Hash") -> None:
        digest.update(self._images.fingerprint().encode())


class _Rows:
    """Text or numbers of a dataset on disk, encoded when they are asked for."""

    def __init__(self, dataset, columns, encode, on_error, verify, max_pixels, what):
        names, found = _names(dataset, columns)
        self._values, self._encode, self._what = dataset.select_columns([columns.sample]), encode, what
        self._names, self._column = names, columns.sample
        shapes: dict[tuple[int, ...], list[int]] = {}
        for start in range(0, len(names) if verify else min(BLOCK, len(names)), BLOCK):
            made = encode(self._values[start : start + BLOCK][columns.sample])
            for i, sample in enumerate(made, start):
                if isinstance(sample, str):
                    found.setdefault(i, Problem(names[i], names[i], sample))
                else:
                    shapes.setdefault(tuple(sample.shape), []).append(i)
        self.shape = max(shapes, key=lambda shape: len(shapes[shape]), default=())
        for shape, positions in shapes.items():
            for i in positions if shape != self.shape else ():
                said = f"it has shape {shape}, and most have {self.shape}"
                found.setdefault(i, Problem(names[i], names[i], said))
        self.problems = settle([found[i] for i in sorted(found)], len(names), on_error, what)
        self._kept = np.array([i for i in range(len(names)) if i not in found], np.int64)
        self.ids, self.table = _chosen(dataset, columns, names, self._kept)

    def batch(self, indices: Sequence[int]) -> Tensor:
        positions = self._kept[np.asarray(indices, dtype=np.int64)].tolist()
        samples = []
        for i, made in zip(positions, self._encode(self._values[positions][self._column]), strict=True):
            if isinstance(made, str) or tuple(made.shape) != self.shape:
                said = made if isinstance(made, str) else f"it has shape {tuple(made.shape)}; expected {self.shape}"
                raise DataError(f"item {self._names[i]} of column '{self._column}': {said}")
            samples.append(made)
        return torch.stack(samples) if samples else torch.empty(0, *self.shape)

    def update(self, digest: "hashlib._Hash") -> None:
        for start in range(0, len(self._kept), BLOCK):
            block = self.batch(range(start, min(start + BLOCK, len(self._kept)))).contiguous()
            digest.update(f"{block.dtype}{tuple(block.shape)}".encode())
            digest.update(block.reshape(-1).view(torch.uint8).numpy().data)


def _names(dataset: Any, columns: Wanted) -> tuple[Sequence[str], dict[int, Problem]]:
    """Ids of all items, and the problems of those that are given before."""
    if len(dataset) == 0:
        raise DataError("there are no samples: the dataset has no rows")
    if columns.ids is None:
        return RowIds(len(dataset)), {}
    names = ["" if v is None else str(v) for v in dataset.select_columns([columns.ids])[:][columns.ids]]
    said = f"its id, column '{columns.ids}', is missing"
    gone = {i: Problem("", f"item {i}", said) for i, v in enumerate(names) if not v}
    return names, repeated_ids(names, names) | gone


def _chosen(
    dataset: Any, columns: Wanted, names: Sequence[str], kept: np.ndarray
) -> tuple[Sequence[str], pd.DataFrame | None]:
    """Ids and shown columns of the items that are left."""
    ids = names if len(kept) == len(names) else [str(names[int(i)]) for i in kept]
    if not columns.shown:
        return ids, None
    return ids, dataset.select_columns(list(columns.shown)).select(kept).to_pandas()


def _with_class_names(table: pd.DataFrame, features: Any) -> pd.DataFrame:
    for name in table.columns:
        names = getattr(features.get(name), "names", None)
        if names:
            codes = table[name].fillna(-1).to_numpy(np.int64)
            table[name] = pd.Categorical.from_codes(np.maximum(codes, -1), list(names))
    return table
