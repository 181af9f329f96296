"""A finished run against limits, for continuous integration."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from krepes.audit.trust import COLOURS
from krepes.errors import ConfigError, RunFolderError
from krepes.files import sha256_file
from krepes.remote import local_run
from krepes.results import read_manifest

UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError)  # of damaged Parquet files


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
        RunFolderError: it cannot be told: the run is not complete, a file is missing, changed or damaged, a figure is
            not in it or is no number, or (with `strict`) has no interval.
        ConfigError: a limit is no number, or an unknown verdict.
    """
    if worst_trust not in COLOURS:
        raise ConfigError(f"trust={worst_trust!r}; expected one of {', '.join(COLOURS)}")
    for name, limit in (max_gap or {}).items():
        if not (math.isfinite(limit) and limit >= 0):
            raise ConfigError(f"max-gap {name}={limit}; expected a number, at least 0")
    if min_tau is not None and not -1 <= min_tau <= 1:
        raise ConfigError(f"min-tau={min_tau}; expected a number between -1 and 1")
    run = Run.open(local_run(folder))
    trust = run.trust()
    kept = COLOURS.index(trust["verdict"]) <= COLOURS.index(worst_trust)
    wanted = worst_trust if worst_trust == "green" else f"{worst_trust} or better"
    found = [Check("trust", math.nan, math.nan, math.nan, wanted, kept, f"{trust['verdict']}: {trust['sentence']}")]
    if max_gap:
        gaps = run.table("feature_gap.parquet", "the samples have no table, or no column that can be compared")
        for name, limit in max_gap.items():
            value, low, high = run.figure("feature_gap.parquet", gaps, "column", name, "gap")
            found.append(_check(f"gap {name}", value, low, high, f"≤ {limit:g} in size", abs(value) <= limit,
                                max(abs(low), abs(high)) <= limit, strict))  # fmt: skip
    if min_tau is not None:
        figures = run.table(
            "evaluation.parquet", "it was made without labels; name them with data.label or data.labels"
        )
        value, low, high = run.figure("evaluation.parquet", figures, "figure", "Kendall τ", "value")
        found.append(_check("Kendall τ", value, low, high, f"≥ {min_tau:g}", value >= min_tau, low >= min_tau, strict))
    return found


def _check(
    name: str, value: float, low: float, high: float, limit: str, holds: bool, holds_surely: bool, strict: bool
) -> Check:
    """One limit.

    Raises:
        RunFolderError: the figure is no number, or strict and without an interval: it cannot be told.
    """
    if not math.isfinite(value):
        raise RunFolderError(f"{name} is {value} in this run: whether it is {limit} cannot be told")
    known = math.isfinite(low) and math.isfinite(high)
    if strict and not known:
        raise RunFolderError(
            f"{name} has no interval in this run ([{low}, {high}]): whether all of it is {limit} cannot be told"
        )
    remark = "" if holds == holds_surely else "the 95 % interval reaches beyond the limit"
    passed = holds_surely if strict else holds
    return Check(name, value, low, high, limit, passed, remark if known else "there is no 95 % interval")


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
        if not all(isinstance(manifest.get(key) or {}, dict) for key in ("outputs", "sha256")):
            raise RunFolderError(f"the manifest in {folder} misstates its files; run the audit again")
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
        """One of the run's tables, or None.

        Raises:
            RunFolderError: it cannot be read.
        """
        if name not in (self.manifest.get("outputs") or {}):
            return None
        try:
            return pd.read_parquet(self.folder / name)
        except UNREADABLE as error:
            raise RunFolderError(f"{name} in {self.folder} cannot be read ({error}); run the audit again") from error

    def trust(self) -> dict[str, Any]:
        """The trust gate: verdict, sentence, figures.

        Raises:
            RunFolderError: it cannot be read, or holds no verdict.
        """
        path = self.folder / "trust.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{path} cannot be read ({error}); run the audit again") from error
        if not isinstance(found, dict) or found.get("verdict") not in COLOURS or "sentence" not in found:
            raise RunFolderError(f"{path} holds no verdict ({', '.join(COLOURS)}); run the audit again")
        return found

    def figure(self, file: str, table: pd.DataFrame, key: str, name: str, value: str) -> tuple[float, float, float]:
        """The figure of one row and its interval, NaN where the run has none.

        Raises:
            RunFolderError: the table has no such row, or lacks a column.
        """
        missing = [column for column in (key, value, "low", "high") if column not in table.columns]
        if missing:
            raise RunFolderError(f"{file} in {self.folder} has no column {', '.join(missing)}; run the audit again")
        rows = table.loc[table[key] == name]
        if len(rows) != 1:
            names = ", ".join(map(str, table[key]))
            raise RunFolderError(f"{self.folder} has no {value} of {key} '{name}'; it has {names}")
        try:
            found = [float(rows[column].iloc[0]) for column in (value, "low", "high")]
        except (TypeError, ValueError) as error:
            raise RunFolderError(
                f"{file} in {self.folder}: {name} is no number ({error}); run the audit again"
            ) from error
        return found[0], found[1], found[2]
