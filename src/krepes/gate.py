"""A finished run against limits, for continuous integration."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from krepes.audit.trust import COLOURS
from krepes.errors import ConfigError, RunFolderError
from krepes.files import sha256_file
from krepes.results import read_manifest


@dataclass(frozen=True)
class Check:
    """One limit.

    Attributes:
        name: what is limited.
        value, low, high: the figure and its 95 % interval; NaN where there is none.
        limit: as a phrase, "≤ 0.05".
        passed: whether the run keeps it.
        remark: what a reader should know.
    """

    name: str
    value: float
    low: float
    high: float
    limit: str
    passed: bool
    remark: str = ""


def check(
    folder: str | Path,
    max_gap: Mapping[str, float] | None = None,
    min_tau: float | None = None,
    worst_trust: str = "amber",
    strict: bool = False,
) -> list[Check]:
    """Whether a complete run keeps its limits.

    Args:
        folder: a run folder.
        max_gap: column ↦ the largest size of its alignment gap.
        min_tau: the least Kendall τ between the probes on the network's and the kernel's representation.
        worst_trust: the worst verdict of the trust gate that passes: "green", "amber" or "red".
        strict: limits hold for the whole 95 % interval, not for the estimate alone.

    Returns:
        the trust gate first, then one entry per limit.

    Raises:
        RunFolderError: the run is not complete, a file is missing or changed, or a figure is not in it.
        ConfigError: a limit is no number, or an unknown verdict.
    """
    if worst_trust not in COLOURS:
        raise ConfigError(f"trust={worst_trust!r}; expected one of {', '.join(COLOURS)}")
    for name, limit in (max_gap or {}).items():
        if not (math.isfinite(limit) and limit >= 0):
            raise ConfigError(f"max-gap {name}={limit}; expected a number, at least 0")
    if min_tau is not None and not -1 <= min_tau <= 1:
        raise ConfigError(f"min-tau={min_tau}; expected a number between -1 and 1")
    run = Run.open(Path(folder))
    trust = json.loads((run.folder / "trust.json").read_text(encoding="utf-8"))
    kept = COLOURS.index(trust["verdict"]) <= COLOURS.index(worst_trust)
    wanted = worst_trust if worst_trust == "green" else f"{worst_trust} or better"
    found = [Check("trust", math.nan, math.nan, math.nan, wanted, kept, f"{trust['verdict']}: {trust['sentence']}")]
    if max_gap:
        gaps = run.table("feature_gap.parquet", "the samples have no table, or no column that can be compared")
        gaps = gaps.set_index("column")
        for name, limit in max_gap.items():
            if name not in gaps.index:
                raise RunFolderError(f"{folder} has no gap of column '{name}'; it has {', '.join(gaps.index)}")
            row: Any = gaps.loc[name]
            farthest = max(abs(row["low"]), abs(row["high"]))
            found.append(_check(f"gap {name}", row["gap"], row["low"], row["high"], f"≤ {limit:g} in size",
                                abs(row["gap"]) <= limit, farthest <= limit, strict))  # fmt: skip
    if min_tau is not None:
        figures = run.table(
            "evaluation.parquet", "it was made without labels; name them with data.label or data.labels"
        )
        row = figures.set_index("figure").loc["Kendall τ"]
        found.append(_check("Kendall τ", row["value"], row["low"], row["high"], f"≥ {min_tau:g}",
                            row["value"] >= min_tau, row["low"] >= min_tau, strict))  # fmt: skip
    return found


def _check(name, value, low, high, limit, holds, holds_surely, strict) -> Check:
    remark = "" if holds == holds_surely else "the 95 % interval reaches beyond the limit"
    return Check(name, float(value), float(low), float(high), limit, bool(holds_surely if strict else holds), remark)


@dataclass(frozen=True)
class Run:
    """A complete run, its files as they were written."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A run folder.

        Raises:
            RunFolderError: no run, not complete, or a file is missing or changed.
        """
        manifest = read_manifest(folder)
        if manifest.get("status") != "complete":
            raise RunFolderError(f"the run in {folder} is not complete (status {manifest.get('status')!r})")
        sums = {**(manifest.get("outputs") or {}), **(manifest.get("sha256") or {})}
        if "trust.json" not in sums:
            raise RunFolderError(f"{folder} was saved from Python; `krepes audit` writes the figures that are needed")
        changed = [n for n, wanted in sums.items() if not (folder / n).is_file() or sha256_file(folder / n) != wanted]
        if changed:
            raise RunFolderError(f"{', '.join(changed)} in {folder} is missing or changed since the run; run it again")
        return cls(folder, manifest)

    def table(self, name: str, why_not: str) -> pd.DataFrame:
        """One of the run's tables.

        Raises:
            RunFolderError: the run has none, for the reason given.
        """
        found = self.optional(name)
        if found is None:
            raise RunFolderError(f"the run in {self.folder} has no {name}: {why_not}")
        return found

    def optional(self, name: str) -> pd.DataFrame | None:
        """One of the run's tables, or None."""
        return pd.read_parquet(self.folder / name) if name in self.manifest["outputs"] else None
