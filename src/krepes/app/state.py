"""What one `krepes serve` holds: a run folder as it stands, read when it is asked for."""

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from krepes.app import questions
from krepes.app.cache import Cache
from krepes.app.columns import Columns
from krepes.app.explanations import Stored, of_model, told
from krepes.app.findings import findings_of
from krepes.app.jobs import Jobs
from krepes.app.landmarks import Landmarks, read_landmarks
from krepes.app.live import Live
from krepes.app.pieces import Pieces
from krepes.app.points import Points, read_points
from krepes.app.selection import Selection, Selections, Tops, differences
from krepes.app.tiles import DENSITY, GREY, MISSES, PALETTE, RAMP, SELECTED, Layer, Theme, Tiles
from krepes.app.upload import prepared
from krepes.errors import ConfigError, KrepesError, RunFolderError
from krepes.results import MANIFEST, MODEL
from krepes.stored import DATA, StoredRun, first_line

UPLOAD = 10.0  # seconds that an upload waits for the model
MASKS = 8  # selections that are kept as masks, too


class State:
    """A run folder and everything that the app knows of it; safe for threads.

    Args:
        folder: the run.
        compare: another run.
        trust_run: the run is one's own: the model is loaded with whatever its configuration names.

    Raises:
        RunFolderError: there is no such folder, or nothing of a run is in it.
    """

    def __init__(self, folder: str | Path, compare: str | Path | None = None, trust_run: bool = False):
        self._opened = stamp_of(Path(folder))
        self.run = StoredRun.open(folder)
        self._other = None if compare is None else StoredRun.open(compare)
        self.hidden = self.run.redacted | (frozenset() if self._other is None else self._other.redacted)
        self.thumbnails = self.run.thumbnails
        self.selections, self.jobs, self.live = Selections(), Jobs(), Live(self.run, trust_run)
        self._once, self._masks = Cache(float("inf")), Cache(MASKS)

    def start(self) -> None:
        """Read what the first questions need, then load the model; in the background."""
        threading.Thread(target=self._prefetch, name="krepes-reader", daemon=True).start()

    def _prefetch(self) -> None:
        try:
            _ = self.points, self.landmarks
            _ = self.overview()
            self.live.start()
            _ = self.tops
            for name in self.columns.names:
                if self.columns.column(name).kind != "other":
                    self.columns.codes(name)
        except Exception:  # whoever asks for it again is told
            logging.getLogger("krepes.app").exception("reading ahead failed")
            if self.live.state == "loading":
                self.live.start()

    # ------------------------------------------------------------ pieces
    @property
    def points(self) -> Points:
        """Of points.parquet."""
        return self._once.get("points", lambda: read_points(self.run, Pieces(self.run, "points.parquet", ["id"])))

    @property
    def columns(self) -> Columns:
        """The samples' own table."""

        def make() -> Columns:
            plain = Pieces(self.run, "points.parquet", [])
            kinds = ("string", "large_string")
            text = [f.name for f in plain.schema if f.name.startswith(DATA) and str(f.type) in kinds]
            return Columns(self.run, Pieces(self.run, "points.parquet", text), self.hidden)

        return self._once.get("columns", make)

    @property
    def landmarks(self) -> Landmarks:
        """Of landmarks.parquet."""
        return self._once.get("landmarks", lambda: read_landmarks(self.run, self.points, self.hidden))

    @property
    def tiles(self) -> Tiles:
        """The map's pictures."""
        return self._once.get("tiles", lambda: Tiles(self.points))

    @property
    def stored(self) -> Stored:
        """Stored explanations."""
        return self._once.get("stored", lambda: Stored(self.run, self.points.n))

    @property
    def tops(self) -> Tops | None:
        """The top landmarks of every sample."""
        return self._once.get("tops", self._tops)

    def _tops(self) -> Tops | None:
        return Tops.of(self.run, Pieces(self.run, "points.parquet", ["landmarks.list.element"]))

    # ------------------------------------------------------------ answers
    def refresh(self) -> None:
        """Say it where another run, or the same run made again, has taken the folder since the app was started."""
        if stamp_of(self.run.folder) != self._opened:
            self.run.say("changed", "The run has changed since this app was started; start it again.")

    def overview(self) -> dict[str, Any]:
        """GET /api/run."""
        self.refresh()
        points, landmarks = self.points, self.landmarks
        columns = [c.as_dict() for c in self.columns.described()]
        findings, kind = self._findings(), self.kind()
        _ = self.stored.readable  # says what is missing of the influences
        trust, world = self.run.trust, points.world
        created = self.run.manifest.get("created")
        return {
            "title": self.title, "n": points.n, "m": landmarks.m, "kind": kind, "objective": self._objective(),
            "trust": None if trust is None else trust.as_dict(), "findings": findings,
            "problems": [str(why) for why in list(self.run.problems.values())], "columns": columns,
            "extent": {"x0": world.x0, "y0": world.y0, "x1": world.x1, "y1": world.y1},
            "live": {"state": self.live.state, "reason": self.live.reason}, "compare": self._other is not None,
            "created": created if isinstance(created, str) else None, "report": self.has_report,
            "thumbnails": self.thumbnails, "pictured": list(self.run.pictures) if self.thumbnails else [],
            "colours": {"palette": list(PALETTE), "other": GREY, "missing": MISSES, "ramp": list(RAMP),
                        "density": DENSITY, "selected": SELECTED},
        }  # fmt: skip

    @property
    def title(self) -> str:
        """Of the run, or the folder's name."""
        title = self.run.section("config").get("title", self.run.manifest.get("title"))
        found = title if isinstance(title, str) and title else self.run.folder.resolve().name
        return found.encode("utf-8", "replace").decode("utf-8")

    def _objective(self) -> str | None:
        found = self.run.section("settings").get("objective")
        name = found.get("name") if isinstance(found, dict) else None
        return name if isinstance(name, str) else None

    def kind(self) -> str:
        """ "image", "table", "text" or "vector", as the stored landmarks are."""
        return self._once.get("kind", self._kind)

    def _kind(self) -> str:
        path = self.run.path(MODEL)
        try:
            with safe_open(path, framework="np") as file:  # pyright: ignore[reportArgumentType]
                part = file.get_slice("landmarks")
                shape, kind = part.get_shape()[1:], part.get_dtype()
        except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
            if path is not None:
                self.run.say(MODEL, f"{MODEL} is damaged or of another version ({first_line(error)}).")
            return "table" if self.columns.names else "vector"
        if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
            return "image"
        if len(shape) == 1 and kind.startswith("I"):
            return "text"
        return "table" if len(shape) == 1 and self.columns.names else "vector"

    def _findings(self) -> list[str]:
        return self._once.get("findings", lambda: findings_of(self.run, self.hidden))

    @property
    def has_report(self) -> bool:
        """Whether the run has a report."""
        return self.run.path("report.html", expected=False) is not None

    def report(self) -> bytes | None:
        """The run's report as it is; made again where something is redacted, which it may hold from before."""
        path = self.run.path("report.html", expected=False)
        if path is None or (self.thumbnails and not self.hidden):
            return None if path is None else path.read_bytes()
        from krepes.report.page import build_page

        def make() -> bytes:
            return build_page(self.run, self.thumbnails, sorted(self.hidden)).encode("utf-8", "replace")

        return self._once.get("report", make)

    def sample(self, position: int) -> dict[str, Any]:
        """Position, id, place and cells of a sample."""
        return self.rows([position])[0]

    def rows(self, positions: list[int]) -> list[dict[str, Any]]:
        """Positions, ids, places and cells of some samples."""
        points, cells = self.points, self.columns.cells(positions)
        return [
            {"position": p, "id": points.id(p), "x": float(points.x[p]), "y": float(points.y[p]),
             "is_landmark": bool(points.is_landmark[p]), "cells": c}
            for p, c in zip(positions, cells, strict=True)
        ]  # fmt: skip

    def explain(self, position: int) -> dict[str, Any]:
        """GET /api/explain: from the model where it is free, else from the stored tables."""
        self.refresh()
        sample = self.sample(position)
        found = self.live.scores(position, sample["id"])
        if found is not None:
            return {"sample": sample, **told(*found, self.landmarks, sample["cells"], True), "source": "live"}
        stored = self.stored.scores(position, sample["id"])
        if stored is None:
            raise ConfigError(f"the run holds no influences of sample {sample['id']!r}, and the model is not available")
        table, complete = stored
        scores = (table["influence"].to_numpy(float), table["contribution"].to_numpy(float))
        names = [str(v) for v in table["landmark"]]
        return {"sample": sample, **told(names, *scores, self.landmarks, sample["cells"], complete), "source": "stored"}

    def uploaded(self, body: bytes, content_type: str) -> dict[str, Any]:
        """POST /api/upload."""
        from krepes.data.source import ArraySource
        from krepes.influence import scored

        with self.live.using(UPLOAD) as auditor:
            made = prepared(body, content_type, auditor.source_, auditor.seen_.views, self.hidden)
            K, f = scored(auditor.fit_, ArraySource(made.batch, ids=["upload"]))
            scores = of_model(K, f, auditor.dA_)
            place = self.live.placed(auditor, f[0].cpu().numpy(), self.points)
        near = [{**n, **{k: v for k, v in self.sample(n["position"]).items() if k != "position"}}
                for n in place["nearest"]]  # fmt: skip
        told_ = told(auditor.landmark_ids_, *scores, self.landmarks, made.cells, True)
        sample = {"position": None, "id": None, "x": place["x"], "y": place["y"], "cells": made.cells}
        notes = [*made.notes, *told_["notes"]]
        return {"sample": sample, **told_, "source": "live", "notes": notes, **place, "nearest": near}

    def picture(self, position: int) -> bytes | None:
        """A sample's picture, PNG or WebP; None where there is none."""
        if not self.thumbnails:
            return None
        name = self.points.id(position)
        found = self.live.picture(position, name)
        return self.run.pictures.get(name) if found is None else found

    # ------------------------------------------------------------ groups
    def chosen(self, selection: str | None = None, text: str | None = None, query: str | None = None) -> np.ndarray:
        """Ascending positions of the samples in a selection, with an id that contains a text, and for which a query
        holds."""
        parts = []
        if selection:
            parts.append(self.selections[selection].positions)
        if text:
            parts.append(self.points.matching(text))
        if query:
            parts.append(self.columns.where(query))
        found = parts[0] if parts else np.arange(self.points.n)
        for part in parts[1:]:
            found = np.intersect1d(found, part, assume_unique=True)
        return found

    def select(self, positions: np.ndarray) -> dict[str, Any]:
        """POST /api/select: a new selection, its common landmarks and how it differs from all samples."""
        if not len(positions):
            raise ConfigError("no sample is selected; choose a larger region, or another query")
        made = self.selections.add(positions)
        common = [] if self.tops is None else self.tops.common(made.positions)
        box = self.points.boundaries(made.positions)
        return {
            "selection": made.name, "n": len(positions),
            "landmarks": [{**row, "position": self.landmarks.by_id(row["id"]).get("position")} for row in common],
            "features": differences(self.columns, made.positions),
            "box": None if box is None else {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1},
        }  # fmt: skip

    def layer(self, colour: str | None, selection: str | None) -> tuple[Layer, tuple[str, str]]:
        """What a map shows, and the cache's key of it.

        Raises:
            ConfigError: no such column or selection.
        """
        codes = column = None
        if colour:
            try:
                column = self.columns.column(colour)
            except KeyError as error:
                raise ConfigError(f"there is no column {colour[:80]!r}") from error
            if column.kind == "other":
                raise ConfigError(f"column {colour[:80]!r} has no colours: it names rows, or holds lists or dates")
            codes = self.columns.codes(colour)
        selected = None if not selection else self._mask(self.selections[selection])
        return Layer(codes, column, selected), (colour or "", selection or "")

    def _mask(self, selection: Selection) -> np.ndarray:
        def make() -> np.ndarray:
            mask = np.zeros(self.points.n, bool)
            mask[selection.positions] = True
            return mask

        return self._masks.get(selection.name, make)

    def tile(self, z: int, x: int, y: int, colour: str | None, selection: str | None, theme: Theme) -> bytes:
        """GET /tiles."""
        layer, key = self.layer(colour, selection)
        return self.tiles.png(z, x, y, key, layer, theme)

    # ------------------------------------------------------------ questions
    def ask_concept(self, positive: str, negative: str | None, name: str) -> str:
        """A job: the concept of two selections."""
        self.live.needed()
        one = self.selections[positive].positions
        other = None if negative is None else self.selections[negative].positions
        return self.jobs.add(lambda: questions.concept(self.live, self.points, one, other, name))

    def ask_counterfactual(self, remove: str, asked: np.ndarray) -> str:
        """A job: the audit without a selection."""
        if self.live.needed().seen_.views is None:
            raise ConfigError(self.live.reason or "counterfactuals need the views of the audit")
        removed = self.selections[remove].positions
        return self.jobs.add(lambda: questions.counterfactual(self.live, self.points, removed, asked))

    def comparison(self) -> dict[str, Any]:
        """GET /api/compare.

        Raises:
            ConfigError: no other run was given.
            RunFolderError: the runs cannot be compared.
        """
        other = self._other
        if other is None:
            raise ConfigError("no other run was given; start with krepes serve RUN --compare RUN_B")

        def make() -> dict[str, Any]:
            from krepes.comparison import compare

            try:
                found = compare(self.run.folder, other.folder).as_dict()
            except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                if isinstance(error, KrepesError):
                    raise
                raise RunFolderError(f"a file of one of the two runs is damaged ({first_line(error)})") from error
            return {**found, "gaps": [row for row in found["gaps"] if row.get("name") not in self.hidden]}

        return self._once.get("comparison", make)


def stamp_of(folder: Path) -> tuple[int, int, int] | None:
    """What tells a manifest from a later one: when it was written, its file and its size; None without one."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
