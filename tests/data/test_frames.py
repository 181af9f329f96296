"""Data frames of any library, and schemas that people look at, edit and save."""

import json

import hypothesis.strategies as st
import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings

from krepes.data import TableSchema, TableSource
from krepes.data.frames import infer_schema, table_of
from krepes.data.readers import read_parquet
from krepes.data.tables import Column
from krepes.errors import ConfigError, DataError, KrepesWarning

ROWS = 30
FRAME = pd.DataFrame(
    {
        "age": np.random.default_rng(0).normal(40, 9, ROWS),
        "children": [0, 1, 2] * 10,
        "member": [True, False, True] * 10,
        "smokes": [0, 1, 1] * 10,
        "size": pd.Categorical(["S", "L", "M"] * 10, ["S", "M", "L"], ordered=True),
        "job": ["clerk", None, "?"] * 9 + ["b", "no", "01"],
    }
)


def as_pyarrow(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


def as_polars(frame):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    made = polars.from_arrow(as_pyarrow(frame))
    ordered = {
        name: polars.Enum(values.cat.categories.tolist())
        for name, values in frame.items()
        if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered
    }
    return made.cast(ordered)


KINDS = [pd.DataFrame, as_pyarrow, as_polars, nw.from_native, lambda f: nw.from_native(as_pyarrow(f)).lazy()]


@pytest.mark.parametrize("kind", KINDS, ids=["pandas", "pyarrow", "polars", "narwhals", "lazy"])
def test_a_frame_of_any_library_is_the_same_table(kind):
    frame = FRAME.drop(columns="size")
    found = table_of(kind(frame))
    assert found.dtypes.map(str).tolist() == ["float64", "float64", "category", "float64", "category"]
    np.testing.assert_array_equal(found["age"], FRAME["age"])
    assert found["job"].isna().sum() == 18
    schema = TableSchema.fit(found)
    source = TableSource.of(kind(frame), schema)
    assert torch.equal(source.batch(range(ROWS)), schema.transform(found))
    assert source.fingerprint() == TableSource.of(frame, schema).fingerprint()


def test_a_frame_and_the_file_that_it_is_written_to_are_the_same_table(tmp_path):
    FRAME.drop(columns="size").to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(table_of(FRAME.drop(columns="size")), read_parquet(tmp_path / "t.parquet"))


def test_ids_come_from_a_column_that_is_not_encoded():
    frame = FRAME.assign(code=[f"{i:03d}" for i in range(ROWS)], odd=[[1]] * ROWS)
    schema = TableSchema.fit(FRAME, features=["age", "job"])
    source = TableSource.of(frame, schema, ids="code")
    assert source.ids[:2] == ["000", "001"]
    assert source.metadata().columns.tolist() == ["age", "job"]
    assert TableSource.of(frame, schema).ids == [f"row-{i}" for i in range(ROWS)]


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        ([1, 2], {}, "a list is no data frame"),
        (pd.Series([1]), {}, "is no data frame"),
        (pd.DataFrame({"a": []}), {}, "holds no rows"),
        (pd.DataFrame(index=range(3)), {}, "no (rows|columns)"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "cannot be read as a table"),
        (pd.DataFrame({"a": [1, "x", None]}), {}, "column 'a' holds values of several types"),
        (pd.DataFrame({"a": [[1], [2]]}), {}, "column 'a' holds list"),
        (pd.DataFrame({"age": [1]}), {"columns": ["agee"]}, "did you mean 'age'"),
    ],
)
def test_a_frame_that_is_no_table_is_refused(frame, options, message):
    with pytest.raises(DataError, match=message):
        table_of(frame, **options)


@pytest.mark.parametrize("kind", [pd.DataFrame, as_polars], ids=["pandas", "polars"])
def test_kinds_and_ranges_are_inferred(kind):
    schema = infer_schema(kind(FRAME))
    assert {c.name: c.kind for c in schema.columns} == {
        "age": "numeric", "children": "numeric", "member": "boolean", "smokes": "numeric", "size": "ordinal",
        "job": "categorical",
    }  # fmt: skip
    found = {c.name: c for c in schema.columns}
    assert (found["age"].minimum, found["age"].maximum) == (FRAME["age"].min(), FRAME["age"].max())
    assert found["size"].categories == ("S", "M", "L")
    assert found["job"].missing == 18
    assert found["job"].categories == ("01", "b", "clerk", "no")


def test_ordinal_numbers_are_ordered_as_numbers():
    schema = infer_schema(pd.DataFrame({"n": [10, 9, 2, 100] * 2}), kinds={"n": "ordinal"})
    assert schema.columns[0].categories == ("2", "9", "10", "100")


@pytest.mark.parametrize("fit", [TableSchema.fit, infer_schema])
def test_fitting_and_inferring_know_the_same_kinds(fit):
    frame = FRAME.assign(
        constant=7, count=range(ROWS), few=[1.0, 2.0, np.nan] * 10, whole=[3, 1] * 15, maybe=[True, None, False] * 10
    )
    with pytest.warns(KrepesWarning, match="'constant' is constant"):
        kinds = {c.name: c.kind for c in fit(frame).columns}
    assert kinds == {
        "age": "numeric", "children": "numeric", "member": "boolean", "smokes": "numeric", "size": "ordinal",
        "job": "categorical", "constant": "numeric", "count": "numeric", "few": "numeric", "whole": "numeric",
        "maybe": "boolean",
    }  # fmt: skip
    assert fit(frame[["whole"]], kinds={"whole": "ordinal"}).columns[0].kind == "ordinal"
    with pytest.raises(ConfigError, match="'ranked'"):
        fit(frame, kinds={"whole": "ranked"})


@pytest.mark.parametrize("fit", [TableSchema.fit, infer_schema])
@pytest.mark.parametrize("kind", [pd.Series, pd.Categorical])
def test_a_column_that_is_nearly_numeric_is_said_unless_its_kind_is(fit, kind):
    frame = pd.DataFrame({"x": kind(["1,5"] * 30 + ["2"] * 29 + ["many"])})
    said_of_x = r"29 of 60 cells of column 'x' of the data frame.*row 0 holds '1,5'.*decimal comma.*kinds=\{'x'"
    with pytest.warns(KrepesWarning, match=said_of_x) as said:
        assert fit(frame).columns[0].kind == "categorical"
    assert len(said) == 1
    assert fit(frame, kinds={"x": "categorical"}) == TableSchema.fit(frame, categorical=["x"])


def test_a_kind_can_be_said_and_a_wrong_one_is_refused():
    assert infer_schema(FRAME, kinds={"children": "numeric"}).columns[1].kind == "numeric"
    with pytest.raises(ConfigError, match="'ranked'"):
        infer_schema(FRAME, kinds={"children": "ranked"})
    with pytest.raises(ConfigError, match="'nobody'"):
        infer_schema(FRAME, kinds={"nobody": "numeric"})
    with pytest.raises(DataError, match="column 'job' holds 'clerk'"):
        infer_schema(FRAME, kinds={"job": "numeric"})
    with pytest.raises(DataError, match="3 different values; a boolean has two"):
        infer_schema(FRAME, kinds={"children": "boolean"})


def test_labels_are_left_out_or_refused():
    assert "job" not in infer_schema(FRAME, label="job").slices
    with pytest.raises(DataError, match="labels never reach the encoder"):
        infer_schema(FRAME, features=["age", "job"], label="job")


def test_a_column_that_names_rows_is_said():
    with pytest.warns(KrepesWarning, match="'code' has 30 different texts in 30 rows: it names rows"):
        infer_schema(FRAME.assign(code=[f"c{i}" for i in range(ROWS)]))


def test_ordinal_text_is_shown_in_its_order_and_compared_as_ranks():
    schema = infer_schema(FRAME)
    frame = pd.DataFrame(FRAME).assign(size=FRAME["size"].astype(str))
    source = TableSource.of(frame, schema)
    assert source.metadata()["size"].tolist() == FRAME["size"].tolist()
    assert source.metadata()["size"].cat.ordered
    assert source.metadata()["size"].cat.codes.tolist() == [0, 2, 1] * 10
    assert torch.equal(source.batch(range(ROWS)), schema.transform(table_of(FRAME)))


def test_an_unseen_rank_is_encoded_as_unseen_and_still_shown():
    schema = infer_schema(FRAME[["size"]])
    with pytest.warns(KrepesWarning, match="not seen"):
        source = TableSource(pd.DataFrame({"size": ["S", "XL", None]}), schema)
    assert source.metadata()["size"].tolist()[:2] == ["S", "XL"]
    assert source.metadata()["size"].isna().tolist() == [False, False, True]
    assert source.batch(range(3)).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]


@pytest.mark.parametrize("name", ["s.yaml", "s.yml", "s.json"])
def test_a_schema_is_the_same_after_it_was_saved(tmp_path, name):
    schema = infer_schema(FRAME)
    schema.save(tmp_path / name)
    assert TableSchema.load(tmp_path / name) == schema


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    categories=st.lists(TEXTS, min_size=1, max_size=30, unique=True),
    numbers=st.tuples(FLOATS, st.floats(0, 1e300), FLOATS),
    suffix=st.sampled_from(["yaml", "json"]),
)
def test_any_schema_is_the_same_after_it_was_saved(names, categories, numbers, suffix, tmp_path_factory):
    mean, std, low = numbers
    columns = [Column(names[0], "numeric", mean, std, low, max(low, 1.0), 3)]
    kinds = ["ordinal", "categorical", "ordinal"]
    columns += [Column(n, k, categories=tuple(categories)) for n, k in zip(names[1:], kinds, strict=False)]
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    TableSchema(tuple(columns)).save(path)
    assert TableSchema.load(path) == TableSchema(tuple(columns))


GOOD = """- name: age
  kind: numeric
  mean: 4e1
  std: 9
  minimum: 1
  maximum: 99
- name: smokes
  kind: boolean
  categories: [no, yes]
- name: code
  kind: categorical
  missing: 1
  categories:
    - 01
    - ~
"""


def test_a_schema_that_was_written_by_hand_means_what_it_looks_like(tmp_path):
    (tmp_path / "s.yaml").write_text("\ufeff" + GOOD, encoding="utf-8")
    schema = TableSchema.load(tmp_path / "s.yaml")
    assert schema.columns == (
        Column("age", "numeric", 40.0, 9.0, 1.0, 99.0),
        Column("smokes", "boolean", categories=("no", "yes")),
        Column("code", "categorical", missing=1, categories=("01", "~")),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mean: 4e1", "mean: many", "line 3: column 'age': mean is 'many'; expected a number"),
        ("mean: 4e1", "mean:", "line 3: column 'age': mean is ''"),
        ("mean: 4e1", "mean: [1]", "line 3: column 'age': mean"),
        ("std: 9", "std: -1", "line 4: column 'age': std is -1"),
        ("std: 9", "sd: 9", "line 4: column 'age': sd is no field; did you mean 'std'"),
        ("std: 9", "std: 9\n  std: 8", "line 5, is no valid YAML: 'std' stands twice"),
        ("minimum: 1", "minimum: 100", "line 5: column 'age': minimum is 100, above the maximum"),
        ("kind: boolean", "kind: bool", "line 8: column 'smokes': kind is 'bool'; expected numeric, ordinal"),
        ("[no, yes]", "[no, yes, maybe]", "line 9: column 'smokes': categories has 3 entries for a boolean"),
        ("[no, yes]", "[no, no]", "line 9: column 'smokes': categories name 'no' more than once"),
        ("[no, yes]", "[no, [yes]]", "line 9: column 'smokes': categories is no list of texts"),
        ("[no, yes]", "no", "line 9: column 'smokes': categories is no list of texts"),
        ("[no, yes]", "[no, yes", "line 10, is no valid YAML"),
        ("  categories: [no, yes]\n", "", "line 7: column 'smokes': categories has 0 entries"),
        ("  kind: boolean\n", "", "line 7: column 'smokes': kind is missing"),
        ("missing: 1", "missing: 1.5", "line 12: column 'code': missing is '1.5'"),
        ("name: code", "name: age", "line 10: column 'age': name is the name of a column before it"),
        ("kind: numeric", "kind: numeric\n  categories: [a]", "line 3: column 'age': categories are given for a num"),
        ("- name: code\n", "- just text\n- name: code\n", "line 10: entry 3: it is a str"),
    ],
)
def test_a_mistake_in_an_edited_schema_is_named_by_line_and_column(tmp_path, old, new, message):
    assert old in GOOD
    (tmp_path / "s.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        TableSchema.load(tmp_path / "s.yaml")
    assert f"s.yaml, {message}" in str(error.value)


def test_mistakes_in_json_are_named_by_line_too(tmp_path):
    path = tmp_path / "s.json"
    infer_schema(FRAME[["age", "job"]]).save(path)
    good = path.read_text()
    path.write_text(good.replace('"kind": "categorical"', '"kind": "categoric"'))
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "categoric" in text)
    with pytest.raises(DataError, match=f"line {line}: column 'job': kind is 'categoric'"):
        TableSchema.load(path)
    path.write_text(good.replace('"kind"', "kind", 1))
    with pytest.raises(DataError, match="line 4, is no valid JSON"):
        TableSchema.load(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "3", json.dumps({"columns": []})])
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_file_that_is_no_schema_is_refused(tmp_path, content, suffix):
    (tmp_path / f"s.{suffix}").write_text(content)
    with pytest.raises(DataError, match=rf"s.{suffix}.*(no table schema|no valid JSON)"):
        TableSchema.load(tmp_path / f"s.{suffix}")


def test_a_schema_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_bytes(b"- name: \xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        TableSchema.load(tmp_path / "s.yaml")
