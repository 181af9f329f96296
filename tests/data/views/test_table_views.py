"""Views of encoded tables work on whole features."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from krepes.config import ViewsConfig, build_views
from krepes.data import Scarf, TableSchema, TableSource
from krepes.data.stream import make_views
from krepes.data.views import PYTORCH_SCARF_RATE, Compose, FeatureDropout, NumericNoise, TableMixup
from krepes.errors import ConfigError, DataError, KrepesWarning

N = 40
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": RNG.normal(40, 10, N),
        "pay": np.where(RNG.random(N) < 0.3, np.nan, RNG.normal(0, 1, N)),
        "job": RNG.choice(["a", "b", "c"], N, p=[0.6, 0.3, 0.1]),
    }
)
SCHEMA = TableSchema.fit(FRAME)
SOURCE = TableSource(FRAME, SCHEMA)
X = SOURCE.batch(range(N))  # age, pay, its flag, job: a, b, c, missing, unseen
AGE, PAY, JOB = (SCHEMA.slices[k] for k in ("age", "pay", "job"))


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def missing_fill(rate):
    with pytest.warns(KrepesWarning, match="1 numeric columns had no missing cells .* they get their mean: age"):
        return FeatureDropout(SOURCE, rate, "missing")


VIEWS = [FeatureDropout(SOURCE, 0.4), TableMixup(SOURCE, 0.5), NumericNoise(SCHEMA, 0.2)]
VIEWS.append(Compose(VIEWS))


def test_a_feature_is_dropped_as_a_whole_at_its_rate():
    x = X.repeat(200, 1) + 7
    out = FeatureDropout(SOURCE, 0.25)(x, g()) != x
    for columns in (AGE, PAY, JOB):
        part = out[:, columns]
        assert torch.equal(part.all(1), part.any(1))
        assert abs(part[:, 0].double().mean() - 0.25) < 0.02


def test_the_mean_is_that_of_the_encoded_table():
    torch.testing.assert_close(FeatureDropout(SOURCE, 1.0)(X, g()), X.mean(0).expand_as(X), atol=1e-6, rtol=1e-6)


def test_missing_is_what_a_missing_cell_is_encoded_as():
    empty = pd.DataFrame({"age": [FRAME["age"].mean()], "pay": [np.nan], "job": [None]})
    expected = SCHEMA.transform(empty).expand_as(X)
    torch.testing.assert_close(missing_fill(1.0)(X, g()), expected, atol=1e-6, rtol=0)


def test_mixing_moves_every_row_toward_one_of_the_table():
    x, alpha = torch.zeros(3000, SCHEMA.width), 0.4
    moved = TableMixup(SOURCE, alpha)(x, g())
    share = moved[:, JOB].sum(1)  # a donor's category sums to one
    assert 0 <= share.min() <= share.max() <= alpha
    assert abs(share.mean() - alpha / 2) < 0.01
    donors = moved / share[:, None]
    distance = torch.cdist(donors[share > 0.01], X).min(1)
    assert distance.values.max() < 1e-3
    assert len(set(distance.indices.tolist())) == N


def test_noise_falls_on_numbers_that_are_there():
    x = X.repeat(100, 1)
    change = NumericNoise(SCHEMA, 0.3)(x, g()) - x
    assert change[:, JOB].eq(0).all()
    assert change[:, PAY.start + 1].eq(0).all()
    assert change[x[:, PAY.start + 1] == 1][:, PAY.start].eq(0).all()
    for values in (change[:, AGE.start], change[x[:, PAY.start + 1] == 0][:, PAY.start]):
        assert abs(values.mean()) < 0.02
        assert abs(values.std() - 0.3) < 0.02


def test_the_inverted_scarf_replaces_two_features_in_five():
    reference = torch.ones(10, 5)
    view = Scarf(reference, [slice(i, i + 1) for i in range(5)], rate=PYTORCH_SCARF_RATE)
    assert abs(view(torch.zeros(4000, 5), g()).mean() - 0.4) < 0.02


@given(st.integers(0, 2**31), st.integers(1, N), st.sampled_from(VIEWS))
@settings(max_examples=40, deadline=None)
def test_a_rows_view_does_not_depend_on_the_rows_after_it(seed, k, view):
    assert torch.equal(view(X[:k], g(seed)), view(X, g(seed))[:k])
    assert torch.isfinite(view(X, g(seed))).all()


def test_the_batch_itself_is_left_alone():
    before = X.clone()
    for view in VIEWS:
        view(X, g())
    assert torch.equal(X, before)


def test_a_repr_names_the_setting_and_the_table():
    other = TableSource(FRAME.head(30), SCHEMA)
    assert repr(FeatureDropout(SOURCE, 0.1)).startswith("FeatureDropout(rate=0.1, fill='mean', source=")
    assert repr(FeatureDropout(SOURCE)) != repr(FeatureDropout(other))
    assert repr(TableMixup(SOURCE, 0.1)) != repr(TableMixup(SOURCE, 0.2))
    assert repr(NumericNoise(SCHEMA)) != repr(NumericNoise(TableSchema.fit(FRAME.head(20))))
    assert " at 0x" not in repr(VIEWS)


@pytest.mark.parametrize("view", VIEWS[:3])
@pytest.mark.parametrize("batch", [torch.zeros(3, SCHEMA.width + 1), torch.zeros(3), X.int()])
def test_a_batch_of_another_table_is_refused(view, batch):
    with pytest.raises(DataError, match=rf"{type(view).__name__} got a batch of .*; expected encoded rows \(B, 8\)"):
        view(batch, g())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureDropout(SOURCE, 1.1), "rate=1.1; expected 0 <= rate <= 1"),
        (lambda: FeatureDropout(SOURCE, float("nan")), "rate=nan"),
        (lambda: FeatureDropout(SOURCE, True), "rate=True"),
        (lambda: FeatureDropout(SOURCE, 0.1, "median"), "fill='median'; expected 'mean' or 'missing'"),
        (lambda: FeatureDropout(X, 0.1), "the source is a Tensor; expected a TableSource"),
        (lambda: TableMixup(SOURCE, 0), "alpha=0; expected 0 < alpha <= 1"),
        (lambda: TableMixup(X), "the source is a Tensor"),
        (lambda: NumericNoise(SCHEMA, -1), "std=-1; expected a positive number"),
        (lambda: NumericNoise(TableSchema.fit(FRAME[["job"]])), "no numeric column"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_exact_count_replaces_as_many_features_of_every_row():
    groups = [slice(0, 2), *(slice(i, i + 1) for i in range(2, 6))]  # five features
    view = Scarf(torch.ones(4, 6), groups, rate=0.6, count="exact")
    out = view(torch.zeros(50, 6), torch.Generator().manual_seed(0))
    assert out[:, [0, 2, 3, 4, 5]].sum(1).unique().tolist() == [3]
    assert torch.equal(out[:, 0], out[:, 1])
    assert "count='exact'" in repr(view)


def test_every_feature_is_as_likely_among_an_exact_count():
    view = Scarf(torch.ones(4, 5), [slice(i, i + 1) for i in range(5)], rate=0.4, count="exact")
    shares = view(torch.zeros(20_000, 5), torch.Generator().manual_seed(0)).mean(0)
    assert torch.allclose(shares, torch.full((5,), 0.4), atol=0.02)


@pytest.mark.parametrize(("settings", "message"), [({"count": "few"}, "count='few'"), ({"rate": 0.1}, "replaces none")])
def test_a_count_of_nothing_or_of_another_kind_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Scarf(torch.ones(4, 5), [slice(i, i + 1) for i in range(5)], **{"count": "exact", **settings})


def test_one_view_of_a_table_stays_as_it_is_where_scarf_is_not_of_both():
    source = TableSource(pd.DataFrame({"a": range(9)}), TableSchema.fit(pd.DataFrame({"a": range(9)})))
    view = build_views(ViewsConfig.model_validate({"name": "scarf", "rate": 1.0, "both": False}), source)
    a, b = make_views(source, view, range(9), 0)
    assert torch.equal(a, source.batch(range(9)))
    assert not torch.equal(a, b)
