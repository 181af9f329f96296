"""Run folders and clients of the app's tests: a table with hostile names, images, and tables alone."""

import copy
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient
from typer.testing import CliRunner

from krepes.app.server import create_app
from krepes.app.state import State
from krepes.cli import app as cli
from krepes.data import TableSchema
from krepes.encoders import MLP, SmallCNN

PORT, TOKEN = 8000, "the-token"
BASE = f"http://127.0.0.1:{PORT}"
HOSTILE = "<img src=x onerror=alert(1)>"  # a column
MARKUP = "</script><script>alert(1)</script>"  # a category, and part of an id
FORMULA = "=HYPERLINK(1)"  # a category
SETTINGS = {
    "objective": {"name": "barlow_twins", "weight": 0.005},
    "landmarks": {"sampler": "uniform", "m": 24},
    "newton": {"damping": 0.1},
    "trust": {"refits": False},
    "audit": {"automatic_concepts": False, "attribution": 0, "refits": 0, "points": 20},
    "report": {"explain": 2, "top_k": 5},
}


def table_run(folder: Path, n: int = 120, **report) -> Path:
    """An audit of a table whose columns, categories and ids hold markup, with missing cells."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({
        "name": [f"row {i} {MARKUP if i % 50 == 3 else ''}" for i in range(n)],
        "age": np.where(np.arange(n) % 7 == 0, np.nan, generator.normal(40, 10, n).round(1)),
        "sex": generator.choice(["Female", "Male"], n),
        HOSTILE: generator.choice(["plain", MARKUP, FORMULA], n),
        "secret": generator.choice(["hush-a", "hush-b"], n),
    })  # fmt: skip
    frame.to_csv(folder / "table.csv", index=False)
    schema = TableSchema.fit(frame.drop(columns="name"))
    schema.save(folder / "schema.json")
    torch.manual_seed(0)
    save_file(MLP(schema.width, [16], 4).state_dict(), folder / "weights.safetensors")
    config = {
        "title": f"A table with {MARKUP}",
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": schema.width, "hidden": [16], "n_out": 4},
                    "weights": "weights.safetensors"},
        "data": {"table": "table.csv", "schema": "schema.json", "id": "name"},
        "views": {"name": "gaussian", "std": 0.3},
    }  # fmt: skip
    return audited(folder, config, report)


def image_run(folder: Path, n: int = 60, **report) -> Path:
    """An audit of small colour images in a folder."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(n):
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:03d}.png")
    torch.manual_seed(0)
    save_file(SmallCNN(3, (4, 8), 4).state_dict(), folder / "weights.safetensors")
    preprocess = {"size": 8, "crop": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    config = {
        "title": "Images",
        "encoder": {"factory": "krepes.encoders:SmallCNN", "args": {"in_channels": 3, "widths": [4, 8], "n_out": 4},
                    "weights": "weights.safetensors"},
        "data": {"images": "images", "preprocess": preprocess},
        "views": {"name": "gaussian", "std": 0.3},
    }  # fmt: skip
    return audited(folder, config, report)


def audited(folder: Path, config: dict, report: dict) -> Path:
    """The run folder of a configuration, as the command line makes it."""
    settings = copy.deepcopy(SETTINGS)
    settings["report"] |= report
    (folder / "audit.yaml").write_text(yaml.safe_dump(settings | config))
    done = CliRunner().invoke(cli, ["audit", str(folder / "audit.yaml"), "-o", str(folder / "run"), "-q"])
    assert done.exit_code == 0, done.output
    return folder / "run"


def tables_alone(folder: Path, n: int = 5000, groups: int = 4, k: int = 5) -> Path:
    """A run folder without a model: points on a grid with noise, in several row groups, and their influences."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    ids = np.array([f"row-{i}" for i in range(n)])
    near = generator.integers(0, 10, (n, k))
    names = np.array([f"row-{i}" for i in range(10)])
    points = pa.table({
        "id": ids, "x": generator.normal(size=n).astype(np.float32), "y": generator.normal(size=n).astype(np.float32),
        "landmarks": names[near].tolist(), "is_landmark": np.arange(n) < 10,
        "data.number": np.arange(n) / n, "data.kind": np.array(["a", "b", "c"])[np.arange(n) % 3],
    })  # fmt: skip
    influences = pa.table({
        "sample": np.repeat(ids, k), "rank": np.tile(np.arange(1, k + 1), n), "landmark": names[near].ravel(),
        "influence": generator.random(n * k).astype(np.float32),
        "contribution": generator.normal(size=n * k).astype(np.float32),
    })  # fmt: skip
    pq.write_table(points, folder / "points.parquet", row_group_size=-(-n // groups))
    pq.write_table(influences, folder / "influence.parquet", row_group_size=-(-n // groups) * k)
    marks = {"rank": np.arange(1, 11), "landmark": names, "position": np.arange(10), "norm": np.ones(10)}
    pq.write_table(pa.table(marks), folder / "landmarks.parquet")
    write_manifest(folder, status="complete")
    return folder


def write_manifest(folder: Path, **changes) -> None:
    """A manifest, or changes of one."""
    path = folder / "manifest.json"
    there = json.loads(path.read_text()) if path.is_file() else {"format": 1}
    path.write_text(json.dumps(there | changes))


class Asker(TestClient):
    """A client that has entered by the start link, with the headers of the app's own page.

    Attributes:
        state: that is asked.
    """

    def __init__(self, folder: Path, live: bool = False, compare: Path | None = None, trust_run: bool = False):
        self.state = State(folder, compare, trust_run)
        if live:
            self.state.live.load()
        super().__init__(create_app(self.state, TOKEN, PORT), base_url=BASE, raise_server_exceptions=False,
                         headers={"Origin": BASE})  # fmt: skip
        assert self.get(f"/?token={TOKEN}").status_code == 200

    def told(self, path: str, **content) -> dict:
        """The JSON of a GET, or of a POST with content, that is answered."""
        found = self.post(path, json=content) if content else self.get(path)
        assert found.status_code < 300, found.text
        return found.json()

    def refused(self, path: str, status: int, **content) -> str:
        """The sentence of a GET or POST that is refused."""
        found = self.post(path, json=content) if content else self.get(path)
        assert found.status_code == status, found.text
        return found.json()["error"]

    def answer(self, job: str) -> dict:
        """The end of a job."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            found = self.told(f"/api/jobs/{job}")
            if found["state"] in ("done", "failed"):
                return found
            time.sleep(0.05)
        raise AssertionError("the job does not end")
