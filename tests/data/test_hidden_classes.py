"""Columns that hold classes stay out of what krepes explains with, unless they are asked for."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from krepes.config import DataConfig, build_data
from krepes.data import (
    ArraySource,
    DatasetSource,
    ImageFiles,
    ImageFolder,
    LoaderSource,
    PackedImages,
    Preprocess,
    TableSchema,
    infer_schema,
    load_array,
)  # fmt: skip
from krepes.data.columns import class_columns
from krepes.errors import KrepesWarning

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
CLASSES = pd.DataFrame({"Label": list("aabb"), "age": [1.0, 2, 3, 4]})


@pytest.fixture
def folder(tmp_path):
    parts = []
    for name, pixels in zip(["cat/a", "cat/b", "dog/c", "dog/d"], PIXELS, strict=True):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        parts.append(path.read_bytes())
    (tmp_path / "list.csv").write_text("path,class,age\nimages/dog/c.png,d,1\nimages/cat/a.png,c,2\n")
    np.savez(
        tmp_path / "p.npz", blob=np.frombuffer(b"".join(parts), np.uint8), offsets=np.cumsum([0, *map(len, parts)]),
        fine_labels=np.array([0, 0, 1, 1]), age=np.arange(4.0),
    )  # fmt: skip
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    return tmp_path


def test_columns_hold_classes_by_their_names():
    names = ["label", "Labels", "fine_label", "class", "classes", " target", "Y", "folder", 3]
    others = ["labelled", "workclass", "pclass", "target_price", "yes", "years", "x", "class size"]
    assert class_columns([*names[:-1], *others]) == names[:-1]
    assert class_columns([3]) == []


SOURCES = {
    "folder": lambda at, **o: ImageFolder(at / "images", Preprocess(), **o),
    "class": lambda at, **o: ImageFiles(at / "list.csv", Preprocess(), **o),
    "fine_labels": lambda at, **o: PackedImages(at / "p.npz", Preprocess(), **o),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_classes_of_images_are_hidden_with_a_note_unless_they_are_asked_for(folder, name):
    with pytest.warns(KrepesWarning, match=rf"'{name}' hold classes.*hide=\['{name}'\].*show_label=True"):
        hidden = SOURCES[name](folder)
    assert name not in (hidden.metadata() if hidden.metadata() is not None else ())
    assert len(hidden.column(name)) == len(hidden)
    assert name in SOURCES[name](folder, show_label=True).metadata()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = SOURCES[name](folder, hide=[name])
    assert told.column(name).tolist() == hidden.column(name).tolist()


GIVEN = {
    "array": lambda at, **o: ArraySource(torch.zeros(4, 3), metadata=CLASSES, **o),
    "file": lambda at, **o: load_array(at / "x.npy", metadata=CLASSES, **o),
    "pixels": lambda at, **o: load_array(saved(at), layout="NHWC", metadata=CLASSES, **o),
    "dataset": lambda at, **o: DatasetSource(torch.utils.data.TensorDataset(torch.zeros(4, 3)), None, CLASSES, 0, **o),
    "loader": lambda at, **o: LoaderSource([torch.zeros(4, 3)], metadata=CLASSES, **o),
    "files": lambda at, **o: ImageFiles(sorted(at.glob("images/*/*.png")), Preprocess(), metadata=CLASSES, **o),
}


def saved(folder):
    np.save(folder / "pixels.npy", PIXELS)
    return folder / "pixels.npy"


@pytest.mark.parametrize("kind", GIVEN)
def test_the_classes_of_a_given_table_are_left_out_with_a_note_unless_they_are_asked_for(folder, kind):
    with pytest.warns(KrepesWarning, match=r"'Label' hold classes.*show_label=True"):
        assert GIVEN[kind](folder).metadata().columns.tolist() == ["age"]
    assert GIVEN[kind](folder, show_label=True).metadata().columns.tolist() == ["Label", "age"]


@pytest.mark.parametrize("fit", [TableSchema.fit, infer_schema])
def test_the_classes_of_a_table_are_no_features_unless_they_are_named(fit):
    frame = pd.DataFrame({"age": np.arange(40.0) / 3, "target": ["n", "p"] * 20})
    with pytest.warns(KrepesWarning, match=r"'target' hold classes.*kept out of the features.*features=…"):
        assert list(fit(frame).slices) == ["age"]
    assert list(fit(frame, label="target").slices) == ["age"]
    assert list(fit(frame, ["age", "target"]).slices) == ["age", "target"]


def test_a_configuration_hides_classes_as_the_sources_do(folder):
    for keys, name in (({"images": "images"}, "folder"), ({"packed": "p.npz"}, "fine_labels")):
        keys |= {"preprocess": {}}
        with pytest.warns(KrepesWarning, match=rf"'{name}' hold classes.*data.label"):
            source, labels = build_data(DataConfig.model_validate(keys), folder)
        assert labels is None
        assert name not in (source.metadata() if source.metadata() is not None else ())
        source, labels = build_data(DataConfig.model_validate(keys | {"label": name}), folder)
        assert len(labels) == len(source)
        assert name in build_data(DataConfig.model_validate(keys | {"show_label": True}), folder)[0].metadata()
