"""Thumbnails and charts hold what they show."""

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from krepes.report.figures import gaps, representation_map, thumbnail


def test_thumbnail_decodes_to_its_pixels():
    image = np.array([[0.0, 0.5], [1.0, 2.0]])
    png = base64.b64decode(thumbnail(image, 0.0, 1.0).split(",", 1)[1])
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == [[0, 128], [255, 255]]


def test_chart_takes_the_pages_colour_and_large_maps_stay_small():
    points = np.random.default_rng(0).normal(size=(20_000, 2))
    svg = representation_map(points, points[:20])
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert len(svg) < 400_000


def test_gaps_name_every_column_as_it_is():
    """Dollar signs are no mathematics, markup is escaped, long names are cut."""
    names = ["a$b$", "<i>", "x" * 60]
    table = pd.DataFrame({"column": names, "gap": [0.1, -0.2, 0.0], "low": [0.0, -0.3, -0.1], "high": [0.2, -0.1, 0.1],
                          "null_low": -0.05, "null_high": 0.05})  # fmt: skip
    svg = gaps(table)
    assert "a$b$" in svg
    assert "&lt;i&gt;" in svg
    assert "x" * 27 + "…" in svg
