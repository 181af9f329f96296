"""One audit from samples to run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from krepes import influence
from krepes.auditor import Auditor
from krepes.data.source import Source
from krepes.errors import ConfigError
from krepes.pipeline import BLOCK, Views
from krepes.report.build import build_report, number, plane, rank_landmarks, seeded_subset
from krepes.results import RunFolder, save_auditor, write_atomically, write_json

NEIGHBOURS = 10  # landmarks per point in points.parquet


def run_audit(
    auditor: Auditor,
    source: Source,
    views: Views,
    folder: Path,
    config: dict[str, Any],
    console: Console,
    *,
    title: str,
    command: str,
    explain: Sequence[str] | int = 6,
    top_k: int = 10,
    overwrite: bool = False,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Fit, score, write everything; the folder's manifest says at any moment how far the run got.

    Args:
        config: the resolved configuration; a folder of another one is refused.
        extra: more entries of the manifest.

    Returns:
        the report's path.
    """
    prints = {"encoder": auditor.encoder.fingerprint(), "data": source.fingerprint()}
    identity = {"fingerprints": prints, "config": config}
    if overwrite and (folder / "manifest.json").exists():
        (folder / "manifest.json").unlink()
        for name in OUTPUTS:
            (folder / name).unlink(missing_ok=True)
    run = RunFolder.open(folder, identity)
    if run.found:
        console.print(run.found, highlight=False, soft_wrap=True, markup=False)
    if run.complete:
        return folder / "report.html"
    try:
        run.mark("running", "fit")
        auditor.fit(source, views)
        run.mark("running", "scores")
        with auditor.progress.stage("scores", total=len(source)) as note:
            landmarks = write_tables(auditor, source, folder, top_k, note)
        run.mark("running", "report")
        with auditor.progress.stage("report"):
            trust = auditor.trust_.as_dict()
            write_json(folder / "trust.json", trust)
            chosen = explained_positions(source, explain, auditor.settings.seed)
            html = build_report(auditor, title, chosen, command, config, landmarks)
            write_atomically(folder / "report.html", lambda p: p.write_text(html, encoding="utf-8"))
        save_auditor(auditor, folder, {"config": config, "command": command, **(extra or {})})
    except BaseException as error:
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        try:
            run.mark(state)
        except Exception as second:  # the first error is the one to tell; it may be the reason for this one
            error.add_note(f"The manifest could not be updated either: {second}")
        raise
    return folder / "report.html"


OUTPUTS = (
    "model.safetensors", "landmarks.parquet", "influence.parquet", "points.parquet", "trust.json", "report.html",
)  # fmt: skip


def explained_positions(source: Source, explain: Sequence[str] | int, seed: int) -> list[int]:
    """Positions of the samples that the report explains: by id, or a number of seeded ones."""
    if isinstance(explain, int):
        return sorted(seeded_subset(len(source), explain, seed))
    position = {name: i for i, name in enumerate(source.ids)}
    unknown = [e for e in explain if e not in position]
    if unknown:
        raise ConfigError(f"report.explain names unknown samples: {', '.join(map(str, unknown[:5]))}")
    return [position[e] for e in explain]


def write_tables(auditor: Auditor, source: Source, folder: Path, top_k: int, note) -> pd.DataFrame:
    """landmarks.parquet (returned), influence.parquet and points.parquet, over every sample, block by block."""
    fit, ids = auditor.fit_, auditor.landmark_ids_
    dA, tables, near, f_blocks = fit.dA, [], [], []
    total = {k: torch.zeros(len(ids), dtype=torch.float64, device=dA.device) for k in ("influence", "signed", "size")}
    for start in range(0, len(source), BLOCK):
        index = range(start, min(start + BLOCK, len(source)))
        K, _ = fit.rows(source.batch(index), [source.ids[i] for i in index])
        f = K @ (fit.A0 + dA)
        scores, signed = influence.sample_influence(K, dA), influence.signed_contribution(K, dA, f)
        names = [source.ids[i] for i in index]
        tables.append(influence.top_table(scores, signed, names, ids, top_k, "influence"))
        near.append(torch.topk(scores, min(NEIGHBOURS, len(ids)), dim=1).indices.cpu())
        f_blocks.append(f.float().cpu())
        total["influence"] += scores.sum(0)
        total["signed"] += signed.sum(0)
        total["size"] += signed.abs().sum(0)
        note(index.stop)
    metadata = source.metadata()
    landmarks = rank_landmarks(auditor, total["influence"] / len(source), total["signed"], total["size"])
    shown = landmarks
    if metadata is not None:
        shown = landmarks.join(_prefixed(metadata.iloc[landmarks["position"]].reset_index(drop=True)))
    _parquet(shown, folder / "landmarks.parquet")
    _parquet(pd.concat(tables), folder / "influence.parquet")
    xy = plane(torch.cat(f_blocks).double())
    names = np.asarray(ids, dtype=object)
    points = pd.DataFrame({"id": list(source.ids), "x": xy[:, 0], "y": xy[:, 1]})
    points["landmarks"] = [list(names[row]) for row in torch.cat(near).numpy()]
    points["is_landmark"] = np.isin(np.arange(len(source)), fit.indices)
    if metadata is not None:
        points = points.join(_prefixed(metadata.reset_index(drop=True)))
    _parquet(points, folder / "points.parquet")
    return landmarks


def _prefixed(metadata: pd.DataFrame) -> pd.DataFrame:
    return metadata.add_prefix("data.")


def _parquet(table: pd.DataFrame, path: Path) -> None:
    write_atomically(path, lambda p: table.to_parquet(p, index=False))


def summarise(auditor: Auditor, folder: Path, console: Console) -> None:
    """What was found, in a few lines."""
    trust, outcome = auditor.trust_, auditor.outcome_
    colour = {"green": "green", "amber": "yellow", "red": "red"}[trust.verdict]
    if not outcome.lowered:
        console.print(outcome.message, style="bold red", soft_wrap=True)
    console.print(f"trust: {trust.verdict.upper()}. {trust.sentence}", style=f"bold {colour}", soft_wrap=True)
    for figure in trust.figures:
        console.print(
            f"  {figure.verdict:<6} {figure.name:<14} {figure.display} (wanted: {figure.threshold})",
            highlight=False,
        )
    top = pd.read_parquet(folder / "landmarks.parquet").head(5)
    console.print("strongest landmarks (mean influence, balance of attraction and repulsion):", highlight=False)
    for row in top.to_dict("records"):
        line = f"  {row['landmark']:<14} {number(row['mean_influence']):>8}  {row['sign_balance']:+.2f}"
        console.print(line, highlight=False, markup=False)
