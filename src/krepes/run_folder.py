"""The folder of a run that is going on: whose it is, and how far it got."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

import krepes
from krepes.errors import RunFolderError
from krepes.files import inode, refuse_another, write_json
from krepes.results import MANIFEST, read_manifest, refuse_foreign, versions
from krepes.work import Work

if TYPE_CHECKING:
    from krepes.remote import Bucket


@dataclass
class RunFolder:
    """A run folder while the run goes on: its manifest always says how far it got.

    Attributes:
        path: the folder.
        begun: the folder's inode, which stays while the run goes on.
        bucket: where the run is kept, if `path` is its local copy.
        found: what an earlier run left there, as a sentence; None for a fresh folder.
        complete: an earlier run with the same identity is complete.
    """

    path: Path
    identity: dict[str, Any]
    begun: tuple[int, int] | None = field(default=None, repr=False)
    bucket: "Bucket | None" = field(default=None, repr=False)
    found: str | None = None
    complete: bool = False
    stage: str = field(default="start", repr=False)

    @classmethod
    def open(cls, path: Path, identity: dict[str, Any], bucket: "Bucket | None" = None) -> "RunFolder":
        """Open for a run with these fingerprints and this configuration.

        Args:
            identity: {"fingerprints": {...}, "config": {...}}.
            bucket: where the run is kept, if `path` is its local copy.

        Raises:
            RunFolderError: the folder belongs to another model, data set or configuration (says what differs), or
                holds files of another origin.
        """
        run = cls(path, identity, begun=inode(path), bucket=bucket)
        visible = [p for p in path.iterdir() if not p.name.startswith(".")] if path.exists() else []
        if visible and not (path / MANIFEST).exists():
            raise RunFolderError(
                f"{path} holds {visible[0].name} and no {MANIFEST}: it is not a krepes run folder. Choose another one."
            )
        if visible:
            run._inspect(read_manifest(path))
        return run

    def _inspect(self, old: dict[str, Any]) -> None:
        refuse_foreign(self.path, old, self.identity["fingerprints"])
        ours, theirs = self.identity["config"], old.get("config", {})
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        if differing:
            raise RunFolderError(
                f"{self.path} belongs to another configuration; these settings differ: {', '.join(differing)}. "
                "Choose another folder (--output), or --overwrite it."
            )
        old_version = old.get("versions", {}).get("krepes")
        if old_version != krepes.__version__:
            raise RunFolderError(
                f"{self.path} was written by krepes {old_version}, this is {krepes.__version__}. "
                "Choose another folder, or --overwrite it."
            )
        was, now = old.get("behaviour"), self.identity["behaviour"]
        changed = [k for k in now if was is not None and not _close(was.get(k), now[k])]
        if changed:
            raise RunFolderError(
                f"{self.path} belongs to another run: weights, data and configuration are the same, but "
                f"{', '.join(changed)} of the first samples differ: the code has changed. Choose another folder, or "
                "--overwrite it."
            )
        self.complete = old.get("status") == "complete"
        self.found = (
            f"{self.path} holds a complete run of this configuration."
            if self.complete
            else f"An earlier run in {self.path} stopped in stage '{old.get('stage')}' "
            f"(status {old.get('status')}); its finished blocks are used."
        )

    def mark(self, status: str, stage: str | None = None) -> None:
        """Write where the run stands.

        Raises:
            RunFolderError: the manifest cannot be written, or the folder was removed or replaced.
        """
        self.stage = stage or self.stage
        self.check()
        self.write({"format": 1, "status": status, "stage": self.stage, "versions": versions(), **self.identity})

    def write(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, here and where the run is kept."""
        path = write_json(self.path / MANIFEST, manifest)
        if self.bucket is not None:
            self.bucket.put(path)

    def keep(self, names: list[str]) -> None:
        """Keep finished files where the run is kept, if that is elsewhere."""
        if self.bucket is not None:
            for name in names:
                self.bucket.put(self.path / name)

    def end(self, work: Work) -> None:
        """Remove the finished blocks, and this process's name from where the run is kept, where no other has come."""
        self.check()
        work.clear()
        if self.bucket is not None:
            self.bucket.end()

    def check(self) -> None:
        """Raise RunFolderError when the folder was removed or replaced meanwhile, or another process writes it."""
        if self.begun is not None:
            refuse_another(self.path, self.begun)
        if self.bucket is not None:
            self.bucket.check()


def _close(was: Any, now: list[float]) -> bool:
    """Equal but for rounding, which another number of threads changes."""
    return isinstance(was, list) and len(was) == len(now) and numpy.allclose(was, now, rtol=1e-3, atol=1e-5)
