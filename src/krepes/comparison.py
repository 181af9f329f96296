"""Two finished runs side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from krepes.audit.statistics import Part, interval_of, over_refits
from krepes.errors import ConfigError, RunFolderError
from krepes.gate import Run
from krepes.remote import local_run
from krepes.results import settings_in


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs; every difference is B − A.

    Attributes:
        landmarks: landmark, change ("gained", "lost"), share (of the influence in that run), strongest first.
        kept: number of landmarks that both have.
        gaps, concepts: name, a, b, difference, low, high (95 %).
        figures: figure, a, b, difference, low, high where there is an interval: trust, entropy, figures against labels.
        notes: what a reader should know.
    """

    landmarks: pd.DataFrame
    kept: int
    gaps: pd.DataFrame
    concepts: pd.DataFrame
    figures: pd.DataFrame
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        from krepes.report.notebook import captioned

        tables = {"Landmarks gained and lost": self.landmarks, "Alignment gaps": self.gaps, "Concepts": self.concepts,
                  "Figures": self.figures}  # fmt: skip
        return captioned(tables, self.notes)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        tables = {k: getattr(self, k) for k in ("landmarks", "gaps", "concepts", "figures")}
        plain = {k: json.loads(t.to_json(orient="records")) for k, t in tables.items()}
        return {**plain, "kept": self.kept, "notes": list(self.notes)}


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Landmarks gained and lost, gaps and concepts with intervals of their differences, entropy, κ.

    The interval of a difference has the parts of `Auditor.feature_gap`'s: test points and refits on random halves. Runs
    of the same samples and seed drew the same points and halves, so that what both share cancels; the parts of other
    runs are independent and add up. Concepts that are not usable in both runs, or were asked for otherwise, are left
    out.

    Args:
        a, b: complete run folders of `krepes audit` or `krepes demo`.

    Raises:
        RunFolderError: a run is not complete, or a file is missing, changed or of another version.
        ConfigError: one of them is no path.
    """
    for given in (a, b):
        if not isinstance(given, str | Path):
            raise ConfigError(
                f"compare takes run folders, not a {type(given).__name__}; krepes.movement(before, after, x) compares "
                "two auditors"
            )
    first, second = (Run.open(local_run(folder)) for folder in (a, b))
    try:
        landmarks, kept = _landmarks(*(r.table("landmarks.parquet", "") for r in (first, second)))
        paired = _same(first, second, "fingerprints", "data") and _same(first, second, "settings", "seed")
        asked = [(r.manifest.get("config") or {}).get("audit") or {} for r in (first, second)]
        paired &= all(asked[0].get(k) == asked[1].get(k) for k in ("points", "refits"))
        concepts = [(plan.get("concepts") or {}) for plan in asked]
        changed = sorted(name for name in concepts[0] if name in concepts[1] and concepts[0][name] != concepts[1][name])
        gaps = _differences(first, second, "feature_gap", ("column", "gap", "refit_gaps"), paired)
        pushes = _differences(first, second, "concepts", ("concept", "push", "refit_pushes"), paired, changed)
        notes = _notes(first.manifest, second.manifest, paired, changed)
        return Comparison(landmarks, kept, gaps, pushes, _figures(first, second), notes)
    except (KeyError, AttributeError, TypeError) as error:
        raise RunFolderError(
            f"{a} and {b} cannot be compared: one of them was written by another version, or is damaged ({error!r}). "
            "Run the audits again."
        ) from error


def _same(a: Run, b: Run, part: str, name: str) -> bool:
    return a.manifest[part].get(name) == b.manifest[part].get(name)


def _notes(a: dict[str, Any], b: dict[str, Any], paired: bool, changed: list[str]) -> tuple[str, ...]:
    """What makes the two runs more or less comparable."""
    said = []
    same = {k: a["fingerprints"].get(k) == b["fingerprints"].get(k) for k in ("encoder", "data")}
    if not same["data"]:
        said.append("The runs audit different samples: landmarks are matched by id.")
    if not paired:
        said.append("Other samples, seeds, points or refits: intervals are those of independent runs.")
    said.append("The same encoder in both runs." if same["encoder"] else "Two different encoders.")
    one, two = settings_in(a), settings_in(b)
    other = sorted(k for k in one.keys() | two.keys() if k != "landmarks" and one.get(k) != two.get(k))
    if other:
        said.append(f"These settings differ: {', '.join(other)}.")
    if changed:
        said.append(f"These concepts have one name and two definitions, and are left out: {', '.join(changed)}.")
    return tuple(said)


def _landmarks(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Landmarks that one run has, with their share of its mean influence, and how many both have."""
    mine, theirs = (
        dict(zip(t["landmark"], t["mean_influence"] / max(t["mean_influence"].sum(), 1e-300), strict=True))
        for t in (a, b)
    )
    rows = [(name, "gained", value) for name, value in theirs.items() if name not in mine]
    rows += [(name, "lost", value) for name, value in mine.items() if name not in theirs]
    rows.sort(key=lambda row: -row[2])
    return pd.DataFrame(rows, columns=pd.Index(["landmark", "change", "share"])), len(mine.keys() & theirs)


def _differences(
    a: Run, b: Run, table: str, names: tuple[str, str, str], paired: bool, without: Sequence[str] = ()
) -> pd.DataFrame:
    """The rows that both have, their difference and its interval; automatic concepts have no names to match."""
    key, value, refits = names
    tables = [run.optional(f"{table}.parquet") for run in (a, b)]
    mine, other = (
        {row[key]: row for row in (() if t is None else t.to_dict("records"))
         if row.get("origin", "given") == "given" and row.get("usable", True) and row[key] not in without}
        for t in tables
    )  # fmt: skip
    rows = []
    for name in (n for n in mine if n in other):
        row, theirs = mine[name], other[name]
        points = _parts(row, theirs, "draws", paired, min(row["n"], theirs["n"]))
        parts = (*points, *_parts(row, theirs, refits, paired))
        found = interval_of(theirs[value] - row[value], parts, min(row["n"], theirs["n"]))
        rows.append((name, row[value], theirs[value], found.estimate, found.low, found.high))
    return pd.DataFrame(rows, columns=pd.Index(["name", "a", "b", "difference", "low", "high"]))


def _parts(a: dict[Any, Any], b: dict[Any, Any], column: str, paired: bool, n: int | None = None) -> list[Part]:
    """The variance of a difference: of its draws where both runs drew the same, else of both.

    Args:
        n: the values behind bootstrap draws; None for refits, which are values themselves.
    """
    one, other = (np.asarray(row[column], float) for row in (a, b))
    values = [other - one] if paired and len(one) == len(other) else [one, other]
    return [over_refits(v) if n is None else Part(float(v.var()), n - 1) for v in values]


def _figures(a: Run, b: Run) -> pd.DataFrame:
    """Entropy, the trust gate's figures, and those against labels."""
    rows = [("spectral entropy", *(r.manifest["figures"]["spectral_entropy"] for r in (a, b)), np.nan)]
    gates = [r.trust()["figures"] for r in (a, b)]
    ours, theirs = ({f["name"]: f["value"] for f in gate} for gate in gates)
    rows += [(name, ours[name], theirs[name], np.nan) for name in ours if name in theirs]
    tables = [r.optional("evaluation.parquet") for r in (a, b)]
    if tables[0] is not None and tables[1] is not None:
        one, other = (t.set_index("figure") for t in tables if t is not None)
        for name in (n for n in one.index if n in other.index):
            # half-widths of two independent estimates add in squares
            half = np.hypot(*((t.loc[name, "high"] - t.loc[name, "low"]) / 2 for t in (one, other)))
            rows.append((name, one.loc[name, "value"], other.loc[name, "value"], half))
    table = pd.DataFrame(rows, columns=pd.Index(["figure", "a", "b", "half"]))
    table[["a", "b"]] = table[["a", "b"]].astype(float)
    table["difference"] = table["b"] - table["a"]
    table["low"], table["high"] = table["difference"] - table["half"], table["difference"] + table["half"]
    return table.drop(columns="half")
