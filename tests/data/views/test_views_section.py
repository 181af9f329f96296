"""The report's section on views shows what the encoder was shown."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import krepes
from krepes.data import ArraySource, GaussianNoise, Scarf, TableSchema, TableSource
from krepes.data.views import FeatureDropout, NumericNoise, TableMixup, TokenMask
from krepes.encoders import MLP
from krepes.report.views import decoded_row, image_views, pictures, settings_of, strip, views_section

FRAME = pd.DataFrame(
    {"age": np.arange(30.0), "<pay>": [None if i % 3 == 0 else float(i) for i in range(30)], "job": list("ab&") * 10}
)
TABLE = TableSource(FRAME, TableSchema.fit(FRAME), ids=[f"<row {i}>" for i in range(30)])


def fitted(source, views):
    p = source.batch([0]).flatten().numel()
    network = torch.nn.Sequential(torch.nn.Flatten(), MLP(p, (8,), 3)).eval()
    return krepes.Auditor(network, "vicreg", landmarks=8, newton=krepes.Newton(damping=1.0), seed=3).fit(source, views)


def first(html, tag):
    return re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)


def test_a_table_shows_raw_units_and_marks_exactly_the_changed_cells():
    view = Scarf.of_table(TABLE, 0.5)
    html = views_section(fitted(TABLE, view), samples=2)
    from krepes.data.stream import make_views

    a = make_views(TABLE, view, range(30), 3)[0]
    raw, shown = (decoded_row(TABLE.schema, r) for r in (TABLE.batch([0])[0], a[0]))
    assert raw == ["0", "missing", "a"]
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    cells = re.findall(r"<td(.*?)>(.*?)</td>", rows[2], re.DOTALL)
    assert [c.removeprefix("≠ ") for _, c in cells] == [s.replace("&", "&amp;") for s in shown]
    assert ["same" in mark for mark, _ in cells] == [s != r for s, r in zip(shown, raw, strict=True)]
    assert repr(view) in html
    assert "view a" in html
    assert "view b" in html


def test_everything_is_escaped():
    html = views_section(fitted(TABLE, GaussianNoise()), samples=1)
    assert "&lt;row 0&gt;" in html
    assert "&lt;pay&gt;" in html
    assert "<pay>" not in html
    assert "<row" not in html


def test_a_loaded_auditor_without_views_has_no_section():
    auditor = fitted(TABLE, Scarf.of_table(TABLE, 0.5))
    auditor = auditor.with_fit(auditor.fit_, replace(auditor.seen_, views=None), auditor.landmark_ids_)
    assert views_section(auditor) == ""


def test_the_views_of_a_refitted_auditor_are_its_samples():
    auditor = fitted(TABLE, Scarf.of_table(TABLE, 0.5)).counterfactual(["<row 0>"])
    html = views_section(auditor, samples=1)
    assert "&lt;row 1&gt;" in html
    assert "&lt;row 0&gt;" not in html
    assert "Scarf(rate=0.5" in html


def test_mixed_and_dropped_cells_are_said_with_their_shares():
    x, generator = TABLE.batch(range(3)), torch.Generator().manual_seed(0)
    dropped = decoded_row(TABLE.schema, FeatureDropout(TABLE, 1.0)(x, generator)[0])
    assert dropped == ["14.5", "15 (33.3% missing)", "33.3% & + 33.3% a + 33.3% b"]
    mixed = decoded_row(TABLE.schema, TableMixup(TABLE, 0.5)(x, generator)[1])
    assert re.fullmatch(r"\d+\.\d% . \+ \d+\.\d% .|b", mixed[2])
    noisy = decoded_row(TABLE.schema, NumericNoise(TABLE.schema, 0.5)(x, generator)[1])
    assert noisy[2] == "b"


def opened(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_strip_is_the_sample_and_its_views_side_by_side():
    parts = np.stack([np.full((3, 8, 8), v) for v in (0.0, 0.5, 1.0)])
    found = opened(strip(parts, 0.0, 1.0))
    assert found.shape == (96, 3 * 96 + 8, 3)
    assert [found[48, x, 0] for x in (48, 148, 248)] == [0, 128, 255]


def test_known_normalisation_is_taken_out_of_the_pictures():
    pytest.importorskip("kornia", reason='pip install "krepes[images]"')
    x = torch.full((2, 3, 8, 8), 0.25)
    view = krepes.data.views.ImageView(mean=(0.5,) * 3, std=(0.25,) * 3)
    shown = pictures([(x - 0.5) / 0.25] * 3, view)
    assert opened(shown["strips"][0])[48, 48].tolist() == [64, 64, 64]
    assert shown["ranges"][0] == ("sample", "-1 to -1")


def test_images_of_other_views_are_shown_on_their_own_scale():
    source = ArraySource(torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(0)), kind="image")
    html = views_section(fitted(source, GaussianNoise(0.1)), samples=4)
    assert html.count("data:image/png;base64,") == 4
    assert re.search(r"pixels as -0\.\d+ \(black\) to 1\.\d+ \(white\)", html)


def test_the_normalisation_is_found_inside_combined_views():
    from krepes.data.views import Compose, ImageView, Pair

    view = ImageView(mean=(0.1,), std=(0.2,))
    assert image_views(Compose([GaussianNoise(), Pair(view, ImageView())])) is view
    assert image_views(GaussianNoise()) is None
    assert image_views((1, 2)) is None


def test_settings_are_named_for_each_view_where_they_differ():
    from krepes.data.views import Pair

    noise = GaussianNoise(0.1)
    assert settings_of(noise) == [("both views", "GaussianNoise(std=0.1)")]
    pair = settings_of(Pair(noise, GaussianNoise(0.2)))
    assert pair == [("view a", "GaussianNoise(std=0.1)"), ("view b", "GaussianNoise(std=0.2)")]
    assert settings_of((torch.zeros(2), torch.zeros(2)))[0][1].startswith("two tensors")


class Embedding(torch.nn.Module):
    """Tokens to vectors."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)

    def forward(self, tokens):
        """(B, T) to (B, 4)."""
        return self.table(tokens).mean(1)


def test_tokens_are_shown_as_text_with_changes_marked():
    tokens = torch.randint(10, 50, (30, 9), generator=torch.Generator().manual_seed(0))
    source, view = ArraySource(tokens, kind="vector"), TokenMask(0.4, 3)
    auditor = krepes.Auditor(Embedding().eval(), "vicreg", landmarks=8, newton=krepes.Newton(damping=1.0))
    auditor.fit(source, view)
    html = views_section(auditor, samples=1, tokens=lambda t: "<mask>" if t == 3 else f"w{t}")
    a = krepes.data.stream.make_views(source, view, range(30), 0)[0][0]
    masked = int((a == 3).sum())
    assert masked > 0
    row_a = re.findall(r"<tr.*?</tr>", html, re.DOTALL)[1]
    assert row_a.count('<strong class="same">&lt;mask&gt;</strong>') == masked
    assert f"{masked} gone" in row_a
    assert all(f"w{t}" in html for t in tokens[0].tolist())
