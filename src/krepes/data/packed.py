"""Many encoded images in one .npz file."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from krepes.data.encoded import EncodedImages
from krepes.data.ids import ChosenIds, RowIds
from krepes.data.images import ImageSource
from krepes.data.names import existing
from krepes.data.npz import members_of, read_member
from krepes.data.preprocess import MAX_PIXELS, Preprocess
from krepes.data.problems import OnError, check_rows, repeated_ids
from krepes.errors import DataError, warn


def PackedImages(
    path: str | Path,
    preprocess: Preprocess,
    hide: Sequence[str] = (),
    on_error: OnError = "raise",
    verify: bool = True,
    max_pixels: int = MAX_PIXELS,
    rows: int | None = None,
    show_label: bool = False,
) -> ImageSource:
    """Encoded images one after another in the member `blob` of an .npz file; image i is blob[offsets[i]:offsets[i+1]].

    Other members with one entry per image are metadata; numbers become names where `X_names` (or, for `labels`,
    `classes`) lists them. A member `ids` gives the ids, else they are "0" … "n − 1".

    Args:
        path: the .npz file.
        preprocess: what the encoder was trained with.
        hide, on_error, verify, max_pixels, show_label: see `ImageFiles`.
        rows: the first images only.

    Example:
        >>> source = PackedImages("cifar10_test_jpegpack.npz", Preprocess(), hide=["labels"])
        >>> source.batch(range(2)).shape, source.column("labels")[0]
        (torch.Size([2, 3, 32, 32]), 'airplane')

    Raises:
        DataError: no such file, no blob or offsets, offsets that do not fit, or images that cannot be used.
        ConfigError: rows is no positive whole number.
    """
    check_rows(rows)
    path = existing(path)
    there = members_of(path)
    if not {"blob", "offsets"} <= set(there):
        raise DataError(
            f"{path} holds {', '.join(there) or 'nothing'}; packed images need 'blob', their bytes one after "
            "another, and 'offsets', where each begins and the last ends"
        )
    blob, offsets = read_member(path, "blob"), read_member(path, "offsets")
    n = _checked(path, blob, offsets)
    table, ids = _columns(path, there, n)
    n = n if rows is None else min(n, rows)
    names = RowIds(n) if ids is None else ids[:n]
    paths = ChosenIds(names, range(n), f" in {path}")

    def encoded(position: int) -> IO[bytes]:
        part = blob[int(offsets[position]) : int(offsets[position + 1])]
        if len(part) == 0:
            raise DataError("it is empty: 0 bytes")
        return BytesIO(part.tobytes())

    known = {} if isinstance(names, RowIds) else repeated_ids(names, paths)
    images = EncodedImages(
        names, paths, encoded, preprocess, known, f"images of {path}", on_error, verify, max_pixels
    )  # fmt: skip
    return ImageSource(images, names, table, hide, show_label)


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
        warn(said)
    ids = columns.pop("ids", None)
    table = pd.DataFrame(columns) if columns else None
    return table, None if ids is None else [str(i) for i in ids.tolist()]


def _with_names(path: Path, name: str, codes: np.ndarray, list_name: str) -> pd.Categorical:
    names = read_member(path, list_name)
    if codes.dtype.kind not in "iu" or names.ndim != 1 or codes.min() < 0 or codes.max() >= len(names):
        raise DataError(f"{path}: '{name}' holds codes that '{list_name}' of shape {names.shape} has no names for")
    return pd.Categorical.from_codes(codes.astype(np.int64), [str(v) for v in names.tolist()])
