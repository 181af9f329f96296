"""The run folder's tables over every sample, written shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass
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
from krepes.errors import warn
from krepes.files import write_atomically
from krepes.work import Work
from krepes.workers import current

NEIGHBOURS = 10  # landmarks per point in points.parquet
PLANE_SAMPLES = 4000  # the map's axes are fitted on so many


def write_tables(auditor: Auditor, source: Source, folder: Path, top_k: int, work: Work, note) -> pd.DataFrame:
    """landmarks.parquet (returned), influence.parquet and points.parquet; finished shards are kept in `work`."""
    fit = auditor.fit_
    kept = min(max(top_k, NEIGHBOURS), len(fit.indices))
    workers = current()
    plane = fitted_plane(auditor, source, work)
    totals = torch.zeros(3, len(fit.indices), dtype=torch.float64)

    def score_own() -> None:
        for i, shard in workers.own(shards(len(source))):
            totals.add_(score_shard(auditor, source, shard, kept, plane, work, i, note)["totals"])
            note(shard.stop)

    workers.together(score_own)
    workers.add(totals)
    landmarks = rank_landmarks(auditor, totals[0] / len(source), totals[1], totals[2])
    ids, wanted = pa.array(auditor.landmark_ids_, pa.string()), min(top_k, len(fit.indices))

    def scored() -> Iterator[tuple[range, dict[str, Tensor]]]:
        for i, shard in enumerate(shards(len(source))):
            found = work.read(scores_name(i))
            yield shard, found or score_shard(auditor, source, shard, kept, plane, work, i, lambda done: None)

    def write_influences() -> None:
        parts = (influence_part(source, s, t, ids, wanted) for s, t in scored())
        write_atomically(folder / "influence.parquet", lambda p: write_parts(p, parts))

    def write_landmarks_and_points() -> None:
        metadata = source.metadata()
        raw = None if metadata is None else storable(metadata)
        shown = pa.Table.from_pandas(landmarks, preserve_index=False).replace_schema_metadata()
        if raw is not None:
            shown = beside(shown, raw.take(landmarks["position"].tolist()))
        write_atomically(folder / "landmarks.parquet", lambda p: pq.write_table(shown, p))
        parts = (points_part(auditor, source, s, t, ids, raw) for s, t in scored())
        write_atomically(folder / "points.parquet", lambda p: write_parts(p, parts))

    def write_own() -> None:
        writers = workers.size if work.bucket is None else 1  # with a bucket, each machine has a folder of its own
        for i, write in enumerate((write_landmarks_and_points, write_influences)):
            if i % writers == workers.rank:
                write()

    workers.together(write_own)
    return landmarks


@dataclass(frozen=True)
class Plane:
    """A principal plane.

    Attributes:
        mean: (h,).
        axes: (h, 2), each turned so that the farthest of the fitted points is positive.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, f: Tensor) -> "Plane":
        """Of representations (k, h)."""
        mean = f.mean(0)
        _, _, V = torch.linalg.svd(f - mean, full_matrices=False)
        axes = torch.zeros(f.shape[1], 2, dtype=f.dtype, device=f.device)
        axes[:, : min(2, len(V))] = V[:2].T
        points = (f - mean) @ axes
        far = points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
        return cls(mean, axes * torch.where(far == 0, 1.0, far))

    def project(self, f: Tensor) -> Tensor:
        """Coordinates (k, 2)."""
        return (f - self.mean.to(f)) @ self.axes.to(f)


def rank_landmarks(auditor: Auditor, mean_influence: Tensor, signed: Tensor, size: Tensor) -> pd.DataFrame:
    """Landmarks by mean influence: rank, landmark, position, norm ‖ΔÃ_l‖, mean_influence, sign_balance.

    Args:
        mean_influence, signed, size: per landmark (m,): mean influence, Σc and Σ|c| over samples.
    """
    table = pd.DataFrame(
        {
            "landmark": auditor.landmark_ids_,
            "position": auditor.fit_.indices,
            "norm": auditor.dA_.norm(dim=1).cpu().numpy(),
            "mean_influence": mean_influence.cpu().numpy(),
            "sign_balance": (signed / size.clamp_min(1e-300)).cpu().numpy(),
        }
    ).sort_values("mean_influence", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def fitted_plane(auditor: Auditor, source: Source, work: Work) -> Plane:
    """The principal plane of a seeded subset's representations."""

    def fitted() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(auditor.settings.seed)
        subset = sorted(torch.randperm(len(source), generator=generator)[:PLANE_SAMPLES].tolist())
        f = [auditor.represent(read(source, subset[i : i + BLOCK])) for i in range(0, len(subset), BLOCK)]
        plane = Plane.of(torch.cat(f))
        return {"mean": plane.mean, "axes": plane.axes}

    return Plane(**work.once("plane", fitted))


def score_shard(
    auditor: Auditor, source: Source, shard: range, kept: int, plane: Plane, work: Work, number: int, note
) -> dict[str, Tensor]:
    """A shard's scores, from the work folder if they are finished.

    Returns:
        top (B, kept) landmark columns, influence and contribution (B, kept), xy (B, 2), and totals (3, m): the sums
        over samples of influence, contribution and |contribution|.
    """
    name = scores_name(number)
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


def scores_name(number: int) -> str:
    """Of a shard's block in the work folder."""
    return f"scores-{number:03d}"


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
    auditor: Auditor, source: Source, shard: range, scored: dict[str, Tensor], ids: pa.Array, raw: pa.Table | None
) -> pa.Table:
    """A shard's rows of points.parquet: id, x, y, landmarks, neighbors, is_landmark, and the columns of `raw` (n rows).

    `neighbors` are the landmarks once more as embedding-atlas reads neighbours: {ids: rows of this table, distances},
    with 1 − influence / the strongest one's influence, in steps of 1/255, as distance.
    """
    n, near = len(shard), scored["top"][:, :NEIGHBOURS].long()
    offsets = pa.array(np.arange(0, near.numel() + 1, near.shape[1], dtype=np.int32))
    size = scored["influence"][:, :NEIGHBOURS]
    apart = (255 * (1 - size / size[:, :1].clamp_min(1e-30))).round() / 255
    rows = torch.tensor(auditor.fit_.indices, dtype=torch.int32)[near]
    chosen = np.isin(np.arange(shard.start, shard.stop), auditor.fit_.indices)
    columns: dict[str, Any] = {
        "id": pa.array(list(names(source, shard)), pa.string()),
        "x": scored["xy"][:, 0].numpy(),
        "y": scored["xy"][:, 1].numpy(),
        "landmarks": pa.ListArray.from_arrays(offsets, ids.take(pa.array(near.reshape(-1).numpy()))),
        "neighbors": pa.StructArray.from_arrays(
            [pa.ListArray.from_arrays(offsets, pa.array(part.reshape(-1).numpy())) for part in (rows, apart)],
            ["ids", "distances"],
        ),
        "is_landmark": chosen,
    }
    table = pa.table(columns)
    return table if raw is None else beside(table, raw.slice(shard.start, n))


def beside(table: pa.Table, other: pa.Table) -> pa.Table:
    """The columns of two tables of as many rows."""
    for field, column in zip(other.schema, other.columns, strict=True):
        table = table.append_column(field, column)
    return table


def write_parts(path: Path, parts: Iterator[pa.Table]) -> None:
    """Tables of one schema as the row groups of one Parquet file."""
    first = next(parts)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def storable(metadata: pd.DataFrame) -> pa.Table:
    """A table as Parquet can hold it, its columns named data.* to tell them from krepes' own.

    A column of several kinds of values, such as 1 and "a", is written as text, and of columns that share a name the
    later ones are numbered; warnings say so.
    """
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(metadata.columns):
        plain = f"data.{encodable(str(name))}"
        written, count = plain, 1
        while written in columns:
            count += 1
            written = f"{plain} ({count})"
        if written != plain:
            warn(
                f"two columns of the table are named '{name}' when written: the tables of the run have one of them as "
                f"'{written}'. Rename one."
            )
        columns[written] = _stored(metadata.iloc[:, place], str(name))
    return pa.table(columns)


def _stored(column: pd.Series, name: str) -> pa.Array:
    """A column's values in a type that Parquet has; else as text."""
    try:
        if column.dtype == object:
            _refuse_several_kinds(column)
        found = pa.Array.from_pandas(column)
        found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
        pq.write_table(pa.table({"column": found.slice(0, 0)}), pa.BufferOutputStream())  # Arrow has more types
        return found
    except (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError) as error:
        warn(f"column '{name}' holds values that a Parquet file cannot, and is written as text: {error}")
    missing = column.isna().to_numpy(bool)
    return pa.array([None if m else encodable(str(v)) for v, m in zip(column, missing, strict=True)], pa.string())


def _refuse_several_kinds(column: pd.Series) -> None:
    """Raise TypeError: Arrow would read a number beside a date as a date, and a truth value beside one as a number."""
    present = column[column.notna()]
    kinds = {type(v.item() if isinstance(v, np.generic) else v) for v in present}
    if len(kinds) > 1 and not kinds <= {int, float}:
        raise TypeError(f"they are of several kinds ({', '.join(sorted(kind.__name__ for kind in kinds))})")


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
