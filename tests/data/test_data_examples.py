"""The examples of docs/data.md run as they stand there."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
import yaml
from PIL import Image

from krepes.config import Config, DataConfig, build_data
from krepes.data import DatasetSource, TableSchema, TableSource, read_table
from krepes.data.arrays import load_array
from krepes.data.frames import infer_schema
from krepes.data.hub import HubSource
from krepes.data.images import ImageFiles, ImageFolder, Preprocess
from krepes.data.loaders import LoaderSource
from krepes.data.packed import PackedImages
from krepes.errors import KrepesWarning
from krepes.remote import is_url

NAMES = (
    DatasetSource, HubSource, ImageFiles, ImageFolder, LoaderSource, PackedImages, Preprocess, TableSchema, TableSource,
    infer_schema, load_array, pyarrow, read_table, torch,
)  # fmt: skip

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the examples read."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), np.uint8)
    parts = []
    for i, folder in enumerate(["cat", "dog", "cat", "dog"]):
        path = tmp_path / "photos" / "train" / folder / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
        parts.append(path.read_bytes())
    (tmp_path / "photos" / "damaged.png").write_bytes(b"")
    (tmp_path / "photos" / "list.txt").write_text("train/cat/0.png\ntrain/dog/1.png\n")
    (tmp_path / "photos" / "list.csv").write_text("path,age\ntrain/cat/0.png,3\ntrain/dog/1.png,4\n")
    offsets = np.cumsum([0, *map(len, parts)])
    np.savez(tmp_path / "pack.npz", blob=np.frombuffer(b"".join(parts), np.uint8), offsets=offsets,
             labels=np.array([0, 1, 0, 1]), classes=np.array(["cat", "dog"]))  # fmt: skip
    np.save(tmp_path / "x.npy", np.ones((5, 3), np.float32))
    np.savez(tmp_path / "x.npz", x=np.ones((5, 3), np.float32))
    np.save(tmp_path / "pixels.npy", pixels)
    (tmp_path / "people.csv").write_bytes("name;age;income\nZoë;1.5;n\nJosé\nJosé;2.5;y\n".encode("cp1252"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_source_has_an_example():
    assert len(BLOCKS) == 9
    for name in ("ImageFolder", "ImageFiles", "PackedImages", "load_array", "read_table", "TableSource.of", "HubSource",
                 "DatasetSource", "LoaderSource"):  # fmt: skip
        assert f"{name}(" in "".join(BLOCKS)


@pytest.mark.filterwarnings("ignore::krepes.errors.KrepesWarning")
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_runs(files, block, capsys):
    names = {thing.__name__: thing for thing in NAMES}
    if "datasets." in block:
        names["datasets"] = pytest.importorskip("datasets", reason="datasets is not installed")
    exec(block, names)
    assert capsys.readouterr().out


def test_the_configuration_of_the_page_builds(files):
    hub, text, urls = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert DataConfig.model_validate(yaml.safe_load(io.StringIO(hub))["data"]).hugging_face is not None
    (files / "photos" / "train" / "cat" / "empty.png").write_bytes(b"")
    with pytest.warns(KrepesWarning, match="1 of 5"):
        source, labels = build_data(DataConfig.model_validate(yaml.safe_load(io.StringIO(text))["data"]), files)
    assert labels.tolist() == ["cat", "cat", "dog", "dog"]
    assert source.batch(range(4)).shape == (4, 3, 32, 32)
    elsewhere = Config.model_validate(yaml.safe_load(io.StringIO(urls)))
    assert all(map(is_url, (elsewhere.encoder.recipe, elsewhere.data.images, elsewhere.output)))
