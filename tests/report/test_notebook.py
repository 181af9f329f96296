"""What a notebook shows: numbers as they are, nothing of the data as markup, tables that stay tables."""

import pickle
import re

import pandas as pd
import pytest
import torch

import krepes
from krepes.data import ArraySource, GaussianNoise
from krepes.encoders import MLP
from krepes.explanation import Explanation


@pytest.fixture(scope="module")
def auditor():
    torch.manual_seed(0)
    source = ArraySource(torch.rand(40, 1, 5, 5), ids=[f"<u>{i}" for i in range(40)])
    network = torch.nn.Sequential(torch.nn.Flatten(), MLP(25, [8], 4)).eval()
    settings = {"landmarks": 8, "newton": krepes.Newton(damping=1.0), "trust": krepes.Trust(refits=False)}
    return krepes.Auditor(network, "vicreg", **settings).fit(source, GaussianNoise(0.1))


def test_an_explanation_is_a_table_with_pictures_and_bars(auditor):
    table = auditor.explain(auditor.source_.batch(range(12)), top_k=3, ids=[f"<b>{i}" for i in range(12)])
    html = table._repr_html_()
    assert html.count("<img") == 30
    assert html.count("<rect") == 30
    assert "and 2 more samples" in html
    assert "&lt;b&gt;0" in html
    assert not re.search("<b>|<u>", html)
    assert f"{table['contribution'][0]:+.4f}".replace("-", "−") in html


def test_parts_of_an_explanation_stay_what_they_are(auditor, tmp_path):
    table = auditor.explain(auditor.source_.batch([0, 1]), top_k=2)
    assert isinstance(table.head(1), Explanation)
    assert table.head(1)._repr_html_().count("<img") == 1
    assert "<table" in table[["sample", "rank"]]._repr_html_()
    copied = pickle.loads(pickle.dumps(table))
    pd.testing.assert_frame_equal(pd.DataFrame(copied), pd.DataFrame(table))
    table.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), pd.DataFrame(table))
    assert type(table.groupby("sample")["influence"].sum()) is pd.Series


def test_a_table_that_is_no_explanation_any_more_shows_itself(auditor):
    table = auditor.explain(auditor.source_.batch([0, 1]), top_k=2)
    others = [
        pd.concat([table, table], axis=1), table.astype(str), table.isna(), table == table,
        table.assign(contribution=pd.array([0.1, None, 0.2, 0.3], dtype="Float64")),
    ]  # fmt: skip
    for other in others:
        assert "<table" in other._repr_html_()
        assert "krepes" not in other._repr_html_()
        assert "<rect" not in other._repr_html_()
    assert pd.concat([table, table])._repr_html_().count("<rect") == 8
    assert table.set_index("sample", drop=False)._repr_html_().count("<rect") == 4


def test_an_auditor_says_what_it_is_and_computes_nothing(auditor):
    fresh = krepes.Auditor(MLP(25, [8], 4).eval(), "simclr")
    assert "Not fitted" in fresh._repr_html_()
    auditor._trust = None
    html = auditor._repr_html_()
    assert "not looked at yet" in html
    assert auditor._trust is None
    assert html.count("<img") == 8
    verdict = auditor.trust_.verdict
    assert verdict in auditor._repr_html_()
    assert verdict in auditor.trust_._repr_html_()
    assert "<u>" not in html


def test_vectors_have_bars_and_no_pictures():
    torch.manual_seed(0)
    fitted = krepes.Auditor(MLP(6, [8], 4).eval(), "vicreg", landmarks=8, newton=krepes.Newton(damping=1.0)).fit(
        torch.randn(30, 6), GaussianNoise(0.1)
    )
    html = fitted.explain(fitted.source_.batch([0]), top_k=3)._repr_html_()
    assert "<img" not in html
    assert html.count("<rect") == 3


def test_findings_are_sentences_and_notes():
    gaps = pd.DataFrame(
        [("<i>a", 0.2, 0.1, 0.3, 0.01, "")], columns=["column", "gap", "low", "high", "q", "explained_by"]
    )
    html = krepes.Findings(feature_gap=gaps, notes=("concepts: <none>",))._repr_html_()
    assert "shows an alignment gap" in html
    assert "&lt;none&gt;" in html
    assert "<i>" not in html
    assert "Nothing was found" in krepes.Findings()._repr_html_()


def test_movement_and_comparison_show_their_tables():
    table = pd.DataFrame({"figure": ["<script>"], "difference": [0.5]})
    html = krepes.Movement(pd.DataFrame({"sample": []}), table)._repr_html_()
    assert "What moved" in html
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    compared = krepes.Comparison(table, 3, table, table, table, ("One <note>.",))._repr_html_()
    assert "Alignment gaps" in compared
    assert "One &lt;note&gt;." in compared
