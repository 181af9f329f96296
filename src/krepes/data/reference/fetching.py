"""Reference data on this machine: found, or downloaded, and never used unless its digest is right."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from rich.console import Console

from krepes.data.reference.download import download
from krepes.data.reference.registry import Entry, File, Form, Registry, read_registry
from krepes.errors import ConfigError, DataError, RunFolderError
from krepes.files import sha256_file, write_atomically
from krepes.progress import Progress

REPACKED = 2  # a .gz file that was packed again may be so many times as long


class Located(NamedTuple):
    """A folder that holds all files of a form."""

    folder: Path
    form: str


def cache_folder() -> Path:
    """`KREPES_CACHE`, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("KREPES_CACHE") or platformdirs.user_cache_dir("krepes"))


def find(name: str, registry: Registry | None = None) -> Located | None:
    """Where a data set lies already, by the names of its files alone; None where it does not."""
    entry, forms = _entry(name, None, read_registry() if registry is None else registry)
    local = os.environ.get("KREPES_DATA")
    folder = (Path(local) if local else cache_folder()) / entry.folder
    return next((Located(folder, form.name) for form in forms if form.in_folder(folder)), None)


def fetch(
    name: str,
    folder: Path | None = None,
    form: str | None = None,
    timeout: float = 30.0,
    progress: Progress | None = None,
    registry: Registry | None = None,
) -> Located:
    """The folder that holds a data set, downloaded if need be; its licence is shown before.

    Looked for in `folder`; without one in `KREPES_DATA`, which is then the only place, else in the cache. Downloads go
    to `folder` or the cache, each data set into its own subfolder. `KREPES_MIRROR` names a server that is asked instead
    of the publishers, for {mirror}/{subfolder}/{file}.

    Args:
        name: as in `krepes data`.
        form: one of the registry's forms; default any that is there, else the first that is published.
        timeout: seconds in which a server must answer, and in each of which it must send 1,024 bytes on average.
        progress: where to report; default the terminal's standard error.

    Raises:
        ConfigError: no such data set or form.
        DataError: it cannot be found or downloaded, or a digest is wrong; says which and what to do.
        RunFolderError: the folder cannot be written, or another process does not finish.
    """
    entry, forms = _entry(name, form, read_registry() if registry is None else registry)
    local = os.environ.get("KREPES_DATA") if folder is None else None
    place = (Path(local) if local else folder or cache_folder()) / entry.folder
    present = [f for f in forms if f.in_folder(place)]
    if local and not present:
        wanted = " or ".join(", ".join(file.name for file in f.files) for f in forms)
        raise DataError(
            f"KREPES_DATA names {local}, but {place} does not hold {wanted}. Put the files there, or unset KREPES_DATA "
            "to download them."
        )
    chosen = next(iter(present or [f for f in forms if f.downloadable]), None)
    if chosen is None:
        raise DataError(f"{name} in the form {forms[0].name} is published nowhere as files; put it into {place}")
    missing = [file for file in chosen.files if not is_right(place / file.name, file)]
    for file in missing:  # what a user put there is not replaced
        if (local or folder or not chosen.downloadable) and (place / file.name).exists():
            advice = "Replace it, or unset KREPES_DATA to download it." if local else "Remove it to download it."
            raise DataError(f"{place / file.name} {difference(place / file.name, file)}. {advice}")
    if missing:
        progress = Progress(Console(stderr=True)) if progress is None else progress
        for line in _terms(entry, missing, place):
            progress.say(line)
        _download_all(missing, place, timeout, progress)
    return Located(place, chosen.name)


def _entry(name: str, form: str | None, registry: Registry) -> tuple[Entry, list[Form]]:
    """The entry, and those of its forms that are wanted."""
    if name not in registry:
        raise ConfigError(f"there is no reference data set {name!r}; expected one of {', '.join(registry)}")
    forms = [f for f in registry[name].forms if form in (None, f.name)]
    if not forms:
        known = ", ".join(f.name for f in registry[name].forms)
        raise ConfigError(f"{name} has no form {form!r}; expected one of {known}")
    return registry[name], forms


def _terms(entry: Entry, missing: list[File], place: Path) -> list[str]:
    """What one agrees to, line by line."""
    size = sum(file.bytes for file in missing) / 1e6
    return [
        entry.title,
        f"licence:  {entry.licence}",
        f"citation: {entry.citation}",
        f"homepage: {entry.homepage}",
        f"download: {size:,.1f} MB to {place}",
    ]


def is_right(path: Path, file: File) -> bool:
    """Whether the file is there with the right digest, of its bytes or of what they unpack to."""
    if not path.is_file():
        return False
    if sha256_file(path) == file.sha256:
        return True
    if file.content is None:
        return False
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as f:
            while block := f.read(2**20):
                digest.update(block)
    except (OSError, EOFError, zlib.error):
        return False
    return digest.hexdigest() == file.content


def difference(path: Path, file: File) -> str:
    """What is wrong with a file, as the rest of a sentence."""
    return (
        f"is not the published file: found sha256 {sha256_file(path)} ({path.stat().st_size:,} bytes), "
        f"expected {file.sha256} ({file.bytes:,} bytes)"
    )


def _download_all(missing: list[File], place: Path, timeout: float, progress: Progress) -> None:
    """The files, one process at a time; what another one has brought meanwhile is not asked for again."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / ".lock", timeout=max(600.0, 10 * timeout))
        lock.acquire()
    except Timeout as error:
        raise RunFolderError(f"another process is still downloading to {place}; wait for it") from error
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {place}: {error}. Name another folder with KREPES_CACHE or --folder."
        ) from error
    try:
        for file in missing:
            if not is_right(place / file.name, file):
                _download(file, place, timeout, progress)
    finally:
        lock.release()


def _download(file: File, place: Path, timeout: float, progress: Progress) -> None:
    """One file, from the first of its publishers that has it right."""
    mirror = os.environ.get("KREPES_MIRROR")
    urls = [f"{mirror.rstrip('/')}/{place.name}/"] if mirror else file.urls
    failures = []
    for url in (u + file.name if u.endswith("/") else u for u in urls):
        try:
            with progress.stage(file.name, total=file.bytes) as note:
                write_atomically(place / file.name, lambda path, u=url, n=note: _get(u, path, file, timeout, n))
                note(f"{file.bytes / 1e6:,.1f} MB from {url}")
            return
        except DataError as error:
            failures.append(str(error))
    raise DataError(
        f"cannot download {file.name}:\n  " + "\n  ".join(failures) + "\nTry again later, or download it by hand, put "
        f"it into a folder {place.name} and let KREPES_DATA name the folder above."
    )


def _get(url: str, path: Path, file: File, timeout: float, note: Callable[[int], None]) -> None:
    """Download to a path that vanishes unless this returns."""
    limit = file.bytes if file.content is None else REPACKED * file.bytes
    download(url, path, limit, timeout, note)
    if not is_right(path, file):
        raise DataError(f"what {url} gives {difference(path, file)}")
