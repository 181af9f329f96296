"""The configuration's data section: one kind of data, its own keys, and labels that reach nothing but figures."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from krepes.config import DataConfig, build_data, build_source
from krepes.data import TableSchema
from krepes.data.frames import infer_schema
from krepes.data.images import Preprocess
from krepes.errors import ConfigError, DataError, KrepesWarning

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
SCALED = torch.stack([Preprocess()(Image.fromarray(p)) for p in PIXELS])


def config(**keys) -> DataConfig:
    return DataConfig.model_validate(keys)


@pytest.fixture
def folder(tmp_path):
    parts = []
    for name, pixels in zip(["cat/a", "cat/b", "dog/c", "dog/d"], PIXELS, strict=True):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        parts.append(path.read_bytes())
    (tmp_path / "list.csv").write_text("path,kind,age\nimages/dog/c.png,d,1\nimages/cat/a.png,c,2\n")
    np.savez(
        tmp_path / "p.npz", blob=np.frombuffer(b"".join(parts), np.uint8), offsets=np.cumsum([0, *map(len, parts)]),
        labels=np.array([0, 0, 1, 1]), classes=np.array(["cat", "dog"]), age=np.arange(4.0),
    )  # fmt: skip
    np.save(tmp_path / "x.npy", PIXELS)
    np.savez(tmp_path / "x.npz", x=PIXELS, y=np.zeros(3))
    np.save(tmp_path / "y.npy", np.array([0, 0, 1, 1]))
    return tmp_path


def test_a_folder_of_images_with_its_subfolders_as_metadata(folder):
    source, labels = build_data(config(images="images", preprocess={}, show_label=True), folder)
    assert source.ids == ["cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png"]
    assert torch.equal(source.batch(range(4)), SCALED)
    assert source.metadata()["folder"].tolist() == ["cat", "cat", "dog", "dog"]
    assert labels is None


def test_subfolders_as_labels_are_out_of_the_metadata_unless_asked_for(folder):
    source, labels = build_data(config(images="images", preprocess={}, label="folder"), folder)
    assert labels.tolist() == ["cat", "cat", "dog", "dog"]
    assert source.metadata() is None
    source, labels = build_data(config(images="images", preprocess={}, label="folder", show_label=True), folder)
    assert labels.tolist() == source.metadata()["folder"].tolist()


def test_a_list_of_images_with_a_label_column(folder):
    source, labels = build_data(config(images="list.csv", preprocess={}, label="kind"), folder)
    assert labels.tolist() == ["d", "c"]
    assert source.metadata().columns.tolist() == ["age"]
    assert torch.equal(source.batch([0])[0], SCALED[2])


def test_packed_images_keep_their_labels_back(folder):
    with pytest.warns(KrepesWarning, match="'labels' hold classes"):
        source, labels = build_data(config(packed="p.npz", preprocess={}, rows=3), folder)
    assert torch.equal(source.batch(range(3)), SCALED[:3])
    assert source.metadata().columns.tolist() == ["age"]
    assert labels is None
    source, labels = build_data(config(packed="p.npz", preprocess={}, label="labels"), folder)
    assert labels.tolist() == ["cat", "cat", "dog", "dog"]
    assert source.metadata().columns.tolist() == ["age"]
    source, _ = build_data(config(packed="p.npz", preprocess={}, label="labels", show_label=True), folder)
    assert source.metadata().columns.tolist() == ["age", "labels"]
    with pytest.raises(DataError, match="did you mean 'labels'"):
        build_data(config(packed="p.npz", preprocess={}, label="label"), folder)


def test_an_array_of_images_with_labels(folder):
    keys = {"layout": "NHWC", "preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3}, "labels": "y.npy"}
    source, labels = build_data(config(array="x.npy", **keys), folder)
    torch.testing.assert_close(source.batch(range(4)), SCALED * 2 - 1)
    assert labels.tolist() == [0, 0, 1, 1]
    same = build_source(config(array="x.npz", member="x", **keys), folder)
    assert same.fingerprint() == source.fingerprint()


def test_the_first_images_only(folder):
    source, labels = build_data(config(images="images", preprocess={}, label="folder", rows=3), folder)
    assert source.ids == ["cat/a.png", "cat/b.png", "dog/c.png"]
    assert labels.tolist() == ["cat", "cat", "dog"]


def test_images_that_cannot_be_used_are_skipped_with_their_labels(folder):
    (folder / "images" / "cat" / "aa.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 5 images"):
        build_data(config(images="images", preprocess={}), folder)
    with pytest.warns(KrepesWarning, match="1 of 5"):
        _, labels = build_data(config(images="images", preprocess={}, label="folder", on_error="skip"), folder)
    assert labels.tolist() == ["cat", "cat", "dog", "dog"]


def test_headers_alone_are_read_when_told_so(folder):
    path = folder / "images" / "cat" / "a.png"
    path.write_bytes(path.read_bytes()[:80])
    source = build_source(config(images="images", preprocess={}, verify=False, label="folder"), folder)
    with pytest.raises(DataError, match=r"image cat/a.png"):
        source.batch([0])


def test_the_pixel_limit_is_a_key(folder):
    with pytest.raises(DataError, match="max_pixels=10"):
        build_source(config(images="images", preprocess={}, max_pixels=10), folder)


def test_a_table_in_another_encoding_with_another_separator_and_ragged_rows(folder):
    frame = pd.DataFrame({"name": ["Zoë", "José", "Zoë"], "age": [1.5, 2.5, 3.5]})
    infer_schema(frame).save(folder / "s.yaml")
    (folder / "t.csv").write_bytes("name;age\nZoë;1.5\nJosé\nJosé;2.5\n".encode("cp1252"))
    keys = {"table": "t.csv", "schema": "s.yaml", "encoding": "cp1252", "separator": ";"}
    with pytest.warns(KrepesWarning, match="1 of 3 rows"):
        source = build_source(config(**keys, on_error="skip"), folder)
    assert list(source.ids) == ["row-0", "row-2"]
    expected = TableSchema.load(folder / "s.yaml").transform(frame.head(2))
    assert torch.equal(source.batch(range(2)), expected)
    with pytest.raises(DataError, match="same number of cells"):
        build_source(config(**keys), folder)


def test_ordinal_and_boolean_columns_of_a_file_are_read_as_their_schema_says(folder):
    frame = pd.DataFrame({"n": [10, 9, 2, 9], "yes": [True, False, True, True]})
    schema = infer_schema(frame)
    schema.save(folder / "s.yaml")
    frame.to_csv(folder / "t.csv", index=False)
    source = build_source(config(table="t.csv", schema="s.yaml"), folder)
    assert torch.equal(source.batch(range(4)), schema.transform(frame))


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({}, ConfigError, "exactly one of .* found none"),
        ({"images": "images", "array": "x.npy"}, ConfigError, "found array, images"),
        ({"images": "images"}, ConfigError, r"data.preprocess is missing"),
        ({"packed": "p.npz"}, ConfigError, r"data.preprocess is missing"),
        ({"array": "x.npy", "layout": "NHWC"}, ConfigError, r"data.preprocess is missing"),
        ({"array": "x.npy", "preprocess": {}}, ConfigError, r"data.layout"),
        ({"array": "x.npy"}, DataError, "say how: layout"),
        ({"images": "images", "preprocess": {"size": 0}}, ConfigError, r"data.preprocess: size=0"),
        ({"images": "images", "preprocess": {}, "layout": "NHWC"}, ConfigError, r"data.layout does not apply"),
        ({"images": "images", "preprocess": {}, "labels": "y.npy"}, ConfigError, r"label column, data.label"),
        ({"images": "images", "preprocess": {}, "encoding": "latin-1"}, ConfigError, r"data.encoding does not apply"),
        ({"images": "images", "preprocess": {}, "schema": "s.json"}, ConfigError, r"data.schema does not apply"),
        ({"array": "y.npy", "on_error": "skip"}, ConfigError, r"data.on_error does not apply to data.array"),
        ({"table": "t.csv", "layout": "NHWC"}, ConfigError, r"data.layout does not apply to data.table"),
        ({"images": "none", "preprocess": {}}, DataError, "there is no folder"),
        ({"packed": "none.npz", "preprocess": {}}, DataError, "there is no file"),
        ({"images": "images", "preprocess": {}, "label": "class"}, DataError, "unknown column 'class'"),
        ({"images": "images/cat", "preprocess": {}, "label": "folder"}, DataError, "unknown column 'folder'"),
        ({"array": "x.npy", "layout": "NHWC", "preprocess": {}, "labels": "x.npy"}, DataError, r"data.labels holds"),
    ],
)
def test_keys_that_do_not_fit_are_named(folder, keys, error, message):
    with pytest.raises(error, match=message):
        build_data(config(**keys), folder)


def test_packed_images_without_labels_need_none(folder):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "PNG")
    blob = np.frombuffer(buffer.getvalue(), np.uint8)
    np.savez(folder / "one.npz", blob=blob, offsets=np.array([0, len(blob)]))
    assert build_source(config(packed="one.npz", preprocess={}), folder).metadata() is None
