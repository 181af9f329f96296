"""The alignment gap finds a planted feature, nothing in a clean table, and says what is a proxy."""

import numpy as np
import pandas as pd
import pytest
import torch

from krepes import Auditor, BarlowTwins, Newton
from krepes.audit.columns import feature, features
from krepes.audit.feature_gap import gap_table, group_table
from krepes.audit.top_landmarks import Tops, tops
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
    assert gap_table(features(table, None), tops, [], seed)["q"].min() > 0.05


def popular(seed: int, t: int = 400, m: int = 60) -> Tops:
    """Test points 0 … t − 1 and landmarks t … t + m − 1, whose influence no column decides."""
    generator = np.random.default_rng(seed)
    return Tops.of(np.arange(t), np.arange(t, t + m), generator.exponential(size=(t, m)), 10)


def agreeing(labels: np.ndarray, m: int, strength: float, seed: int = 0) -> Tops:
    """Influence that is larger where point and landmark share a label."""
    t, generator = len(labels) - m, np.random.default_rng(seed)
    influence = generator.exponential(size=(t, m)) + strength * (labels[:t, None] == labels[None, t:])
    return Tops.of(np.arange(t), np.arange(t, t + m), influence, 10)


def test_the_estimate_lies_inside_its_interval_also_for_rare_categories(auditor):
    labels = np.random.default_rng(0).integers(60, size=N)
    table = pd.DataFrame({"levels": labels.astype(str)})
    for refits in (0, 3):
        row = auditor.feature_gap(table, ["levels"], refits=refits).iloc[0]
        assert row["low"] <= row["gap"] <= row["high"]
        assert row["refits"] == refits


def test_refits_widen_the_interval_and_are_the_same_for_the_same_seed(auditor):
    fixed = auditor.feature_gap(columns=["group"], refits=0).iloc[0]
    twice = [auditor.feature_gap(columns=["group"], refits=4).iloc[0] for _ in range(2)]
    assert twice[0]["gap"] == fixed["gap"]
    assert twice[0]["high"] - twice[0]["low"] > fixed["high"] - fixed["low"]
    assert twice[0]["low"] == twice[1]["low"]


def test_the_interval_is_as_wide_as_gaps_of_new_data_vary():
    """Half-sample refits against what audits of independent tables give; over test points alone, it is a fifth."""
    torch.manual_seed(0)
    encoder = MLP(7, (24,), 6).eval()
    found, deviations = [], []
    for seed in range(14):
        fitted = Auditor(encoder, BarlowTwins(0.05), landmarks=60, newton=Newton(damping=1.0), seed=seed)
        fitted.fit(planted(seed)[0].batch(range(N)).float(), keep_group)
        row = fitted.feature_gap(planted(seed)[1], ["group"], refits=6).iloc[0]
        found.append(row["gap"])
        deviations.append((row["high"] - row["low"]) / 2 / 2.4)  # t of about six degrees of freedom
    assert 0.55 < np.sqrt(np.mean(np.square(deviations))) / np.std(found, ddof=1) < 2


def test_many_columns_can_still_be_found():
    labels = np.random.default_rng(1).integers(3, size=460)
    table = pd.DataFrame({"kept": labels.astype(str)} | {f"c{i}": np.arange(460) % (i + 2) for i in range(60)})
    found = gap_table(features(table, None), agreeing(labels, 60, 3.0), [], 0).set_index("column")
    assert found.at["kept", "q"] <= 0.05
    assert found["q"].drop("kept").min() > 0.05


def test_a_columns_figures_do_not_depend_on_the_others():
    generator = np.random.default_rng(2)
    table = pd.DataFrame({"a": generator.integers(3, size=460), "b": generator.normal(size=460)})
    both = gap_table(features(table, ["a", "b"]), popular(0), [], 0).set_index("column")
    alone = gap_table(features(table, ["b"]), popular(0), [], 0).set_index("column")
    assert both.at["b", "p"] == alone.at["b", "p"]


def test_a_column_of_many_values_explains_nothing_that_it_does_not_know():
    generator = np.random.default_rng(3)
    kept, names = generator.integers(3, size=560), generator.integers(200, size=560)
    influence = generator.exponential(size=(400, 160)) + 3.0 * (kept[:400, None] == kept[None, 400:])
    influence += 6.0 * (names[:400, None] == names[None, 400:])
    tops = Tops.of(np.arange(400), np.arange(400, 560), influence, 10)
    table = pd.DataFrame({"kept": kept.astype(str), "names": names.astype(str)})
    found = gap_table(features(table, None), tops, [], 0).set_index("column")
    assert (found["q"] <= 0.05).all()
    assert (found["explained_by"] == "").all()
    assert found.at["kept", "gap_given"] == pytest.approx(found.at["kept", "gap"], rel=0.2)


def test_a_group_without_landmarks_has_no_gap():
    labels = np.where(np.arange(460) < 100, "rare", np.where(np.arange(460) % 2, "x", "y"))
    table = group_table(feature(pd.Series(labels), "c"), popular(0), [], 0).set_index("group")
    assert np.isnan(table.loc["rare", ["gap", "low", "high", "p"]].to_numpy(float)).all()
    assert table.at["rare", "small"]
    assert table.loc[["x", "y"], "q"].notna().all()


def test_landmarks_that_are_all_alike_say_nothing():
    alike = pd.DataFrame({"c": np.where(np.arange(460) < 400, np.arange(460) % 2, 0)})
    row = gap_table(features(alike, None), popular(0), [], 0).iloc[0]
    assert np.isnan([row["gap"], row["low"], row["high"], row["p"], row["q"]]).all()


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
    for top_k in (90, 2.0, "3"):
        with pytest.raises(ConfigError, match="expected a whole number between 1 and 89"):
            auditor.feature_gap(top_k=top_k)
    for columns in (3, [["group"]], "group", []):
        with pytest.raises(ConfigError, match="expected a list of"):
            auditor.feature_gap(columns=columns)
    with pytest.raises(ConfigError, match="refits=-1"):
        auditor.feature_gap(refits=-1)
    with pytest.raises(ConfigError, match="'noise' is numeric"):
        auditor.group_gap("noise")
    with pytest.warns(KrepesWarning, match="left out: column 'constant' is constant"):
        found = auditor.feature_gap(table)
    assert set(found["column"]) == {"group", "proxy", "noise", "coin", "outside"}
    assert group_table(feature(table["group"], "group"), *tops(auditor, None, 10, 0), 0)["n"].sum() > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2]] * 50, "cannot be compared"),
        (np.random.default_rng(0).permutation(100) + 7, "one whole number per row"),
        (np.random.default_rng(0).permutation(1000)[:100], "one whole number per row"),
        ([f"n{i}" for i in range(100)], "one value per row"),
        ([f"n{i}" for i in range(100)] + [None] * 40, "one value per row"),
        ([1j, 2j] * 20, "complex numbers"),
        ([1e308, -1e308] * 20, "too far apart"),
        ([np.nan] * 40, "is constant"),
    ],
)
def test_columns_that_say_nothing_are_named(values, message):
    with pytest.raises(DataError, match=message):
        feature(pd.Series(values), "x")


def test_durations_are_numbers_and_measurements_may_all_differ():
    hours = feature(pd.Series(pd.to_timedelta([1, 2, 4], unit="h")), "x")
    assert hours.agreement(np.array([0]), np.array([1]))[0] == pytest.approx(1 - 1 / 2.97, rel=1e-2)
    assert feature(pd.Series(np.random.default_rng(0).normal(size=100)), "x").kind == "numeric"


def test_infinite_values_are_said_to_be_missing():
    with pytest.warns(KrepesWarning, match="'x' holds 2 infinite values"):
        found = feature(pd.Series([1.0, 2.0, np.inf, -np.inf] * 1), "x")
    assert np.isnan(found.values[2:]).all()


def test_a_number_and_its_text_are_no_two_columns():
    with pytest.raises(DataError, match="several columns named '0'"):
        features(pd.DataFrame({0: [1, 2], "0": [1, 2]}), None)


def test_dates_that_all_differ_are_compared():
    assert feature(pd.Series(pd.date_range("2020-01-01", periods=50)), "x").kind == "numeric"


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(DataError, match="several columns named 'a'"):
        features(pd.DataFrame(np.eye(3), columns=["a", "a", "b"]), None)
