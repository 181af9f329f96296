"""Files as tables: every cell means what a slow reader would say, whatever the blocks."""

import csv
import datetime
import io
from functools import partial
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings

from krepes.data import TableSchema, csv_table
from krepes.data.cells import MISSING
from krepes.data.csv_table import read_csv
from krepes.data.frames import infer_schema, table_of
from krepes.data.readers import read_parquet, read_table
from krepes.errors import DataError, KrepesWarning

CELLS = st.sampled_from(["1", "-2.5", "+3", "+-3", "1e4", "007", "inf", "?", "NA", "", " ü ", "b", "B ", "5.", "\t6"])


def read_slowly(rows: list[list[str]]) -> list[list]:
    """Columns as numbers where every cell that is not missing is a finite number, else as text; None is missing."""
    columns = []
    for cells in zip(*rows, strict=True):
        text = [None if c.strip() in MISSING else c.strip() for c in cells]
        values = pd.to_numeric(pd.Series([t for t in text if t is not None], dtype=object), errors="coerce")
        if len(values) and bool(np.isfinite(values.to_numpy(float)).all()):
            numbers = iter(values.astype(float))
            text = [None if t is None else next(numbers) for t in text]
        columns.append(text)
    return columns


@pytest.mark.filterwarnings("ignore::krepes.errors.KrepesWarning")
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=60), block=st.integers(40, 400))
@example(rows=[["007", "1"]] * 50 + [["x", "?"]], block=40)
@example(rows=[["?", "?"]] * 50 + [["x", "1"]], block=40)
@example(rows=[["?", "1"]] * 50, block=40)
def test_a_csv_reads_the_same_in_any_blocks(rows, block, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "t.csv"
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    path.write_text(out.getvalue(), encoding="utf-8")
    with mock.patch.object(csv_table, "CHUNK", block):
        frame = read_csv(path)
    for name, expected in zip("ab", read_slowly(rows), strict=True):
        numeric = any(isinstance(v, float) for v in expected)
        assert (frame[name].dtype == float) == numeric
        assert [None if pd.isna(v) else v for v in frame[name]] == expected


def test_a_frame_that_was_read_can_be_changed(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n")
    pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        frame = read_table(tmp_path / name)
        frame.loc[0, "a"], frame.loc[0, "b"] = 9.0, "y"
        assert frame.to_numpy().tolist() == [[9.0, "y"], [2.0, "y"]]


def test_names_that_blanks_alone_tell_apart_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a, a\n1,2\n")
    with pytest.raises(DataError, match="column names a occur more than once"):
        read_csv(tmp_path / "t.csv")


def test_ids_keep_their_spelling(tmp_path):
    (tmp_path / "t.csv").write_text("id,a\n007,1\n08,2\n")
    assert read_table(tmp_path / "t.csv", text=["id"])["id"].tolist() == ["007", "08"]
    pq.write_table(pa.table({"id": [2**60 + 1, 5]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", text=["id"])["id"].tolist() == [str(2**60 + 1), "5"]


def test_a_name_that_no_column_has_is_refused_with_the_nearest(tmp_path):
    (tmp_path / "t.csv").write_text("code,age\n007,1\n")
    pq.write_table(pa.table({"code": ["007"], "age": [1]}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(DataError, match="unknown column 'cod'; did you mean 'code'"):
            read_table(tmp_path / name, text=["cod"])
    with pytest.raises(DataError, match="unknown column 'agee'; did you mean 'age'"):
        read_table(tmp_path / "t.parquet", ["agee"])


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.dictionary(pa.int32(), pa.int64())])
def test_whole_numbers_that_float64_rounds_are_said_with_what_keeps_them(tmp_path, kind):
    path, values = tmp_path / "t.parquet", [2**53 + 1, None, 5]
    column = pa.array(values, kind) if pa.types.is_integer(kind) else pa.array(values).dictionary_encode()
    frame = pa.table({"id": column, "n": [2**53 - 1, 2, 3], "x": [1e300, 1.5, 2.0]})
    pq.write_table(frame, path, row_group_size=1)
    for read, where in ((partial(read_parquet, path), "t.parquet"), (partial(table_of, frame), "the data frame")):
        with pytest.warns(KrepesWarning, match=rf"column 'id' of .*{where}.* beyond 2\^53.*text=\['id'\]") as said:
            read()
        assert len(said) == 1
        assert read(text=["id"])["id"].tolist()[0] == str(2**53 + 1)


def test_whole_numbers_of_a_csv_that_float64_rounds_are_said_too(tmp_path):
    (tmp_path / "t.csv").write_text(f"id,n,x\n{2**53 + 1},{2**53 - 1},1e300\n-5,1,2\n")
    with pytest.warns(KrepesWarning, match=r"column 'id' of .* beyond 2\^53.*text=\['id'\]") as said:
        read_csv(tmp_path / "t.csv")
    assert len(said) == 1
    assert read_csv(tmp_path / "t.csv", text=["id"])["id"].tolist() == [str(2**53 + 1), "-5"]


NEARLY = ["1.5"] * 30 + ["2"] * 28 + ["n/a", None]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_nearly_numeric_is_said_once_from_file_to_schema(tmp_path, suffix):
    frame = pd.DataFrame({"x": NEARLY, "words": ["a", "b"] * 30, "code": NEARLY})
    path = tmp_path / f"t.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    place = "line 60" if suffix == "csv" else "row 58"
    said_of_x = rf"58 of 59 cells of column 'x' of .*t.{suffix} are numbers; {place} holds 'n/a'.*text="
    with pytest.warns(KrepesWarning, match=said_of_x) as said:
        read = read_table(path, text=["code"])
    assert len(said) == 1
    with pytest.warns(KrepesWarning, match="column 'code' of the data frame") as said:
        infer_schema(read)
    assert len(said) == 1
    infer_schema(read, kinds={"code": "categorical"})


PARQUET_COLUMNS = [
    (pa.array(["a", " b ", "?", None]).dictionary_encode(), ["a", "b", None, None]),
    (pa.array([1, 2, None, 3]).dictionary_encode(), [1.0, 2.0, None, 3.0]),
    (pa.array(["x", "y", "", None], pa.large_string()), ["x", "y", None, None]),
    (pa.array([1, None, 3, 4], pa.int8()), [1.0, None, 3.0, 4.0]),
    (pa.array([2**63 + 1, 1, 2, 3], pa.uint64()), [2.0**63, 1.0, 2.0, 3.0]),
    (pa.array([1, 2, 3, None]).cast(pa.decimal128(38, 2)), [1.0, 2.0, 3.0, None]),
    (pa.array([True, False, None, True]), ["True", "False", None, "True"]),
    (pa.nulls(4), [None] * 4),
]


@pytest.mark.filterwarnings("ignore:.*beyond 2.53:krepes.errors.KrepesWarning")
@pytest.mark.parametrize(("column", "expected"), PARQUET_COLUMNS, ids=[str(c.type) for c, _ in PARQUET_COLUMNS])
def test_a_parquet_type_becomes_numbers_or_categories(tmp_path, column, expected):
    pq.write_table(pa.table({"c": column}), tmp_path / "t.parquet")
    found = read_parquet(tmp_path / "t.parquet")["c"]
    assert [None if pd.isna(v) else v for v in found] == expected
    assert found.dtype == float or isinstance(found.dtype, pd.CategoricalDtype)


def test_booleans_of_a_frame_and_of_a_file_are_the_same_categories(tmp_path):
    frame = pd.DataFrame({"yes": [True, False, True]})
    frame.to_parquet(tmp_path / "t.parquet")
    schema = TableSchema.fit(frame)
    assert schema.transform(read_parquet(tmp_path / "t.parquet")).tolist() == schema.transform(frame).tolist()


@pytest.mark.parametrize(
    ("column", "kind"),
    [([[1], [2]], "list"), ([{"a": 1}] * 2, "struct"), ([datetime.datetime(2020, 1, 1)] * 2, "timestamp")],
)
def test_other_types_are_refused_by_name_and_do_not_disturb_where_they_are_not_read(tmp_path, column, kind):
    pq.write_table(pa.table({"odd": column, "a": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"column 'odd' holds {kind}"):
        read_parquet(tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet", ["a"])["a"].tolist() == [1.0, 2.0]


def test_an_unusable_parquet_file_is_refused_with_its_reason(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_table(path)
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(DataError, match="column names a occur more than once"):
        read_table(path)
    pq.write_table(pa.table({"age": pa.array([], pa.int8())}), path)
    with pytest.raises(DataError, match="holds no rows"):
        read_table(path)
    with pytest.raises(DataError, match="did you mean 'age'"):
        read_table(path, ["agee"])
    with pytest.raises(DataError, match="no lines to skip"):
        read_table(path, skip_lines=1)


def test_a_damaged_page_is_a_data_error(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"x": np.random.default_rng(0).random(50_000)}).to_parquet(path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[4:60_000] = b"\xff" * (60_000 - 4)
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_parquet(path)
