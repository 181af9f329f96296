"""Files of the right names with odd contents: other orders, other types, far too much; each answered in words."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from krepes.app import pieces, selection
from krepes.app.exports import harmless, lines
from tests.app.runs import Asker, write_manifest
from tests.app.test_app_damage import nothing_breaks, problems


@pytest.fixture
def run(tables, tmp_path):
    return shutil.copytree(tables, tmp_path / "run")


def points_with(run, **columns) -> None:
    """points.parquet with columns replaced or added."""
    table = pq.read_table(run / "points.parquet")
    for name, values in columns.items():
        at = table.column_names.index(name) if name in table.column_names else None
        table = table.append_column(name, values) if at is None else table.set_column(at, name, values)
    pq.write_table(table, run / "points.parquet")


# ------------------------------------------------------------------ influences


@pytest.mark.parametrize("order", ["rank", "shuffled", "backwards"])
@pytest.mark.parametrize("size", [5 * 5000, 777])
def test_influences_in_any_order_are_the_samples_own(run, order, size):
    table = pq.read_table(run / "influence.parquet")
    n = len(table)
    by = {
        "rank": pc.sort_indices(table, [("rank", "ascending"), ("landmark", "ascending")]),
        "shuffled": pa.array(np.random.default_rng(1).permutation(n)),
        "backwards": pa.array(np.arange(n)[::-1]),
    }[order]
    pq.write_table(table.take(by), run / "influence.parquet", row_group_size=size)
    asker = Asker(run)
    for position in (0, 17, 4999):
        mine = table.slice(position * 5, 5).to_pandas()
        found, complete = asker.state.stored.scores(position, f"row-{position}")
        assert not complete
        assert found["landmark"].tolist() == mine["landmark"].tolist()
        np.testing.assert_array_equal(found["contribution"], mine["contribution"])
        assert asker.told(f"/api/explain/{position}")["source"] == "stored"


def test_scores_that_are_no_numbers_are_left_out_and_told(run):
    table = pq.read_table(run / "influence.parquet")
    values = table.column("contribution").to_numpy().copy()
    values[:5] = [np.nan, 1, -1, np.inf, 2]
    pq.write_table(table.set_column(4, "contribution", pa.array(values)), run / "influence.parquet")
    found = Asker(run).told("/api/explain/0")
    assert [i["contribution"] for i in found["attract"] + found["repel"]] == [2, 1, -1]
    assert found["notes"] == ["2 landmarks have no finite score of this sample and are left out."]
    assert Asker(run).told("/api/explain/1")["notes"] == []


@pytest.mark.parametrize("name", ["influence.parquet", "explained.parquet"])
@pytest.mark.parametrize("column", ["contribution", "influence", "sample"])
def test_explanations_of_another_type_are_told(run, name, column):
    table = pq.read_table(run / "influence.parquet")
    at = table.column_names.index(column)
    odd = pa.array([["x"]] * len(table)) if column == "sample" else pa.array(["much"] * len(table))
    pq.write_table(table.set_column(at, column, odd), run / name)
    asker = Asker(run)
    nothing_breaks(asker)
    asker.get("/api/explain/1")
    assert column == "sample" or f"{name} holds no numbers" in problems(asker)


# ------------------------------------------------------------------ columns of points.parquet


@pytest.mark.parametrize("name", ["data.number", "x", "id", "landmarks"])
@pytest.mark.parametrize("file", ["points.parquet", "landmarks.parquet", "influence.parquet"])
def test_columns_that_are_there_twice(run, name, file):
    table = pq.read_table(run / file)
    name = name if name in table.column_names else table.column_names[1]
    pq.write_table(table.append_column(name, table.column(name)), run / file)
    asker = Asker(run)
    nothing_breaks(asker)
    assert "names that several columns share" in problems(asker)
    assert "number" not in [c["name"] for c in asker.told("/api/run")["columns"]] or name != "data.number"


def test_landmarks_in_lists_of_lists(run):
    points_with(run, landmarks=pa.array([[["row-1"], ["row-2"]]] * 5000))
    asker = Asker(run)
    nothing_breaks(asker)
    assert asker.told("/api/select", positions=[1, 2])["landmarks"] == []
    assert "holds no lists of ids" in problems(asker)


@pytest.mark.parametrize("ids", [[["a"]] * 5000, [{"a": 1}] * 5000, [b"\xff"] * 5000])
def test_ids_of_another_type(run, ids):
    points_with(run, id=pa.array(ids))
    asker = Asker(run)
    nothing_breaks(asker)
    assert "Column id of points.parquet holds no ids" in problems(asker)


@pytest.mark.parametrize("values", [
    pa.array([2**62] * 5000, pa.timestamp("us")), pa.array([2**31 - 1] * 5000, pa.date32()),
    pa.array([0] * 5000, pa.timestamp("us", "Nowhere/Land")), pa.array([1] * 5000, pa.time64("ns")),
    pa.array([1] * 5000, pa.time64("us")), pa.array([2**62] * 5000, pa.duration("s")),
    pa.array([[2**62]] * 5000, pa.list_(pa.timestamp("us"))),
])  # fmt: skip
def test_dates_that_python_does_not_have(run, values):
    points_with(run, **{"data.when": values})
    asker = Asker(run)
    nothing_breaks(asker)
    assert "when" in asker.told("/api/samples?limit=2")["rows"][0]["cells"]
    assert asker.told("/api/select", where="number > 0.5")["n"] == 2499
    for query in ("when > 1", "when == 'x'", "when > '2020-01-01'", "isna(when)", "when == number"):
        found = asker.post("/api/select", json={"where": query})
        assert found.status_code in (200, 422), (query, found.text)
        assert "inside krepes" not in found.text
    assert asker.get("/export/selection.csv?q=row-12").status_code == 200


def test_a_title_that_is_no_unicode(run):
    write_manifest(run, config={"title": "half \ud800 a pair"})
    asker = Asker(run)
    assert "half ? a pair" in asker.get("/").text
    assert asker.told("/api/run")["title"] == "half ? a pair"


# ------------------------------------------------------------------ too much


def test_long_lists_of_landmarks_are_clipped(run):
    long = [["row-1"] * 5 + [f"row-{i}" for i in range(30)]] + [["row-2"]] * 4998 + [None]
    points_with(run, landmarks=pa.array(long))
    asker = Asker(run)
    nothing_breaks(asker)
    assert asker.told("/api/select", positions=[1, 2])["landmarks"][0]["id"] == "row-2"
    assert asker.state.tops.codes.shape == (5000, selection.COMMON)
    assert "the first 10 count" in problems(asker)


def test_millions_of_landmarks_in_one_row_are_not_read(run):
    one = pa.DictionaryArray.from_arrays(np.zeros(3_000_000, np.int32), ["row-1"])
    lists = pa.ListArray.from_arrays(pa.array([0, *[3_000_000] * 5000], pa.int32()), one)
    points_with(run, landmarks=lists)
    asker = Asker(run)
    nothing_breaks(asker)
    asker.told("/api/select", positions=[1, 2])
    assert "lists of landmarks with 3,004,999 entries in all; at most 1,048,576 are read" in problems(asker)


def test_row_groups_that_take_too_much_memory_are_not_read(run, monkeypatch):
    monkeypatch.setattr(pieces, "READ_BYTES", 1000)
    asker = Asker(run)
    nothing_breaks(asker)
    assert "bytes; at most 1,000 are read at once" in problems(asker)


def test_hundreds_of_millions_of_rows_are_not_read(run, monkeypatch):
    monkeypatch.setattr("krepes.stored.ROWS", 4999)
    asker = Asker(run)
    nothing_breaks(asker)
    assert "points.parquet says that it has 5,000 rows" in problems(asker)


def test_ids_that_would_not_fit_into_memory_are_not_read(run, monkeypatch):
    points_with(run, id=pa.array(["x" * 100_000] * 5000))
    monkeypatch.setattr("krepes.app.points.IDS_BYTES", 100_000 * 5000 - 1)
    asker = Asker(run)
    assert asker.told("/api/samples?limit=1")["rows"][0]["id"] == "0"
    assert "The ids in points.parquet take more than 499,999,999 bytes" in problems(asker)


def test_more_landmarks_than_can_be_are_not_read(run, monkeypatch):
    monkeypatch.setattr("krepes.app.landmarks.MOST", 9)
    asker = Asker(run)
    nothing_breaks(asker)
    assert "landmarks.parquet is damaged (10 rows; at most 9 are read)" in problems(asker)


def test_too_little_memory_is_told(asker, monkeypatch):
    def fail(position):
        raise pa.lib.ArrowMemoryError("malloc of size 9 failed")

    monkeypatch.setattr(asker.state, "explain", fail)
    assert "more memory than this machine has" in asker.refused("/api/explain/1", 507)


# ------------------------------------------------------------------ spreadsheets


@pytest.mark.parametrize("text", [
    "=1", "+1", "-1", "@x", " =1", "\n=1", "\ufeff=1", "\u200b\u00a0=1", "\tx", "\rx", "\nx", "＝1", "＋1", "－1",
    "＠x", " \u3000＝1", "\x00=1", "﹢1", "\u202e=1",
])  # fmt: skip
def test_formulas_of_all_kinds_are_shown_and_not_run(text):
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("cell", ["a=1", "", " ", "x", "1", "(-1)", 1, -1.5, None, True])
def test_other_cells_stay_as_they_are(cell):
    assert harmless(cell) == cell


def test_text_is_quoted_in_csv():
    assert lines([["a,b", 1, "x", -2.5]]) == b'"a,b",1,"x",-2.5\r\n'
