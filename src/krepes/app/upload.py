"""A reader's own sample: bounded, decoded safely, and prepared as the run's samples were."""

import csv
import io
import json
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from krepes.app.columns import is_hidden
from krepes.data.preprocess import Preprocess
from krepes.data.readers import MISSING
from krepes.errors import DataError, KrepesWarning

BYTES = 10 * 2**20  # of an upload
PIXELS = 4096 * 4096  # of an uploaded image
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
CELLS = 100_000  # of a row, or entries of a vector


@dataclass(frozen=True)
class Prepared:
    """An upload as the encoder takes it.

    Attributes:
        batch: (1, ...).
        cells: what is shown of it; column ↦ value.
        notes: what a reader should know of how it was prepared.
    """

    batch: Tensor
    cells: dict[str, Any]
    notes: tuple[str, ...] = ()


def prepared(body: bytes, content_type: str, source: Any, views: Any, hidden: frozenset[str]) -> Prepared:
    """An upload as the encoder takes it.

    Args:
        content_type: image/*, text/csv (a header and one row) or application/json (column ↦ value, or numbers).
        source: the run's samples.
        views: of the run; of images they may know the normalisation.
        hidden: columns that are redacted: they count as missing, and no message names them. A cell of one is refused:
            where an upload is nearest to a sample, its hidden values would be that sample's.

    Raises:
        DataError: the upload is of another kind than the samples, damaged, too large, or does not fit; says why.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        raise DataError("the upload is empty")
    if kind.startswith("image/"):
        if source.kind != "image":
            raise DataError(f"this is an image; the samples of this run are of kind {source.kind}")
        return image_of(body, source, views)
    if kind not in ("text/csv", "application/json"):
        raise DataError(f"content type {kind[:60] or 'none'}; expected image/…, text/csv or application/json")
    row = row_of_csv(body) if kind == "text/csv" else parsed(body)
    schema = getattr(source, "schema", None)
    if schema is None:
        return vector_of(row, source)
    if not isinstance(row, dict):
        raise DataError(f"the upload holds a {type(row).__name__}; expected an object, column ↦ value")
    return table_row(row, schema, hidden)


# ---------------------------------------------------------------------- images


def image_of(body: bytes, source: Any, views: Any) -> Prepared:
    """An image; without a recorded preprocessing resized and scaled to the samples' own range."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=FORMATS) as image:
                width, height = image.size
                if width * height > PIXELS:
                    raise DataError(f"the image has {width}×{height} pixels; at most {PIXELS:,} are read")
                if getattr(image, "is_animated", False):
                    raise DataError("the image holds several frames; expected one")
                image.load()
                return _as_samples(image, source, views)
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"this is no image that is read here; expected one of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise DataError("the image is damaged, or has too many pixels: it cannot be decoded") from error


def _as_samples(image: Image.Image, source: Any, views: Any) -> Prepared:
    shape = tuple(source.batch([0]).shape[1:])
    known = getattr(source, "preprocess", None)
    if isinstance(known, Preprocess):
        made = known(image)
        if tuple(made.shape) != shape:
            raise DataError(f"the image becomes {tuple(made.shape)}; the samples are {shape}. Give one of their size.")
        return Prepared(made[None], {})
    *channels, height, width = shape
    mode = "RGB" if channels == [3] else "L"
    pixels = Preprocess(size=(height, width), mode=mode)(image)
    note = f"resized to {width}×{height} ({mode}): the run does not record how its images were prepared"
    from krepes.report.views import image_views

    view = image_views(getattr(views, "views", views)) if views is not None else None
    if view is not None and view.mean is not None:
        mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (view.mean, view.std))
        return Prepared(((pixels - mean) / std).reshape(1, *shape), {}, (note,))
    some = source.batch(range(min(256, len(source)))).float()
    low, high = float(some.min()), float(some.max())
    low, high = (0.0, 1.0) if low >= 0 and 0.5 < high <= 1 else (low, high)
    scaled = (pixels * (high - low) + low).reshape(1, *shape).to(source.batch([0]).dtype)
    return Prepared(scaled, {}, (f"{note}; black is {low:.3g}, white {high:.3g}",))


# ---------------------------------------------------------------------- tables


def parsed(body: bytes) -> Any:
    """JSON.

    Raises:
        DataError: it is none, nests too deeply, or names a column twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise DataError("the upload names a column twice")
        return found

    try:
        return json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("the upload is no valid JSON") from error


def row_of_csv(body: bytes) -> dict[str, str | None]:
    """Column ↦ text of a CSV file with a header and one row; None for the usual marks of a missing cell."""
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("the upload is no CSV file in UTF-8") from error
    lines = [line for line in lines if line]
    if len(lines) != 2:
        raise DataError(f"the CSV file holds {len(lines)} lines; expected a header and one row")
    header, row = lines
    if len(header) != len(row):
        raise DataError(f"the CSV file's header has {len(header)} columns, its row {len(row)}")
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        raise DataError("the CSV file's header names a column twice")
    return {n: None if v.strip() == "" or v.strip() in MISSING else v.strip() for n, v in zip(names, row, strict=True)}


def table_row(row: dict[str, Any], schema: Any, hidden: frozenset[str]) -> Prepared:
    """A row encoded by the run's schema."""
    if len(row) > CELLS:
        raise DataError(f"the row has {len(row):,} cells; at most {CELLS:,} are read")
    names = [c.name for c in schema.columns]
    unknown = [name for name in row if name not in set(names)]
    if unknown:
        raise DataError(f"the encoder knows no column {unknown[0][:80]!r} ({len(unknown)} such); leave it out")
    kept = frozenset(name for name in names if is_hidden(name, hidden))
    if any(row.get(name) is not None for name in kept):
        raise DataError("the upload holds a cell of a redacted column; leave these out, they count as missing")
    absent = [name for name in names if name not in row and name not in kept]
    if absent:
        raise DataError(f"column {absent[0]!r} is missing ({len(absent)} such); give null for a missing cell")
    cells = {c.name: None if c.name in kept else cell_of(row[c.name], c) for c in schema.columns}
    frame = pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in cells.items()})
    for column in schema.columns:
        if column.kind == "numeric":
            frame[column.name] = frame[column.name].astype(float)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", KrepesWarning)
        batch = schema.transform(frame)
    notes = [str(w.message) for w in said if issubclass(w.category, KrepesWarning)]
    shown = {name: value for name, value in cells.items() if name not in kept}
    return Prepared(batch, shown, tuple(n for n in notes if not any(repr(h) in n or f"'{h}'" in n for h in kept)))


def cell_of(value: Any, column: Any) -> Any:
    """A cell as the schema encodes it.

    Raises:
        DataError: it is of another kind than the column.
    """
    name = f"column {column.name!r}"
    if value is None:
        return None
    if not isinstance(value, str | int | float):
        raise DataError(f"{name} holds a {type(value).__name__}; expected a number, text or null")
    if column.kind != "numeric":
        return value if isinstance(value, str) else str(value)
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{name} is numeric, and holds {str(value)[:40]!r}; expected a finite number or null")
    return number


def vector_of(given: Any, source: Any) -> Prepared:
    """A list of numbers, nested or flat, for samples without a table."""
    sample = source.batch([0])[0]
    try:
        values = np.asarray(given)
        if values.dtype.kind not in "iuf" or values.size != sample.numel() or values.size > CELLS:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"the samples of this run are {source.kind}s of shape {tuple(sample.shape)}; expected a JSON list of "
            f"{sample.numel()} numbers" + (", or an image" if source.kind == "image" else "")
        ) from error
    if not np.isfinite(values).all():
        raise DataError("the list holds numbers that are not finite")
    return Prepared(torch.as_tensor(values).reshape(1, *sample.shape).to(sample.dtype), {})
