"""Arrays in .npz files: mapped where they are not compressed, and read only where they are whole."""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from krepes.errors import DataError, warn

LARGE = 2**28  # bytes of a compressed member from which its size is said
LARGEST = 4 * 2**30  # bytes of a compressed member that are read into memory
HEADER = 2**14  # bytes that an array's header has at most
BLOCK = 2**24  # bytes that are checked at a time
DAMAGED = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, SyntaxError, MemoryError, OverflowError, TypeError,
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip  # numpy and zipfile raise all of these on files that are damaged


def members_of(path: Path) -> dict[str, str]:
    """Name ↦ type and shape of the arrays in an .npz file.

    Raises:
        DataError: no .npz file, or a damaged one; names the member.
    """
    found, name = {}, None
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    name = info.filename.removesuffix(".npy")
                    with archive.open(info) as file:
                        shape, _, dtype, _ = _npy_header(file)
                    found[name] = f"{dtype} {shape}"
            return found
    except DAMAGED as error:
        of = "" if name is None else f"'{name}' of "
        raise DataError(f"cannot read {of}{path} as .npz: {reason_of(error)}") from error


def read_member(path: Path, member: str | None) -> np.ndarray:
    """One array of an .npz file: memory-mapped where it is not compressed, else read into memory with a warning.

    Its bytes are compared with the archive's checksum first.

    Raises:
        DataError: no such member, none named, damaged, pickled, or too large to be read; names the file and the member.
    """
    there = members_of(path)
    if member not in there:
        said = ", ".join(f"{name}: {what}" for name, what in there.items())
        asked = "" if member is None else f" without a member '{member}'"
        raise DataError(f"{path} is an archive of arrays{asked} ({said or 'empty'}); name one of them with member=…")
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{member}.npy")
            with archive.open(info) as file:
                shape, fortran, dtype, header = _npy_header(file)
            if dtype.hasobject:
                raise DataError(f"{path}: '{member}' holds pickled Python objects, which krepes does not load")
            size = math.prod(shape) * dtype.itemsize
            if header + size != info.file_size:
                raise DataError(
                    f"{path}: '{member}' holds {info.file_size - header} bytes, and its header says {shape} of "
                    f"{dtype}: the file is damaged"
                )
            if info.compress_type == zipfile.ZIP_STORED and size > 0:
                mapped = np.memmap(path, np.uint8, "r", _data_of(path, info), (info.file_size,))
                _check_sum(mapped, info)
                return mapped[header:].view(dtype).reshape(shape, order="F" if fortran else "C")
            if size > LARGEST:
                raise DataError(
                    f"{path}: '{member}' is compressed and takes {size / 2**30:.1f} GiB of memory; save it with "
                    "numpy.save or numpy.savez, which are mapped instead"
                )
            if size > LARGE:
                warn(
                    f"{path}: '{member}' is compressed: {size / 2**20:.0f} MiB are read into memory; "
                    "numpy.savez is memory-mapped"
                )
            with archive.open(info) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                file.read(1)  # the checksum is compared at the end
                return array
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"cannot read '{member}' of {path}: {reason_of(error)}") from error


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, type, and the header's length; no more than HEADER bytes are read."""
    start = io.BytesIO(file.read(HEADER))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(start)
    if min(shape, default=0) < 0:
        raise ValueError(f"its header says the shape {shape}")
    return shape, fortran, dtype, start.tell()


def _data_of(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    return info.header_offset + 30 + name + extra


def _check_sum(content: np.ndarray, info: zipfile.ZipInfo) -> None:
    """Raise BadZipFile unless the bytes (n,) have the archive's checksum."""
    found = 0
    for start in range(0, len(content), BLOCK):
        found = zlib.crc32(content[start : start + BLOCK].data, found)
    if found != info.CRC:
        raise zipfile.BadZipFile("its bytes do not have the checksum that the archive says: the file is damaged")


def reason_of(error: Exception) -> str:
    """What a reader's error says, in words for the user."""
    text = str(error) or type(error).__name__
    if "pickle" in text.lower() or "Python objects" in text:
        return "it holds pickled Python objects, which krepes does not load; save plain numbers with numpy.save"
    return text
