"""Agreement of single rows with landmarks: the table alone says how far numbers and categories lie apart."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from krepes import Auditor, BarlowTwins, Newton
from krepes.audit.columns import features
from krepes.audit.features_of_rows import values_of_rows
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError, KrepesWarning

N = 60
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator)


@pytest.fixture(scope="module")
def auditor():
    torch.manual_seed(0)
    made = Auditor(MLP(4, (8,), 3).eval(), BarlowTwins(), landmarks=12, newton=Newton(damping=0.1))
    return made.fit(ArraySource(X, metadata=pd.DataFrame({"value": X[:, 0].numpy()})), noisy)


def agreement(table, rows) -> np.ndarray:
    """Of rows with all of the table, (t, n)."""
    raw = pd.Series(table, name="c")
    (feature,) = features(pd.DataFrame({"c": raw}), ["c"])
    return feature.agreement_of(values_of_rows(feature, raw, pd.Series(rows))[:, None], feature.values[None])


def test_agreement_does_not_depend_on_the_other_rows(auditor):
    rows = pd.DataFrame({"value": [0.0, 1e6, -1e6, np.nan]})
    together = auditor.feature_influence(X[:4], rows, "value")
    alone = torch.cat([auditor.feature_influence(X[i : i + 1], rows.iloc[i : i + 1], "value") for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert float(together[0].max()) > 0
    assert float(together[1:].abs().max()) == 0


def test_a_samples_own_row_agrees_as_in_the_table(auditor):
    table = auditor.source_.metadata()
    (feature,) = features(table, ["value"])
    expected = feature.agreement(np.arange(5)[:, None], np.asarray(auditor.fit_.indices)[None])
    found = auditor.feature_influence(X[:5], table.iloc[:5], "value") / auditor.influence(X[:5])
    torch.testing.assert_close(found, torch.as_tensor(expected).to(found), rtol=1e-4, atol=1e-5)


CATEGORIES = ["lo", "mid", "hi"]
ORDERED = pd.Categorical([*CATEGORIES, None] * 5, CATEGORIES, ordered=True)


@pytest.mark.parametrize(
    "rows",
    [
        ["hi", "lo", None, "other"],
        pd.Categorical(["hi", "lo", None, "other"], ["other", "hi", "mid", "lo"], ordered=True),
        pd.Categorical(["hi", "lo", None, "other"]),
    ],
    ids=["text", "other order", "unordered"],
)
def test_ordered_categories_keep_the_tables_order(rows):
    width = 2.0
    found = agreement(ORDERED, rows)[:, :4]
    hi, lo = (1 - np.minimum(np.abs(np.array([0.0, 1, 2]) - place) / width, 1) for place in (2, 0))
    np.testing.assert_allclose(found, [[*hi, 0], [*lo, 0], [0, 0, 0, 1], [0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("table", "rows", "expected"),
    [
        (["a", "b", None] * 4, ["b", None, "z"], [[0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        ([True, False, None] * 4, [False, None], [[0, 1, 0], [0, 0, 1]]),
        ([5.0, np.nan, 5.0] * 4, [5, 7.0, np.nan, np.inf], [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0]]),
        ([1, "1", None] * 4, [1, "1", None, 2.5], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]),
        (pd.Categorical(["a", "b", None] * 4), ["b", "z"], [[0, 1, 0], [0, 0, 0]]),
        ([0.5, 1.5, np.nan] * 4, pd.array([None, None], dtype="string"), [[0, 0, 1], [0, 0, 1]]),
        (["a", "b", None] * 4, [np.nan], [[0, 0, 1]]),
        ([0.5, 1.5, np.nan] * 4, pd.Series([1, None, 0.5], dtype=object), [[0.5, 0.5, 0], [0, 0, 1], [1, 0, 0]]),
    ],
    ids=str,
)
def test_known_unknown_and_missing_values(table, rows, expected):
    np.testing.assert_allclose(agreement(table, rows)[:, :3], expected, atol=1e-6)


def test_dates_are_compared_in_the_tables_unit_and_zone():
    days = pd.date_range("2020-01-01", periods=11, tz="UTC")
    rows = pd.Series(pd.DatetimeIndex(["2020-01-01"] * 2).tz_localize("Europe/Berlin").as_unit("s"))
    found = agreement(days.as_unit("ns"), rows)[0]
    (feature,) = features(pd.DataFrame({"c": days.as_unit("ns")}), ["c"])
    hours = np.abs(np.arange(11) * 24 + 1) * 3600e9
    np.testing.assert_allclose(found, 1 - np.minimum(hours / feature.width, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        ([0.5, 1.5, 2.5] * 4, ["0.5"], "column 'c' holds text in rows and numbers in the table"),
        ([0, 1, 2] * 4, ["0", "1"], "holds text in rows and numbers"),
        (["0", "1", "2"] * 4, [0, 1], "holds numbers in rows and text"),
        ([True, False] * 4, [1, 0], "holds numbers in rows and truth values"),
        ([0.5, 1.5, 2.5] * 4, [True], "holds truth values in rows and numbers"),
        (ORDERED, [0, 1], "holds numbers in rows and text"),
        (pd.date_range("2020", periods=12), ["2020-01-01"], "holds text in rows and dates"),
        (
            pd.date_range("2020", periods=12),
            pd.date_range("2020", periods=2, tz="UTC"),
            "dates with a time zone in rows",
        ),
        (pd.date_range("2020", periods=12, tz="UTC"), pd.date_range("2020", periods=2), "dates in rows and dates with"),
        ([0.5, 1.5, 2.5] * 4, pd.date_range("2020", periods=2), "holds dates in rows and numbers"),
        (pd.to_timedelta(range(12), unit="h"), [datetime.date(2020, 1, 1)], "holds days in rows and durations"),
        ([1, "1", None] * 4, [[1]], "holds values that cannot be compared"),
    ],
    ids=str,
)
def test_another_kind_of_values_is_refused(table, rows, message):
    with pytest.raises(DataError, match=message):
        agreement(table, rows)


def test_infinite_numbers_count_as_missing_as_in_the_table():
    with pytest.warns(KrepesWarning, match="infinite"):
        assert agreement([0.5, 1.5, np.nan] * 4, [np.inf])[0, :3].tolist() == [0, 0, 1]


def test_rows_that_do_not_fit_are_named(auditor):
    rows = pd.DataFrame({"value": [0.5]})
    with pytest.raises(DataError, match="rows has 1 rows for 2 samples"):
        auditor.feature_influence(X[:2], rows, "value")
    with pytest.raises(ConfigError, match="column 'wage' is not in rows; it has value"):
        auditor.feature_influence(X[:1], rows, "wage", pd.DataFrame({"wage": X[:, 0].numpy()}))
    with pytest.raises(ConfigError, match="column 'wage' is not in the table; it has value"):
        auditor.feature_influence(X[:1], rows.assign(wage=1.5), "wage")
    with pytest.raises(DataError, match="rows is a Series"):
        auditor.feature_influence(X[:1], rows["value"], "value")
    with pytest.raises(DataError, match="rows has 2 columns named 'value'"):
        auditor.feature_influence(X[:1], pd.DataFrame([[1.5, 2.5]], columns=["value", "value"]), "value")


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(st.one_of(st.none(), st.sampled_from([0.5, 1.5, 2.5, 7.5])), min_size=4, max_size=12),
    kind=st.sampled_from(["numbers", "text", "ordered"]),
)
def test_the_tables_own_rows_agree_as_the_feature_says(table, kind):
    cells: pd.Series = pd.Series(table, dtype=float)
    if kind != "numbers":
        cells = cells.map(lambda v: None if pd.isna(v) else f"c{v}").astype(object)
    if kind == "ordered":
        cells = pd.Series(pd.Categorical(cells, ["c0.5", "c7.5", "c1.5", "c2.5"], ordered=True))
    try:
        (feature,) = features(pd.DataFrame({"c": cells}), ["c"])
    except DataError:
        return
    everywhere = np.arange(len(cells))
    expected = feature.agreement(everywhere[:, None], everywhere[None])
    np.testing.assert_array_equal(agreement(cells, cells), expected)
