"""What the report says of the findings: numbers agree with their intervals, grammar with numbers, claims with data."""

import numpy as np
import pandas as pd
import pytest

from krepes.audit.findings import Findings
from krepes.report.content import key_findings
from krepes.report.findings import sections, sentences
from krepes.report.words import number, templates
from krepes.stored import StoredRun


def said(**tables) -> list[str]:
    return sentences(Findings(**tables), number)


def gaps(*rows) -> pd.DataFrame:
    """Of (column, gap, low, high, q, explained_by)."""
    return pd.DataFrame(rows, columns=["column", "gap", "low", "high", "q", "explained_by"])


def concepts(*rows) -> pd.DataFrame:
    """Of (concept, origin, usable, push, low, high, q)."""
    return pd.DataFrame(rows, columns=["concept", "origin", "usable", "push", "low", "high", "q"])


def evaluation(note: str = "probes on 50 samples") -> pd.DataFrame:
    columns = ["figure", "value", "low", "high", "n", "note"]
    return pd.DataFrame([("Kendall τ", 0.8, 0.7, 0.9, 50, note)], columns=columns)


def test_one_column_shows_and_two_show():
    one, none = ("a", 0.2, 0.1, 0.3, 0.01, ""), ("b", 0.0, -0.1, 0.1, 0.9, "")
    (sentence,) = said(feature_gap=gaps(one, none))
    assert sentence.startswith("1 of 2 columns shows an alignment gap")
    assert sentence.endswith("the largest is a, +0.200 [+0.100, +0.300].")
    assert said(feature_gap=gaps(one, one, none))[0].startswith("2 of 3 columns show an")
    assert said(feature_gap=gaps(none))[0] == "None of 1 column shows an alignment gap (false discovery rate 5%)."


def test_a_proxy_goes_with_its_column_and_is_not_called_explained():
    (sentence,) = said(feature_gap=gaps(("a", 0.2, 0.1, 0.3, 0.01, "b"), ("b", 0.1, 0.0, 0.2, 0.02, "")))
    assert sentence.endswith("[+0.100, +0.300]; it goes with column b.")
    assert "explained" not in sentence


def test_gaps_that_cannot_be_told_are_counted():
    (sentence,) = said(feature_gap=gaps(("a", np.nan, np.nan, np.nan, np.nan, ""), ("b", 0.0, -0.1, 0.1, 0.9, "")))
    assert sentence == "None of 2 columns shows an alignment gap (false discovery rate 5%; of 1 it cannot be told)."


@pytest.mark.parametrize(
    ("push", "expected"),
    [
        ((0.05, 0.03, 0.07), "toward the concept c by 0.050 of their length [0.030, 0.070]."),
        ((-0.05, -0.07, -0.03), "away from the concept c by 0.050 of their length [0.030, 0.070]."),
        ((-0.05, -0.07, 0.01), "away from the concept c by 0.050 of their length [-0.010, 0.070]."),
    ],
)
def test_the_interval_of_a_push_has_the_direction_of_its_words(push, expected):
    (sentence,) = said(concepts=concepts(("c", "given", True, *push, 0.01)))
    assert sentence == f"The step pushes samples {expected}"


def test_every_given_concept_is_in_some_sentence():
    """Pushed, not pushed, not usable; and those beyond the first three."""
    rows = [(f"pushed{i}", "given", True, 0.1, 0.05, 0.15, 0.01) for i in range(5)]
    rows += [("still", "given", True, 0.0, -0.1, 0.1, 0.6), ("bad", "given", False, 0.1, 0.05, 0.15, np.nan)]
    found = said(concepts=concepts(*rows))
    assert [f"the concept pushed{i} by" in found[i] for i in range(3)] == [True] * 3
    assert found[3] == "The step also pushes samples along pushed3, pushed4."
    assert found[4].startswith("Along still the step pushes samples no more than along random directions")
    assert found[5] == "Not usable as concepts: bad."


def test_directions_of_the_two_spaces_are_counted_apart_and_called_usable():
    rows = [(f"r{i}", "representation", i < 2, 0.0, 0.0, 0.0, np.nan) for i in range(3)]
    rows += [("s0", "step", False, 0.0, 0.0, 0.0, np.nan)]
    (sentence,) = said(concepts=concepts(*rows))
    assert "2 of 3 directions of the representation and none of 1 direction of the step" in sentence
    assert "Usable" in sentence
    assert "stable" not in sentence


def attribution(*rows) -> pd.DataFrame:
    """Of (sample, effect, training_sample)."""
    table = pd.DataFrame(rows, columns=["sample", "effect", "training_sample"])
    return table.assign(target="local invariance", reliability=0.8)


def test_training_samples_of_the_first_explained_sample_are_named():
    rows = [("s3", "raises", f"s{i}") for i in (12, 88, 5, 6)] + [("s3", "lowers", "s9"), ("s4", "raises", "s1")]
    (sentence,) = said(attribution=attribution(*rows), attributed=1797)
    assert sentence == (
        "Of 1,797 training samples, s12, s88, s5 raise the local invariance of s3 most, and s9 lowers it most."
    )
    (lowered,) = said(attribution=attribution(("s3", "lowers", "s9")), attributed=10)
    assert lowered == "Of 10 training samples, s9 lowers the local invariance of s3 most."


def test_a_ranking_that_the_views_draw_decides_is_said_to_be_luck():
    table = attribution(("s3", "raises", "s1")).assign(reliability=0.2)
    (sentence,) = said(attribution=table, attributed=10)
    assert sentence.endswith("(reliability 0.20: other draws of the views would name others).")


def test_no_attribution_is_said():
    (sentence,) = said(attribution=attribution(), attributed=10)
    assert sentence == "Of 10 training samples none raises or lowers what was asked of the explained samples."


def rendered(found: Findings) -> str:
    return templates().get_template("findings.html.j2").render(found=sections(found, 10))


def test_labels_are_called_unseen_only_where_no_column_holds_them():
    unseen, seen = (
        evaluation(),
        evaluation("probes on 50 samples; the labels are column 'income' of the samples' table"),
    )
    assert "Against labels, which nothing else here has seen:" in said(evaluation=unseen)[0]
    assert said(evaluation=seen)[0].startswith("Against labels, column 'income' of the table")
    assert "has seen" not in said(evaluation=seen)[0]
    assert "nothing above has seen them" in rendered(Findings(evaluation=unseen))
    html = rendered(Findings(evaluation=seen))
    assert "nothing above has seen them" not in html
    assert "The labels are column &#39;income&#39; of the samples" in html


def test_figures_without_a_tau_say_nothing_of_it():
    assert said(evaluation=evaluation().assign(figure="class coverage κ")) == []


def test_the_headline_names_a_landmark_as_one(tmp_path):
    run = StoredRun(tmp_path, {"outcome": {"loss_before": 2.0, "loss_after": 1.0}})
    table = pd.DataFrame({"landmark": ["s16", "s2"], "mean_influence": [3.0, 1.0]})
    assert key_findings(run, table)[-1] == (
        "The most influential landmark is s16, with 1.5 times the landmarks' mean influence."
    )
