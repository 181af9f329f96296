"""Files that are whole or not there."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from krepes.errors import RunFolderError


def _umask() -> int:
    found = os.umask(0o077)  # the only way to ask for it is to set it
    os.umask(found)
    return found


UMASK = _umask()  # asked once, before threads write files


def write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write beside the target, flush to disk, then rename: a reader never meets half a file.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written; what stood there stays.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o666 & ~UMASK)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"cannot write {path}: {error}. Free space or choose another folder; files written before are intact."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove what writes of a killed process left; only where no other process writes."""
    for pattern in (".*.json.*.tmp", ".*.parquet.*.tmp", ".*.safetensors.*.tmp", ".*.html.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; a process that dies lets go of it.

    Raises:
        RunFolderError: another process holds it, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; expected a folder or nothing")
    path = folder / ".lock"
    lock = FileLock(path, timeout=0)
    with refusals_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunFolderError(
                f"another process is writing to {folder}. Wait for it, or choose another folder."
            ) from error
    held = inode(path)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            if inode(path) == held:  # another process may have made the folder anew, and hold it
                path.unlink()
        lock.release()


@contextmanager
def refusals_of(folder: Path) -> Iterator[None]:
    """What a file system refuses, as a RunFolderError that names the folder."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # file systems without locks
        raise RunFolderError(
            f"cannot write to {folder}: {error}. Free space or choose another folder; files written before are intact."
        ) from error


def inode(path: Path) -> tuple[int, int] | None:
    """What tells a file or folder from another one of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def refuse_another(folder: Path, begun: tuple[int, int] | None) -> None:
    """Raise RunFolderError where a folder is not the one that a run began in: another run may be in it by now."""
    if inode(folder) != begun:
        raise RunFolderError(
            f"{folder} was removed or replaced while the run was writing to it. Remove what is left of it and run the "
            "same command again."
        )


def write_json(path: Path, content: Any) -> Path:
    """JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n"
    return write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_tree(folder: Path) -> str:
    """sha256 over the names and bytes of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
