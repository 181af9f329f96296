"""The folder of a run: its files, whose it is, and how far it got."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from rich.console import Console

import krepes
from krepes.errors import RunFolderError
from krepes.files import inode, refusals_of, refuse_another, remove_unfinished, sha256_file, write_json
from krepes.results import MANIFEST, config_in, own_manifest, read_manifest, refuse_foreign, versions
from krepes.terminal import say
from krepes.work import Work

if TYPE_CHECKING:
    from krepes.remote import Bucket

WORK = "work"  # finished blocks inside the run folder, removed when the run is complete
OUTPUTS = (
    "model.safetensors", "landmarks.parquet", "influence.parquet", "points.parquet", "trust.json", "report.html",
    "card.md",
)  # fmt: skip
SHOWN = ("explained.parquet", "pictures.parquet", "views.json")

FINDINGS = (
    "concepts.parquet", "feature_gap.parquet", "group_gap.parquet", "attribution.parquet", "evaluation.parquet",
    "path.parquet", "counterfactuals.parquet",
)  # fmt: skip
# all of a run's; the manifest last: without it, what remains would be a stranger's
FILES = (*OUTPUTS, *FINDINGS, *SHOWN, "manifest.json")


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
            RunFolderError: the folder belongs to another model, data set or configuration (says what differs), unless
                that run made nothing; or it holds files of another origin.
        """
        run = cls(path, identity, begun=inode(path), bucket=bucket)
        visible = _visible(path) if path.exists() else set()
        if visible and not (path / MANIFEST).exists():
            raise RunFolderError(
                f"{path} holds {min(visible)} and no {MANIFEST}: it is not a krepes run folder. Choose another one."
            )
        if visible:
            manifest = read_manifest(path)
            if bucket is not None or not _nothing_made(path, manifest):
                run._inspect(manifest)
        return run

    def _inspect(self, old: dict[str, Any]) -> None:
        refuse_foreign(self.path, old, self.identity["fingerprints"])
        ours, theirs = self.identity["config"], config_in(old)
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


def _nothing_made(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether a run ended here before its first block, as by a mistake in its configuration: it binds none."""
    others = _visible(folder) - {MANIFEST, WORK}
    blocks = _visible(folder / WORK) if (folder / WORK).is_dir() else {WORK} & _visible(folder)
    ours = all(isinstance(manifest.get(k), dict) for k in ("config", "fingerprints", "versions"))
    return ours and not others and not blocks and manifest.get("status") in ("running", "failed", "interrupted")


def _visible(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def _close(was: Any, now: list[float]) -> bool:
    """Equal but for rounding, which another number of threads changes."""
    return isinstance(was, list) and len(was) == len(now) and numpy.allclose(was, now, rtol=1e-3, atol=1e-5)


def opened(
    folder: Path, identity: dict[str, Any], overwrite: bool, console: Console, bucket: "Bucket | None" = None
) -> RunFolder | None:
    """The folder, ready for a run with this identity; None where a complete one stands."""
    if bucket is not None:
        bucket.pull(FILES)
    replaced = overwrite and (folder / "manifest.json").exists()
    if replaced:
        own_manifest(folder)
        if bucket is not None:
            bucket.claim()
        with refusals_of(folder):
            Work(folder / WORK, bucket=bucket).clear()
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
                if bucket is not None:
                    bucket.remove(folder / name)
    run = RunFolder(folder, identity, inode(folder), bucket) if replaced else RunFolder.open(folder, identity, bucket)
    if run.found:
        say(console, run.found)
    if run.complete:
        gone = damaged(folder)
        if not gone:
            return None
        verb = "is" if len(gone) == 1 else "are"
        say(console, f"{', '.join(gone)} in {folder} {verb} missing or changed; the run is made again.", "yellow")
    with refusals_of(folder):
        for place in (folder, folder / WORK):
            remove_unfinished(place)
    if bucket is not None:
        bucket.claim()
    return run


def finished(manifest: dict[str, Any], sums: dict[str, str]) -> dict[str, Any]:
    """The manifest of a complete run."""
    kept = {k: v for k, v in manifest.items() if k != "stage"}
    return {**kept, "status": "complete", "outputs": sums}


def damaged(folder: Path) -> list[str]:
    """Files of a complete run that are gone, or do not have the checksum in its manifest; a manifest without any."""
    manifest = read_manifest(folder)
    outputs, models = manifest.get("outputs"), manifest.get("sha256")
    if not isinstance(outputs, dict) or not isinstance(models, dict):
        return ["manifest.json"]
    sums = {**outputs, **models}
    return [n for n, wanted in sums.items() if not (folder / n).is_file() or sha256_file(folder / n) != wanted]
