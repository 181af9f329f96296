"""Files that are somewhere else, by their URL: fetched into a local cache to be read, and runs that are kept there.

fsspec knows the protocols: s3://, gs://, az://, http(s)://, sftp:// and others, each with a package of its own. Of an
object store nothing is expected but whole objects that are put, got, listed and removed: no rename, no append, no lock.
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import fsspec
from filelock import FileLock

from krepes.data.reference.fetching import cache_folder
from krepes.errors import DataError, RunFolderError
from krepes.files import refusals_of, write_json

# what stores tell of an object that changes with its content
STAMP = (
    "size", "ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "crc32c", "generation", "mtime",
    "LastModified", "last_modified", "Last-Modified", "created", "updated", "modify", "modified", "blob_id", "sha",
)  # fmt: skip
# names of parameters whose values are secrets, and values that are not: variables of the environment
SECRET = re.compile(
    r"((?:^|[&?;#])(?:[^&=#]*[-_.])?(?:sig|signature|\w*token|\w*key|keyid|\w*secret|passw?o?r?d?|pwd|credentials?|auth"
    r"|authorization|jwt|hmac|sas|code)=)(?!\$\{\w+\}(?:[&#]|$))[^&#]*",
    re.IGNORECASE,
)
VARIABLE = re.compile(r"\$\{\w+\}")
URL = r"[A-Za-z][A-Za-z0-9+.-]+://"
FULL = (errno.ENOSPC, errno.EDQUOT)
WRITER = ".writer"  # an object that names the process which writes a run: the last one to begin


def is_url(name: str | Path) -> bool:
    """Whether a name is a URL with a protocol, and no path."""
    return isinstance(name, str) and re.match(URL, name) is not None


def without_secrets(value: Any) -> Any:
    """Text, or lists and mappings of it, with passwords and signatures in URLs left out, to be shown and kept.

    Variables of the environment, ${NAME}, stay: they are what may be kept instead.
    """
    if isinstance(value, str):
        if is_url(value):
            return "::".join(_shown(part) if "://" in part else part for part in value.split("::"))
        return re.sub(rf"{URL}[^\s'\"<>]+", lambda url: without_secrets(url[0]), value)
    if isinstance(value, dict):
        return {k: without_secrets(v) for k, v in value.items()}
    return [without_secrets(v) for v in value] if isinstance(value, list) else value


def _shown(url: str) -> str:
    """scheme://user:…@host/path?signature=…"""
    scheme, _, rest = url.partition("://")
    end = min((rest.find(c) for c in "?#" if c in rest), default=len(rest))
    before, query = rest[:end], rest[end:]
    host, slash, path = before.partition("/")
    person, at, host = host.rpartition("@")
    user, colon, password = person.partition(":")
    if colon and not VARIABLE.fullmatch(password):
        person = f"{user}:…"
    elif not colon and scheme.lower() in ("http", "https") and person and not VARIABLE.fullmatch(person):
        person = "…"  # a token
    kept = SECRET.sub(r"\1…", query)
    return f"{scheme}://{person}{at}{host}{slash}{path}{kept}"


def fetched(url: str, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """A file, or a folder with all that is below it, in the local cache; what did not change is not fetched again.

    The cache is `KREPES_CACHE` or the user's cache folder. Processes that fetch the same wait for each other.

    Args:
        wanted: which files of a folder, by their names below it.

    Raises:
        DataError: there is no such file, or it cannot be read; says why.
    """
    with _refusals(url, "read", DataError):
        fs, root = fsspec.url_to_fs(url)
        fs.invalidate_cache()
        try:
            info = fs.info(root)
        except FileNotFoundError:  # a prefix, or nothing
            info = {"type": "directory"}
        single = info["type"] == "file"
        below = {} if single else _below(fs, root)
        listing = {_name(root): info} if single else {n: i for n, i in below.items() if wanted(n)}
    if not listing:
        raise DataError(f"there is nothing at {without_secrets(url)}; expected a file, or a folder with files")
    place = cache_folder() / "fetched" / _short(fs.unstrip_protocol(root))
    with refusals_of(place):
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_suffix(".lock")):
            _update(fs, root, single, url, listing, place)
    return place / "files" / next(iter(listing)) if single else place / "files"


def _update(fs: Any, root: str, single: bool, url: str, listing: dict[str, Any], place: Path) -> None:
    """Bring the local files to what is listed."""
    index, stamps = place / "index.json", {name: _stamp(info) for name, info in listing.items()}
    seen: dict[str, str] = {}
    with suppress(OSError, ValueError):
        seen = json.loads(index.read_text())
    files = place / "files"
    for path in [p for p in files.rglob("*") if p.is_file() and p.relative_to(files).as_posix() not in stamps]:
        path.unlink()
    known = {n for n, info in listing.items() if any(info.get(k) is not None for k in STAMP if k != "size")}
    wanted = [n for n, s in stamps.items() if n not in known or seen.get(n) != s or not (files / n).is_file()]
    if not wanted:
        return
    # a file that is being replaced must not count as the one before
    write_json(index, {n: stamp for n, stamp in seen.items() if n in stamps and n not in wanted})
    # beside their place: a file that an audit has mapped must not change below it
    with TemporaryDirectory(prefix=".fresh-", dir=place) as folder:
        fresh = Path(folder)
        for name in wanted:
            for base in (fresh, files):
                (base / name).parent.mkdir(parents=True, exist_ok=True)
        with _refusals(url, "read", DataError):
            fs.get([root if single else f"{root.rstrip('/')}/{n}" for n in wanted], [str(fresh / n) for n in wanted])
        sizes = {n: listing[n].get("size") for n in wanted}
        short = [n for n, size in sizes.items() if size is not None and (fresh / n).stat().st_size != size]
        if short:
            raise DataError(
                f"{short[0]} of {without_secrets(url)} came with other than its {sizes[short[0]]} bytes; try again"
            )
        for name in wanted:
            (fresh / name).replace(files / name)
    write_json(index, stamps)


def _name(root: str) -> str:
    """The name of a file, without a query behind it."""
    return PurePosixPath(unquote(urlsplit(root).path) if "://" in root else root).name


def _below(fs: Any, root: str) -> dict[str, Any]:
    """Name below the folder ↦ what the store tells of the file; names that would leave a folder are refused."""
    found = {}
    start = root.rstrip("/") + "/"
    for path, info in sorted(fs.find(root, detail=True).items()):
        if path.endswith("/") or info.get("type") == "directory":  # a store's marker of a folder
            continue
        name = path.removeprefix(start)
        native = PurePath(name)  # a backslash parts names where the system says so
        if name == path or not native.parts or ".." in native.parts or native.anchor:
            raise DataError(f"{without_secrets(path)} lies outside of the folder in whose listing it is")
        found[name] = info
    return found


def _stamp(info: dict[str, Any]) -> str:
    return hashlib.sha256(repr([(k, str(info[k])) for k in STAMP if info.get(k) is not None]).encode()).hexdigest()


def _short(url: str) -> str:
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:24]


@contextmanager
def _refusals(url: str, verb: str, kind: type[DataError] | type[RunFolderError]) -> Iterator[None]:
    """Whatever a protocol's package raises, in words; each has exceptions of its own, of no common kind."""
    url = without_secrets(url)
    try:
        yield
    except (DataError, RunFolderError):
        raise
    except ImportError as error:
        raise kind(f"{url} needs a package that is not installed: {error}") from error
    except FileNotFoundError as error:
        said = without_secrets(str(error))
        raise kind(f"cannot {verb} {url}: there is no such file or folder ({said})") from error
    except Exception as error:
        said = f"{type(error).__name__}: {without_secrets(str(error))}"
        if verb == "read" and isinstance(error, OSError) and error.errno in FULL:
            raise kind(
                f"cannot keep {url} in {cache_folder()}: {said}. Free space there, or name another folder with "
                "KREPES_CACHE."
            ) from error
        raise kind(f"cannot {verb} {url}: {said}. Check name, permission and network.") from error


class Bucket:
    """A run that is kept at a URL, and the local folder that stands for it while a process works on it.

    Every file goes there whole as soon as it is finished; what a killed process leaves is whole objects. Nothing locks:
    of two processes that write one run, the first stops at its next stage, since the second has put its name there.

    Args:
        url: of the run's folder.
    """

    def __init__(self, url: str):
        self.url, self._me = url.rstrip("/"), uuid4().hex
        self.shown = without_secrets(self.url)
        with self._refusals("reach"):
            self._fs, self._root = fsspec.url_to_fs(self.url)
            self._root = self._root.rstrip("/")
            self.local = cache_folder() / "runs" / _short(self._fs.unstrip_protocol(self._root))

    def pull(self, files: Collection[str]) -> None:
        """Bring the local folder to what is kept of a run's files.

        Raises:
            RunFolderError: it cannot be read, or it is no run's folder.
        """
        with refusals_of(self.local):
            self.local.mkdir(parents=True, exist_ok=True)
            for path in self.local.iterdir():
                if path.is_file() and not path.name.startswith("."):
                    path.unlink()
        with self._refusals("read"):
            self._fs.invalidate_cache()
            names = [path.removeprefix(f"{self._root}/") for path in self._listed(self._root)]
        strange = [name for name in names if name != WRITER]
        if strange and "manifest.json" not in names:
            raise RunFolderError(
                f"{self.shown} holds {strange[0]} and no manifest.json: it is no krepes run folder. Choose another one."
            )
        if not strange:
            shutil.rmtree(self.local / "work", ignore_errors=True)  # of a run that was removed there
        for name in strange:
            if name in files:
                self.get(self.local / name)

    def claim(self) -> None:
        """Put this process's name there, for others that write the same run to stop."""
        name = f"{self._root}/{WRITER}"
        with self._refusals("write"):
            self._made(name, lambda: self._fs.pipe_file(name, self._me.encode()))

    def check(self) -> None:
        """Raise RunFolderError where another process has begun to write this run."""
        with self._refusals("read"):
            try:
                name = self._fs.cat_file(f"{self._root}/{WRITER}").decode()
            except FileNotFoundError:
                name = "nobody"
        if name != self._me:
            raise RunFolderError(
                f"another process has begun to write {self.shown}, or removed it; this one stops. Let one of them work."
            )

    def put(self, path: Path) -> None:
        """Keep a finished file of the local folder."""
        name = f"{self._root}/{path.relative_to(self.local).as_posix()}"
        with self._refusals("write"):
            self._made(name, lambda: self._fs.put_file(str(path), name))

    def _made(self, name: str, write: Callable[[], Any]) -> None:
        """Write; where there must be a folder and is none, after making it."""
        try:
            write()
        except FileNotFoundError:
            self._fs.makedirs(str(PurePosixPath(name).parent), exist_ok=True)
            write()

    def get(self, path: Path) -> bool:
        """Fetch a file of the local folder; False where none is kept."""
        temporary = path.with_name(f".{path.name}.{self._me}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._refusals("read"):
                try:
                    self._fs.get_file(f"{self._root}/{path.relative_to(self.local).as_posix()}", str(temporary))
                except FileNotFoundError:
                    return False
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def remove(self, path: Path) -> None:
        """Remove what is kept of a file of the local folder, or of the blocks in a folder of it."""
        place = f"{self._root}/{path.relative_to(self.local).as_posix()}"
        with self._refusals("write"):
            self._fs.invalidate_cache()
            for found in self._listed(place):
                if found == place or PurePosixPath(found).match("*.safetensors"):
                    self._fs.rm_file(found)

    def end(self) -> None:
        """Take this process's name away, where no other has come.

        Raises:
            RunFolderError: another process has begun to write this run.
        """
        self.check()
        self.remove(self.local / WRITER)

    def _listed(self, place: str) -> list[str]:
        """All below a place, and it itself: some stores take it for the beginning of a name."""
        try:
            return [p for p in self._fs.find(place) if p == place or p.startswith(f"{place}/")]
        except FileNotFoundError:
            return []

    def _refusals(self, verb: str):
        return _refusals(self.url, verb, RunFolderError)


def local_run(run: str | Path) -> Path:
    """A run's folder; of one that is kept at a URL, its files in the local cache, to be read.

    Raises:
        RunFolderError: there is none, or it cannot be read.
    """
    if not is_url(run):
        return Path(run)
    try:
        return fetched(str(run), lambda name: "/" not in name and not name.startswith("."))  # no blocks, no writer
    except DataError as error:
        raise RunFolderError(str(error)) from error
