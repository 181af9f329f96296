"""Published data sets, where KREPES_DATA names a folder that holds them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from krepes.config import DataConfig, build_data
from krepes.data import TableSource, read_csv
from krepes.data.arrays import load_array
from krepes.data.frames import infer_schema
from krepes.data.idx import read_idx
from krepes.data.images import Preprocess
from krepes.data.packed import PackedImages
from krepes.errors import KrepesWarning

DATA = Path(os.environ.get("KREPES_DATA") or "/nowhere")
ADULT = [
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship", "race",
    "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income",
]  # fmt: skip


def needs(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"KREPES_DATA names no folder with {name}")
    return DATA / name


def test_cifar10_as_packed_jpegs():
    path = needs("cifar10/cifar10_test_jpegpack.npz")
    preprocess = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616]}
    config = DataConfig.model_validate(
        {"packed": str(path), "preprocess": preprocess, "label": "labels", "verify": False}
    )
    source, labels = build_data(config, Path())
    assert len(source) == 10_000
    assert set(labels) >= {"airplane", "truck"}
    batch = source.batch(range(0, 10_000, 500))
    assert batch.shape == (20, 3, 32, 32)
    assert batch.mean().abs() < 0.5
    assert source.metadata() is None


def test_a_share_of_cifar10_decodes_whole():
    source = PackedImages(needs("cifar10/cifar10_test_jpegpack.npz"), Preprocess(), ["labels"], rows=300)
    assert source.problems.empty
    assert source.modes == {"RGB": 300}


def test_adult_without_a_header(tmp_path):
    path = needs("adult/adult.data")
    frame = read_csv(path, ADULT)
    schema = infer_schema(frame, label="income")
    kinds = {c.name: c.kind for c in schema.columns}
    assert (kinds["age"], kinds["sex"], kinds["education_num"]) == ("numeric", "categorical", "numeric")
    schema.save(tmp_path / "schema.yaml")
    config = {"table": str(path), "schema": "schema.yaml", "columns": ADULT, "label": "income", "rows": 500}
    source, labels = build_data(DataConfig.model_validate(config), tmp_path)
    assert set(labels) == {"<=50K", ">50K"}
    assert torch.equal(source.batch(range(500)), TableSource(frame.head(500), schema).batch(range(500)))
    assert "income" not in source.metadata().columns


def test_adults_test_rows_begin_after_a_comment():
    frame = read_csv(needs("adult/adult.test"), ADULT, skip_lines=1)
    assert len(frame) == 16_281


def test_covtype_is_read_compressed():
    frame = read_csv(needs("covtype/ramp_covertype_test.csv.gz"))
    assert len(frame) > 10_000
    with pytest.warns(KrepesWarning, match="is constant"):  # soil types that 2,000 rows do not have
        schema = infer_schema(frame.head(2000))
    assert schema.width == len(schema.columns) > 50


def test_higgs_is_mapped():
    path = needs("higgs/X_num_test.npy")
    source = load_array(path)
    np.testing.assert_array_equal(source.batch([3, 1]).numpy(), np.load(path)[[3, 1]])
    assert source.batch([0]).shape == (1, 28)


def test_mnist_is_read_from_idx():
    images = needs("mnist/t10k-images-idx3-ubyte.gz")
    labels = read_idx(needs("mnist/t10k-labels-idx1-ubyte.gz"))
    source = load_array(images, layout="NHW", preprocess=Preprocess(mode="L", mean=(0.1307,), std=(0.3081,)))
    assert source.batch(range(100)).shape == (100, 1, 28, 28)
    assert abs(float(source.batch(range(1000)).mean())) < 0.1
    assert np.bincount(labels).min() > 800
