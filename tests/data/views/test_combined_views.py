"""Pairs and compositions, and views as the pipeline makes them: never dependent on what is computed together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from krepes.data import ArraySource, GaussianNoise, ShiftNoise
from krepes.data.stream import VIEW_BLOCK, ahead, blocks, check_views, make_views, paired_views, subset
from krepes.data.views import Compose, ImageView, Pair, SimCLRViews, pair_of
from krepes.data.views.draws import normals, uniforms
from krepes.errors import ConfigError, DataError

N = 2 * VIEW_BLOCK + 40
IMAGES = ArraySource(torch.rand(N, 3, 6, 6, generator=torch.Generator().manual_seed(5)))
VIEW = ImageView(blur=0.5, solarize=0.3)


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def add(value):
    return lambda batch, generator: batch + value


@pytest.fixture(scope="module")
def whole():
    pytest.importorskip("kornia", reason='pip install "krepes[images]"')
    return paired_views(IMAGES, VIEW, range(N), 3)


@pytest.mark.parametrize("size", [VIEW_BLOCK, 2 * VIEW_BLOCK, 4 * VIEW_BLOCK])
@pytest.mark.parametrize("threads", [1, 2])
def test_views_do_not_depend_on_the_blocks_or_threads_that_compute_them(whole, size, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        parts = [paired_views(IMAGES, VIEW, b, 3) for b in blocks(range(N), size)]
    finally:
        torch.set_num_threads(before)
    for side, expected in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(side), expected)


def test_views_do_not_depend_on_the_thread_that_makes_them(whole):
    parts = list(ahead((paired_views(IMAGES, VIEW, b, 3) for b in blocks(range(N), VIEW_BLOCK)), torch.device("cpu")))
    assert torch.equal(torch.cat([a for a, _ in parts]), whole[0])


@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=5, unique=True))
@settings(max_examples=3, deadline=None)
def test_a_sample_keeps_its_views_without_the_others(whole, chosen):
    chosen = np.array(sorted(chosen))
    part, views = subset(IMAGES, VIEW, chosen)
    for found, expected in zip(make_views(part, views, range(len(chosen)), 3), whole, strict=True):
        assert torch.equal(found, expected[torch.as_tensor(chosen)])


def test_another_seed_and_another_view_are_other_views(whole):
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(make_views(IMAGES, VIEW, range(VIEW_BLOCK), 4)[0], whole[0][:VIEW_BLOCK])


def test_each_part_of_a_pair_makes_its_view_in_the_pipeline():
    a, b = make_views(ArraySource(torch.zeros(300, 2)), Pair(add(1.0), add(2.0)), range(VIEW_BLOCK), 0)
    assert a.eq(1).all()
    assert b.eq(2).all()


def test_a_pair_draws_what_its_parts_draw_alone():
    source, noise = ArraySource(torch.zeros(50, 2)), GaussianNoise(1.0)
    alone = make_views(source, noise, range(50), 0)
    pair = make_views(source, Pair(noise, GaussianNoise(2.0)), range(50), 0)
    assert torch.equal(pair[0], alone[0])
    assert torch.equal(pair[1], 2 * alone[1])


def test_a_pair_passes_as_views_and_is_refused_as_one():
    pair = Pair(add(1), add(2))
    assert check_views(pair, IMAGES) is pair
    with pytest.raises(ConfigError, match=r"call views.pair\[0\] or views.pair\[1\]"):
        pair(torch.zeros(2, 2), g())


def test_other_views_are_both_of_their_pair():
    noise = GaussianNoise()
    assert pair_of(noise) == (noise, noise)
    alike = Compose([noise, noise])
    assert pair_of(alike) == (alike, alike)


def test_a_composition_with_a_pair_is_a_pair():
    a, b = Compose([add(10), Pair(add(1), add(2)), add(100)]).pair
    assert a(torch.zeros(1), g()) == 111
    assert b(torch.zeros(1), g()) == 112


def test_a_composition_applies_its_views_in_order():
    double = lambda batch, generator: 2 * batch  # noqa: E731
    assert Compose([add(1), double])(torch.zeros(1), g()) == 2
    assert Compose([double, add(1)])(torch.zeros(1), g()) == 1


def test_the_parts_of_a_composition_draw_independently():
    noise = GaussianNoise(1.0)
    x = torch.zeros(20_000, 1)
    assert abs(Compose([noise, noise])(x, g()).std() - 2**0.5) < 0.03


def test_the_repr_of_combined_views_is_their_setting():
    views = Compose([ShiftNoise(2), Pair(GaussianNoise(0.1), GaussianNoise(0.2))])
    assert eval(repr(views), globals()) == views


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pair(3, add(1)), "Pair: a is a int; expected a callable"),
        (lambda: Pair(add(1), Pair(add(1), add(2))), "Pair: b is a pair of views itself"),
        (lambda: Compose([]), "expected a list of one or more views"),
        (lambda: Compose(GaussianNoise()), "expected a list of one or more views"),
        (lambda: Compose([GaussianNoise(), "scarf"]), "Compose: view 1 is a str"),
    ],
)
def test_what_is_no_view_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("view", [GaussianNoise(), ShiftNoise()])
def test_noise_on_tokens_is_refused(view):
    with pytest.raises(DataError, match=r"torch\.int64; expected floating-point samples\. Tokens have views of"):
        view(torch.zeros(2, 1, 3, 3, dtype=torch.long), g())


def test_draws_are_the_same_however_many_rows_follow():
    for draw in (uniforms, normals):
        for rows in (1, 3, 15, 16, 17, 300):
            assert torch.equal(draw(rows, 5, g()), draw(512, 5, g())[:rows])


def test_normals_have_their_moments():
    z = normals(50_000, 4, g())
    assert torch.isfinite(z).all()
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs(z.pow(4).mean() - 3) < 0.1


def test_image_views_are_refused_a_batch_of_vectors_in_the_pipeline():
    with pytest.raises(DataError, match="expected"):
        make_views(ArraySource(torch.zeros(20, 4)), SimCLRViews(), range(20), 0)
