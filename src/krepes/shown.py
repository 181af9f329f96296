"""What pages show of a run's samples, written into its folder: explanations in full, pictures, the first views."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from krepes import influence
from krepes.audit.findings import Findings
from krepes.audit.selection import positions_of
from krepes.data.source import Source, Subset
from krepes.data.stream import SubsetViews
from krepes.files import write_atomically, write_json
from krepes.report.findings import strongest
from krepes.report.views import FILE as VIEWS
from krepes.report.views import image_views, views_content
from krepes.stored import PICTURES

if TYPE_CHECKING:
    from krepes.auditor import Auditor

EXPLAINED = "explained.parquet"
SIDE = 96  # pixels of a stored picture's longer side, at most
LOSSLESS = 40  # pixels up to which a picture is kept exactly
BUDGET = 5 * 2**20  # bytes of all pictures of a run, so that a report stays below 10 MB


def write_shown(
    auditor: "Auditor",
    folder: Path,
    chosen: Sequence[int],
    landmarks: pd.DataFrame,
    found: Findings,
    thumbnails: bool = True,
    redact: Sequence[str] = (),
) -> list[str]:
    """explained.parquet, views.json and pictures.parquet; the names of those that were written.

    Args:
        chosen: positions of the samples that are explained.
        landmarks: ranked, strongest first; with their positions.
        thumbnails: whether pictures of samples are kept.
        redact: columns of the table whose values are kept nowhere here.
    """
    written = []
    explained = explained_table(auditor, chosen)
    write_atomically(folder / EXPLAINED, lambda p: explained.to_parquet(p, index=False))
    written.append(EXPLAINED)
    views = views_content(auditor, thumbnails=thumbnails, redact=redact)
    if views is None:
        (folder / VIEWS).unlink(missing_ok=True)
    else:
        write_json(folder / VIEWS, views)
        written.append(VIEWS)
    pictures = picture_table(auditor, chosen, landmarks, found) if thumbnails else None
    if pictures is None:
        (folder / PICTURES).unlink(missing_ok=True)
    else:
        write_atomically(folder / PICTURES, lambda p: pictures.to_parquet(p, index=False))
        written.append(PICTURES)
    return written


def explained_table(auditor: "Auditor", chosen: Sequence[int]) -> pd.DataFrame:
    """Each chosen sample with all landmarks: sample, position, landmark, influence, contribution."""
    columns = ["sample", "position", "landmark", "influence", "contribution"]
    if not len(chosen):
        return pd.DataFrame(columns=pd.Index(columns))
    source, m = auditor.source_, len(auditor.landmark_ids_)
    K, f = influence.scored(auditor.fit_, Subset(source, np.asarray(chosen)))
    signed = influence.signed_contribution(K, auditor.dA_, f)
    scores = influence.sample_influence(K, auditor.dA_)
    return pd.DataFrame(
        {
            "sample": np.repeat([source.ids[i] for i in chosen], m),
            "position": np.repeat(list(chosen), m),
            "landmark": np.tile(auditor.landmark_ids_, len(chosen)),
            "influence": scores.flatten().cpu().numpy(),
            "contribution": signed.flatten().cpu().numpy(),
        }
    )


# -------------------------------------------------------------------- pictures


def picture_table(
    auditor: "Auditor", chosen: Sequence[int], landmarks: pd.DataFrame, found: Findings
) -> pd.DataFrame | None:
    """Columns id and picture (bytes of a PNG or WebP file); None for samples that are no images.

    In the order explained samples, attributed training samples, landmarks by influence, concepts' members, until the
    budget is spent.
    """
    source, training = auditor.source_, auditor.seen_.samples()
    if not looks_like_an_image(source.batch([0]), source.kind):
        return None
    draw = Pictures.of(auditor)
    wanted: list[tuple[Source, int]] = [(source, i) for i in chosen]
    if found.attribution is not None:
        wanted += [(training, int(i)) for i in found.attribution["position"]]
    wanted += [(source, int(i)) for i in landmarks["position"]]
    wanted += [(source, i) for i in member_positions(source, found)]
    kept: dict[str, bytes] = {}
    spent = 0
    for one, position in wanted:
        name = str(one.ids[position])
        if name in kept:
            continue
        kept[name] = draw(one, position)
        spent += len(kept[name])
        if spent > BUDGET:
            break
    return pd.DataFrame({"id": list(kept), "picture": list(kept.values())})


def looks_like_an_image(batch: Tensor, kind: str | None) -> bool:
    """Whether samples (B, ...) can be drawn; a kind of None is told from their shape."""
    drawable = batch.ndim == 3 or (batch.ndim == 4 and batch.shape[1] in (1, 3))
    return drawable and batch.is_floating_point() and kind in ("image", None)


def member_positions(source: Source, found: Findings) -> Iterable[int]:
    """Positions of the samples that stand for each concept."""
    if found.concepts is None:
        return []
    named = [str(i) for row in found.concepts.to_dict("records") for i in strongest(row)]
    place = positions_of(source.ids, set(named))
    return [place[i] for i in dict.fromkeys(named) if i in place]


class Pictures:
    """Samples as small pictures, all on one scale.

    Args:
        mean, std: per channel, of the normalisation that is undone.
        low, high: values that are black and white.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], low: float, high: float):
        self._mean = np.asarray(mean, np.float32)[:, None, None]
        self._std = np.asarray(std, np.float32)[:, None, None]
        self._low, self._high = low, high

    @classmethod
    def of(cls, auditor: "Auditor") -> "Pictures":
        """On the scale before the normalisation that the views or the source know; else on that of the samples."""
        source, views = auditor.seen_.audited, auditor.seen_.views
        inner = views.views if isinstance(views, SubsetViews) else views
        for known in (None if inner is None else image_views(inner), getattr(source, "preprocess", None)):
            mean, std = getattr(known, "mean", None), getattr(known, "std", None)
            if mean is not None and std is not None:
                return cls(mean, std, 0.0, 1.0)
        few = auditor.fit_.samples if source is None else source.batch(range(min(256, len(source))))
        some = few.float()
        low, high = float(some.min()), float(some.max())
        return cls((0.0,), (1.0,), *((0.0, 1.0) if low >= 0 and 0.5 < high <= 1 else (low, high)))

    def __call__(self, source: Source, position: int) -> bytes:
        """One sample as the bytes of a PNG (small) or WebP file."""
        return self.encode(source.batch([position])[0].float().cpu().numpy())

    def encode(self, sample: np.ndarray) -> bytes:
        """An image (H, W) or (C, H, W)."""
        image = (sample if sample.ndim == 3 else sample[None]) * self._std + self._mean
        image = (image - self._low) / ((self._high - self._low) or 1.0)
        pixels = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        picture.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        if max(picture.size) <= LOSSLESS:
            picture.save(buffer, "PNG", optimize=True)
        else:
            picture.save(buffer, "WEBP", quality=80)
        return buffer.getvalue()
