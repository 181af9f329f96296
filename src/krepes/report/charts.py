"""The report's charts of a run folder."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from krepes.audit.findings import Findings
from krepes.report import figures
from krepes.report.content import Page, guarded
from krepes.solver.newton import GAIN_RATIO, LARGEST_GAIN_RATIO
from krepes.stored import StoredRun

DOTS = 5000  # samples up to which each is a dot of the map


def map_of(page: Page, landmarks: pd.DataFrame | None) -> dict[str, Any] | None:
    """The map of all samples, and how many they are."""
    points = page.run.table("points.parquet", ("x", "y", "is_landmark"), ("x", "y", "is_landmark"))
    if points is None or len(points) < 2:
        return None
    every = points.loc[:, ["x", "y"]].to_numpy(float)
    placed = np.isfinite(every).all(1)
    marks, ranks, size, balance = np.empty((0, 2)), [], None, None
    if landmarks is not None:
        position = landmarks["position"].to_numpy(int)
        there = (position >= 0) & (position < len(every))
        there[there] = placed[position[there]]
        if not there.all():
            page.run.say("places", f"{(~there).sum()} landmarks are none of the samples on the map, and not drawn.")
        marks, ranks = every[position[there]], landmarks["rank"][there].tolist()
        size, balance = (landmarks[name].to_numpy(float)[there] for name in ("mean_influence", "sign_balance"))
    xy, lost = every[placed], int((~placed).sum())
    if len(xy) < 2:
        return None
    return {
        "svg": Markup(figures.representation_map(xy, marks, ranks, size, balance, DOTS)),
        "n": len(xy),
        "lost": lost,
        "density": len(xy) > DOTS,
    }


def charts(run: StoredRun, found: Findings, landmarks: pd.DataFrame | None) -> list[tuple[str, Markup]]:
    """Caption and chart: spectrum, coverage, convergence, damping and λ path, those that can be had."""
    outcome = run.section("outcome")

    def spectrum() -> str | None:
        values = run.tensor("eigenvalues")
        return None if values is None else figures.spectrum(values.numpy())

    def coverage() -> str | None:
        return None if landmarks is None else figures.coverage(landmarks["mean_influence"].to_numpy(float))

    def convergence() -> str | None:
        tolerance = (run.section("settings").get("newton") or {}).get("tol", 1e-4)
        return figures.convergence(outcome["history"], tolerance) if outcome.get("history") else None

    def damping() -> str | None:
        tried = outcome.get("trials") or ()
        if not tried:
            return None
        damping, gain, held = ([t[k] for t in tried] for k in ("damping", "gain_ratio", "accepted"))
        limits = (GAIN_RATIO, LARGEST_GAIN_RATIO)
        return figures.damping_path(damping, gain, held, outcome["relative_damping"], limits)

    def path() -> str | None:
        return None if found.path is None else figures.entropy_path(found.path, outcome.get("relative_damping"))

    drawn = {
        "Spectrum of the landmark kernel": spectrum,
        "Coverage: what the strongest landmarks carry": coverage,
        "Spectral entropy of the coefficients over λ": path,
        "Gain ratio of the λ that were tried; dotted: the one taken": damping,
        "Residual of the linear solve": convergence,
    }
    made = {caption: guarded(run, "charts", make) for caption, make in drawn.items()}
    return [(caption, Markup(svg)) for caption, svg in made.items() if svg]
