"""Many encoded images in one .npz file."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from torch import Tensor

from krepes.data.arrays import members_of, read_member
from krepes.data.encoded import Columns, EncodedImages
from krepes.data.ids import ChosenIds, RowIds
from krepes.data.preprocess import MAX_PIXELS, Preprocess
from krepes.data.problems import OnError, repeated_ids
from krepes.data.readers import existing
from krepes.errors import DataError, KrepesWarning


class PackedImages:
    """Encoded images one after another in the member `blob` of an .npz file; image i is blob[offsets[i]:offsets[i+1]].

    Other members with one entry per image are metadata; numbers become names where `X_names` (or, for `labels`,
    `classes`) lists them. A member `ids` gives the ids, else they are "0" … "n − 1".

    Args:
        path: the .npz file.
        preprocess: what the encoder was trained with.
        hide: columns kept out of `metadata()`, such as classes; `column` still gives them.
        on_error, verify, max_pixels: see `ImageFiles`.
        rows: the first images only.

    Attributes:
        problems, preprocess, modes: see `ImageFiles`.

    Example:
        >>> source = PackedImages("cifar10_test_jpegpack.npz", Preprocess(), hide=["labels"])
        >>> source.batch(range(2)).shape, source.column("labels")[0]
        (torch.Size([2, 3, 32, 32]), 'airplane')

    Raises:
        DataError: no such file, no blob or offsets, offsets that do not fit, or images that cannot be used.
    """

    kind = "image"

    def __init__(
        self,
        path: str | Path,
        preprocess: Preprocess,
        hide: Sequence[str] = (),
        on_error: OnError = "raise",
        verify: bool = True,
        max_pixels: int = MAX_PIXELS,
        rows: int | None = None,
    ):
        path = existing(path)
        there = members_of(path)
        if not {"blob", "offsets"} <= set(there):
            raise DataError(
                f"{path} holds {', '.join(there) or 'nothing'}; packed images need 'blob', their bytes one after "
                "another, and 'offsets', where each begins and the last ends"
            )
        blob, offsets = read_member(path, "blob"), read_member(path, "offsets")
        n = _checked(path, blob, offsets)
        offsets = offsets[: min(n, rows or n) + 1]
        table, ids = _columns(path, there, n)
        n = len(offsets) - 1
        ids = RowIds(n) if ids is None else ids[:n]
        paths = ChosenIds(ids, range(n), f" in {path}")

        def encoded(position: int) -> IO[bytes]:
            part = blob[int(offsets[position]) : int(offsets[position + 1])]
            if len(part) == 0:
                raise DataError("it is empty: 0 bytes")
            return BytesIO(part.tobytes())

        known = {} if isinstance(ids, RowIds) else repeated_ids(ids, paths)
        what = f"images of {path}"
        self._images = EncodedImages(ids, paths, encoded, preprocess, known, what, on_error, verify, max_pixels)
        kept = self._images.kept
        self.preprocess, self.problems, self.modes = preprocess, self._images.problems, self._images.modes
        self.ids = ids if len(kept) == n else [ids[i] for i in kept.tolist()]
        self._columns = Columns(table, kept, hide)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Images (B, C, H, W), float32; raises as `EncodedImages.batch`."""
        return self._images.batch(indices)

    def metadata(self) -> pd.DataFrame | None:
        """The columns that are not hidden; None where there are none."""
        return self._columns.shown

    def column(self, name: str) -> np.ndarray:
        """One column, hidden or not (n,); raises DataError if there is none."""
        return self._columns.column(name)

    def fingerprint(self) -> str:
        """sha256 over ids, preprocessing and the images' bytes; computed once."""
        if self._fingerprint is None:
            self._fingerprint = self._images.fingerprint()
        return self._fingerprint


def _checked(path: Path, blob: np.ndarray, offsets: np.ndarray) -> int:
    """How many images there are, if the offsets fit the blob."""
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise DataError(f"{path}: 'blob' is {blob.dtype} {blob.shape}; expected bytes: uint8, one axis")
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise DataError(f"{path}: 'offsets' is {offsets.dtype} {offsets.shape}; expected n + 1 whole numbers")
    places = offsets.astype(np.int64)
    wrong = np.flatnonzero((places[1:] < places[:-1]) | (places[:-1] < 0) | (places[1:] > len(blob)))
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"{path}: offsets {places[i]} and {places[i + 1]} of image {i} do not ascend within the blob's {len(blob)} "
            f"bytes ({len(wrong)} such images): the file is damaged or cut off"
        )
    return len(offsets) - 1


def _columns(path: Path, there: dict[str, str], n: int) -> tuple[pd.DataFrame | None, list[str] | None]:
    """The members with one entry per image as a table, and the ids if there are any."""
    columns, others = {}, []
    named = {name: f"{name}_names" for name in there} | {"labels": "classes" if "classes" in there else "labels_names"}
    lists = {named[name] for name in there if named[name] in there}
    for name in sorted(set(there) - {"blob", "offsets"} - lists):
        values = read_member(path, name)
        if values.shape != (n,):
            others.append(f"{name} {values.shape}")
            continue
        columns[name] = _with_names(path, name, values, named[name]) if named[name] in lists else values
    if others:
        said = f"{path}: {', '.join(others)} have no entry for each of the {n} images and are passed over"
        warnings.warn(said, KrepesWarning, stacklevel=4)
    ids = columns.pop("ids", None)
    table = pd.DataFrame(columns) if columns else None
    return table, None if ids is None else [str(i) for i in ids.tolist()]


def _with_names(path: Path, name: str, codes: np.ndarray, list_name: str) -> pd.Categorical:
    names = read_member(path, list_name)
    if codes.dtype.kind not in "iu" or names.ndim != 1 or codes.min() < 0 or codes.max() >= len(names):
        raise DataError(f"{path}: '{name}' holds codes that '{list_name}' of shape {names.shape} has no names for")
    return pd.Categorical.from_codes(codes.astype(np.int64), [str(v) for v in names.tolist()])
