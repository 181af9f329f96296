"""`krepes serve` over a run folder of a million points: start, explanations, tiles, a lasso.

    python benchmarks/app.py [--points 1000000] [--quick] [--live RUN]

The folder is synthetic and holds tables alone, as an audit of that size writes them: explanations come from
influence.parquet, whose row groups are read in random order and mostly cold. `--live` names a real run beside it, such
as one that `scale.py --keep` leaves: its model is loaded, and its explanations are computed when they are asked for.
Figures go to results/app.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import check, machine_facts, peak_bytes, seconds_text, table, write_result

LANDMARKS, TOP = 1000, 10
EXPLAINED, STARTS = 200, 5
CATEGORIES = {"sex": 2, "race": 5, "workclass": 9, "education": 16, "occupation": 15, "country": 42}
NUMBERS = ("age", "weight", "gain", "loss", "hours", "years")


def main() -> None:
    """Make the folder, start the app as a user would, ask it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--live", type=Path, metavar="RUN", help="an audit's run folder, whose data are still there")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    n = 20_000 if asked.quick else asked.points
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="krepes-app-") as place:
        folder = Path(place) / "run"
        write_run(folder, n)
        size = sum(p.stat().st_size for p in folder.iterdir())
        starts, computed = [], []
        for _ in range(2 if asked.quick else STARTS):
            with App(folder) as app:
                starts.append(app.started)
                computed.append(app.computed)
        with App(folder) as app:
            figures = measured(app, n)
            figures["peak_resident_bytes"] = peak_bytes(app.process.pid)
    figures = {"points": n, "folder_bytes": size, "start_seconds": starts, "start_cpu_seconds": computed, **figures}
    if asked.live:
        figures["live"] = live(asked.live)
    print(json.dumps(facts | figures, indent=1))
    print(write_result("app", asked.quick, {"figures": figures, "tables": [as_table(figures)],
                                            "checks": checks(figures)}, facts))  # fmt: skip


def measured(app: "App", n: int) -> dict[str, Any]:
    """Seconds of each kind of question; one at a time, over one connection."""
    generator = np.random.default_rng(0)
    explained = [app.timed(f"/api/explain/{p}") for p in generator.integers(0, n, EXPLAINED).tolist()]
    tiles = {}
    for z in (0, 2, 4, 8):
        middle = 2**z // 2
        path = f"/tiles/{z}/{middle}/{middle}.png"
        tiles[f"zoom {z}"] = {"cold": app.timed(path), "warm": app.timed(path)}
    coloured = {name: app.timed(f"/tiles/1/0/0.png?colour={name}") for name in ("education", "age")}
    world = json.loads(app.get("/api/run"))["extent"]
    side = world["x1"] - world["x0"]
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ring = np.stack([0.25 * np.cos(turn), 0.2 * np.sin(turn)], 1) * side
    body = json.dumps({"polygon": (ring + np.array([world["x0"] + side / 2, world["y0"] + side / 2])).tolist()})
    lasso = [app.timed("/api/select", body) for _ in range(3)]
    selection = json.loads(app.get("/api/select", body))
    return {
        "explain_seconds": {"p50": float(np.quantile(explained, 0.5)), "p95": float(np.quantile(explained, 0.95)),
                            "max": max(explained), "n": len(explained)},
        "tile_seconds": tiles, "coloured_tile_seconds": coloured,
        "lasso_seconds": lasso, "lasso_samples": selection["n"],
        "selected_tile_seconds": app.timed(f"/tiles/0/0/0.png?selection={selection['selection']}"),
        "search_seconds": app.timed("/api/samples?q=99999"),
        "query_seconds": app.timed("/api/samples?where=age%20%3E%2030%20and%20sex%20%3D%3D%20%22sex-1%22"),
        "nearest_seconds": app.timed("/api/nearest?x=0&y=0&r=0.1"),
    }  # fmt: skip


def live(folder: Path) -> dict[str, Any]:
    """Seconds of explanations that the model computes, at random positions of a real run."""
    begun = time.perf_counter()
    with App(folder, "--trust-run") as app:
        while (model := json.loads(app.get("/api/run"))["live"])["state"] == "loading":
            time.sleep(0.1)
        ready = time.perf_counter() - begun
        if model["state"] != "ready":
            raise SystemExit(f"{folder}: {model['reason']}")
        n = json.loads(app.get("/api/run"))["n"]
        places = np.random.default_rng(1).integers(0, n, EXPLAINED).tolist()
        sources = {json.loads(app.get(f"/api/explain/{p}"))["source"] for p in places[:3]}
        seconds = [app.timed(f"/api/explain/{p}") for p in places[3:]]
        return {"samples": n, "sources": sorted(sources), "start_seconds": app.started, "model_ready_seconds": ready,
                "p50": float(np.quantile(seconds, 0.5)), "p95": float(np.quantile(seconds, 0.95)),
                "max": max(seconds), "n": len(seconds), "peak_resident_bytes": peak_bytes(app.process.pid)}  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, NaN where the system does not tell."""
    path = Path(f"/proc/{pid}/stat")
    if not path.is_file():
        return float("nan")
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class App:
    """The app in a process of its own, and a connection that has entered by the start link.

    Attributes:
        started: seconds from the start of the process to the first answer of /api/run.
        computed: seconds of processor time until then, of all its threads: what other load does not change.
    """

    def __init__(self, folder: Path, *options: str):
        self._folder, self._options = folder, options

    def __enter__(self) -> "App":
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "krepes", "serve", str(self._folder), "--no-open", *self._options],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", self.process.stdout.readline())
        assert found is not None
        self._host = f"127.0.0.1:{found[1]}"
        self._cookie = f"krepes_{found[1]}={found[2]}"
        self._connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
        self.get("/api/run")
        self.started = time.perf_counter() - begun
        self.computed = cpu_seconds(self.process.pid)
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self.process.terminate()
        self.process.wait()

    def get(self, path: str, body: str | None = None) -> bytes:
        """The answer to a GET, or to a POST of JSON."""
        headers = {"Cookie": self._cookie, "Origin": f"http://{self._host}"}
        self._connection.request("GET" if body is None else "POST", path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content[:200]!r}")
        return content

    def timed(self, path: str, body: str | None = None) -> float:
        """Seconds of one question."""
        begun = time.perf_counter()
        self.get(path, body)
        return time.perf_counter() - begun


# ------------------------------------------------------------- the synthetic run


def write_run(folder: Path, n: int) -> None:
    """A run folder's tables: points in twenty clusters, a table of twelve columns, ten landmarks for each sample."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    marks = np.sort(generator.choice(n, LANDMARKS, replace=False))
    names = pa.array([f"row-{i}" for i in marks.tolist()])
    shard = max(4096, -(-n // 32))
    ranges = [range(start, min(start + shard, n)) for start in range(0, n, shard)]
    write(folder / "points.parquet", (points(part, names, marks) for part in ranges))
    write(folder / "influence.parquet", (influences(part, names) for part in ranges))
    table = pa.table({"rank": np.arange(1, LANDMARKS + 1), "landmark": names, "position": marks,
                      "norm": np.ones(LANDMARKS), "mean_influence": np.linspace(1, 0.1, LANDMARKS),
                      "sign_balance": np.zeros(LANDMARKS), **cells(LANDMARKS, generator)})  # fmt: skip
    pq.write_table(table, folder / "landmarks.parquet")
    trust = {"verdict": "green", "sentence": "All figures are within their thresholds.", "figures": []}
    (folder / "trust.json").write_text(json.dumps(trust))
    manifest = {"format": 1, "status": "complete", "samples": n, "settings": {"objective": {"name": "barlow_twins"}},
                "config": {"title": f"{n:,} synthetic points"}}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write(path: Path, parts: Iterator[pa.Table]) -> None:
    """Row groups, as an audit writes them."""
    first = next(parts)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def points(part: range, names: pa.Array, marks: np.ndarray) -> pa.Table:
    """Rows of points.parquet."""
    generator = np.random.default_rng(part.start + 1)
    n = len(part)
    centres = np.random.default_rng(0).normal(size=(20, 2))
    xy = centres[generator.integers(0, 20, n)] + generator.normal(size=(n, 2)) * generator.choice([0.05, 0.3], (n, 1))
    offsets = pa.array(np.arange(0, n * TOP + 1, TOP, dtype=np.int32))
    near = pa.ListArray.from_arrays(offsets, names.take(pa.array(generator.integers(0, LANDMARKS, n * TOP))))
    return pa.table({"id": [f"row-{i}" for i in part], "x": xy[:, 0].astype(np.float32),
                     "y": xy[:, 1].astype(np.float32), "landmarks": near,
                     "is_landmark": np.isin(np.arange(part.start, part.stop), marks),
                     **cells(n, generator)})  # fmt: skip


def cells(n: int, generator: np.random.Generator) -> dict[str, Any]:
    """The samples' own columns."""
    found: dict[str, Any] = {f"data.{name}": generator.normal(40, 12, n).round(1) for name in NUMBERS}
    for name, k in CATEGORIES.items():
        labels = pa.array([f"{name}-{i}" for i in range(k)])
        found[f"data.{name}"] = labels.take(pa.array((k * generator.random(n) ** 2).astype(np.int64)))
    return found


def influences(part: range, names: pa.Array) -> pa.Table:
    """Rows of influence.parquet."""
    generator = np.random.default_rng(part.start + 2)
    n = len(part)
    samples = pa.array([f"row-{i}" for i in part]).take(pa.array(np.repeat(np.arange(n), TOP)))
    strength = -np.sort(-generator.random((n, TOP)).astype(np.float32), axis=1).ravel()
    return pa.table({"sample": samples, "rank": np.tile(np.arange(1, TOP + 1, dtype=np.int32), n),
                     "landmark": names.take(pa.array(generator.integers(0, LANDMARKS, n * TOP))),
                     "influence": strength,
                     "contribution": strength * generator.choice([-1, 1], n * TOP).astype(np.float32)})  # fmt: skip


# ----------------------------------------------------------------------- tables


def as_table(figures: dict[str, Any]) -> dict[str, Any]:
    """For docs/benchmarks.md."""
    explained = figures["explain_seconds"]
    rows = [
        ("start to the first answer, fresh process", seconds_text(float(np.median(figures["start_seconds"])))),
        (f"an explanation, median of {explained['n']}", seconds_text(explained["p50"])),
        (f"an explanation, 95 % of {explained['n']}", seconds_text(explained["p95"])),
        *((f"tile at {zoom}, cold / warm", f"{seconds_text(t['cold'])} / {seconds_text(t['warm'])}")
          for zoom, t in figures["tile_seconds"].items()),
        *((f"tile coloured by {name}", seconds_text(t)) for name, t in figures["coloured_tile_seconds"].items()),
        (f"lasso of {figures['lasso_samples']:,} samples", seconds_text(float(np.median(figures["lasso_seconds"])))),
        ("tile of a selection", seconds_text(figures["selected_tile_seconds"])),
        ("search by id", seconds_text(figures["search_seconds"])),
        ("query on two columns", seconds_text(figures["query_seconds"])),
    ]  # fmt: skip
    if computed := figures.get("live"):
        rows += [
            (f"real run of {computed['samples']:,}: start to the first answer",
             seconds_text(computed["start_seconds"])),
            ("real run: until the model is loaded", seconds_text(computed["model_ready_seconds"])),
            (f"real run: an explanation by the model, median / 95 % of {computed['n']}",
             f"{seconds_text(computed['p50'])} / {seconds_text(computed['p95'])}"),
        ]  # fmt: skip
    return table(f"krepes serve over {figures['points']:,} points", ("question", "seconds"), rows)


def checks(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that the project looks for, at a million points."""
    p95, start = figures["explain_seconds"]["p95"], float(np.median(figures["start_seconds"]))
    found = [
        check("an explanation, 95 %", "under 200 ms", f"{1000 * p95:.0f} ms", p95 < 0.2),
        check("start", "under 3 s", f"{start:.2f} s", start < 3),
    ]
    if computed := figures.get("live"):
        found.append(check(f"an explanation by the model, {computed['samples']:,} rows, 95 %", "under 200 ms",
                           f"{1000 * computed['p95']:.0f} ms", computed["p95"] < 0.2))  # fmt: skip
    return found


if __name__ == "__main__":
    main()
