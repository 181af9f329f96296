"""The alignment gap finds a planted feature, nothing in a clean table, and says what is a proxy."""

import numpy as np
import pandas as pd
import pytest
import torch

from krepes import Auditor, BarlowTwins, Newton
from krepes.audit.feature_gap import Tops, feature, features, gap_table, group_table
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError, KrepesWarning

N = 900


def keep_group(batch, generator):
    """Views that keep the first three columns and draw the others anew."""
    fresh = torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
    return torch.cat([batch[:, :3] + 0.1 * fresh[:, :3], fresh[:, 3:]], 1)


def planted(seed: int = 0) -> tuple[ArraySource, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    group = generator.integers(3, size=N)
    kept = np.eye(3)[group] * 2 + 0.3 * generator.normal(size=(N, 3))
    noise = generator.normal(size=(N, 4))
    table = pd.DataFrame(
        {
            "group": np.array(["a", "b", "c"])[group],
            "proxy": np.where(generator.random(N) < 0.8, group, generator.integers(3, size=N)).astype(float),
            "noise": noise[:, 0],
            "coin": generator.random(N) < 0.5,
            "outside": generator.normal(size=N),
        }
    )
    table.loc[generator.choice(N, 60, replace=False), "noise"] = np.nan
    return ArraySource(torch.as_tensor(np.concatenate([kept, noise], 1)), [f"s{i}" for i in range(N)], table), table


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    torch.manual_seed(0)
    fitted = Auditor(
        MLP(7, (24,), 6).eval(), BarlowTwins(0.05), landmarks=90, newton=Newton(damping=0.03), dtype=torch.float64
    )
    return fitted.fit(planted()[0], keep_group)


def test_the_planted_feature_is_found_and_its_proxy_named(auditor):
    table = auditor.feature_gap().set_index("column")
    assert table.at["group", "q"] <= 0.05
    assert table.at["group", "low"] > 0
    assert table.index[0] == "group"
    assert table.loc[["outside", "coin"], "q"].min() > 0.05  # the encoder never saw them
    assert abs(table.at["noise", "gap"]) < table.at["group", "gap"] / 3  # it saw this one, the views do not keep it
    assert table.at["proxy", "gap"] > 0
    assert table.at["proxy", "explained_by"] == "group"
    assert table.at["group", "explained_by"] == ""
    assert table.at["noise", "missing"] > 0
    assert (table["low"] <= table["gap"]).all()
    assert (table["gap"] <= table["high"]).all()


def test_gap_is_the_definition(auditor):
    table = auditor.feature_gap(columns=["group"], samples=[f"s{i}" for i in range(100)], top_k=5)
    source = auditor.source_
    raw, landmarks = source.metadata()["group"].to_numpy(), np.asarray(auditor.fit_.indices)
    points = np.setdiff1d(np.arange(100), landmarks)
    influence = auditor.influence(source.batch(points.tolist())).numpy()
    total = 0.0
    for t, row in zip(points, influence, strict=True):
        top = np.argsort(-row)[:5]
        agree = raw[landmarks] == raw[t]
        total += (row[top] * agree[top]).sum() / row[top].sum() - agree.mean()
    assert table.at[0, "gap"] == pytest.approx(total / len(points), abs=1e-6)
    assert table.at[0, "n"] == len(points)


def test_groups_show_their_sizes(auditor):
    table = auditor.group_gap("group")
    assert table["group"].tolist() == sorted(table["group"], key=table["group"].tolist().index)
    assert (table["share"] > table["random"]).all()
    assert table["n"].sum() == auditor.feature_gap(columns=["group"]).at[0, "n"]
    few = auditor.group_gap("group", samples=[f"s{i}" for i in range(45)])
    assert few["small"].all()
    assert few.loc[few["n"] < 20, "low"].isna().all()


def test_feature_influence_is_influence_times_agreement(auditor):
    x, rows = auditor.source_.batch(range(4)), auditor.source_.metadata().head(4)
    found = auditor.feature_influence(x, rows, "group")
    raw = auditor.source_.metadata()["group"].to_numpy()
    agree = raw[:4][:, None] == raw[auditor.fit_.indices][None]
    torch.testing.assert_close(found, auditor.influence(x) * torch.as_tensor(agree))


def test_columns_agree_as_their_kind_says():
    def v(values, i, j):
        return float(feature(pd.Series(values), "x").agreement(np.array(i), np.array(j)))

    hundred = np.arange(101.0) / 2  # whole numbers in a row would count the rows
    assert v(hundred, 0, 49) == pytest.approx(0.5)  # 49 between the 1 % and 99 % quantiles
    assert v(hundred, 0, 100) == 0
    with_gap = np.append(hundred, [np.nan, np.nan])
    assert v(with_gap, 101, 102) == 1
    assert v(with_gap, 0, 101) == 0
    assert v(["u", "v", None, None], 2, 3) == 1
    assert v(["u", "v", None, None], 0, 3) == 0
    assert v([True, False, True], 0, 2) == 1
    ordered = pd.Categorical(["low", "high", "mid"] * 3, ["low", "mid", "high"], ordered=True)
    assert v(ordered, 0, 2) == pytest.approx(0.5)
    assert v([0, 0, 0, 0, 0, 1] * 40, 0, 5) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_clean_table_has_no_gap(seed):
    """Columns that the representation knows nothing of: no discovery, whichever landmarks many points share."""
    generator = np.random.default_rng(seed)
    influence = generator.exponential(size=(400, 60)) * generator.exponential(size=60) ** 3  # a few popular landmarks
    tops = Tops.of(np.arange(400), np.arange(400, 460), influence, 10)
    table = pd.DataFrame({f"c{i}": generator.integers(4, size=460).astype(str) for i in range(8)})
    assert gap_table(features(table, None), tops, seed)["q"].min() > 0.05


def test_what_cannot_be_compared_is_named(auditor):
    table = auditor.source_.metadata().copy()
    table["constant"], table["name"], table["empty"] = 1, [f"n{i}" for i in range(N)], np.nan
    for column, message in [("constant", "'constant' is constant"), ("name", "'name' has one value per row"),
                            ("empty", "'empty' is constant")]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            auditor.feature_gap(table, [column])
    with pytest.raises(ConfigError, match="columns colour are not in the table"):
        auditor.feature_gap(columns=["colour"])
    with pytest.raises(DataError, match="20 rows for 900 audited samples"):
        auditor.feature_gap(table.head(20))
    with pytest.raises(DataError, match="an interval needs at least 20"):
        auditor.feature_gap(samples=["s1", "s2", "s3"])
    with pytest.raises(ConfigError, match="expected between 1 and 89"):
        auditor.feature_gap(top_k=90)
    with pytest.raises(ConfigError, match="'noise' is numeric"):
        auditor.group_gap("noise")
    with pytest.warns(KrepesWarning, match="left out: column 'constant' is constant"):
        found = auditor.feature_gap(table)
    assert set(found["column"]) == {"group", "proxy", "noise", "coin", "outside"}
    assert group_table(feature(table["group"], "group"), auditor._tops(None, 10), 0)["n"].sum() > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2]] * 50, "cannot be compared"),
        (np.random.default_rng(0).permutation(100) + 7, "counts the rows"),
        ([f"n{i}" for i in range(100)], "one value per row"),
    ],
)
def test_columns_that_say_nothing_are_named(values, message):
    with pytest.raises(DataError, match=message):
        feature(pd.Series(values), "x")


def test_durations_are_numbers_and_measurements_may_all_differ():
    hours = feature(pd.Series(pd.to_timedelta([1, 2, 4], unit="h")), "x")
    assert hours.agreement(np.array([0]), np.array([1]))[0] == pytest.approx(1 - 1 / 2.97, rel=1e-2)
    assert feature(pd.Series(np.random.default_rng(0).normal(size=100)), "x").kind == "numeric"


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(DataError, match="several columns named 'a'"):
        features(pd.DataFrame(np.eye(3), columns=["a", "a", "b"]), None)
