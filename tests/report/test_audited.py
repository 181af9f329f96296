"""The head of the report says which space was audited, and how encoder and samples were loaded."""

import html
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from krepes.data import ArraySource
from krepes.report.audited import audited, of_source
from krepes.report.page import build_page
from krepes.stored import StoredRun

NOTE = "objective applied off its training space, the projector's output: this audit is of <the backbone>"
TOLD = {
    "format": 1,
    "status": "complete",
    "space": "backbone",
    "note": NOTE,
    "account": ["loaded     3 tensors (120 numbers)", "ignored    2 tensors (8 numbers), allowed by <b>*: fc.weight"],
    "normalisation": "Normalise(mean=[0.5], std=[0.2])",
}


def parts(manifest, folder) -> tuple[str, str]:
    """The page's head, and its section on trust."""
    page = build_page(StoredRun(folder, manifest))
    head = re.search(r"<header>(.*?)</header>", page, re.DOTALL)
    trust = re.search(r'<section id="trust"(.*?)</section>', page, re.DOTALL)
    assert head is not None
    assert trust is not None
    return head[1], trust[1]


def test_the_space_and_its_note_are_seen_in_the_head(tmp_path):
    found, _ = parts(TOLD, tmp_path)
    assert "Audited: the backbone's output" in html.unescape(found)
    assert NOTE in html.unescape(found)
    assert "<the backbone>" not in found


def test_the_account_stands_beside_the_trust_figures(tmp_path):
    found = re.search(r"<details>(.*?)</details>", parts(TOLD, tmp_path)[1], re.DOTALL)
    assert found is not None
    rows = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', found[1]))
    assert rows["loaded"] == "3 tensors (120 numbers)"
    assert html.unescape(rows["ignored"]).endswith("allowed by <b>*: fc.weight")
    assert "<b>" not in found[1]
    assert rows["inside the encoder"] == "Normalise(mean=[0.5], std=[0.2])"


def test_without_a_recipe_it_is_the_encoders_output(tmp_path):
    head, trust = parts({"format": 1, "status": "complete"}, tmp_path)
    assert "Audited: the encoder's output" in html.unescape(head)
    assert "<details>" not in trust
    assert "Note" not in head


@pytest.mark.parametrize(
    ("space", "words"),
    [("projection", "the projector's output"), ("prediction", "the predictor's output"),
     ("output", "the encoder's output")],
)  # fmt: skip
def test_every_space_has_words(space, words):
    assert audited({"space": space, "note": "", "account": []}) == {"space": words, "note": "", "lines": []}


def test_the_preparation_of_the_samples_and_how_many_are_left_out_is_said():
    source = SimpleNamespace(
        kind="image", preprocess=SimpleNamespace(size=4), problems=pd.DataFrame({"id": ["a", "b"]})
    )
    lines = dict(audited({"source": of_source(source)})["lines"])  # pyright: ignore[reportArgumentType]
    assert lines["samples prepared by"] == "namespace(size=4)"
    assert lines["samples left out"].startswith("2, ")
    plain = ArraySource(torch.zeros(2, 3))
    assert of_source(plain) == {"kind": "vector", "preprocess": None, "left_out": None}
