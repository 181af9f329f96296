"""Array files as samples: .npy, members of .npz, IDX; images among them as the encoder takes them."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from krepes.data.columns import checked_metadata
from krepes.data.ids import checked_ids, joined
from krepes.data.idx import is_idx, read_idx
from krepes.data.mapped import MappedFile
from krepes.data.names import existing
from krepes.data.npz import DAMAGED, read_member, reason_of
from krepes.data.preprocess import Preprocess
from krepes.data.problems import check_rows, in_threads
from krepes.data.source import ArraySource, slice_of
from krepes.errors import ConfigError, DataError

Layout = Literal["NHWC", "NCHW", "NHW"]


def load_array(
    path: str | Path,
    member: str | None = None,
    layout: Layout | None = None,
    preprocess: Preprocess | None = None,
    ids: Sequence[str] | None = None,
    metadata: pd.DataFrame | None = None,
    rows: int | None = None,
    show_label: bool = False,
) -> "ArraySource | ArrayImages":
    """The samples of an array file.

    Args:
        path: .npy (memory-mapped), .npz (memory-mapped where it is not compressed), or IDX as MNIST's, maybe .gz.
        member: the array in an .npz file.
        layout: of uint8 images: which axes are height, width and channels. They are scaled to [0, 1] and preprocessed;
            without a layout an array is what the encoder takes.
        preprocess: of uint8 images; default scales alone, in the array's own channels.
        ids, metadata, show_label: see `ArraySource`.
        rows: the first ones only.

    Example:
        >>> load_array("cifar.npy", layout="NHWC", preprocess=Preprocess(size=(32, 32))).batch([0]).shape
        torch.Size([1, 3, 32, 32])

    Raises:
        DataError: no such file, damaged, pickled objects, uint8 images without a layout, or a layout that does not fit.
        ConfigError: a preprocessing without a layout.
    """
    check_rows(rows)
    array = read_array(path, member)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = array[:rows] if array.ndim else array
    if layout is not None:
        return ArrayImages(array, layout, preprocess, ids, metadata, str(path), show_label)
    if preprocess is not None:
        raise ConfigError(f"preprocess is for uint8 images; say how {path} holds them: layout='NHWC', 'NCHW' or 'NHW'")
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        raise DataError(
            f"{path} holds uint8 of shape {array.shape}, images it seems; say how: layout='NHWC', 'NCHW' or 'NHW'. For "
            "anything else save it in the type that the encoder takes"
        )
    return ArraySource(array, ids, metadata, show_label=show_label)


class ArrayImages:
    """Images (n, …) of 8 bits in an array, scaled and preprocessed when they are asked for.

    Args:
        array: uint8; a memory map stays one.
        layout: "NHWC", "NCHW", or "NHW" for grey images.
        preprocess: its mode has to fit the channels, 3 for RGB and 1 for L; default scales to [0, 1].
        ids, metadata, show_label: see `ArraySource`.
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
        show_label: bool = False,
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
        self._array, self._layout, self._mapped = array, layout, MappedFile.of(array)
        self.ids = checked_ids(ids, len(array))
        self._metadata = checked_metadata(metadata, self.ids, show_label)
        _, height, width = self._pixels(array[:1])[0].shape
        self.preprocess.shape(width, height)  # refuses a crop that is larger
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._array)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W), float32."""
        if self._mapped is not None:
            self._mapped.check()
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
                if self._mapped is not None:
                    self._mapped.check()
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
    npz = path.suffix.lower() == ".npz" or zipfile.is_zipfile(path)
    if not npz and member is not None:
        raise ConfigError(f"member={member!r} is for .npz files; {path} holds one array")
    if npz:
        return read_member(path, member)
    if is_idx(path):
        return read_idx(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise DataError(f"cannot read {path} as .npy: {reason_of(error)}") from error
