"""The map: an order in which nothing is lost, and pictures in which every point counts."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as MatplotlibPath

from krepes.app.columns import MISSING, OTHER, STEPS, Column
from krepes.app.points import Box, Points, morton, take
from krepes.app.tiles import GREY, MISSES, PALETTE, SELECTED, Layer, Tiles, category_colours, rgb, runs

SMALL = settings(max_examples=40, deadline=None)


def some(n: int, seed: int = 0, spread: float = 1.0) -> Points:
    """Points of two clusters."""
    generator = np.random.default_rng(seed)
    x, y = spread * generator.normal(size=(2, n)).astype(np.float32)
    x[: n // 2] += 3 * spread
    return Points.of(pa.chunked_array([[str(i) for i in range(n)]]), x, y, np.zeros(n, bool))


def slow_morton(x: int, y: int) -> int:
    return sum(((x >> b & 1) << (2 * b)) | ((y >> b & 1) << (2 * b + 1)) for b in range(16))


@SMALL
@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)), min_size=1))
def test_morton_codes_interleave_bits(pairs):
    x, y = np.array(pairs, np.uint32).T
    assert morton(x, y).tolist() == [slow_morton(a, b) for a, b in pairs]


@SMALL
@given(st.integers(1, 300), st.integers(0, 5), st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_order_holds_every_point_once(n, seed, spread):
    points = some(n, seed, spread)
    assert sorted(points.order.tolist()) == list(range(n))
    assert (np.diff(points.codes.astype(np.int64)) >= 0).all()
    assert np.array_equal(points.sx, points.x[points.order])


@SMALL
@given(st.integers(1, 300), st.integers(0, 5), st.lists(st.floats(-8, 8), min_size=4, max_size=4))
def test_slices_hold_every_point_of_a_region(n, seed, ends):
    points = some(n, seed)
    (x0, x1), (y0, y1) = sorted(ends[:2]), sorted(ends[2:])
    box = Box(x0, y0, x1, y1)
    found = take(points.order, points.slices(box))
    inside = np.flatnonzero((points.x >= x0) & (points.x < x1) & (points.y >= y0) & (points.y < y1))
    assert len(set(found.tolist())) == len(found)
    assert set(inside.tolist()) <= set(found.tolist())


@SMALL
@given(st.integers(3, 40), st.integers(0, 20))
def test_a_polygon_holds_what_matplotlib_finds_in_it(vertices, seed):
    generator = np.random.default_rng(seed)
    angle = np.sort(generator.random(vertices)) * 2 * np.pi  # a star: it does not cross itself
    polygon = np.stack([np.cos(angle), np.sin(angle)], 1) * (0.5 + generator.random((vertices, 1)) * 3)
    points = some(500, seed)
    wanted = MatplotlibPath(polygon).contains_points(np.column_stack([points.x, points.y]).astype(float))
    assert points.inside(polygon).tolist() == np.flatnonzero(wanted).tolist()


def test_a_polygon_that_crosses_itself_is_even_odd():
    points = some(1000)
    bow = np.array([[-2, -2], [2, 2], [2, -2], [-2, 2]], float)
    assert points.inside(bow).tolist() == points.inside(bow[::-1]).tolist()


@SMALL
@given(st.integers(0, 30), st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 4))
def test_the_nearest_is_the_nearest(seed, x, y, r):
    points = some(200, seed)
    distance = np.hypot(points.x.astype(float) - x, points.y.astype(float) - y)
    found = points.nearest(x, y, r)
    if found is None:
        assert distance.min() >= r * (1 - 1e-6)
    else:
        assert distance[found] == distance.min()
    assert np.allclose(distance[points.around(x, y, 5)], np.sort(distance)[:5], rtol=1e-3, atol=1e-5)


def test_an_id_is_found_and_searched():
    points = some(120)
    assert points.position_of("77") == 77
    assert points.position_of("x") is None
    assert points.matching("11").tolist() == [11, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119]


# ----------------------------------------------------------------------- tiles


def tile(points: Points, z: int, x: int, y: int, layer: Layer | None = None) -> np.ndarray:
    return Tiles(points)._tile(z, x, y, layer or Layer(), "light")


def place(points: Points, position: int, z: int) -> tuple[int, int, int, int]:
    """Tile and pixel of a point."""
    size = 256 * 2**z
    px = int((float(points.x[position]) - points.world.x0) / points.world.side * size)
    py = int((points.world.y1 - float(points.y[position])) / points.world.side * size)
    return px // 256, py // 256, px % 256, py % 256


@pytest.mark.parametrize("z", [0, 1, 3, 7, 14, 20])
def test_every_point_is_seen_where_it_lies(z):
    points = some(300)
    for position in range(0, 300, 7):
        x, y, px, py = place(points, position, z)
        assert tile(points, z, x, y)[py, px, 3] > 100


def test_the_last_points_are_seen_as_well_as_the_first():
    n = 250_000
    points = some(n)
    x, y = points.x.copy(), points.y.copy()
    x[-50:], y[-50:] = 6.0, 6.0  # alone, and last
    found = Tiles(Points.of(points.ids, x, y, points.is_landmark))
    tx, ty, px, py = place(found.points, n - 1, 2)
    assert found._tile(2, tx, ty, Layer(), "light")[py, px, 3] > 100


def test_tiles_meet_without_a_seam():
    points = some(4000)
    tiles = Tiles(points)
    whole = tiles.drawn(points.world, 512, 512, 1, Layer(), "light")
    parts = np.vstack([np.hstack([tiles._tile(1, x, y, Layer(), "light") for x in (0, 1)]) for y in (0, 1)])
    assert np.array_equal(whole[:, :, 3] > 0, parts[:, :, 3] > 0)


def test_more_points_are_more_opaque():
    x = np.array([0] * 1000 + [1], np.float32)
    points = Points.of(pa.chunked_array([[str(i) for i in range(1001)]]), x, x, np.zeros(1001, bool))
    image = tile(points, 0, 0, 0)
    (_, _, px, py), (_, _, qx, qy) = place(points, 0, 0), place(points, 1000, 0)
    assert image[py, px, 3] > image[qy, qx, 3] > 0


def test_a_pixel_has_the_colour_of_its_most_frequent_category():
    n = 30
    same = np.zeros(n, np.float32)
    points = Points.of(pa.chunked_array([[str(i) for i in range(n)]]), same, same, np.zeros(n, bool))
    _, _, px, py = place(points, 0, 0)
    for codes, colour in (([0] * 16 + [1] * 14, PALETTE[0]), ([0] * 10 + [1] * 20, PALETTE[1]),
                          ([OTHER] * n, GREY["light"]), ([MISSING] * n, MISSES["light"])):  # fmt: skip
        layer = Layer(np.array(codes, np.uint8), Column("c", "category", ("a", "b")))
        assert tile(points, 0, 0, 0, layer)[py, px, :3].tolist() == rgb(colour).tolist()


def test_a_pixel_has_the_colour_of_the_mean_of_its_numbers():
    n = 4
    same = np.zeros(n, np.float32)
    points = Points.of(pa.chunked_array([["a"] * n]), same, same, np.zeros(n, bool))
    _, _, px, py = place(points, 0, 0)
    column = Column("c", "number", low=0, high=1)
    low, high, missing = (
        tile(points, 0, 0, 0, Layer(np.full(n, code, np.uint8), column))[py, px, :3].tolist()
        for code in (0, 254, STEPS)
    )
    assert low == rgb("#440154").tolist()
    assert high == rgb("#fde725").tolist()
    assert missing == rgb(MISSES["light"]).tolist()


def test_a_selected_point_is_never_hidden_by_others():
    same = np.zeros(1000, np.float32)
    points = Points.of(pa.chunked_array([["a"] * 1000]), same, same, np.zeros(1000, bool))
    _, _, px, py = place(points, 0, 0)
    selected = np.arange(1000) == 999
    assert tile(points, 0, 0, 0, Layer(selected=selected))[py, px, :3].tolist() == rgb(SELECTED["light"]).tolist()


def test_an_empty_map_is_an_empty_picture():
    nothing = np.zeros(0, np.float32)
    points = Points.of(pa.chunked_array([], pa.string()), nothing, nothing, np.zeros(0, bool))
    assert not tile(points, 0, 0, 0).any()
    assert points.nearest(0, 0, 1) is None
    assert points.inside(np.array([[0, 0], [1, 0], [0, 1.0]])).tolist() == []


def test_lengths_of_runs():
    assert runs(np.array([1, 1, 4, 7, 7, 7])).tolist() == [2, 1, 3]
    assert runs(np.zeros(0)).tolist() == []
    assert len(category_colours("dark")) == MISSING + 1
