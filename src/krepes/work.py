"""Finished blocks of a run on disk, from which an interrupted run goes on.

Every block is one file that is written beside its place, flushed and renamed; it carries the checksum of its numbers
and the key of the run (settings, encoder, data), so that a damaged block or another run's is computed anew.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from krepes.files import write_atomically
from krepes.workers import current


class Work:
    """The blocks of one run.

    Args:
        folder: where they are kept; None: nowhere, every block is computed.
        key: what the numbers depend on.
    """

    def __init__(self, folder: Path | None = None, key: str = ""):
        self.folder, self.key = folder, key
        self.reused: list[str] = []  # by this worker
        self._written: set[str] = set()
        self._temporary: tempfile.TemporaryDirectory | None = None

    def load(self, name: str) -> dict[str, Tensor] | None:
        """A finished block's tensors; None where there is none, or it is damaged or of another run."""
        found = self.read(name)
        if found is not None and name not in self._written:
            self.reused.append(name)
        return found

    def read(self, name: str) -> dict[str, Tensor] | None:
        """`load` of what this run, or another of its workers, has written."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as f:
                stamp = f.metadata() or {}
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  safe_open is no dict
        except (SafetensorError, OSError):
            return None
        if stamp.get("key") != self.key or stamp.get("sha256") != checksum(tensors, stamp.get("note", "")):
            return None
        return tensors

    def note(self, name: str) -> str:
        """The text that was kept with a block."""
        assert self.folder is not None
        with safe_open(self.folder / f"{name}.safetensors", framework="pt") as f:
            return (f.metadata() or {}).get("note", "")

    def save(self, name: str, tensors: dict[str, Tensor], note: str = "") -> None:
        """Keep a finished block, with a text.

        Raises:
            RunFolderError: the disk is full or the folder cannot be written.
        """
        if self.folder is None:
            return
        self._written.add(name)
        tensors = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
        stamp = {"key": self.key, "sha256": checksum(tensors, note), "note": note}
        write_atomically(self.folder / f"{name}.safetensors", lambda p: save_file(tensors, p, metadata=stamp))

    def place(self) -> Path:
        """A folder for the feature store: the work folder, or a temporary one that goes with this object."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            return self.folder
        workers = current()
        if self._temporary is None and workers.first:
            self._temporary = tempfile.TemporaryDirectory(prefix="krepes-", dir=workers.scratch)
        place = Path(workers.same(self._temporary.name if self._temporary else ""))
        workers.check_shared(place)
        return place

    def clear(self) -> None:
        """Remove all blocks."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def checksum(tensors: dict[str, Tensor], note: str = "") -> str:
    """sha256 over the note, names, shapes, types and bytes."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def key_of(parts: dict[str, Any]) -> str:
    """sha256 of settings and fingerprints."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
