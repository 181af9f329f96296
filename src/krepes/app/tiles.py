"""The map's pictures: density, a column's colours, a selection; every point counts in every one of them."""

import io
import math
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image

from krepes.app.cache import Cache
from krepes.app.columns import MISSING, OTHER, STEPS, VALUES, Column
from krepes.app.points import BITS, Box, Points, take

SIDE = 256  # pixels of a tile
DEEPEST = 20  # zoom
LEAST = 12  # points of a pixel that are drawn darkest, at least
KEPT_BYTES = 96 * 2**20  # of PNG files
# points that share a point's tile, on average over points ↦ radius of a point in pixels
RADII = ((40, 5.0), (200, 4.0), (800, 3.0), (4000, 2.0), (20_000, 1.2))
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99", "#8888dd", "#99aa22",
           "#cc88bb", "#886644")  # fmt: skip
RAMP = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
DENSITY = {"light": ("#9db8d6", "#3a6ea8", "#0b2a52"), "dark": ("#28466b", "#5b9bd5", "#e8f3ff")}
GREY = {"light": "#8a8f98", "dark": "#6b7280"}
MISSES = {"light": "#c3c7ce", "dark": "#4b5563"}
SELECTED = {"light": "#d1351b", "dark": "#ffb000"}
GROUND = {"light": "#ffffff", "dark": "#111418"}
Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Layer:
    """What is drawn over the points.

    Attributes:
        codes: of a column (n,); None draws density.
        column: whose codes they are.
        selected: of each sample (n,); None for no selection.
    """

    codes: np.ndarray | None = None
    column: Column | None = None
    selected: np.ndarray | None = None


@dataclass
class Tiles:
    """Pictures of a map; safe for threads."""

    points: Points
    _kept: Cache = field(default_factory=lambda: Cache(KEPT_BYTES, len), repr=False)
    _scales: Cache = field(default_factory=lambda: Cache(DEEPEST + 1), repr=False)

    def png(self, z: int, x: int, y: int, key: tuple, layer: Layer, theme: Theme) -> bytes:
        """Tile x, y of zoom z; row 0 holds the largest y, as in the report's map.

        Args:
            key: stands for the layer in the cache.
        """
        return self._kept.get((z, x, y, key, theme), lambda: encoded(self._tile(z, x, y, layer, theme)))

    def _tile(self, z: int, x: int, y: int, layer: Layer, theme: Theme) -> np.ndarray:
        side = self.points.world.side / 2**z
        x0, y0 = self.points.world.x0 + x * side, self.points.world.y1 - (y + 1) * side
        return self.drawn(Box(x0, y0, x0 + side, y0 + side), SIDE, SIDE, z, layer, theme)

    def region(self, box: Box, width: int, height: int, layer: Layer, theme: Theme) -> bytes:
        """A region as a PNG file with an opaque ground."""
        zoom = math.log2(max(self.points.world.side / (box.x1 - box.x0) * width / SIDE, 1))
        image = self.drawn(box, width, height, min(round(zoom), DEEPEST), layer, theme)
        ground = Image.new("RGBA", (width, height), GROUND[theme])
        ground.alpha_composite(Image.fromarray(image))
        return encoded(np.asarray(ground.convert("RGB")))

    def scale(self, zoom: int) -> tuple[float, float]:
        """Of a zoom: the most points of a pixel, and the radius of a point, the same for all tiles."""
        return self._scales.get(zoom, lambda: (self._most(zoom), self._radius(zoom)))

    def _most(self, zoom: int) -> float:
        return float(max(runs(self.points.codes >> np.uint32(2 * max(BITS - zoom - 8, 0))), default=1))

    def _radius(self, zoom: int) -> float:
        together = runs(self.points.codes >> np.uint32(2 * max(BITS - zoom, 0)) if zoom else self.points.codes * 0)
        crowd = float((together.astype(float) ** 2).sum() / max(together.sum(), 1))
        return next((radius for most, radius in RADII if crowd <= most), 0.6)

    def drawn(self, box: Box, width: int, height: int, zoom: int, layer: Layer, theme: Theme) -> np.ndarray:
        """A region as RGBA (height, width, 4), uint8, the largest y in the first row."""
        most, radius = self.scale(zoom)
        margin = math.ceil(radius)
        sx, sy = (box.x1 - box.x0) / width, (box.y1 - box.y0) / height
        wide = Box(box.x0 - margin * sx, box.y0 - margin * sy, box.x1 + margin * sx, box.y1 + margin * sy)
        parts = self.points.slices(wide)
        W, H = width + 2 * margin, height + 2 * margin
        px = np.floor((take(self.points.sx, parts).astype(np.float64) - wide.x0) / sx).astype(np.int64)
        py = np.floor((wide.y1 - take(self.points.sy, parts).astype(np.float64)) / sy).astype(np.int64)
        seen = (px >= 0) & (px < W) & (py >= 0) & (py < H)
        if not seen.any():
            return np.zeros((height, width, 4), np.uint8)
        pixel, position = (py * W + px)[seen], take(self.points.order, parts)[seen]
        occupied, colour, key = painted(pixel, position, W * H, most, layer, theme)
        image = stamped(occupied, colour, key, W, H, radius)
        return image[margin : margin + height, margin : margin + width]


def painted(
    pixel: np.ndarray, position: np.ndarray, size: int, most: float, layer: Layer, theme: Theme
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that hold points (k,), their colours (k, 3) and opacities (k,), 2 more where one is selected."""
    counts = np.bincount(pixel, minlength=size)
    occupied = np.flatnonzero(counts)
    share = np.minimum(np.log1p(counts[occupied]) / math.log1p(max(most, LEAST)), 1)
    faintest = 0.55 if layer.codes is None else 0.8  # a colour must be told from others
    opacity = faintest + (1 - faintest) * share
    if layer.codes is None or layer.column is None:
        colour = ramp(DENSITY[theme], 256)[(share * 255).astype(int)]
    else:
        colour = coloured(pixel, layer.codes[position], occupied, size, layer.column, theme)
    if layer.selected is None:
        return occupied, colour, opacity
    chosen = np.bincount(pixel[layer.selected[position]], minlength=size)[occupied] > 0
    if layer.codes is None:
        colour = np.where(chosen[:, None], rgb(SELECTED[theme]), rgb(GREY[theme]))
    else:
        colour = np.where(chosen[:, None], colour, rgb(GREY[theme]))
    return occupied, colour, np.where(chosen, 2 + np.maximum(opacity, 0.85), 0.35 * opacity)


def coloured(
    pixel: np.ndarray, codes: np.ndarray, occupied: np.ndarray, size: int, column: Column, theme: Theme
) -> np.ndarray:
    """Colours of the occupied pixels (k, 3): of the mean of numbers, or of the most frequent category."""
    if column.kind == "number":
        known = codes < STEPS
        weight = np.bincount(pixel[known], minlength=size)[occupied]
        total = np.bincount(pixel[known], codes[known].astype(np.float64), minlength=size)[occupied]
        mean = total / np.maximum(weight, 1)
        return np.where(weight[:, None] > 0, ramp(RAMP, STEPS)[mean.astype(int)], rgb(MISSES[theme]))
    place = np.zeros(size, np.int64)
    place[occupied] = np.arange(len(occupied))
    kinds = MISSING + 1
    votes = np.bincount(place[pixel] * kinds + codes, minlength=len(occupied) * kinds).reshape(-1, kinds)
    return category_colours(theme)[votes.argmax(1)]


def stamped(occupied: np.ndarray, colour: np.ndarray, key: np.ndarray, W: int, H: int, radius: float) -> np.ndarray:
    """A disc around every occupied pixel, the more opaque over the less, as RGBA (H, W, 4)."""
    top, image = np.zeros(W * H), np.zeros((W * H, 4), np.uint8)
    row, at = occupied // W, occupied % W
    for dx, dy, cover in disc(radius):
        inside = (at + dx >= 0) & (at + dx < W) & (row + dy >= 0) & (row + dy < H)
        target = (occupied + dy * W + dx)[inside]
        front = np.floor(key[inside] / 2) * 2
        strength = front + (key[inside] - front) * cover
        better = strength > top[target]
        target = target[better]
        top[target] = strength[better]
        image[target, :3] = colour[inside][better]
        image[target, 3] = np.round(255 * ((key[inside] - front) * cover)[better])
    return image.reshape(H, W, 4)


@cache
def disc(radius: float) -> tuple[tuple[int, int, float], ...]:
    """Offsets of the pixels of a disc and the share of each that it covers."""
    reach = math.ceil(radius)
    offsets = ((dx, dy, min(1.0, radius + 0.5 - math.hypot(dx, dy)))
               for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1))  # fmt: skip
    return tuple(o for o in offsets if o[2] > 0.05)


def runs(codes: np.ndarray) -> np.ndarray:
    """How often each of some ascending numbers occurs."""
    if not len(codes):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return np.diff(np.concatenate([starts, [len(codes)]]))


def rgb(text: str) -> np.ndarray:
    """#rrggbb as (3,), uint8."""
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)


@cache
def ramp(colours: tuple[str, ...], steps: int) -> np.ndarray:
    """Colours between some (steps, 3), uint8."""
    ends = np.stack([rgb(c) for c in colours]).astype(float)
    at = np.linspace(0, len(colours) - 1, steps)
    return np.stack([np.interp(at, range(len(colours)), ends[:, c]) for c in range(3)], 1).round().astype(np.uint8)


@cache
def category_colours(theme: Theme) -> np.ndarray:
    """Colours by code (MISSING + 1, 3)."""
    assert len(PALETTE) == VALUES == OTHER
    return np.stack([rgb(c) for c in (*PALETTE, GREY[theme], MISSES[theme])])


def encoded(image: np.ndarray) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
