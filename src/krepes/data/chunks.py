"""Samples of one shape in a folder of memory-mapped chunks: written once, in bounded memory, and resumed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.data.problems import Problem
from krepes.errors import DataError
from krepes.files import sha256_file, write_atomically, write_json

KEY, COMPLETE = "cache.json", "complete.json"
CHUNK_BYTES = 64 * 2**20
OPEN = 64  # chunks that are mapped at a time: each holds a file open


@dataclass
class Part:
    """What stands beside a chunk's samples.

    Attributes:
        read: items of the stream that were read up to this chunk's end.
        ids: of its samples.
        rows: a row of other columns each.
        problems: items that were left out.
        raw: sha256 of the items that were read since the last chunk, as they came; empty if they were not noted.
        sha256: of the file with the samples.
    """

    read: int
    ids: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    raw: str = ""
    sha256: str = ""


class Chunks:
    """A cache folder that is complete, as an array of samples (n, ...).

    Args:
        folder: what `ChunkWriter.finish` left.
    """

    def __init__(self, folder: Path):
        content = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        self.folder, self._per_chunk, self._n = folder, int(content["per_chunk"]), int(content["n"])
        self._digests: list[str] = content["sha256"]
        self.tail: tuple[int, str] = int(content["read"]), content["raw"]
        for i in range(len(self._digests)):
            for suffix in ("npy", "json"):
                if not (folder / f"{i:06d}.{suffix}").is_file():
                    raise DataError(f"{folder} lacks {i:06d}.{suffix}; remove the folder, to read the samples anew")
        self._verified: set[int] = set()
        self._chunk = lru_cache(OPEN)(self._opened)
        self.shape: tuple[int, ...] = tuple(self._chunk(0).shape[1:])

    def __len__(self) -> int:
        return self._n

    def _opened(self, number: int) -> np.ndarray:
        """A chunk, mapped; its digest is compared the first time."""
        path = self.folder / f"{number:06d}.npy"
        try:
            if number not in self._verified and sha256_file(path) != self._digests[number]:
                raise DataError(f"{path} has changed since it was written; remove the folder, to read the samples anew")
            self._verified.add(number)
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read ({error}); remove the folder, to read the samples anew") from error

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Samples (B, ...) at these positions."""
        wanted = np.asarray(indices, dtype=np.int64)
        wanted = np.where(wanted < 0, wanted + self._n, wanted)
        out = np.empty((len(wanted), *self.shape), self._chunk(0).dtype)
        for number in np.unique(wanted // self._per_chunk):
            inside = wanted // self._per_chunk == number
            out[inside] = self._chunk(int(number))[wanted[inside] % self._per_chunk]
        return torch.from_numpy(out)

    def parts(self) -> list[Part]:
        """What stands beside the chunks."""
        return [read_part(self.folder, i) for i in range(-(-self._n // self._per_chunk))]

    def update(self, digest: "hashlib._Hash") -> None:
        """Add the samples to a hash."""
        digest.update(f"{self._chunk(0).dtype}{self.shape}".encode())
        for i in range(-(-self._n // self._per_chunk)):
            digest.update(np.ascontiguousarray(self._chunk(i)).data)


def read_part(folder: Path, number: int) -> Part:
    """What stands beside one chunk."""
    plain = json.loads((folder / f"{number:06d}.json").read_text(encoding="utf-8"))
    return Part(
        plain["read"],
        plain["ids"],
        plain["rows"],
        [Problem(*p) for p in plain["problems"]],
        plain["raw"],
        plain["sha256"],
    )


class ChunkWriter:
    """Writes samples into a cache folder; whole chunks that an interrupted run left are kept.

    Args:
        folder: new, empty, or of the same key.
        key: what the samples depend on, as JSON.

    Attributes:
        complete: there is nothing left to write.
        found: whole chunks that were there.

    Raises:
        DataError: the folder holds something else, or the samples of another key; says what differs.
    """

    def __init__(self, folder: Path, key: dict[str, Any]):
        self.folder = folder
        there = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        if there and KEY not in there:
            raise DataError(f"{folder} holds {there[0]} and is no cache of samples; choose another folder")
        if there:
            self._refuse_another(key)
        write_json(folder / KEY, key)
        self.complete = (folder / COMPLETE).is_file()
        self.found = [] if self.complete else self._whole_chunks()
        self._per_chunk = len(self.found[0].ids) if self.found else 0
        self._written, self._n = len(self.found), sum(len(p.ids) for p in self.found)
        self._samples: list[Tensor] = []
        self._raw = hashlib.sha256()
        self._part = Part(self.found[-1].read if self.found else 0, [])

    @property
    def read(self) -> int:
        """Items of the stream that need not be read again."""
        return self._part.read

    def first(self) -> Tensor:
        """The first sample of the whole chunks that were found."""
        return torch.from_numpy(np.array(np.load(self.folder / "000000.npy", mmap_mode="r")[0]))

    def add(self, sample: Tensor, name: str, row: dict[str, Any] | None = None) -> None:
        """Keep an item's sample.

        Raises:
            DataError: its shape or type is not the first one's; says which.
        """
        if not self._per_chunk:
            self._per_chunk = max(1, CHUNK_BYTES // max(1, sample.numel() * sample.element_size()))
        like = self._samples[0] if self._samples else (self.first() if self._written else sample)
        if sample.shape != like.shape or sample.dtype != like.dtype:
            raise DataError(
                f"it has shape {tuple(sample.shape)} of {sample.dtype}; those before it have {tuple(like.shape)} of "
                f"{like.dtype}"
            )
        self._samples.append(sample)
        self._part.ids.append(name)
        self._part.rows.append(row or {})

    def leave_out(self, problem: Problem) -> None:
        """Remember an item that cannot be used."""
        self._part.problems.append(problem)

    def note(self, raw: bytes) -> None:
        """An item as it came, for a later comparison."""
        self._raw.update(raw)

    def item_done(self) -> None:
        """An item was read; writes a chunk when it is full."""
        self._part.read += 1
        if self._samples and len(self._samples) == self._per_chunk:
            self._write()

    def finish(self) -> Chunks:
        """The complete cache.

        Raises:
            DataError: it holds no samples.
        """
        if not self.complete:
            if self._samples:
                self._write()
            if self._n == 0:
                first = next((f", first {p.id}: {p.problem}" for p in self._part.problems), "")
                raise DataError(f"there are no samples: {self._part.read} items were read, none can be used{first}")
            last = [(p.id, p.path, p.problem) for p in self._part.problems]  # after the last whole chunk
            content = {"n": self._n, "per_chunk": self._per_chunk, "read": self._part.read, "problems": last}
            parts = [read_part(self.folder, i) for i in range(self._written)]
            content |= {"raw": self._raw.hexdigest(), "sha256": [p.sha256 for p in parts]}
            write_json(self.folder / COMPLETE, content)
        return Chunks(self.folder)

    def restart(self) -> None:
        """Forget what was there."""
        for path in [*self.folder.glob("[0-9]*.npy"), *self.folder.glob("[0-9]*.json"), self.folder / COMPLETE]:
            path.unlink(missing_ok=True)
        self.complete, self.found, self._written, self._n, self._per_chunk = False, [], 0, 0, 0
        self._samples, self._part, self._raw = [], Part(0, []), hashlib.sha256()

    def _write(self) -> None:
        values = torch.stack(self._samples).numpy()

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, values)

        path = write_atomically(self.folder / f"{self._written:06d}.npy", save)
        self._part.raw, self._part.sha256 = self._raw.hexdigest(), sha256_file(path)
        self._raw = hashlib.sha256()
        plain = vars(self._part) | {"problems": [(p.id, p.path, p.problem) for p in self._part.problems]}
        # written last: a chunk without it is redone
        write_json(self.folder / f"{self._written:06d}.json", plain)
        self._n += len(self._samples)
        self._written += 1
        self._samples, self._part = [], Part(self._part.read, [])

    def _whole_chunks(self) -> list[Part]:
        """The chunks up to the first that is missing, cut off or not full; the others are removed."""
        found: list[Part] = []
        while True:
            stem = self.folder / f"{len(found):06d}"
            try:
                part = read_part(self.folder, len(found))
                values = np.load(f"{stem}.npy", mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError, KeyError, TypeError):
                break
            if (
                sha256_file(Path(f"{stem}.npy")) != part.sha256
                or len(values) != len(part.ids)
                or (found and len(part.ids) != len(found[0].ids))
            ):
                break
            found.append(part)
        for path in [*self.folder.glob("[0-9]*.npy"), *self.folder.glob("[0-9]*.json")]:
            if int(path.stem) >= len(found):
                path.unlink()
        return found

    def _refuse_another(self, key: dict[str, Any]) -> None:
        try:
            old = json.loads((self.folder / KEY).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.folder / KEY} is damaged ({error}); remove the folder") from error
        differing = sorted(k for k in {*old, *key} if old.get(k) != key.get(k))
        if differing:
            said = "; ".join(f"{k}: {old.get(k)!r} there, {key.get(k)!r} here" for k in differing)
            raise DataError(f"{self.folder} holds other samples ({said}); choose another folder, or remove this one")


def problems_of(chunks: Chunks) -> list[Problem]:
    """All items that were left out."""
    last = json.loads((chunks.folder / COMPLETE).read_text(encoding="utf-8"))["problems"]
    return [p for part in chunks.parts() for p in part.problems] + [Problem(*p) for p in last]
