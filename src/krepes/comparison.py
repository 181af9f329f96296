"""Two finished runs side by side."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from krepes.gate import Run


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs; every difference is B − A.

    Attributes:
        landmarks: landmark, change ("gained", "lost"), mean_influence (in the run that has it), strongest first.
        kept: number of landmarks that both have.
        gaps, concepts: name, a, b, difference, low, high (95 %, from the runs' bootstrap draws).
        figures: figure, a, b, difference, low, high where there is an interval: trust, entropy, figures against labels.
        notes: what a reader should know.
    """

    landmarks: pd.DataFrame
    kept: int
    gaps: pd.DataFrame
    concepts: pd.DataFrame
    figures: pd.DataFrame
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        tables = {k: getattr(self, k) for k in ("landmarks", "gaps", "concepts", "figures")}
        plain = {k: json.loads(t.to_json(orient="records")) for k, t in tables.items()}
        return {**plain, "kept": self.kept, "notes": list(self.notes)}


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Landmarks gained and lost, gaps and concepts with intervals of their differences, entropy, κ.

    The interval of a difference comes from the two runs' bootstrap draws, one by one. Runs of the same samples and seed
    drew the same resamples, so that what both share cancels; other runs' draws are independent.

    Args:
        a, b: complete run folders of `krepes audit` or `krepes demo`.

    Raises:
        RunFolderError: a run is not complete, or a file is missing or changed.
    """
    runs = [Run.open(Path(folder)) for folder in (a, b)]
    notes = _notes(*(r.manifest for r in runs))
    landmarks, kept = _landmarks(*(r.table("landmarks.parquet", "") for r in runs))
    first, second = runs
    gaps, concepts = (
        _differences(first.optional(f"{name}.parquet"), second.optional(f"{name}.parquet"), key, value)
        for name, key, value in (("feature_gap", "column", "gap"), ("concepts", "concept", "push"))
    )
    return Comparison(landmarks, kept, gaps, concepts, _figures(*runs), notes)


def _notes(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
    """What makes the two runs more or less comparable."""
    said = []
    same = {k: a["fingerprints"].get(k) == b["fingerprints"].get(k) for k in ("encoder", "data")}
    if not same["data"]:
        said.append("The runs audit different samples: landmarks are matched by id, intervals are of independent runs.")
    said.append("The same encoder in both runs." if same["encoder"] else "Two different encoders.")
    settings = a["settings"], b["settings"]
    other = sorted(k for k in settings[0] if k != "landmarks" and settings[0][k] != settings[1].get(k))
    if other:
        said.append(f"These settings differ: {', '.join(other)}.")
    return tuple(said)


def _landmarks(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Landmarks that one run has, and how many both have."""
    mine, theirs = (dict(zip(t["landmark"], t["mean_influence"], strict=True)) for t in (a, b))
    rows = [(name, "gained", value) for name, value in theirs.items() if name not in mine]
    rows += [(name, "lost", value) for name, value in mine.items() if name not in theirs]
    rows.sort(key=lambda row: -row[2])
    return pd.DataFrame(rows, columns=pd.Index(["landmark", "change", "mean_influence"])), len(mine.keys() & theirs)


def _differences(a: pd.DataFrame | None, b: pd.DataFrame | None, key: str, value: str) -> pd.DataFrame:
    """The rows that both have, their difference and its interval; automatic concepts have no names to match."""
    columns = pd.Index(["name", "a", "b", "difference", "low", "high"])
    if a is None or b is None:
        return pd.DataFrame(columns=columns)
    mine, other = (
        {row[key]: row for row in t.to_dict("records") if row.get("origin", "given") == "given"} for t in (a, b)
    )
    rows = []
    for name in (n for n in mine if n in other):
        row, theirs = mine[name], other[name]
        draws = np.asarray(theirs["draws"], float) - np.asarray(row["draws"], float)
        low, high = np.quantile(draws, [0.025, 0.975])
        rows.append((name, row[value], theirs[value], theirs[value] - row[value], low, high))
    return pd.DataFrame(rows, columns=columns)


def _figures(a: Run, b: Run) -> pd.DataFrame:
    """Entropy, the trust gate's figures, and those against labels."""
    rows = [("spectral entropy", *(r.manifest["figures"]["spectral_entropy"] for r in (a, b)), np.nan)]
    gates = [json.loads((r.folder / "trust.json").read_text(encoding="utf-8"))["figures"] for r in (a, b)]
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
