"""Thumbnails and charts hold what they show."""

import base64
import io
import re

import numpy as np
import pandas as pd
from PIL import Image

from krepes.report.figures import coverage, gaps, representation_map, thumbnail
from krepes.report.words import number, signed


def test_thumbnail_decodes_to_its_pixels():
    image = np.array([[0.0, 0.5], [1.0, 2.0]])
    png = base64.b64decode(thumbnail(image, 0.0, 1.0).split(",", 1)[1])
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[0, 128], [255, 255]]


def test_charts_take_the_pages_colours_and_allow_a_strict_policy():
    svg = coverage(np.array([3.0, 2.0, 1.0]))
    assert "currentColor" in svg
    assert not re.search(r"#010203|#fcfdfe| style=|<style|<script", svg)
    assert 'id="coverage-' in svg


def test_a_map_of_many_samples_is_a_density_of_all_of_them():
    points = np.random.default_rng(0).normal(size=(20_000, 2))
    points[-1] = (50.0, 50.0)  # one far away, which a sample of them would miss
    svg = representation_map(points, points[:20])
    assert len(svg) < 400_000
    assert "20,000 samples" in svg
    picture = base64.b64decode(re.findall(r"data:image/png;base64,([^\"]+)", svg)[0])
    alpha = np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))[..., 3]
    last = alpha[:, -(alpha.shape[1] // 8) :]
    assert (last > 0).sum() <= 4
    assert last.any()


def test_the_maps_landmarks_link_to_their_rows():
    points = np.random.default_rng(0).normal(size=(50, 2))
    svg = representation_map(points, points[:3], [1, 2, 3], np.ones(3), np.array([0.5, -0.5, 0.0]))
    assert sorted(re.findall(r'href="(#landmark-\d)"', svg)) == ["#landmark-1", "#landmark-2", "#landmark-3"]
    assert "1 landmarks that repel on balance" in svg


def test_gaps_name_every_column_as_it_is():
    """Dollar signs are no mathematics, markup is escaped, long names are cut."""
    names = ["a$b$", "<i>", "x" * 60]
    table = pd.DataFrame({"column": names, "gap": [0.1, -0.2, 0.0], "low": [0.0, -0.3, -0.1], "high": [0.2, -0.1, 0.1],
                          "null_low": -0.05, "null_high": 0.05})  # fmt: skip
    svg = gaps(table)
    assert "a$b$" in svg
    assert "&lt;i&gt;" in svg
    assert "x" * 27 + "…" in svg


def test_a_zero_has_no_sign():
    assert (signed(-0.0004), signed(0.0), signed(-0.0006), signed(None), signed("x")) == (
        "0.000", "0.000", "−0.001", "–", "–",
    )  # fmt: skip
    assert (number(float("nan")), number("x"), number(True), number(-1.5)) == ("–", "–", "–", "−1.5")
