"""Tables: what a CSV means, and how rows become encoder inputs."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from krepes.data import ArraySource, DatasetSource, TableSchema, TableSource, as_source, names, read_csv
from krepes.errors import DataError, KrepesWarning


def csv(tmp_path, content: bytes, **options) -> pd.DataFrame:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    return read_csv(path, **options)


def test_cells_are_stripped_typed_and_missing(tmp_path):
    frame = csv(tmp_path, "\ufeffage, job\n39, clerk\n ?, \n50,b\n\n".encode())
    assert frame["age"].tolist()[::2] == [39.0, 50.0]
    assert pd.isna(frame["age"][1])
    assert frame["job"][0] == "clerk"
    assert frame["job"][1] is None or pd.isna(frame["job"][1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "same number of cells"),
        (b"a,b\n1,2\n3,4,5\n", "same number of cells"),
        (b"", "empty"),
        (b"a,b\n", "no rows"),
        (b"a,a\n1,2\n", "more than once"),
        (b"a\n\xff\xfe\xfa\n", "not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        csv(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*nothing\.csv"):
        read_csv(tmp_path / "nothing.csv")


FRAME = pd.DataFrame({"age": [20.0, 40.0, None], "job": ["a", None, "b"], "y": ["n", "p", "n"]})


def test_missing_and_unseen_values_have_their_own_slots():
    schema = TableSchema.fit(FRAME, label="y")
    x = schema.transform(FRAME)
    assert x.tolist() == [[-1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]]
    with pytest.warns(KrepesWarning, match="not seen"):
        assert schema.transform(pd.DataFrame({"age": [30.0], "job": ["zzz"]})).tolist() == [[0, 0, 0, 0, 0, 1]]


def test_the_label_and_unknown_columns_are_refused():
    with pytest.raises(DataError, match="labels never reach the encoder"):
        TableSchema.fit(FRAME, features=["age", "y"], label="y")
    with pytest.raises(DataError, match="did you mean 'age'"):
        TableSchema.fit(FRAME, features=["agee"])


def test_schema_survives_saving(tmp_path):
    schema = TableSchema.fit(FRAME, label="y")
    schema.save(tmp_path / "s.json")
    assert TableSchema.load(tmp_path / "s.json") == schema


def test_a_table_source_shows_raw_units():
    source = TableSource(FRAME, TableSchema.fit(FRAME, label="y"))
    assert source.kind == "table"
    assert source.metadata()["age"][1] == 40.0


def test_labelled_items_are_refused_unless_the_sample_is_named():
    data = torch.utils.data.TensorDataset(torch.randn(4, 3), torch.arange(4))
    with pytest.raises(DataError, match="seems to carry a label"):
        as_source(data)
    assert DatasetSource(data, take=0).batch([1, 2]).shape == (2, 3)


def test_duplicate_ids_are_named():
    with pytest.raises(DataError, match="more than once: a"):
        ArraySource(torch.zeros(3, 2), ids=["a", "b", "a"])


def test_whole_numbers_are_one_category_however_they_are_stored():
    schema = TableSchema.fit(pd.DataFrame({"code": [1, 2, 3] * 10}), categorical=["code"])
    exact = schema.transform(pd.DataFrame({"code": [1, 2, 3] * 10}))
    assert torch.equal(exact, schema.transform(pd.DataFrame({"code": [1.0, 2.0, 3.0] * 10})))
    old = TableSchema.fit(pd.DataFrame({"code": ["1.0", "2.0", "3.0"] * 10}), categorical=["code"])
    assert torch.equal(exact, old.transform(pd.DataFrame({"code": [1, 2, 3] * 10})))


def test_a_column_in_another_coding_is_refused():
    schema = TableSchema.fit(pd.DataFrame({"job": ["clerk", "cook"] * 20}), categorical=["job"])
    with pytest.raises(DataError, match="none of its 40 cells holds a category of the schema"):
        schema.transform(pd.DataFrame({"job": ["CLERK", "COOK"] * 20}))


def test_ids_may_be_the_name_of_a_column_and_a_single_text_is_no_list_of_ids():
    frame = FRAME.assign(pid=["007", "008", "009"])
    source = TableSource(frame, TableSchema.fit(FRAME, label="y"), ids="pid")
    assert source.ids == ["007", "008", "009"]
    assert source.metadata().columns.tolist() == ["age", "job"]
    with pytest.raises(DataError, match="unknown column 'pidd'; did you mean 'pid'"):
        TableSource(frame, source.schema, ids="pidd")
    with pytest.raises(DataError, match="1 ids are given more than once: a"):
        TableSource(frame.assign(pid=["a", "b", "a"]), source.schema, ids="pid")
    for ids in ("pid", "long"):  # as many letters as samples, or not
        with pytest.raises(DataError, match=rf"ids='{ids}' is a single text.*table\['{ids}'\]\.tolist\(\)"):
            ArraySource(torch.zeros(3, 2), ids=ids)


def test_columns_of_one_name_are_refused_where_they_are_wanted():
    frame = pd.DataFrame([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]], columns=["a", "b", "a"])
    for columns in (["a", "b", "a"], [1, "b", "1"]):
        twice = frame.set_axis(columns, axis=1)
        with pytest.raises(DataError, match=rf"more than one column named '{columns[2]}'; rename or remove"):
            TableSchema.fit(twice)
        schema = TableSchema.fit(twice, features=["b"])
        assert TableSource(twice, schema).batch([0]).tolist() == [[-1.0]]
    with pytest.raises(DataError, match="more than one column named 'a'"):
        TableSource(frame, TableSchema.fit(frame.iloc[:, :2]))
    assert len(TableSchema.fit(frame, features=["b", "b"]).columns) == 1


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([[1, 2], [3]], r"row 0 holds the list \[1, 2\]"),
        ([None, np.arange(90)], r"row 1 holds the ndarray array\(\[ 0, 1.* …;"),
        (["x", {"a": 1}], r"row 1 holds the dict \{'a': 1\}"),
        ([1, (2, 3)], r"row 1 holds the tuple \(2, 3\)"),
        (pd.array([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))), r"row 0 holds the list \[1\]"),
    ],
    ids=["list", "array", "dict", "tuple", "arrow"],
)
@pytest.mark.parametrize("kind", [None, "categorical", "numeric"])
def test_a_column_of_lists_is_refused_with_its_row(cells, said, kind):
    frame = pd.DataFrame({"x": pd.Series(cells), "age": [1.0, 2.0]})
    with pytest.raises(DataError, match=rf"column 'x': {said}.*leave it out with features=…"):
        TableSchema.fit(frame, kinds={} if kind is None else {"x": kind})
    assert TableSchema.fit(frame, features=["age"]).width == 1


def test_columns_named_by_numbers_are_encoded_as_they_were_fitted():
    frame = pd.DataFrame(np.arange(6.0).reshape(3, 2))
    schema = TableSchema.fit(frame)
    assert [c.name for c in schema.columns] == ["0", "1"]
    assert torch.equal(TableSource(frame, schema).batch(range(3)), schema.transform(frame.set_axis(["0", "1"], axis=1)))


def test_columns_are_found_by_name_without_a_search_through_all_of_them(monkeypatch):
    made = []
    places_of = names.places_of
    monkeypatch.setattr(names, "places_of", lambda frame: made.append(frame) or places_of(frame))
    monkeypatch.setattr(names, "require_name", lambda *_: pytest.fail("all names were searched"))
    frame = pd.DataFrame(np.arange(200.0).reshape(2, 100))
    schema = TableSchema.fit(frame)
    assert len(made) == 1
    assert len(TableSource(frame, schema)) == 2
    assert len(made) == 3
