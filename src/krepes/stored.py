"""A run folder as it stands: every piece that can be read, and in words what is missing."""

# pyright: reportAttributeAccessIssue=false
# pyarrow makes its compute functions when it is imported.

import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from krepes.audit.trust import COLOURS, TrustGate
from krepes.errors import RunFolderError
from krepes.files import sha256_file
from krepes.remote import local_run
from krepes.report.words import cell
from krepes.results import MANIFEST, MODEL, read_manifest

FORMAT = 1  # of the run folders that this version writes
DATA = "data."  # how columns of the samples' own table begin in the run's tables
PICTURES = "pictures.parquet"
SIDE = 512  # pixels of a stored picture, at most
PICTURE_BYTES = 16 * 2**20  # of all stored pictures, at most
ROWS = 50_000_000  # of a table, at most


@dataclass
class StoredRun:
    """A run folder, complete or not.

    What cannot be read is None, and `problems` says why; nothing is guessed in its place.

    Attributes:
        folder: the run folder.
        manifest: its manifest; {} without one.
        problems: file ↦ a sentence.
    """

    folder: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    _whole: dict[str, bool] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "StoredRun":
        """A run folder in whatever state.

        Raises:
            RunFolderError: there is no such folder, or nothing of a run is in it.
        """
        run = cls(local_run(folder))
        if not run.folder.is_dir():
            raise RunFolderError(f"there is no folder {folder}; expected a run folder of krepes audit or krepes demo")
        known = (MANIFEST, MODEL, "points.parquet", "landmarks.parquet", "trust.json")
        if not any((run.folder / name).is_file() for name in known):
            raise RunFolderError(f"{folder} holds none of {', '.join(known)}: it is not a krepes run folder")
        try:
            run.manifest = read_manifest(run.folder)
        except (RunFolderError, OSError, RecursionError) as error:
            run.problems[MANIFEST] = f"The manifest cannot be read ({error}); titles and settings are not known."
        else:
            run._check_manifest()
        return run

    def _check_manifest(self) -> None:
        found = self.manifest.get("format", FORMAT)
        if found != FORMAT:
            self.problems[MANIFEST] = (
                f"The run has format {found!r}; this version of krepes writes format {FORMAT}: pieces that it does not "
                "know are not shown."
            )
        status = self.manifest.get("status")
        if status != "complete":
            self.problems["status"] = (
                f"The run is not complete: its status is {status!r}, its stage {self.manifest.get('stage')!r}. Give "
                "the same command again and it goes on; what is finished is shown."
            )

    def say(self, name: str, why: str) -> None:
        """Keep why a piece is missing; the first reason stands."""
        self.problems.setdefault(name, why)

    def section(self, name: str) -> dict[str, Any]:
        """An object of the manifest; {} where there is none."""
        found = self.manifest.get(name)
        return found if isinstance(found, dict) else {}

    def path(self, name: str, expected: bool = True) -> Path | None:
        """A file of the folder; None without it, which is a problem when the run should have it."""
        path = self.folder / name
        if path.is_file():
            if path.resolve().parent == self.folder.resolve():
                return path if self._unchanged(name) else None
            self.say(name, f"{name} is a link to another place, and is not followed; put the file itself there.")
            return None
        if expected or name in self.section("outputs"):
            self.say(name, f"{name} is missing.")
        return None

    def _unchanged(self, name: str) -> bool:
        """Whether a file has the checksum that a complete run's manifest says; asked once."""
        wanted = {**self.section("outputs"), **self.section("sha256")}.get(name)
        if name not in self._whole:
            try:
                self._whole[name] = not isinstance(wanted, str) or sha256_file(self.folder / name) == wanted
            except OSError:  # whoever opens it says so
                self._whole[name] = True
        if not self._whole[name]:
            self.say(name, f"{name} is damaged or was changed: it does not have the checksum in the manifest.")
        return self._whole[name]

    def parquet(self, name: str, expected: bool = True) -> pq.ParquetFile | None:
        """An open Parquet file, for pieces of large tables."""
        path = self.path(name, expected)
        if path is None:
            return None
        try:
            found = pq.ParquetFile(path)
            if found.metadata.num_rows <= ROWS:
                return found
            found.close()
            self.say(name, f"{name} says that it has {found.metadata.num_rows:,} rows; at most {ROWS:,} are read.")
            return None
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name that is no text
            self.say(name, f"{name} is damaged ({first_line(error)}).")
            return None

    def table(
        self, name: str, needed: Sequence[str] = (), columns: Iterable[str] | None = None, expected: bool = True
    ) -> pd.DataFrame | None:
        """A Parquet table.

        Args:
            needed: columns without which it cannot be shown.
            columns: to read, default all; those that are not there are left out.
            expected: whether each run has it.
        """
        file = self.parquet(name, expected)
        if file is None:
            return None
        try:
            with file:
                there = file.schema_arrow.names
                gone = [c for c in needed if c not in there]
                if gone:
                    self.say(name, f"{name} lacks {', '.join(gone)}: another version of krepes wrote it.")
                    return None
                chosen = None if columns is None else [c for c in columns if c in there]
                if name == PICTURES and sum(c.total_uncompressed_size for c in columns_of(file)) > 2 * PICTURE_BYTES:
                    raise ValueError(f"its pictures take more than {PICTURE_BYTES:,} bytes")
                return file.read(chosen).to_pandas()
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
            self.say(name, f"{name} is damaged ({first_line(error)}).")
            return None

    def json(self, name: str, expected: bool = True) -> dict[str, Any] | None:
        """A JSON object."""
        path = self.path(name, expected)
        if path is None:
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError(f"it holds a {type(found).__name__}")
            return found
        except (OSError, ValueError, RecursionError) as error:
            self.say(name, f"{name} is damaged ({first_line(error)}).")
            return None

    @cached_property
    def trust(self) -> TrustGate | None:
        """The trust gate."""
        found = self.json("trust.json")
        try:
            gate = None if found is None else TrustGate.of_dict(found)
            if gate is not None and not {gate.verdict, *(f.verdict for f in gate.figures)} <= {*COLOURS}:
                raise ValueError(f"a verdict that is none of {', '.join(COLOURS)}")
            return gate
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.say("trust.json", f"trust.json lacks or misstates {error}.")
            return None

    def tensor(self, name: str) -> Tensor | None:
        """A tensor of the model."""
        path = self.path(MODEL)
        if path is None:
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            self.say(MODEL, f"{MODEL} is damaged or of another version ({first_line(error)}).")
            return None

    @cached_property
    def redacted(self) -> frozenset[str]:
        """Names of the columns whose values are shown nowhere: those that the manifest or its configuration say.

        All of them, and a problem, where either says something else than a list of names.
        """
        report = self.section("config").get("report")
        told = [part.get("redact") for part in (self.manifest, report if isinstance(report, dict) else {})]
        told = [names for names in told if names is not None]
        if all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in told):
            return frozenset(name for names in told for name in names)
        self.say("redact", "The manifest's redact is no list of columns: no column is shown.")
        return frozenset(self.columns)

    @cached_property
    def thumbnails(self) -> bool:
        """Whether pictures of samples may be shown: unless the manifest or its configuration say anything but true."""
        report = self.section("config").get("report")
        parts = (self.manifest, report if isinstance(report, dict) else {})
        return all(part.get("thumbnails", True) is True for part in parts)

    def positions(self, ids: Collection[str]) -> dict[str, int]:
        """Id ↦ position among the points, of those that are there."""
        wanted = sorted(set(ids))
        file = self.parquet("points.parquet")
        if file is None or not wanted:
            return {}
        try:
            with file:
                column = file.read(["id"]).column(0).cast(pa.string())
            place = pc.index_in(column, pa.array(wanted, pa.string())).to_numpy(zero_copy_only=False)
            found = np.flatnonzero(~np.isnan(place.astype(float)))
            return {wanted[int(place[i])]: int(i) for i in found[::-1]}
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError) as error:
            self.say("points.parquet", f"points.parquet is damaged ({first_line(error)}).")
            return {}

    @cached_property
    def columns(self) -> list[str]:
        """Names of the samples' own table's columns; none for samples without one."""
        file = self.parquet("points.parquet")
        if file is None:
            return []
        try:
            with file:
                return [c.removeprefix(DATA) for c in file.schema_arrow.names if c.startswith(DATA)]
        except (pa.ArrowException, OSError, ValueError) as error:
            self.say("points.parquet", f"points.parquet is damaged ({first_line(error)}).")
            return []

    def cells(self, positions: Collection[int]) -> dict[int, dict[str, str]]:
        """Position ↦ column ↦ raw value as text, of the samples' own table; {} for samples without one."""
        file = self.parquet("points.parquet")
        if file is None:
            return {}
        found: dict[int, dict[str, str]] = {}
        try:
            with file:
                columns = [c for c in file.schema_arrow.names if c.startswith(DATA)]
                wanted, start = np.array(sorted(positions), int), 0
                for group in range(file.num_row_groups if columns else 0):
                    stop = start + file.metadata.row_group(group).num_rows
                    mine = wanted[(wanted >= start) & (wanted < stop)]
                    if len(mine):
                        rows = file.read_row_group(group, columns).take(pa.array(mine - start)).to_pandas()
                        names = [c.removeprefix(DATA) for c in rows.columns]
                        for place, values in zip(mine.tolist(), rows.itertuples(index=False, name=None), strict=True):
                            found[place] = dict(zip(names, map(cell, values), strict=True))
                    start = stop
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
            self.say("points.parquet", f"points.parquet is damaged ({first_line(error)}).")
        return found

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """Sample id ↦ its picture as the bytes of a PNG or WebP file; {} for samples that are no images.

        Each is decoded once, so that bytes that are no picture never reach a page.
        """
        found = self.table(PICTURES, ("id", "picture"), expected=False)
        if found is None:
            return {}
        kept = {str(i): p for i, p in zip(found["id"], found["picture"], strict=True) if is_picture(p)}
        if len(kept) < len(found):
            self.say(PICTURES, f"{len(found) - len(kept)} of {len(found)} pictures are damaged.")
        return kept


def is_picture(content: Any) -> bool:
    """Whether bytes are a PNG or WebP file that can be decoded."""
    if not isinstance(content, bytes):
        return False
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
            if max(image.size) > SIDE:
                return False
            image.load()
        return True
    except Exception:  # Pillow raises many kinds on hostile bytes
        return False


def columns_of(file: pq.ParquetFile) -> Iterator[Any]:
    """What a Parquet file says of each column of each row group."""
    meta = file.metadata
    return (meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns))


def first_line(error: BaseException) -> str:
    """What an error says first, in at most 200 characters."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:200]
