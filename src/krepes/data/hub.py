"""Hugging Face datasets as samples: map-style ones as they lie on disk, streams through a cache."""

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.data.chunks import ChunkWriter, problems_of
from krepes.data.encoded import EncodedImages
from krepes.data.hub_items import Encode, checked_dataset, opened, origin, raw_bytes
from krepes.data.ids import RowIds, joined
from krepes.data.preprocess import MAX_PIXELS, Preprocess
from krepes.data.problems import OnError, Problem, check_on_error, repeated_ids, settle
from krepes.data.source import kind_of
from krepes.errors import ConfigError, DataError, KrepesWarning, is_whole
from krepes.files import one_writer

FIRST = 16  # items of two passes that are compared
BLOCK = 256  # items that are read and encoded together


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
        n: the first items only.
        cache: of a stream: a folder for memory-mapped chunks. Interrupted, the same call goes on; complete, it is
            taken after a comparison with the stream's items. A stream that shuffles is refused.
        on_error: of items that cannot be used: "raise" names the first; "skip" leaves them out with a warning.
        verify: encode every item once now; else only images' headers and the first block of others. A stream is always
            encoded as a whole.
        max_pixels: of one image before preprocessing.

    Attributes:
        problems: a table of id, path and problem of the items that are left out.

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
    ):
        check_on_error(on_error)
        if n is not None and (not is_whole(n) or n < 1):
            raise ConfigError(f"n={n!r}; expected a positive whole number")
        dataset, stream = checked_dataset(dataset, [column, *([ids] if ids else []), *metadata])
        encode = Encode(dataset, column, preprocess, tokenizer, length, max_pixels, tokenizer_name)
        what, columns = f"items of column '{column}'", _Columns(column, ids, tuple(metadata))
        if stream and cache is None:
            raise ConfigError("a stream needs cache=…, a folder that its samples are read into once")
        if not stream and cache is not None:
            raise ConfigError("cache is for streams; this dataset lies on disk already")
        self._items: _Items
        if stream:
            self._items = _Streamed(dataset, columns, encode, n, Path(cache or ""), on_error, what)
        else:
            dataset = dataset if n is None else dataset.select(range(min(n, len(dataset))))
            make = _Pictures if encode.kind == "image" else _Rows
            self._items = make(dataset, columns, encode, on_error, verify, max_pixels, what)
        self.preprocess, self.ids, self.problems = preprocess, self._items.ids, self._items.problems
        self.kind = "vector" if encode.kind == "text" else kind_of(self._items.shape)
        self._named, self._fingerprint = encode.named(), None
        table = self._items.table
        self._metadata = None if table is None else _with_class_names(table, dataset.features or {})

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...): images as float32, token ids as int64.

        Raises:
            DataError: an item cannot be encoded; names it.
        """
        return self._items.batch(indices)

    def metadata(self) -> pd.DataFrame | None:
        """The columns that were named; None for none."""
        return self._metadata

    def fingerprint(self) -> str:
        """sha256 over ids, encoding and samples, of images their encoded bytes; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256(json.dumps(self._named, sort_keys=True).encode())
            for part in joined(self.ids):
                digest.update(part)
            self._items.update(digest)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


class _Columns:
    """Which columns are the samples, the ids, and shown."""

    def __init__(self, sample: str, ids: str | None, shown: tuple[str, ...]):
        self.sample, self.ids, self.shown = sample, ids, shown


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
        self.problems = settle([found[i] for i in sorted(found)], len(names), on_error, what, stacklevel=4)
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


class _Streamed:
    """A stream's items in a cache folder, which is written where it is not complete."""

    def __init__(self, dataset, columns, encode, n, cache, on_error, what):
        of, known = origin(dataset)
        key = encode.key() | vars(columns) | {"shown": list(columns.shown), "n": n, "of": of, "format": 2}
        first = [raw_bytes(item) for item in dataset.take(FIRST)] if not known else []
        if not known and first != [raw_bytes(item) for item in dataset.take(FIRST)]:
            raise DataError("the stream gives other items each time it is read: it shuffles or augments. Take that out")
        with one_writer(cache):
            writer = ChunkWriter(cache, key)
            if not writer.complete:
                if writer.found and not _same_items(dataset, [(p.read, p.raw) for p in writer.found], None, known):
                    said = f"{cache} begins with other items than the stream, and is read anew"
                    warnings.warn(said, KrepesWarning, stacklevel=4)
                    writer.restart()
                _write(dataset, columns, encode, n, writer)
                chunks = writer.finish()
            else:
                chunks = writer.finish()
                marks = [*((p.read, p.raw) for p in chunks.parts()), chunks.tail]
                if not _same_items(dataset, marks, n, known, whole=True):
                    raise DataError(f"{cache} holds other items than the stream gives; choose another folder")
        found = problems_of(chunks)
        self.problems = settle(found, len(chunks) + len(found), on_error, what, stacklevel=4)
        self.shape, self.batch, self.update = chunks.shape, chunks.batch, chunks.update
        parts = chunks.parts()
        plain = columns.ids is None and not found
        self.ids: Sequence[str] = RowIds(len(chunks)) if plain else [name for part in parts for name in part.ids]
        rows = [row for part in parts for row in part.rows]
        self.table = pd.DataFrame(rows, columns=list(columns.shown)) if columns.shown else None


def _same_items(dataset: Any, marks: list[tuple[int, str]], n: int | None, known: bool, whole: bool = False) -> bool:
    """Whether the stream gives the items that were read, up to each mark: their number and their digest;
    of a whole stream also that nothing follows.

    Of a stream whose data are known by their fingerprint or their files the key says it.
    """
    if known:
        return True
    items = iter(dataset if n is None else dataset.take(n))
    place = 0
    for read, raw in marks:
        digest, wanted = hashlib.sha256(), read - place
        for item in itertools.islice(items, wanted):
            digest.update(raw_bytes(item))
            place += 1
        if place != read or digest.hexdigest() != raw:
            return False
    return not whole or next(items, None) is None


def _write(dataset: Any, columns: _Columns, encode: Encode, n: int | None, writer: ChunkWriter) -> None:
    """Read the rest of the stream; items that cannot be used are noted."""
    seen = {name for part in writer.found for name in part.ids}
    items = iter(dataset.skip(writer.read) if writer.read else dataset)
    items = items if n is None else itertools.islice(items, max(0, n - writer.read))
    while block := list(itertools.islice(items, BLOCK)):
        for item, made in zip(block, encode([i[columns.sample] for i in block]), strict=True):
            name = str(writer.read if columns.ids is None else item[columns.ids])
            name = f"item {writer.read}" if columns.ids is not None and item[columns.ids] in (None, "") else name
            try:
                if isinstance(made, str):
                    raise DataError(made)
                if columns.ids is not None and item[columns.ids] in (None, ""):
                    raise DataError(f"its id, column '{columns.ids}', is missing")
                if columns.ids is not None and name in seen:
                    raise DataError("its id is given before")
                writer.add(made, name, {k: _simple(item[k]) for k in columns.shown})
                if columns.ids is not None:
                    seen.add(name)
            except DataError as error:
                writer.leave_out(Problem(name, name, str(error)))
            writer.note(raw_bytes(item))
            writer.item_done()


def _simple(value: Any) -> Any:
    """A value of a shown column as JSON has it."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _names(dataset: Any, columns: _Columns) -> tuple[Sequence[str], dict[int, Problem]]:
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
    dataset: Any, columns: _Columns, names: Sequence[str], kept: np.ndarray
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
