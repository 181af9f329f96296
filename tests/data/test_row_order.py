"""Rows beside the samples are paired with them by the index where it names them, and never silently against it."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from krepes import Auditor, BarlowTwins, Newton
from krepes.audit.columns import raw_table
from krepes.data import ArrayImages, ArraySource, DatasetSource, LoaderSource, RowIds
from krepes.data.ids import ChosenIds
from krepes.data.order import in_order_of
from krepes.encoders import MLP
from krepes.errors import DataError, KrepesWarning

N = 200
GROUP = np.arange(N) % 2
KEPT = np.eye(2)[GROUP] * 2 + 0.3 * np.random.default_rng(0).normal(size=(N, 2))
X = torch.as_tensor(np.concatenate([KEPT, np.random.default_rng(2).normal(size=(N, 3))], 1)).float()
SHUFFLE = np.random.default_rng(1).permutation(N)
SILENT = "error::krepes.errors.KrepesWarning"


def keep_group(batch, generator):
    """Views that keep the first two columns and draw the others anew."""
    fresh = torch.randn(batch.shape, generator=generator)
    return torch.cat([batch[:, :2] + 0.1 * fresh[:, :2], fresh[:, 2:]], 1)


def fitted(ids) -> Auditor:
    torch.manual_seed(0)
    made = Auditor(MLP(5, (16,), 4).eval(), BarlowTwins(0.05), landmarks=40, newton=Newton(damping="auto"))
    return made.fit(ArraySource(X, ids), keep_group)


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    return fitted([f"p{7 * i:04d}" for i in range(N)])


@pytest.fixture
def table(auditor) -> pd.DataFrame:
    return pd.DataFrame({"pid": auditor.source_.ids, "group": np.array(["a", "b"])[GROUP]})


def test_a_shuffled_table_whose_index_is_the_ids_has_the_gap_of_the_samples_order(auditor, table):
    expected = auditor.feature_gap(table=table, columns=["group"], refits=0)
    unpaired = auditor.feature_gap(table=table.iloc[SHUFFLE].reset_index(drop=True), columns=["group"], refits=0)
    assert expected.at[0, "gap"] > 0.02 > unpaired.at[0, "gap"]
    found = auditor.feature_gap(table=table.set_index("pid").iloc[SHUFFLE], columns=["group"], refits=0)
    pd.testing.assert_frame_equal(found, expected)
    by_index = auditor.group_gap("group", table.set_index("pid").iloc[SHUFFLE], refits=0)
    pd.testing.assert_frame_equal(by_index, auditor.group_gap("group", table, refits=0))


@pytest.mark.filterwarnings(SILENT)
def test_metadata_given_with_ids_is_theirs_however_it_is_ordered(table):
    shuffled = table.set_index("pid").iloc[SHUFFLE]
    ids = list(table["pid"])
    images = np.zeros((N, 4, 4, 3), np.uint8)
    sources = [
        ArraySource(X, ids, shuffled),
        DatasetSource(TensorDataset(X), ids, shuffled, take=0),
        LoaderSource(DataLoader(X, batch_size=50), ids=ids, metadata=shuffled),
        ArrayImages(images, "NHWC", ids=ids, metadata=shuffled),
    ]
    for source in sources:
        assert source.metadata()["group"].tolist() == table["group"].tolist()


def test_agreement_with_landmarks_is_theirs_however_the_table_is_ordered(auditor, table):
    rows = table.head(3)
    expected = auditor.feature_influence(X[:3], rows, "group", table)
    found = auditor.feature_influence(X[:3], rows, "group", table.set_index("pid", drop=False).iloc[SHUFFLE])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ids", [None, RowIds(N, "row-")], ids=["numbers", "row-"])
def test_a_table_shuffled_before_the_samples_were_made_is_by_position_and_it_is_said(ids, table):
    auditor = fitted(ids)
    expected = auditor.feature_gap(table=table, columns=["group"], refits=0)
    said = r"index of the table holds the numbers 0 … 199 in another order.*as they stand.*source ids.*reset_index"
    for name in (None, "pid"):
        shuffled = table.set_axis(pd.Index(SHUFFLE, name=name))
        with pytest.warns(KrepesWarning, match=said) as warned:
            found = auditor.feature_gap(table=shuffled, columns=["group"], refits=0)
        assert [w.filename for w in warned] == [__file__]
        pd.testing.assert_frame_equal(found, expected)


def test_shuffled_row_numbers_beside_given_ids_are_by_position_and_it_is_said(auditor, table):
    with pytest.warns(KrepesWarning, match=r"taken as they stand.*ids, such as 'p0000'.*reset_index") as warned:
        found = raw_table(auditor, table.iloc[SHUFFLE])
    assert len(warned) == 1
    assert found["group"].tolist() == table["group"].iloc[SHUFFLE].tolist()


def test_text_that_names_some_samples_only_is_by_position_and_it_is_said(auditor, table):
    twice = [*table["pid"][:-1], table["pid"][0]]
    for names in (twice, [*table["pid"][:-1], "somebody"]):
        with pytest.warns(KrepesWarning, match="some of the samples' ids, and not each of them once"):
            found = raw_table(auditor, table.set_axis(pd.Index(names)).iloc[::-1].iloc[::-1])
        assert found["pid"].tolist() == table["pid"].tolist()


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(N),
        pd.RangeIndex(5, N + 5),
        pd.Index(SHUFFLE * 3),
        pd.Index(np.repeat(np.arange(N // 2), 2)),
        pd.Index([np.nan, *range(N - 1)]),
        pd.Index([f"other{i}" for i in SHUFFLE]),
        pd.MultiIndex.from_arrays([SHUFFLE, SHUFFLE]),
        pd.date_range("2020-01-01", periods=N)[SHUFFLE],
        pd.Index([True, False] * (N // 2)),
        pd.Index(pd.array(SHUFFLE, dtype="Int64")) + 1,
    ],
    ids=str,
)
@pytest.mark.parametrize("default", [True, False])
@pytest.mark.filterwarnings(SILENT)
def test_any_other_index_is_by_position_without_a_word(index, default):
    ids = RowIds(N, "row-") if default else [f"p{i}" for i in range(N)]
    rows = pd.Series(np.arange(N), index=index)
    assert in_order_of(ids, rows) is rows


def test_what_has_no_index_or_another_length_is_given_back():
    for rows in ([2, 1], np.array([2, 1]), None, pd.Series([1, 2, 3], index=["b", "a", "c"]), pd.Series([])):
        assert in_order_of(["a", "b"], rows) is rows


@settings(max_examples=60, deadline=None)
@given(
    order=st.integers(1, 30).flatmap(lambda n: st.permutations(range(n))),
    kind=st.sampled_from(["text", "whole", "category", "chosen"]),
    frame=st.booleans(),
)
def test_every_order_of_named_rows_gives_the_samples_order(order, kind, frame):
    n = len(order)
    names = [f"p{i}" if kind != "whole" else str(100 + i) for i in range(n)]
    ids = ChosenIds(names[::-1], range(n - 1, -1, -1)) if kind == "chosen" else names
    index = [names[i] for i in order] if kind != "whole" else [100 + i for i in order]
    rows = pd.Series(order, index=pd.CategoricalIndex(index) if kind == "category" else index)
    found = in_order_of(ids, rows.to_frame("c") if frame else rows)
    assert (found["c"] if frame else found).tolist() == list(range(n))


@pytest.mark.parametrize(
    "ids", [RowIds(3), RowIds(3, "row-"), ["0", "1", "2"], ChosenIds(RowIds(9), [4, 8, 2])], ids=str
)
def test_default_ids_in_another_order_name_no_rows_and_it_is_said(ids):
    rows = pd.Series([2, 0, 1], index=[ids[2], ids[0], ids[1]])
    with pytest.warns(KrepesWarning, match=r"the samples' ids in another order.*taken as they stand.*source ids"):
        assert in_order_of(ids, rows) is rows


@pytest.mark.parametrize("ids", [["2", "0", "1"], RowIds(3), ["0", "1", "2"], ["x", "y", "z"]], ids=str)
@pytest.mark.parametrize("index", [pd.RangeIndex(3), pd.Index([0, 1, 2])], ids=["range", "numbers"])
@pytest.mark.filterwarnings(SILENT)
def test_a_default_index_is_by_position_whatever_the_ids(ids, index):
    rows = pd.Series(["a", "b", "c"], index)
    assert in_order_of(ids, rows) is rows


def test_a_named_index_in_turn_is_by_position_and_permuted_ids_are_said():
    rows = pd.Series(["a", "b", "c"], pd.RangeIndex(3, name="pid"))
    with pytest.warns(KrepesWarning, match="in turn, and the samples' ids are these in another order"):
        assert in_order_of(["2", "0", "1"], rows) is rows
    assert in_order_of(["0", "1", "2"], rows) is rows


@pytest.mark.parametrize("ids", [RowIds(3), RowIds(3, "row-"), ["0", "1", "2"]], ids=str)
def test_a_named_shuffled_index_beside_default_ids_is_by_position_and_it_is_said(ids):
    rows = pd.Series([2, 0, 1], index=pd.Index([2, 0, 1], name="pid"))
    with pytest.warns(KrepesWarning, match=r"0 … 2 in another order.*taken as they stand.*source ids"):
        assert in_order_of(ids, rows) is rows


def test_numbers_that_are_given_ids_move_rows_and_unnamed_ones_are_said():
    rows = pd.Series([1, 2, 0], index=pd.Index([1, 2, 0], name="pid"))
    assert in_order_of(["2", "0", "1"], rows).tolist() == [2, 0, 1]
    with pytest.warns(KrepesWarning, match=r"put into the samples' order by it.*reset_index"):
        assert in_order_of(["2", "0", "1"], rows.rename_axis(None)).tolist() == [2, 0, 1]


def test_labels_that_are_not_moved_are_called_so():
    with pytest.warns(KrepesWarning, match=re.escape("the index of labels holds the numbers 0 … 2")):
        assert in_order_of(RowIds(3), pd.Series(["c", "a", "b"], [2, 0, 1]), "labels").tolist() == ["c", "a", "b"]


def test_a_table_of_another_library_is_refused(auditor):
    with pytest.raises(DataError, match="the table is a dict; expected a pandas DataFrame"):
        auditor.feature_gap(table={"group": GROUP})
