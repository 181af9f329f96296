"""Finished blocks of a run on disk, from which an interrupted run goes on.

Every block is one file that is written beside its place, flushed and renamed; it carries the checksum of its numbers
and the key of the run (settings, encoder, data), so that a damaged block or another run's is computed anew.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from krepes.files import inode, refusals_of, refuse_another, write_atomically
from krepes.workers import current

if TYPE_CHECKING:
    from krepes.remote import Bucket


class Work:
    """The blocks of one run.

    Args:
        folder: where they are kept; None: nowhere, every block is computed.
        key: what the numbers depend on.
        bucket: where every block is kept, too, and taken from if the folder lacks it.
    """

    def __init__(self, folder: Path | None = None, key: str = "", bucket: "Bucket | None" = None):
        self.folder, self.key, self.bucket = folder, key, bucket
        self.reused: list[str] = []  # by this worker
        self._written: set[str] = set()
        self._begun: tuple[int, int] | None = None  # the folder as this object first wrote to it
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
        found = self._kept(path)
        if found is None and self.bucket is not None and self.bucket.get(path):
            found = self._kept(path)
        return found

    def _kept(self, path: Path) -> dict[str, Tensor] | None:
        """The tensors of a block's file, if it is whole and of this run."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as f:
                stamp = f.metadata() or {}
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  safe_open is no dict
        except (SafetensorError, OSError):
            return None
        if stamp.get("key") != self.key or stamp.get("sha256") != checksum(tensors):
            return None
        return tensors

    def once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """A block of what is not divided: the first worker's tensors on every worker, as others may round differently.

        Args:
            make: gives them where the block is not finished; all workers call it.
        """
        workers = current()
        found = workers.same(self.load(name) if workers.first else None)
        if found is None:
            found = workers.same({k: t.detach().cpu() for k, t in make().items()})
            if workers.first:
                self.save(name, found)
        return found

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep a finished block.

        Raises:
            RunFolderError: the disk is full, the folder cannot be written, or it was removed or replaced meanwhile.
        """
        if self.folder is None:
            return
        self.place()
        self._written.add(name)
        tensors = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
        stamp = {"key": self.key, "sha256": checksum(tensors)}
        path = write_atomically(self.folder / f"{name}.safetensors", lambda p: save_file(tensors, p, metadata=stamp))
        if self.bucket is not None:
            self.bucket.put(path)

    def place(self) -> Path:
        """A folder for the feature store: the work folder, or a temporary one that goes with this object."""
        if self.folder is not None:
            if self._begun is None:
                with refusals_of(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                self._begun = inode(self.folder)
            refuse_another(self.folder, self._begun)
            return self.folder
        workers = current()
        if self._temporary is None and workers.first:
            with refusals_of(workers.scratch or Path(tempfile.gettempdir())):
                self._temporary = tempfile.TemporaryDirectory(prefix="krepes-", dir=workers.scratch)
        place = Path(workers.same(self._temporary.name if self._temporary else ""))
        workers.check_shared(place)
        return place

    def clear(self) -> None:
        """Remove all blocks."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder is not None and self.bucket is not None:
            self.bucket.remove(self.folder)


def checksum(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(t.shape)}{t.dtype}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def key_of(parts: dict[str, Any]) -> str:
    """sha256 of settings and fingerprints."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
