"""Streams of Hugging Face datasets, read once into memory-mapped chunks."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from krepes.data.chunks import ChunkWriter, problems_of
from krepes.data.hub_items import BLOCK, Encode, Wanted, origin, raw_bytes
from krepes.data.ids import RowIds
from krepes.data.problems import Problem, settle
from krepes.errors import DataError, warn
from krepes.files import one_writer

FIRST = 16  # items of two passes that are compared


class Streamed:
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
                    warn(said)
                    writer.restart()
                _write(dataset, columns, encode, n, writer)
                chunks = writer.finish()
            else:
                chunks = writer.finish()
                marks = [*((p.read, p.raw) for p in chunks.parts()), chunks.tail]
                if not _same_items(dataset, marks, n, known, whole=True):
                    raise DataError(f"{cache} holds other items than the stream gives; choose another folder")
        found = problems_of(chunks)
        self.problems = settle(found, len(chunks) + len(found), on_error, what)
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


def _write(dataset: Any, columns: Wanted, encode: Encode, n: int | None, writer: ChunkWriter) -> None:
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
