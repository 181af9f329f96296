"""The report's section on views: the first samples and what the encoder was shown of them."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from krepes.data.source import Subset
from krepes.data.stream import VIEW_BLOCK, SubsetViews, make_views, read
from krepes.data.tables import Column, TableSchema
from krepes.data.views import Compose, ImageView, pair_of
from krepes.report import figures
from krepes.report.words import templates

FILE = "views.json"  # of a run folder
SAMPLES = 6
SIDE = 96  # pixels of a picture's longer side in the page
GAP = 4  # pixels between pictures of a strip
ENTRIES = 12  # of a vector that are shown
TOKENS = 120  # of a sequence that are shown
ROLES = ("sample", "view a", "view b")


def views_section(
    auditor: Any, samples: int = SAMPLES, tokens: Callable[[int], str] | Sequence[str] | None = None
) -> str:
    """The first samples with their two views, as they were seen, and the views' settings; HTML, escaped.

    Args:
        auditor: a fitted `Auditor`. One that holds no samples or views, as a loaded one, gives an empty text.
        samples: how many at most.
        tokens: token id ↦ its text, for token sequences; default the ids.
    """
    content = views_content(auditor, samples, tokens)
    return "" if content is None else rendered(content)


def rendered(content: dict[str, Any]) -> str:
    """What `views_content` gave as HTML, escaped."""
    return templates().get_template("views.html.j2").render(content)


def views_content(
    auditor: Any,
    samples: int = SAMPLES,
    tokens: Callable[[int], str] | Sequence[str] | None = None,
    thumbnails: bool = True,
    redact: Sequence[str] = (),
) -> dict[str, Any] | None:
    """What the section shows, as JSON can hold it; None where there are no samples or views, as after a load.

    Args:
        samples, tokens: as of `views_section`.
        thumbnails: whether pictures of the samples are made.
        redact: columns that are left out.
    """
    source, views = auditor.seen_.training, auditor.seen_.views
    if source is None or views is None:
        return None
    block = range(min(VIEW_BLOCK, len(source)))
    shown = range(min(samples, len(source)))
    pair = make_views(source, views, block, auditor.settings.seed)
    batches = [t[: len(shown)].detach().cpu() for t in (read(source, shown), *pair)]
    inner = views.views if isinstance(views, SubsetViews) else views
    content = {
        "kind": kind_of_samples(source, batches[0]),
        "ids": [str(source.ids[i]) for i in shown],
        "settings": [list(one) for one in settings_of(inner)],
        **contents(source, inner, batches, tokens),
    }
    if not thumbnails and "strips" in content:
        content["strips"] = []
    return without_columns(content, redact) if content["kind"] == "table" else content


def without_columns(content: dict[str, Any], redact: Sequence[str]) -> dict[str, Any]:
    """The content of a table without some of its columns."""
    kept = [i for i, name in enumerate(content["columns"]) if name not in redact]

    def part(row: dict[str, Any]) -> dict[str, Any]:
        cells = [row["cells"][i] for i in kept]
        return {**row, "cells": cells, "changed": sum(bool(new) for _, new in cells)}

    rows = [[part(row) for row in sample] for sample in content["rows"]]
    return {**content, "columns": [content["columns"][i] for i in kept], "rows": rows}


def kind_of_samples(source: Any, batch: Tensor) -> str:
    """ "image", "table", "text" or "vector": how samples and views are laid out."""
    if source.kind == "image" and batch.ndim in (3, 4) and (batch.ndim == 3 or batch.shape[1] in (1, 3)):
        return "image"
    if schema_of(source) is not None and batch.ndim == 2:
        return "table"
    return "text" if batch.ndim == 2 and not batch.is_floating_point() else "vector"


def contents(source: Any, views: Any, batches: list[Tensor], tokens: Any) -> dict[str, Any]:
    """What the template shows of each sample."""
    kind, schema = kind_of_samples(source, batches[0]), schema_of(source)
    if kind == "image":
        return pictures(batches, image_views(views))
    if kind == "text":
        name: Callable[[int], Any] = str if tokens is None else tokens if callable(tokens) else tokens.__getitem__
        return {"samples": [sequences([b[i].tolist() for b in batches], name) for i in range(len(batches[0]))]}
    if kind == "table" and schema is not None:
        decoded = [[decoded_row(schema, row) for row in batch] for batch in batches]
        columns = [c.name for c in schema.columns]
    else:
        decoded = [[[f"{v:.4g}" for v in row.flatten()[:ENTRIES].tolist()] for row in batch] for batch in batches]
        columns = [str(i) for i in range(len(decoded[0][0]))]
    size = batches[0][0].numel()
    return {
        "columns": columns,
        "rows": [rows_of([d[i] for d in decoded]) for i in range(len(batches[0]))],
        "left_out": size - len(columns) if kind == "vector" else 0,
    }


def settings_of(views: Any) -> list[tuple[str, str]]:
    """Name and full setting of the views, one for both or one for each."""
    if isinstance(views, tuple):
        return [("both views", "two tensors that were given with the samples")]
    a, b = pair_of(views)
    return [("both views", repr(views))] if a is b else [("view a", repr(a)), ("view b", repr(b))]


# ----------------------------------------------------------------------- images


def image_views(views: Any) -> ImageView | None:
    """The first view of images that knows how its samples were normalised."""
    for view in () if isinstance(views, tuple) else pair_of(views):
        for part in view.views if isinstance(view, Compose) else (view,):
            if isinstance(part, ImageView):
                return part
    return None


def pictures(batches: list[Tensor], view: ImageView | None) -> dict[str, Any]:
    """A strip per sample, all on one scale: pixels in [0, 1] where the normalisation is known."""
    values = torch.stack([b.float() for b in batches])  # (3, k, ...)
    values = values if values.ndim == 5 else values[:, :, None]
    ranges = [f"{float(v.min()):.3g} to {float(v.max()):.3g}" for v in values]
    mean = torch.tensor((view and view.mean) or (0.0,))[:, None, None]
    std = torch.tensor((view and view.std) or (1.0,))[:, None, None]
    pixels = values * std + mean
    low, high = (0.0, 1.0) if view is not None else (float(pixels.min()), float(pixels.max()))
    strips = [strip(pixels[:, i].numpy(), low, high) for i in range(pixels.shape[1])]
    scale = "in [0, 1] before normalisation" if view is not None else f"as {low:.3g} (black) to {high:.3g} (white)"
    return {
        "strips": strips,
        "scale": scale,
        "ranges": list(zip(ROLES, ranges, strict=True)),
        "colourless": view is not None and values.shape[2] == 1,
    }


def strip(images: np.ndarray, low: float, high: float) -> str:
    """Sample and views (3, C, H, W) side by side, a PNG data URI; small pictures keep their pixels."""
    H, W = images.shape[-2:]
    factor = SIDE / max(H, W)
    size = (max(1, round(W * factor)), max(1, round(H * factor)))
    filter_ = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    scaled = []
    for image in images:
        channels = [np.asarray(Image.fromarray(c.astype(np.float32)).resize(size, filter_)) for c in image]
        scaled.append(np.stack(channels))
        scaled.append(np.full((len(channels), size[1], GAP), high))
    return figures.thumbnail(np.concatenate(scaled[:-1], 2), low, high)


# ----------------------------------------------------------------------- tables


def schema_of(source: Any) -> TableSchema | None:
    """The schema of a table or of a part of one."""
    while isinstance(source, Subset):
        source = source.source
    return getattr(source, "schema", None)


def decoded_row(schema: TableSchema, row: Tensor) -> list[str]:
    """One encoded row (p,) in raw units, a text per feature."""
    return [
        decoded(column, row[columns].tolist())
        for column, columns in zip(schema.columns, schema.slices.values(), strict=True)
    ]


def decoded(column: Column, values: list[float]) -> str:
    """A feature's encoded columns in raw units; what no cell is encoded as is said with its shares."""
    if column.kind == "numeric":
        value = values[0] * (column.std or 1.0) + column.mean
        noise = 1e-6 * max(abs(column.mean), column.std)  # encoded rows are float32
        raw = f"{0.0 if abs(value) < noise else value:.6g}"
        flag = values[1] if len(values) > 1 else 0.0
        return raw if flag == 0 else "missing" if flag == 1 else f"{raw} ({flag:.1%} missing)"
    names = [*column.categories, "missing", "unseen"]
    if sorted(values)[-1] == 1 and sum(v != 0 for v in values) == 1:
        return names[values.index(1)]
    shares = sorted(((v, n) for v, n in zip(values, names, strict=True) if v), key=lambda p: -abs(p[0]))
    said = " + ".join(f"{v:.1%} {n}" for v, n in shares[:3])
    return (said or "nothing") + (" + …" if len(shares) > 3 else "")


def rows_of(texts: list[list[str]]) -> list[dict[str, Any]]:
    """Sample and views as rows; cells that differ from the sample's are marked."""
    first = texts[0]
    return [
        {"role": role, "cells": [(t, t != f) for t, f in zip(row, first, strict=True)],
         "changed": sum(t != f for t, f in zip(row, first, strict=True))}
        for role, row in zip(ROLES, texts, strict=True)
    ]  # fmt: skip


# ------------------------------------------------------------------------- text


def sequences(rows: list[list[int]], name: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Sample and views as tokens; new ones are marked, and the number of those that are gone is said."""
    out = [{"role": ROLES[0], "tokens": [(name(t), False) for t in rows[0][:TOKENS]], "gone": 0,
            "more": max(0, len(rows[0]) - TOKENS)}]  # fmt: skip
    for role, row in zip(ROLES[1:], rows[1:], strict=True):
        marked, gone = [False] * len(row), 0
        for tag, i, j, k, m in difflib.SequenceMatcher(None, rows[0], row, autojunk=False).get_opcodes():
            if tag != "equal":
                gone += j - i
                marked[k:m] = [True] * (m - k)
        shown = [(name(t), new) for t, new in zip(row[:TOKENS], marked, strict=False)]
        out.append({"role": role, "tokens": shown, "gone": gone, "more": max(0, len(row) - TOKENS)})
    return out
