"""The run folder's tables over every sample, written shard by shard."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from krepes import influence
from krepes.auditor import Auditor
from krepes.data.source import Source
from krepes.data.stream import ahead, blocks, names, read, shards
from krepes.engine import BLOCK
from krepes.files import write_atomically
from krepes.report.build import Plane, rank_landmarks, seeded_subset
from krepes.work import Work

NEIGHBOURS = 10  # landmarks per point in points.parquet
PLANE_SAMPLES = 4000  # the map's axes are fitted on so many


def write_tables(auditor: Auditor, source: Source, folder: Path, top_k: int, work: Work, note) -> pd.DataFrame:
    """landmarks.parquet (returned), influence.parquet and points.parquet; finished shards are kept in `work`."""
    fit = auditor.fit_
    kept = min(max(top_k, NEIGHBOURS), len(fit.indices))
    plane = fitted_plane(auditor, source, work)
    totals = torch.zeros(3, len(fit.indices), dtype=torch.float64)
    for i, shard in enumerate(shards(len(source))):
        totals += score_shard(auditor, source, shard, kept, plane, work, i, note)["totals"]
        note(shard.stop)
    metadata = source.metadata()
    landmarks = rank_landmarks(auditor, totals[0] / len(source), totals[1], totals[2])
    shown = landmarks
    if metadata is not None:
        shown = landmarks.join(prefixed(metadata.iloc[landmarks["position"]].reset_index(drop=True)))
    write_atomically(folder / "landmarks.parquet", lambda p: shown.to_parquet(p, index=False))

    def scored() -> Iterator[tuple[range, dict[str, Tensor]]]:
        for i, shard in enumerate(shards(len(source))):
            yield shard, score_shard(auditor, source, shard, kept, plane, work, i, lambda done: None)

    ids = pa.array(auditor.landmark_ids_, pa.string())
    wanted = min(top_k, len(fit.indices))
    influences = (influence_part(source, s, t, ids, wanted) for s, t in scored())
    write_atomically(folder / "influence.parquet", lambda p: write_parts(p, influences))
    schema = None if metadata is None else pa.Schema.from_pandas(prefixed(metadata), preserve_index=False)
    points = (points_part(auditor, source, s, t, ids, schema) for s, t in scored())
    write_atomically(folder / "points.parquet", lambda p: write_parts(p, points))
    return landmarks


def fitted_plane(auditor: Auditor, source: Source, work: Work) -> Plane:
    """The principal plane of a seeded subset's representations."""
    kept = work.load("plane")
    if kept is None:
        subset = sorted(seeded_subset(len(source), PLANE_SAMPLES, auditor.settings.seed))
        f = [auditor.represent(read(source, subset[i : i + BLOCK])) for i in range(0, len(subset), BLOCK)]
        plane = Plane.of(torch.cat(f))
        work.save("plane", {"mean": plane.mean, "axes": plane.axes})
        return plane
    return Plane(kept["mean"], kept["axes"])


def score_shard(
    auditor: Auditor, source: Source, shard: range, kept: int, plane: Plane, work: Work, number: int, note
) -> dict[str, Tensor]:
    """A shard's scores, from the work folder if they are finished.

    Returns:
        top (B, kept) landmark columns, influence and contribution (B, kept), xy (B, 2), and totals (3, m): the sums
        over samples of influence, contribution and |contribution|.
    """
    name = f"scores-{number:03d}"
    found = work.load(name)
    if found is not None:
        return found
    fit, device = auditor.fit_, auditor.encoder.device
    dtype = auditor.encoder.dtype
    dA, A = fit.dA.to(dtype), (fit.A0 + fit.dA).to(dtype)
    strength = dA.norm(dim=1)
    totals = torch.zeros(3, len(fit.indices), dtype=torch.float64, device=device)
    parts: dict[str, list[Tensor]] = {"top": [], "influence": [], "contribution": [], "xy": []}
    sizes = list(blocks(shard, fit.memory.block if fit.memory else BLOCK))
    for block, (batch,) in zip(sizes, ahead(((read(source, b),) for b in sizes), device), strict=True):
        K = fit.rows(batch, names(source, block))[0].to(dtype)
        f = K @ A
        signed = influence.signed_contribution(K, dA, f)
        scores = K.abs_().mul_(strength)
        top = torch.topk(scores, kept, dim=1).indices
        parts["top"].append(top.int())
        parts["influence"].append(scores.gather(1, top).float())
        parts["contribution"].append(signed.gather(1, top).float())
        parts["xy"].append(plane.project(f.double()).float())
        totals += torch.stack([scores.sum(0), signed.sum(0), signed.abs_().sum(0)]).double()
        note(block.stop)
    tensors = {k: torch.cat(v).cpu() for k, v in parts.items()} | {"totals": totals.cpu()}
    work.save(name, tensors)
    return tensors


def influence_part(source: Source, shard: range, scored: dict[str, Tensor], ids: pa.Array, top_k: int) -> pa.Table:
    """A shard's rows of influence.parquet: sample, rank, landmark, influence, contribution."""
    n = len(shard)
    samples = pa.array(list(names(source, shard)), pa.string())
    repeated = pa.array(np.repeat(np.arange(n, dtype=np.int32), top_k))
    return pa.table(
        {
            "sample": samples.take(repeated),
            "rank": np.tile(np.arange(1, top_k + 1, dtype=np.int32), n),
            "landmark": ids.take(pa.array(scored["top"][:, :top_k].reshape(-1).numpy())),
            "influence": scored["influence"][:, :top_k].reshape(-1).numpy(),
            "contribution": scored["contribution"][:, :top_k].reshape(-1).numpy(),
        }
    )


def points_part(
    auditor: Auditor, source: Source, shard: range, scored: dict[str, Tensor], ids: pa.Array, schema: pa.Schema | None
) -> pa.Table:
    """A shard's rows of points.parquet: id, x, y, landmarks, is_landmark, and the metadata."""
    near = scored["top"][:, :NEIGHBOURS]
    offsets = pa.array(np.arange(0, near.numel() + 1, near.shape[1], dtype=np.int32))
    chosen = np.isin(np.arange(shard.start, shard.stop), auditor.fit_.indices)
    columns: dict[str, Any] = {
        "id": pa.array(list(names(source, shard)), pa.string()),
        "x": scored["xy"][:, 0].numpy(),
        "y": scored["xy"][:, 1].numpy(),
        "landmarks": pa.ListArray.from_arrays(offsets, ids.take(pa.array(near.reshape(-1).numpy()))),
        "is_landmark": chosen,
    }
    table = pa.table(columns)
    metadata = source.metadata()
    if schema is None or metadata is None:
        return table
    raw = pa.Table.from_pandas(
        prefixed(metadata.iloc[shard.start : shard.stop]), schema.remove_metadata(), preserve_index=False
    )
    for field, column in zip(raw.schema, raw.columns, strict=True):
        table = table.append_column(field, column)
    return table


def write_parts(path: Path, parts: Iterator[pa.Table]) -> None:
    """Tables of one schema as the row groups of one Parquet file."""
    first = next(parts)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def prefixed(metadata: pd.DataFrame) -> pd.DataFrame:
    """Columns named data.*, apart from krepes' own."""
    return metadata.add_prefix("data.")
