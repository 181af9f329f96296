"""Charts and thumbnails, as text that stands inside the page."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

INK = "#010203"  # stands for the page's text colour, light or dark
ATTRACT, REPEL, QUIET = "#2f6fde", "#c2410c", "#8a94a6"
RASTER_FROM = 5000  # points from which a map is drawn as pixels inside the SVG


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


def draw(name: str, label: str, paint: Callable[[Axes], None], size: tuple[float, float] = (5.2, 3.2)) -> str:
    """One chart as inline SVG in the page's own text colour.

    Args:
        name: unique in the page; its ids hang on it.
        label: what the chart shows, for screen readers.
        paint: draws on the axes.
    """
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
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def representation_map(points: np.ndarray, landmarks: np.ndarray) -> str:
    """Samples (k, 2) as dots, landmarks (m, 2) as diamonds."""

    def paint(ax: Axes) -> None:
        ax.scatter(*points.T, s=5, c=QUIET, alpha=0.45, linewidths=0, rasterized=len(points) > RASTER_FROM,
                   label=f"samples ({len(points)} shown)")  # fmt: skip
        ax.scatter(*landmarks.T, s=20, c=ATTRACT, marker="D", linewidths=0, label=f"landmarks ({len(landmarks)})")
        ax.set_xlabel("first principal component of f")
        ax.set_ylabel("second")
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)

    return draw("map", "Map of the representation: samples and landmarks", paint, (6.6, 4.4))


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


def damping_path(damping: list[float], gain: list[float], threshold: float) -> str:
    """Gain ratio of the damping values that were tried."""

    def paint(ax: Axes) -> None:
        ax.semilogx(damping, gain, color=ATTRACT, marker="o", markersize=4)
        ax.axhline(threshold, color=REPEL, linewidth=0.8, linestyle="--")
        ax.set_xlabel("damping λ / mean curvature")
        ax.set_ylabel("gain ratio")
        ax.set_ylim(max(-1.0, min([*gain, 0.0]) - 0.1), max([*gain, 1.0]) + 0.1)

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
