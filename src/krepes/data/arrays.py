"""Array files as samples: .npy, members of .npz, IDX; images among them as the encoder takes them."""

import gzip
import hashlib
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from krepes.data.ids import checked_ids, joined
from krepes.data.preprocess import Preprocess
from krepes.data.problems import in_threads
from krepes.data.readers import existing
from krepes.data.source import ArraySource, checked_metadata, slice_of
from krepes.errors import ConfigError, DataError, KrepesWarning, is_whole

Layout = Literal["NHWC", "NCHW", "NHW"]
LARGE = 2**28  # bytes of a compressed member from which its size is said
LARGEST = 4 * 2**30  # bytes of a compressed member that are read into memory
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError)


def load_array(
    path: str | Path,
    member: str | None = None,
    layout: Layout | None = None,
    preprocess: Preprocess | None = None,
    ids: Sequence[str] | None = None,
    metadata: pd.DataFrame | None = None,
    rows: int | None = None,
) -> "ArraySource | ArrayImages":
    """The samples of an array file.

    Args:
        path: .npy (memory-mapped), .npz (memory-mapped where it is not compressed), or IDX as MNIST's, maybe .gz.
        member: the array in an .npz file.
        layout: of uint8 images: which axes are height, width and channels. They are scaled to [0, 1] and preprocessed;
            without a layout an array is what the encoder takes.
        preprocess: of uint8 images; default scales alone, in the array's own channels.
        ids, metadata: see `ArraySource`.
        rows: the first ones only.

    Example:
        >>> load_array("cifar.npy", layout="NHWC", preprocess=Preprocess(size=(32, 32))).batch([0]).shape
        torch.Size([1, 3, 32, 32])

    Raises:
        DataError: no such file, damaged, pickled objects, uint8 images without a layout, or a layout that does not fit.
        ConfigError: a preprocessing without a layout.
    """
    if rows is not None and (not is_whole(rows) or rows < 1):
        raise ConfigError(f"rows={rows!r}; expected a positive whole number")
    array = read_array(path, member)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = array[:rows] if array.ndim else array
    if layout is not None:
        return ArrayImages(array, layout, preprocess, ids, metadata, str(path))
    if preprocess is not None:
        raise ConfigError(f"preprocess is for uint8 images; say how {path} holds them: layout='NHWC', 'NCHW' or 'NHW'")
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        raise DataError(
            f"{path} holds uint8 of shape {array.shape}, images it seems; say how: layout='NHWC', 'NCHW' or 'NHW'. For "
            "anything else save it in the type that the encoder takes"
        )
    return ArraySource(array, ids, metadata)


class ArrayImages:
    """Images (n, …) of 8 bits in an array, scaled and preprocessed when they are asked for.

    Args:
        array: uint8; a memory map stays one.
        layout: "NHWC", "NCHW", or "NHW" for grey images.
        preprocess: its mode has to fit the channels, 3 for RGB and 1 for L; default scales to [0, 1].
        ids, metadata: see `ArraySource`.
        name: of the array in messages.

    Raises:
        DataError: not uint8, another number of axes, or channels that are not 1 or 3 or not the preprocessing's.
    """

    kind = "image"

    def __init__(
        self,
        array: np.ndarray,
        layout: Layout,
        preprocess: Preprocess | None = None,
        ids: Sequence[str] | None = None,
        metadata: pd.DataFrame | None = None,
        name: str = "the array",
    ):
        if layout not in ("NHWC", "NCHW", "NHW"):
            raise ConfigError(f"layout={layout!r}; expected 'NHWC', 'NCHW' or 'NHW'")
        if array.dtype != np.uint8:
            raise DataError(
                f"layout is for uint8 images, and {name} holds {array.dtype} of shape {array.shape}; pass it without "
                "layout, as the encoder takes it"
            )
        if array.ndim != len(layout) or array.size == 0:
            raise DataError(f"{name} has shape {array.shape}; layout {layout} expects {len(layout)} axes and samples")
        channels = 1 if layout == "NHW" else array.shape[layout.index("C")]
        if channels not in (1, 3):
            raise DataError(f"{name} has shape {array.shape}: by layout {layout} {channels} channels; expected 1 or 3")
        self.preprocess = preprocess or Preprocess(mode="RGB" if channels == 3 else "L")
        if self.preprocess.channels != channels:
            raise DataError(
                f"{name} has {channels} channels, and preprocess makes mode {self.preprocess.mode} of "
                f"{self.preprocess.channels}; change the mode or the array"
            )
        self._array, self._layout = array, layout
        self.ids = checked_ids(ids, len(array))
        self._metadata = checked_metadata(metadata, len(array))
        _, height, width = self._pixels(array[:1])[0].shape
        self.preprocess.shape(width, height)  # refuses a crop that is larger
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._array)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W), float32."""
        index = slice_of(indices, len(self))
        pixels = self._pixels(self._array[index if isinstance(index, slice) else index.numpy()])
        if not self.preprocess.moves_pixels:
            return self.preprocess.normalised(torch.from_numpy(pixels).float().div(255))
        images = [Image.fromarray(p[0] if len(p) == 1 else p.transpose(1, 2, 0)) for p in pixels]
        return torch.stack(list(in_threads(self.preprocess, images)))

    def metadata(self) -> pd.DataFrame | None:
        """The table given with the samples."""
        return self._metadata

    def fingerprint(self) -> str:
        """sha256 over ids, preprocessing, layout and pixels; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"{self.preprocess}{self._layout}{self._array.shape}".encode())
            for part in joined(self.ids):
                digest.update(part)
            for start in range(0, len(self), 1024):
                digest.update(np.ascontiguousarray(self._array[start : start + 1024]).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _pixels(self, block: np.ndarray) -> np.ndarray:
        """As (B, C, H, W), in memory of its own."""
        if self._layout == "NHW":
            block = block[:, None]
        elif self._layout == "NHWC":
            block = block.transpose(0, 3, 1, 2)
        return np.array(block, order="C")


def read_array(path: str | Path, member: str | None = None) -> np.ndarray:
    """An array from .npy, .npz or IDX, memory-mapped where that is possible; raises as `load_array`."""
    path = existing(path)
    suffix = path.suffix.lower()
    if suffix != ".npz" and member is not None:
        raise ConfigError(f"member={member!r} is for .npz files; {path} holds one array")
    if ".idx" in path.name.lower() or "-idx" in path.name.lower():
        return read_idx(path)
    try:
        if zipfile.is_zipfile(path):
            return read_member(path, member)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"cannot read {path} as .npy: {_reason(error)}") from error


def members_of(path: Path) -> dict[str, str]:
    """Name ↦ type and shape of the arrays in an .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as file:
                        shape, _, dtype = _npy_header(file)
                    found[info.filename.removesuffix(".npy")] = f"{dtype} {shape}"
            return found
    except DAMAGED as error:
        raise DataError(f"cannot read {path} as .npz: {_reason(error)}") from error


def read_member(path: Path, member: str | None) -> np.ndarray:
    """One array of an .npz file: memory-mapped where it is not compressed, else read into memory with a warning.

    Raises:
        DataError: no such member, none named, damaged, pickled, or too large to be read.
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
                shape, fortran, dtype = _npy_header(file)
                header = file.tell()
            if dtype.hasobject:
                raise DataError(f"{path}: '{member}' holds pickled Python objects, which krepes does not load")
            if info.compress_type == zipfile.ZIP_STORED and math.prod(shape) > 0:
                if header + math.prod(shape) * dtype.itemsize != info.file_size:
                    raise DataError(
                        f"{path}: '{member}' holds {info.file_size - header} bytes, and its header says {shape} of "
                        f"{dtype}: the file is damaged"
                    )
                start = _data_of(path, info) + header
                return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
            size = math.prod(shape) * dtype.itemsize
            if size > LARGEST:
                raise DataError(
                    f"{path}: '{member}' is compressed and takes {size / 2**30:.1f} GiB of memory; save it with "
                    "numpy.save or numpy.savez, which are mapped instead"
                )
            if size > LARGE:
                warnings.warn(
                    f"{path}: '{member}' is compressed: {size / 2**20:.0f} MiB are read into memory; "
                    "numpy.savez is memory-mapped",
                    KrepesWarning,
                    stacklevel=4,
                )
            with archive.open(info) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"cannot read '{member}' of {path}: {_reason(error)}") from error


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _data_of(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: its local header has lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", file.read(30))
    return info.header_offset + 30 + name + extra


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "pickle" in text.lower() or "Python objects" in text:
        return "it holds pickled Python objects, which krepes does not load; save plain numbers with numpy.save"
    return text


def read_idx(path: str | Path) -> np.ndarray:
    """An array in MNIST's IDX format, maybe compressed by gzip; big-endian numbers become the machine's own.

    Raises:
        DataError: no such file, another format, or more or fewer bytes than the header says.
    """
    path = existing(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            start: Any = file.read(4)
            if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in IDX_TYPES or not start[3]:
                raise DataError(f"{path} is no IDX file: it begins with {bytes(start)!r}")
            shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
            dtype = np.dtype(IDX_TYPES[start[2]])
            wanted = math.prod(shape) * dtype.itemsize
            if wanted > LARGEST:
                raise DataError(f"{path} says that it holds {shape}, {wanted} bytes; the limit is {LARGEST}")
            content = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"cannot read {path} as IDX: {error}") from error
    if len(content) != wanted:
        got = f"only {len(content)}" if len(content) < wanted else "more"
        raise DataError(f"{path} is no whole IDX file: its header says {shape}, {wanted} bytes, and it holds {got}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
