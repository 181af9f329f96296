"""MNIST's array files, IDX, known by their first bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from krepes.data.names import existing
from krepes.data.npz import LARGEST
from krepes.errors import DataError

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def is_idx(path: Path) -> bool:
    """Whether a file is IDX by its first bytes, compressed or not, or says so by its name."""
    if ".idx" in path.name.lower() or "-idx" in path.name.lower():
        return True
    try:
        with _unzipped(path) as file:
            return _begins(file.read(4))
    except (OSError, EOFError, zlib.error):
        return False


def _unzipped(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")  # pyright: ignore[reportReturnType]


def _begins(start: bytes) -> bool:
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in TYPES and start[3] > 0


def read_idx(path: str | Path) -> np.ndarray:
    """An array in MNIST's IDX format, maybe compressed by gzip; big-endian numbers become the machine's own.

    Raises:
        DataError: no such file, another format, or more or fewer bytes than the header says.
    """
    path = existing(path)
    try:
        with _unzipped(path) as file:
            start: Any = file.read(4)
            if not _begins(start):
                raise DataError(f"{path} is no IDX file: it begins with {bytes(start)!r}")
            shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
            dtype = np.dtype(TYPES[start[2]])
            wanted = math.prod(shape) * dtype.itemsize
            if wanted == 0:
                raise DataError(f"{path} says that it holds {shape}: there are no samples in it")
            if wanted > LARGEST:
                raise DataError(f"{path} says that it holds {shape}, {wanted} bytes; the limit is {LARGEST}")
            content = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"cannot read {path} as IDX: {error}") from error
    if len(content) != wanted:
        got = f"only {len(content)}" if len(content) < wanted else "more"
        raise DataError(f"{path} is no whole IDX file: its header says {shape}, {wanted} bytes, and it holds {got}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
