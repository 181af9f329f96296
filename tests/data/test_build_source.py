"""The configuration's data section as samples."""

import numpy as np
import pandas as pd
import pytest
import torch

from krepes.config import DataConfig, ViewsConfig, build_data, build_source, build_views
from krepes.data import TableSchema
from krepes.errors import DataError

FRAME = pd.DataFrame(
    {
        "age": [20.0, 40.0, 30.0],
        "job": ["a", "b", "a"],
        "code": ["007", "08", "9"],
        "when": pd.date_range("2020", periods=3),
    }
)


@pytest.fixture
def folder(tmp_path):
    TableSchema.fit(FRAME, features=["age", "job"]).save(tmp_path / "s.json")
    FRAME.drop(columns="when").to_csv(tmp_path / "t.csv", index=False)
    FRAME.to_parquet(tmp_path / "t.parquet")
    return tmp_path


@pytest.mark.parametrize("table", ["t.csv", "t.parquet"])
def test_a_table_is_the_same_samples_from_csv_and_parquet(folder, table):
    source = build_source(DataConfig(table=table, schema="s.json", id="code", rows=2), folder)
    assert list(source.ids) == ["007", "08"]
    same = build_source(DataConfig(table="t.csv", schema="s.json", id="code", rows=2), folder)
    assert source.fingerprint() == same.fingerprint()
    view = build_views(ViewsConfig(name="scarf", rate=0.5), source)
    assert view(source.batch(range(2)), torch.Generator().manual_seed(0)).shape == (2, 5)


def test_rows_without_an_id_column_are_numbered(folder):
    assert build_source(DataConfig(table="t.csv", schema="s.json"), folder).ids == ["row-0", "row-1", "row-2"]


def test_a_row_without_id_is_named(folder):
    (folder / "t.csv").write_text("age,job,code\n1,a,x\n2,b,\n")
    with pytest.raises(DataError, match="'code' is missing in 1 rows, first in row 1"):
        build_source(DataConfig(table="t.csv", schema="s.json", id="code"), folder)


def test_columns_of_a_parquet_file_are_chosen(folder):
    with pytest.raises(DataError, match="unknown column 'job'"):
        build_source(DataConfig(table="t.parquet", schema="s.json", columns=["age", "code"]), folder)


@pytest.mark.parametrize("table", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("columns", [None, ["age", "job", "code"]])
@pytest.mark.parametrize("key", ["label", "id"])
def test_a_column_that_is_misspelt_is_refused_with_the_nearest(folder, table, columns, key):
    columns = columns if table == "t.parquet" else None
    keys = {"table": table, "schema": "s.json", "columns": columns}
    with pytest.raises(DataError, match="unknown column 'cod'; did you mean 'code'"):
        build_data(DataConfig(**keys, **{key: "cod"}), folder)


def test_a_label_beside_the_chosen_columns_is_read(folder):
    config = DataConfig(table="t.parquet", schema="s.json", columns=["age", "job"], label="code", id="code")
    source, labels = build_data(config, folder)
    assert labels.tolist() == source.ids == ["007", "08", "9"]


def test_an_array_file_is_mapped_and_an_archive_refused(folder):
    x = np.random.default_rng(0).random((50, 4), np.float32)
    np.save(folder / "x.npy", x)
    source = build_source(DataConfig(array="x.npy", rows=20), folder)
    np.testing.assert_array_equal(source.batch(range(5, 20)).numpy(), x[5:20])
    np.savez(folder / "x.npz", x=x)
    with pytest.raises(DataError, match="archive of arrays"):
        build_source(DataConfig(array="x.npz"), folder)
    np.save(folder / "x.npy", np.float32(3))
    with pytest.raises(DataError, match="no samples"):
        build_source(DataConfig(array="x.npy"), folder)
