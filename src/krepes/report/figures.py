"""Charts and thumbnails, as text that stands inside the page.

matplotlib is imported when a chart is drawn: it takes a while, and most of krepes draws none.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
INK = "#010203"  # stands for the page's text colour, light or dark
PAPER = "#fcfdfe"  # and this for its background
ATTRACT, REPEL, QUIET = "#2f6fde", "#c2410c", "#8a94a6"


def thumbnail(sample: np.ndarray, low: float, high: float) -> str:
    """A PNG data URI of an image (H, W) or (C, H, W) with values in [low, high]."""
    image = np.asarray(sample, dtype=float)
    image = (image - low) / ((high - low) or 1.0)
    pixels = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    if pixels.ndim == 3:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw(name: str, label: str, paint: Callable[[Axes], None], size: tuple[float, float] = (4.0, 2.7)) -> str:
    """One chart as inline SVG in the page's own text colour.

    Args:
        name: unique in the page; its ids hang on it.
        label: what the chart shows, for screen readers.
        paint: draws on the axes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inlined(buffer.getvalue(), name, label)


def inlined(svg: str, name: str, label: str) -> str:
    """Matplotlib's SVG for a page that allows no style attributes, with ids of its own.

    It is parsed and written again, so that what stands in its texts, which are names of the data, stays text.
    """
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
        own = {**attributes(parent.attrib.pop("style", "")), **parent.attrib}
        parent.attrib.clear()
        parent.attrib.update({k: referred(k, v, name) for k, v in own.items()})
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def referred(attribute: str, value: str, name: str) -> str:
    """An attribute's value in the page's colours, with the chart's name before its ids and references."""
    if attribute == "id":
        return f"{name}-{value}"
    if attribute.endswith("href"):
        return f"#{name}-{value[1:]}" if value[:1] == "#" and not value.startswith("#landmark-") else value
    value = value.replace(INK, "currentColor").replace(PAPER, "var(--card)")
    return value.replace("url(#", f"url(#{name}-")


def attributes(style: str) -> dict[str, str]:
    """Declarations of a style as SVG's presentation attributes."""
    out = {}
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":  # size and family in one, which no attribute holds
            out["font-size"], _, out["font-family"] = value.partition(" ")
        elif value:
            out[name] = value
    return out


def representation_map(
    points: np.ndarray,
    landmarks: np.ndarray,
    ranks: Sequence[int] = (),
    influence: np.ndarray | None = None,
    balance: np.ndarray | None = None,
    dots: int = 5000,
) -> str:
    """Samples and landmarks in their plane, every sample in it: few as dots, many as a density.

    Args:
        points: samples (n, 2).
        landmarks: (m, 2).
        ranks: of the landmarks; each links to #landmark-RANK.
        influence: (m,), the diamonds' area.
        balance: (m,), in [−1, 1]: attracting landmarks and repelling ones differ in colour.
        dots: samples up to which each is a dot.
    """
    n, m = len(points), len(landmarks)
    area = np.full(m, 20.0) if influence is None else 8 + 34 * influence / max(float(influence.max(initial=0)), 1e-300)
    repels = np.zeros(m, bool) if balance is None else balance < 0

    def paint(ax: Axes) -> None:
        if n > dots:
            _density(ax, points)
        else:
            ax.scatter(*points.T, s=5, c=QUIET, alpha=0.5, linewidths=0, label=f"{n:,} samples", zorder=1)
        for chosen, colour, words in ((~repels, ATTRACT, "attract on balance"), (repels, REPEL, "repel on balance")):
            if chosen.any():
                words = f"{chosen.sum():,} landmarks" + (f" that {words}" if balance is not None else "")
                drawn = ax.scatter(*landmarks[chosen].T, s=area[chosen], c=colour, marker="D", linewidths=0.5,
                                   edgecolors=PAPER, alpha=0.9, label=words, zorder=2)  # fmt: skip
                if len(ranks):
                    drawn.set_urls([f"#landmark-{r}" for r in np.asarray(ranks)[chosen]])
        ax.set_xlabel("first principal component of f")
        ax.set_ylabel("second")
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)

    return draw("map", f"Map of the representation: {n:,} samples and {m:,} landmarks", paint, (7.4, 4.9))


def _density(ax: Axes, points: np.ndarray) -> None:
    """How many samples lie where, on a logarithmic scale."""
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    counts, *_ = np.histogram2d(points[:, 0], points[:, 1], bins=(360, 240))
    strength = np.log1p(counts.T) / np.log1p(max(counts.max(), 1.0))
    image = np.zeros((*strength.shape, 4))
    image[..., :3] = [int(QUIET[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    image[..., 3] = np.where(strength > 0, 0.15 + 0.85 * strength, 0.0)
    ax.imshow(image, extent=(x0, x1, y0, y1), origin="lower", aspect="auto", interpolation="nearest", zorder=1)
    ax.scatter([], [], s=14, c=QUIET, marker="s", label=f"{len(points):,} samples (darker: more)")


def coverage(influence: np.ndarray) -> str:
    """Share of all influence that the strongest landmarks carry."""

    def paint(ax: Axes) -> None:
        ordered = np.sort(influence)[::-1]
        share = np.concatenate([[0.0], np.cumsum(ordered) / max(float(ordered.sum()), 1e-300)])
        x = np.linspace(0, 1, len(share))
        ax.plot(x, share, color=ATTRACT)
        ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle="--")
        ax.annotate("even shares", (0.62, 0.55), fontsize=8)
        ax.set_xlabel("share of landmarks, strongest first")
        ax.set_ylabel("share of influence")

    return draw("coverage", "Share of all influence carried by the strongest landmarks", paint)


def entropy_path(table: pd.DataFrame, chosen: float | None) -> str:
    """Spectral entropy over the damping (columns damping, entropy), and the damping of this run."""

    def paint(ax: Axes) -> None:
        entropy = table["entropy"].to_numpy(float)
        ax.semilogx(table["damping"], entropy, color=ATTRACT, marker="o", markersize=4)
        if chosen:
            ax.axvline(chosen, color=REPEL, linewidth=0.8, linestyle="--")
            ax.annotate(" this run", (chosen, float(np.min(entropy))), fontsize=8)
        ax.set_xlabel("damping λ / mean curvature")
        ax.set_ylabel("spectral entropy")

    return draw("entropy", "Spectral entropy of the coefficients over the damping", paint)


def spectrum(eigenvalues: np.ndarray) -> str:
    """Kept eigenvalues of the landmark kernel on a logarithmic axis."""

    def paint(ax: Axes) -> None:
        ax.semilogy(np.arange(1, len(eigenvalues) + 1), eigenvalues / eigenvalues[0], color=ATTRACT)
        ax.set_xlabel("component")
        ax.set_ylabel("eigenvalue / largest")

    return draw("spectrum", "Spectrum of the landmark kernel", paint)


def convergence(history: list[float], tolerance: float) -> str:
    """Relative residual of the linear solve by iteration."""

    def paint(ax: Axes) -> None:
        ax.semilogy(np.arange(1, len(history) + 1), history, color=ATTRACT)
        ax.axhline(tolerance, color=REPEL, linewidth=0.8, linestyle="--")
        ax.annotate("tolerance", (1, tolerance), va="bottom", fontsize=8)
        ax.set_xlabel("iteration")
        ax.set_ylabel("relative residual")

    return draw("convergence", "Convergence of the linear solve", paint)


def damping_path(
    damping: list[float], gain: list[float], held: list[bool], chosen: float, limits: tuple[float, float]
) -> str:
    """Gain ratio of the damping values that were tried.

    Args:
        held: whether each was within the limits that were then asked for.
        chosen: the damping that was taken.
        limits: least and largest ratio.
    """

    def paint(ax: Axes) -> None:
        ax.semilogx(damping, gain, color=ATTRACT, linewidth=1)
        for d, g, inside in zip(damping, gain, held, strict=True):
            ax.semilogx([d], [g], "o", color=ATTRACT, markerfacecolor=ATTRACT if inside else "white", markersize=4)
        for limit in limits:
            ax.axhline(limit, color=REPEL, linewidth=0.8, linestyle="--")
        ax.axvline(chosen, color=REPEL, linewidth=0.8, linestyle=":")
        ax.set_xlabel("damping λ / mean curvature")
        ax.set_ylabel("gain ratio")
        ax.set_ylim(max(-1.0, min([*gain, 0.0]) - 0.1), max([*gain, limits[1]]) + 0.1)

    return draw("damping", "Gain ratio over the damping", paint)


def gaps(table: pd.DataFrame) -> str:
    """Alignment gaps (columns column, gap, low, high, null_low, null_high)."""
    return forest(
        "gaps", "Alignment gaps of raw columns with intervals", table["column"].tolist(), "gap", table,
        "agreement with a sample's top landmarks beyond that with any", ("gap", "random landmarks"),
    )  # fmt: skip


def pushes(table: pd.DataFrame) -> str:
    """Mean pushes along concepts (columns concept, push, low, high, null_low, null_high)."""
    return forest(
        "concepts", "Mean push along each concept with intervals", table["concept"].tolist(), "push", table,
        "mean share of f by which the step moves samples along the concept", ("push", "random directions"),
    )  # fmt: skip


def forest(
    name: str, label: str, names: list[str], value: str, table: pd.DataFrame, axis: str,
    legend: tuple[str, str],
) -> str:  # fmt: skip
    """Estimates with 95 % intervals, one below the other, beside the central 95 % of their nulls.

    Args:
        value: the estimates' column.
        table: with columns low, high, null_low, null_high, too.
        legend: what the estimates and the nulls are.
    """
    columns = (value, "low", "high", "null_low", "null_high")
    values, low, high, null_low, null_high = (table[k].to_numpy(float) for k in columns)

    def paint(ax: Axes) -> None:
        y = np.arange(len(names))[::-1]
        ax.use_sticky_edges = False
        ax.barh(y, null_high - null_low, left=null_low, height=0.56, color=QUIET, alpha=0.35, linewidth=0,
                label=f"{legend[1]} (95 %)")  # fmt: skip
        ax.errorbar(values, y, xerr=[np.maximum(values - low, 0), np.maximum(high - values, 0)], fmt="o", color=ATTRACT,
                    markersize=5, linewidth=1.4, label=f"{legend[0]} with 95 % interval")  # fmt: skip
        ax.axvline(0, color=INK, linewidth=0.6)
        ax.set_yticks(y, [shortened(n) for n in names])
        ax.set_ylim(-0.7, len(names) - 0.3)
        ax.set_xlabel(axis)
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return draw(name, label, paint, (6.6, 1.3 + 0.26 * len(names)))


def shortened(name: str) -> str:
    """At most 28 characters, with dollar signs that matplotlib does not take for mathematics."""
    return (name if len(name) <= 28 else name[:27] + "…").replace("$", r"\$")
