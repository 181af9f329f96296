"""The head of the report says which space was audited, and how encoder and samples were loaded."""

import html
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import krepes
from krepes.data import ArraySource, GaussianNoise
from krepes.encoders import MLP
from krepes.report.audited import audited
from krepes.report.build import build_report

NOTE = "objective applied off its training space, the projector's output: this audit is of <the backbone>"
TOLD = {
    "space": "backbone",
    "note": NOTE,
    "account": ["loaded     3 tensors (120 numbers)", "ignored    2 tensors (8 numbers), allowed by <b>*: fc.weight"],
    "normalisation": "Normalise(mean=[0.5], std=[0.2])",
}


@pytest.fixture(scope="module")
def auditor():
    torch.manual_seed(0)
    source = ArraySource(torch.randn(40, 6))
    settings = {"landmarks": 8, "newton": krepes.Newton(damping=1.0), "seed": 0}
    return krepes.Auditor(MLP(6, [8], 4).eval(), "vicreg", **settings).fit(source, GaussianNoise())


def head(page: str) -> str:
    found = re.search(r"<header>(.*?)</header>", page, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_space_and_its_note_are_seen_in_the_head(auditor):
    found = head(build_report(auditor, "t", told=TOLD))
    assert html.escape("Audited: the backbone's output", quote=True).replace("&#x27;", "&#39;") in found
    visible = re.sub(r"<details>.*?</details>", "", found, flags=re.DOTALL)
    assert NOTE in html.unescape(visible)
    assert "<the backbone>" not in found


def test_the_account_stands_in_the_heads_details(auditor):
    found = re.search(r"<details>(.*?)</details>", head(build_report(auditor, "t", told=TOLD)), re.DOTALL)
    assert found is not None
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', found[1]))
    assert rows["loaded"] == "3 tensors (120 numbers)"
    assert html.unescape(rows["ignored"]).endswith("allowed by <b>*: fc.weight")
    assert "<b>" not in found[1]
    assert rows["inside the encoder"] == "Normalise(mean=[0.5], std=[0.2])"


def test_without_a_recipe_it_is_the_encoders_output(auditor):
    found = html.unescape(head(build_report(auditor, "t")))
    assert "Audited: the encoder's output" in found
    assert "<details>" not in found
    assert "Note" not in found


@pytest.mark.parametrize(
    ("space", "words"),
    [("projection", "the projector's output"), ("prediction", "the predictor's output"),
     ("output", "the encoder's output")],
)  # fmt: skip
def test_every_space_has_words(space, words):
    source = ArraySource(torch.zeros(2, 3))
    assert audited({"space": space, "note": "", "account": []}, source) == {"space": words, "note": "", "lines": []}


def test_the_preparation_of_the_samples_and_how_many_are_left_out_is_said():
    source = SimpleNamespace(preprocess=SimpleNamespace(size=4), problems=pd.DataFrame({"id": ["a", "b"]}))
    lines = dict(audited(None, source)["lines"])  # pyright: ignore[reportArgumentType]
    assert lines["samples prepared by"] == "namespace(size=4)"
    assert lines["samples left out"].startswith("2, ")
