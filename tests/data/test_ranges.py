"""Columns in another unit than the schema's are said; tails, shifted populations and hand-written schemas are not."""

import warnings

import numpy as np
import pandas as pd
import pytest

from krepes.config import DataConfig, build_data
from krepes.data import TableSchema, TableSource
from krepes.data.ranges import far_outside
from krepes.data.schema_columns import Column, fit_column
from krepes.errors import KrepesWarning

N = 600


def people(seed: int = 0, n: int = N) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": np.clip(g.normal(45, 15, n), 18, 79).round(),
            "income": np.clip(np.exp(g.normal(10.5, 0.6, n)), 9000, None),
            "celsius": g.uniform(-8, 34, n),
            "height": g.normal(170, 10, n),
            "gain": np.where(g.random(n) < 0.9, 0, 100 + g.pareto(0.7, n)),
            "job": g.choice(["clerk", "cook"], n),
        }
    )


SCHEMA = TableSchema.fit(people())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("age", lambda v: 12 * v),
        ("income", lambda v: v / 1000),
        ("income", lambda v: 1000 * v),
        ("celsius", lambda v: v + 273.15),
        ("height", lambda v: v / 100),
        ("height", lambda v: v / 2.54),
        ("age", lambda v: v.where(v.index % 4 > 0, -999)),
    ],
)
def test_a_column_in_another_unit_is_said_once_with_its_share_and_both_ranges(name, change):
    frame = people(1)
    frame[name] = change(frame[name])
    with pytest.warns(KrepesWarning, match=f"column '{name}' ") as said:
        TableSource(frame, SCHEMA)
    assert len(said) == 1
    column = next(c for c in SCHEMA.columns if c.name == name)
    text = str(said[0].message)
    assert f"{column.minimum:g} … {column.maximum:g} in the schema" in text
    assert f"{frame[name].min():g} … {frame[name].max():g} here" in text
    assert "unit" in text
    assert said[0].filename == __file__


def test_the_share_is_that_of_the_present_cells():
    frame = people(1).assign(age=lambda t: (12 * t["age"]).where(t.index % 2 > 0))
    frame.loc[frame.index % 4 == 1, "age"] = 40
    with pytest.warns(KrepesWarning) as said:
        SCHEMA.transform(frame)
    assert [("had no missing values" in str(w.message), "(50 % of its cells;" in str(w.message)) for w in said] == [
        (True, False),
        (False, True),
    ]


def test_several_columns_are_said_in_one_warning_and_many_are_counted():
    frame = people(1).assign(age=lambda t: 12 * t["age"], height=lambda t: t["height"] / 100)
    with pytest.warns(KrepesWarning, match="columns 'age' .*, 'height' ") as said:
        TableSource(frame, SCHEMA)
    assert len(said) == 1
    wide = pd.DataFrame({f"x{i}": np.linspace(1, 2, 50) for i in range(9)})
    with pytest.warns(KrepesWarning, match="'x4' .* and 4 more"):
        TableSource(100 * wide, TableSchema.fit(wide))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_in_another_unit_is_said_when_it_is_read(tmp_path, suffix):
    frame = people(1).assign(age=lambda t: 12 * t["age"])
    getattr(frame, f"to_{suffix}")(tmp_path / f"t.{suffix}", index=False)
    SCHEMA.save(tmp_path / "schema.yaml")
    with pytest.warns(KrepesWarning, match="column 'age' ") as said:
        build_data(DataConfig.model_validate({"table": f"t.{suffix}", "schema": "schema.yaml"}), tmp_path)
    assert len(said) == 1


@pytest.fixture
def no_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_word")
def test_other_people_and_a_shifted_population_are_no_other_unit():
    TableSource(people(2), SCHEMA)
    frame = people(3).assign(
        age=lambda t: t["age"] + 25, income=lambda t: 0.6 * t["income"], celsius=lambda t: t["celsius"] + 12
    )
    assert (frame["age"] > 79).mean() > 0.2
    TableSource(frame, SCHEMA)
    years = TableSchema.fit(pd.DataFrame({"year": np.arange(2010, 2021)}))
    years.transform(pd.DataFrame({"year": [2021, 2022, 2023] * 50}))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "draw",
    [
        lambda g, n: g.standard_cauchy(n),
        lambda g, n: 1 + g.pareto(0.5, n),
        lambda g, n: np.exp(2 * g.normal(size=n)),
        lambda g, n: np.where(g.random(n) < 0.9, 0, 1 + g.pareto(1, n)),
    ],
)
def test_heavy_tails_are_no_other_unit(draw, seed):
    g = np.random.default_rng(seed)
    column = fit_column(pd.Series(draw(g, 50)), "x", "numeric")
    assert far_outside(draw(g, 5000), column) is None


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ([], (0, 1)),
        ([np.nan] * 9, (0, 1)),
        ([1e6] * 2 + [0.5] * 3, (0, 1)),  # a tail, for all that so few cells tell
        ([1e6] * 9, (0, 0)),  # a schema written by hand without a range
        ([1e6] * 9, (3, 3)),  # constant
        ([1e300] * 9, (-1.5e308, 1.5e308)),
    ],
)
@pytest.mark.usefixtures("no_word")
def test_what_says_nothing_of_a_unit_is_not_said(cells, column):
    low, high = column
    known = Column("x", "numeric", minimum=low, maximum=high)
    assert far_outside(np.array(cells, float), known) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_sizes_below_half_the_smallest_are_far_and_zero_is_none(sign):
    low, high = sorted((sign * 1e4, sign * 1e6))
    column = Column("x", "numeric", minimum=low, maximum=high)
    assert far_outside(np.full(9, sign * 6e3), column) is None
    assert far_outside(np.zeros(9), column) is None
    assert "(100 % of its cells;" in (far_outside(np.full(9, sign * 4e3), column) or "")
