"""An object store in memory, as strict as real ones: whole objects, no rename, no append, no folders."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class ObjectStore(MemoryFileSystem):
    """`objects://bucket/name`; `fail` makes the store refuse a put, as a network or a quota does."""

    protocol = "objects"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    puts: ClassVar[list[str]] = []
    gets: ClassVar[list[str]] = []
    fail: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path):
        path = path.removeprefix("objects://").removeprefix("memory://")
        return "/" + path.strip("/") if path.strip("/") else ""

    def put_file(self, lpath, rpath, **options):
        if any(part in rpath for part in self.fail):
            raise PermissionError(f"no permission to put {rpath}")
        self.puts.append(rpath)
        return super().put_file(lpath, rpath, **options)

    def get_file(self, rpath, lpath, **options):
        self.gets.append(rpath)
        return super().get_file(rpath, lpath, **options)

    def _open(self, path, mode="rb", **options):
        if "a" in mode or "+" in mode:
            raise NotImplementedError("objects cannot be appended to")
        return super()._open(path, mode, **options)

    def mv(self, *_paths, **_options):
        raise NotImplementedError("objects cannot be renamed")

    rename = move = mv


fsspec.register_implementation("objects", ObjectStore, clobber=True)


def emptied() -> type[ObjectStore]:
    """The store without objects or wishes."""
    for kept in (ObjectStore.store, ObjectStore.puts, ObjectStore.gets, ObjectStore.fail):
        kept.clear()
    ObjectStore.pseudo_dirs[:] = [""]
    return ObjectStore
