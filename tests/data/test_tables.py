"""Tables: what a CSV means, and how rows become encoder inputs."""

import pandas as pd
import pytest
import torch

from krepes.data import ArraySource, DatasetSource, TableSchema, TableSource, as_source, read_csv
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
