"""Views of images as frameworks trained on them."""

import subprocess
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from krepes.data.views import BarlowViews, BYOLViews, ImageView, SimCLRViews, VICRegViews
from krepes.data.views.augment import draw
from krepes.errors import ConfigError, DataError

pytest.importorskip("kornia", reason='pip install "krepes[images]"')
EVERYTHING = ImageView(hue=0.5, brightness=1, contrast=1, saturation=1, jitter=1, blur=0.5, solarize=0.5)


def g(seed=0):
    return torch.Generator().manual_seed(seed)


@given(
    st.integers(0, 2**31), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12),
    st.sampled_from(["random", "constant", "binary"]), st.sampled_from(["bilinear", "bicubic"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_image_gives_a_number_outside_the_range(seed, channels, H, W, content, interpolation):
    x = torch.rand(5, channels, H, W, generator=g(seed))
    x = {"random": x, "constant": x[:, :1, :1, :1].round(decimals=1).expand_as(x), "binary": x.round()}[content]
    view = ImageView(**{**EVERYTHING.__dict__, "interpolation": interpolation})(x, g(seed))
    assert view.shape == x.shape
    assert view.min() >= 0
    assert view.max() <= 1


@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([EVERYTHING, SimCLRViews(), *BYOLViews().pair]))
@settings(max_examples=15, deadline=None)
def test_a_samples_view_does_not_depend_on_the_samples_after_it(seed, k, view):
    x = torch.rand(12, 3, 9, 9, generator=g(1))
    torch.testing.assert_close(view(x[:k], g(seed)), view(x, g(seed))[:k], atol=1e-6, rtol=0)


def test_a_setting_leaves_what_others_draw():
    shape = torch.Size((50, 3, 16, 16))
    one, other = draw(SimCLRViews(), shape, g()), draw(BYOLViews().b, shape, g())
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.flip, other.flip)
    assert torch.equal(one.sigma, other.sigma)


def test_probabilities_are_kept():
    drawn = draw(BYOLViews().b, torch.Size((20_000, 3, 4, 4)), g())
    for name, p in [("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.1), ("solarize", 0.2)]:
        assert abs(getattr(drawn, name).double().mean() - p) < 0.015
    assert 0.1 <= drawn.sigma.min() <= drawn.sigma.max() <= 2


def test_normalised_images_are_augmented_in_their_unnormalised_range():
    x = torch.rand(8, 3, 12, 12, generator=g(2), dtype=torch.float64)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    m, s = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    plain = SimCLRViews()(x, g())
    torch.testing.assert_close(SimCLRViews(mean, std)((x - m) / s, g()) * s + m, plain)


def test_one_number_normalises_all_channels():
    x = torch.rand(4, 1, 8, 8, generator=g()) * 2 - 1
    assert SimCLRViews(0.5, 0.5)(x, g()).min() < -0.5


def test_images_without_a_channel_axis_are_images_of_one():
    x = torch.rand(6, 10, 10, generator=g())
    assert torch.equal(SimCLRViews()(x, g()), SimCLRViews()(x[:, None], g())[:, 0])


def test_hue_saturation_and_grayscale_leave_one_channel():
    x = torch.rand(6, 1, 10, 10, generator=g())
    off = {"scale": (1, 1), "ratio": (1, 1), "flip": 0, "brightness": 0, "contrast": 0}
    view = ImageView(jitter=1, hue=0.5, saturation=1, grayscale=1, **off)
    torch.testing.assert_close(view(x, g()), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_views_keep_the_type(dtype):
    assert SimCLRViews()(torch.rand(3, 3, 8, 8).to(dtype), g()).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_are_made_where_the_batch_is():
    x = torch.rand(6, 3, 32, 32)
    for view in (SimCLRViews(), *BYOLViews().pair):
        there = view(x.cuda(), g())
        assert there.is_cuda
        torch.testing.assert_close(there.cpu(), view(x, g()), atol=1e-4, rtol=0)


def test_the_batch_itself_is_left_alone():
    x = torch.rand(4, 3, 8, 8, generator=g())
    before = x.clone()
    EVERYTHING(x, g())
    assert torch.equal(x, before)


def test_byol_blurs_one_view_and_solarises_the_other():
    a, b = BYOLViews().pair
    assert (a.blur, a.solarize, b.blur, b.solarize) == (1, 0, 0.1, 0.2)
    assert (a.brightness, a.contrast, a.saturation, a.hue, a.interpolation) == (0.4, 0.4, 0.2, 0.1, "bicubic")
    assert BarlowViews() == VICRegViews() == BYOLViews()


def test_small_images_are_not_blurred():
    assert SimCLRViews(small=True).blur == 0
    assert SimCLRViews(small=True).brightness == 0.4
    assert SimCLRViews().brightness == 0.8
    assert SimCLRViews().hue == 0.2
    assert [v.blur for v in BYOLViews(small=True).pair] == [0, 0]


def test_settings_may_differ_from_the_papers():
    assert [v.scale for v in VICRegViews(scale=(0.2, 1)).pair] == [(0.2, 1)] * 2
    with pytest.raises(ConfigError, match="crop is no setting of image views"):
        SimCLRViews(crop=3)


def test_the_repr_is_the_full_setting():
    view = BYOLViews((0.5,), (0.25,))
    assert eval(repr(view.a), {"ImageView": ImageView}) == view.a
    assert repr(view) == f"Pair(a={view.a!r}, b={view.b!r})"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "torch.uint8; expected floating-point images. Divide"),
        (torch.zeros(2, 4, 5, 5), r"shape \(2, 4, 5, 5\); expected \(B, 1 or 3, H, W\)"),
        (torch.zeros(2, 7), r"shape \(2, 7\)"),
        (torch.zeros(2, 3, 0, 4), r"shape \(2, 3, 0, 4\)"),
        (torch.full((2, 3, 4, 4), -2.0), "values from -2 to -2 before normalisation, where no mean and std"),
        (torch.full((2, 3, 4, 4), 200.0), "or divide by 255"),
        (torch.full((2, 3, 4, 4), float("nan")), r"values from nan to nan .* expected \[0, 1\]"),
        ([1, 2], "image views got list"),
    ],
)
def test_what_is_no_image_in_range_is_refused(batch, message):
    with pytest.raises(DataError, match=message):
        SimCLRViews()(batch, g())


def test_a_wrong_normalisation_is_refused_with_what_was_given():
    with pytest.raises(DataError, match=r"mean=\(0.5,\) and std=\(2.0,\) are given; expected \[0, 1\]"):
        SimCLRViews(0.5, 2.0)(torch.ones(2, 3, 4, 4), g())
    with pytest.raises(ConfigError, match="mean has 3 numbers for images of 1 channels"):
        SimCLRViews((0.1,) * 3, (1,) * 3)(torch.zeros(2, 1, 4, 4), g())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1.5}, "flip=1.5; expected 0 <= flip <= 1"),
        ({"blur": "no"}, "blur='no'"),
        ({"scale": (0, 1)}, r"scale=\(0.0, 1.0\); expected"),
        ({"scale": (0.5, 1.1)}, "scale="),
        ({"ratio": (2, 1)}, "ratio="),
        ({"sigma": (0.1,)}, "sigma="),
        ({"kernel": 4}, "kernel=4; expected an odd number of pixels"),
        ({"hue": 0.6}, "hue=0.6; expected a number from 0 to 0.5"),
        ({"brightness": float("inf")}, "brightness=inf"),
        ({"interpolation": "nearest"}, "interpolation='nearest'"),
        ({"mean": (0.5,)}, "mean and std belong together"),
        ({"mean": (0.5,), "std": (0,)}, "std="),
        ({"mean": "half", "std": (1,)}, "mean='half'; expected numbers"),
        ({"mean": (), "std": ()}, r"mean=\(\); expected finite numbers"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ImageView(**change)


def test_without_kornia_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ConfigError, match=r"pip install \"krepes\[images\]\""):
        SimCLRViews()(torch.rand(2, 3, 4, 4), g())


@pytest.mark.parametrize("error", [ImportError("no kornia_rs", name="kornia_rs"), RuntimeError("operator missing")])
def test_a_broken_kornia_is_said_to_be_broken(monkeypatch, error):
    class Broken(types.ModuleType):
        @property
        def __path__(self):
            raise error

    monkeypatch.setitem(sys.modules, "kornia", Broken("kornia"))
    monkeypatch.delitem(sys.modules, "kornia.geometry", raising=False)
    monkeypatch.delitem(sys.modules, "kornia.geometry.transform", raising=False)
    with pytest.raises(ConfigError, match="kornia is installed but cannot be imported"):
        SimCLRViews()(torch.rand(2, 3, 4, 4), g())


def test_importing_krepes_and_its_views_imports_no_kornia():
    code = "import sys, krepes, krepes.data.views, krepes.config; sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_crops_of_every_framework_are_bicubic_unless_it_is_said():
    assert SimCLRViews().interpolation == SimCLRViews(small=True).interpolation == "bicubic"
    assert SimCLRViews(interpolation="bilinear").interpolation == "bilinear"
    assert BYOLViews().pair[1].interpolation == "bicubic"  # pyright: ignore[reportFunctionMemberAccess]
