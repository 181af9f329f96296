"""Large tables in little memory: Parquet, coded rows, donors by code."""

import datetime

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings

from krepes.data import ArraySource, RowIds, Scarf, TableSchema, TableSource, read_csv, read_parquet, read_table
from krepes.errors import DataError, KrepesWarning


def frame_of(n: int, seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    job = pd.Series(g.choice(["clerk", "nurse", "smith", None], n), dtype=object)
    return pd.DataFrame({"age": g.normal(40, 10, n), "job": job, "hours": g.integers(1, 60, n).astype(float),
                         "sex": pd.Categorical(g.choice(["f", "m"], n))})  # fmt: skip


def encoded_naively(frame: pd.DataFrame, schema: TableSchema) -> torch.Tensor:
    """Cell by cell, from the documentation."""
    rows = []
    for _, row in frame.iterrows():
        out = []
        for c in schema.columns:
            gone = pd.isna(row[c.name])
            if c.kind == "numeric":
                out += [0.0 if gone else (row[c.name] - c.mean) / (c.std or 1.0)] + [float(gone)] * (c.missing > 0)
            else:
                hot = len(c.categories) + (0 if gone else 1)
                if not gone and str(row[c.name]) in c.categories:
                    hot = c.categories.index(str(row[c.name]))
                out += [float(i == hot) for i in range(c.width)]
        rows.append(out)
    return torch.tensor(rows, dtype=torch.float32)


cells = st.lists(
    st.tuples(st.none() | st.floats(-1e6, 1e6), st.none() | st.sampled_from(["a", "b", "ü ber", "3"])),
    min_size=2,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(train=cells, rows=cells, data=st.data())
@pytest.mark.filterwarnings("ignore::krepes.errors.KrepesWarning")
def test_coded_rows_are_the_encoded_rows(train, rows, data):
    train = pd.DataFrame([(1.0, "a"), *train], columns=["x", "kind"])
    rows = pd.DataFrame(rows, columns=["x", "kind"]).astype({"x": float, "kind": object})
    schema = TableSchema.fit(train.astype({"x": float, "kind": object}), kinds={"x": "numeric"})
    source = TableSource(rows, schema)
    expected = encoded_naively(rows, schema)
    torch.testing.assert_close(source.batch(range(len(rows))), expected)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    torch.testing.assert_close(source.batch(index), expected[index])
    torch.testing.assert_close(schema.transform(rows), expected)


def test_donors_by_code_are_the_donors_of_the_encoded_table():
    frame = frame_of(300)
    source = TableSource(frame, TableSchema.fit(frame))
    x = source.batch(range(len(source)))
    by_matrix = Scarf(x, list(source.schema.slices.values()), 0.4)
    by_code = Scarf.of_table(source, 0.4)
    draw = [v(x[:50], torch.Generator().manual_seed(3)) for v in (by_matrix, by_code)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], x[:50])
    assert repr(by_code) == repr(Scarf.of_table(TableSource(frame, source.schema), 0.4)) != repr(by_matrix)


def test_parquet_is_read_like_csv(tmp_path):
    frame = frame_of(200)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    csv, parquet = read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.parquet")
    schema = TableSchema.fit(csv)
    torch.testing.assert_close(schema.transform(csv), schema.transform(parquet))
    assert isinstance(parquet["job"].dtype, pd.CategoricalDtype)
    assert read_parquet(tmp_path / "t.parquet", ["sex"]).columns.tolist() == ["sex"]


def test_parquet_types(tmp_path):
    table = pa.table(
        {"n": pa.array([1, None, 3], pa.int32()), "yes": [True, None, False], "d": [datetime.date(2020, 1, 1)] * 3}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_parquet(tmp_path / "t.parquet", ["n", "yes"])
    assert read["n"].tolist()[::2] == [1.0, 3.0]
    assert read["n"].isna().tolist() == read["yes"].isna().tolist() == [False, True, False]
    with pytest.raises(DataError, match="column 'd' holds date32"):
        read_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"unknown column 'm'\. The table has n, yes, d"):
        read_parquet(tmp_path / "t.parquet", ["m"])


def test_damaged_parquet_is_said(tmp_path):
    frame_of(50).to_parquet(tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_parquet(tmp_path / "t.parquet")


def test_type_of_a_column_is_known_at_its_last_cell_only(tmp_path):
    rows = 400_000
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "007,1\n" * rows + "x,2.5\n")
    with pytest.warns(KrepesWarning, match="400,000 of 400,001 cells of column 'a'"):
        frame = read_csv(path)
    assert frame["a"].value_counts().to_dict() == {"007": rows, "x": 1}
    assert frame["b"].dtype == float


def test_numbers_in_all_their_spellings(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n+1, 1e3 ,inf\n-2.5,?,1\n")
    frame = read_csv(tmp_path / "t.csv")
    assert frame["a"].tolist() == [1.0, -2.5]
    assert frame["b"][0] == 1000.0
    assert frame["c"].tolist() == ["inf", "1"]


def test_coded_table_holds_few_bytes_per_row():
    frame = frame_of(1000)
    source = TableSource(frame, TableSchema.fit(frame))
    held = source.codes.dense.nbytes + source.codes.hot.nbytes
    assert held <= 100 * len(frame)
    assert source.codes.width > 8


def test_memory_map_is_not_read_and_not_written(tmp_path, recwarn):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(4, 3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = ArraySource(mapped)
    batch = source.batch(range(1, 3))
    batch += 100
    assert source.batch([1, 2]).tolist() == [[3, 4, 5], [6, 7, 8]]
    assert not recwarn.list


def test_row_ids_are_a_sequence():
    ids = RowIds(1_000_000, "row-")
    assert (len(ids), ids[3], ids[-1], ids[2:4]) == (1_000_000, "row-3", "row-999999", ["row-2", "row-3"])
    assert ids.index("row-7") == 7
    with pytest.raises(IndexError):
        ids[1_000_000]


@pytest.mark.parametrize(
    "indices", [range(2, 5), range(4, 1, -1), range(-2, 0), range(0, 5, 2), [4, 0, 4], [], torch.tensor([3, 1])]
)
def test_positions_may_be_a_range_a_list_or_a_tensor(indices):
    frame = frame_of(5)
    for source in (TableSource(frame, TableSchema.fit(frame)), ArraySource(torch.arange(10.0).reshape(5, 2))):
        whole = source.batch(range(5))
        assert torch.equal(
            source.batch(indices), torch.stack([whole[i] for i in indices]) if len(indices) else whole[:0]
        )
        with pytest.raises(IndexError):
            source.batch(range(3, 6))


def test_constant_columns_and_tables_of_one_kind_are_encoded():
    frame = pd.DataFrame({"x": [2.0, 2.0], "job": pd.Categorical(["a", "a"], ["a", "never"])})
    with pytest.warns(KrepesWarning, match="constant"):
        schema = TableSchema.fit(frame)
    assert TableSource(frame, schema).batch([1, 0]).tolist() == [[0, 1, 0, 0]] * 2
    for name, width in (("x", 1), ("job", 3)):
        part = TableSchema(tuple(c for c in schema.columns if c.name == name))
        assert Scarf.of_table(TableSource(frame, part))(torch.ones(4, width), torch.Generator()).shape == (4, width)


def test_categories_are_told_apart_as_text():
    mixed = pd.DataFrame({"c": pd.Series([1, True, "1.0", None, 1.0], dtype=object)})
    schema = TableSchema.fit(mixed)
    assert schema.columns[0].categories == ("1", "1.0", "True")
    assert schema.transform(mixed).argmax(1).tolist() == [0, 2, 1, 3, 1]
    small = pd.DataFrame({"c": np.array([0.1, 0.2], np.float32)})
    assert TableSchema.fit(small, categorical=["c"]).transform(small).argmax(1).tolist() == [0, 1]


def test_text_in_a_numeric_column_is_named_with_its_row():
    schema = TableSchema.fit(pd.DataFrame({"age": [1.0, 2.0]}))
    with pytest.raises(DataError, match=r"row 1 holds 'x' \(1 such cells\)"):
        TableSource(pd.DataFrame({"age": pd.Categorical(["1", "x"])}), schema)
    assert schema.transform(pd.DataFrame({"age": pd.Categorical(["1", "2"])})).flatten().tolist() == [-1, 1]


def test_a_fingerprint_covers_ids_schema_and_cells():
    frame = frame_of(20)
    schema = TableSchema.fit(frame)
    same = TableSource(frame.copy(), schema, [f"row-{i}" for i in range(20)]).fingerprint()
    assert TableSource(frame, schema).fingerprint() == same
    other = frame.copy()
    other.loc[3, "age"] += 1
    prints = {same, TableSource(other, schema).fingerprint(), TableSource(frame, TableSchema.fit(other)).fingerprint()}
    assert len(prints | {TableSource(frame, schema, range(20)).fingerprint()}) == 4


def test_metadata_is_not_copied_and_safe_from_changes_of_the_frame():
    frame = frame_of(20)
    source = TableSource(frame, TableSchema.fit(frame))
    assert source.metadata() is source.metadata()
    before = source.row(3)
    frame.loc[3, "age"] = -1.0
    assert source.row(3) == before == source.metadata().iloc[3].to_dict()


def test_donors_depend_on_the_generator_alone_and_come_from_the_table():
    frame = frame_of(300)
    source = TableSource(frame, TableSchema.fit(frame))
    view, x = Scarf.of_table(source, 1.0), torch.full((400, source.schema.width), 7.0)
    torch.manual_seed(0)
    drawn = view(x, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    assert torch.equal(drawn, Scarf.of_table(source, 1.0)(x.clone(), torch.Generator().manual_seed(5)))
    encoded = source.batch(range(300))
    for part in source.schema.slices.values():
        assert {tuple(r) for r in drawn[:, part].tolist()} <= {tuple(r) for r in encoded[:, part].tolist()}
    assert len(torch.unique(drawn[:, 0])) > 150  # a donor per sample and feature, not one for all
