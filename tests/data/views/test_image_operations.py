"""Each image operation is torchvision's: against Pillow, its backend, Python's colorsys, and kornia's own classes."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from krepes.data.views import ImageView
from krepes.data.views.augment import (
    COLUMNS,
    apply,
    blur_radius,
    color_jitter,
    crop_boxes,
    draw,
    jitter_factors,
    kornia_module,
    resized_crops,
)
from krepes.data.views.draws import uniforms

kornia = pytest.importorskip("kornia", reason='pip install "krepes[images]"')
EIGHT_BITS = 1.01 / 255  # Pillow rounds each result to 8 bits


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, size=16, channels=3, seed=0):
    x = torch.rand(n, channels, size, size, generator=g(seed))
    return (x * 255).round() / 255


def pillow(image):
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


def tensor(image):
    return torch.from_numpy(np.array(image)).float().permute(2, 0, 1) / 255


def plain(**settings):
    off = {"scale": (1, 1), "ratio": (1, 1), "flip": 0, "jitter": 0, "grayscale": 0}
    return ImageView(**{**off, **settings})


def made(x, view):
    return apply(x, draw(view, x.shape, g()), view)


def only(kind, value, n):
    """Drawn parameters that change one of the four colours by one factor."""
    drawn = draw(plain(jitter=1), torch.Size((n, 3, 16, 16)), g())
    drawn.factors[:] = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    drawn.factors[:, kind] = value
    return drawn


# ------------------------------------------------------------------------ crops


def torchvision_box(u, H, W, scale, ratio):
    """RandomResizedCrop.get_params as torchvision documents it, one image at a time, on given uniforms."""
    for attempt in range(10):
        area = H * W * (scale[0] + (scale[1] - scale[0]) * u[attempt])
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * u[10 + attempt])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= W and 0 < h <= H:
            return [int(u[20] * (W - w + 1)), int(u[21] * (H - h + 1)), w, h]
    if ratio[0] > W / H:
        w, h = W, round(W / ratio[0])
    elif ratio[1] < W / H:
        w, h = round(H * ratio[1]), H
    else:
        w, h = W, H
    return [(W - w) // 2, (H - h) // 2, w, h]


@pytest.mark.parametrize(
    ("H", "W", "scale", "ratio"),
    [(32, 32, (0.08, 1), (3 / 4, 4 / 3)), (20, 60, (0.5, 1), (3 / 4, 4 / 3)), (60, 20, (0.9, 1), (3 / 4, 4 / 3)),
     (17, 23, (0.9, 1), (0.2, 5)), (1, 9, (0.08, 1), (3 / 4, 4 / 3))],
)  # fmt: skip
def test_crop_boxes_are_those_of_torchvision_with_its_ten_attempts(H, W, scale, ratio):
    u = uniforms(400, COLUMNS, g())
    expected = [torchvision_box(row, H, W, scale, ratio) for row in u.tolist()]
    assert crop_boxes(u, H, W, scale, ratio).tolist() == expected


def test_crops_have_the_area_and_ratio_of_the_rejected_uniform():
    n, size, (s0, s1), r = 40_000, 2000, (0.08, 1.0), math.log(4 / 3)
    boxes = crop_boxes(uniforms(n, COLUMNS, g()), size, size, (s0, s1), (3 / 4, 4 / 3)).double()
    area, log_ratio = boxes[:, 2] * boxes[:, 3] / size**2, (boxes[:, 2] / boxes[:, 3]).log()
    # on {a exp|q| <= 1}: moments by quadrature over q
    q = torch.linspace(-r, r, 20_001, dtype=torch.float64)
    top = torch.minimum(torch.exp(-q.abs()), torch.tensor(s1, dtype=torch.float64))
    weight = (top - s0) / (top - s0).sum()
    mean_area = (weight * (top + s0) / 2).sum()
    spread = (weight * q**2).sum()
    assert abs(area.mean() - mean_area) < 0.004
    assert abs(log_ratio.mean()) < 0.003
    assert abs(log_ratio.pow(2).mean() - spread) < 0.0004


def test_a_crop_lies_anywhere_inside_the_image():
    boxes = crop_boxes(uniforms(20_000, COLUMNS, g()), 8, 8, (0.25, 0.25), (1, 1))
    assert boxes[:, 2:].eq(4).all()
    corners = torch.bincount(boxes[:, 0] * 5 + boxes[:, 1], minlength=25)
    assert len(corners) == 25
    assert (corners.double() / 20_000 - 1 / 25).abs().max() < 0.006


@pytest.mark.parametrize(("name", "filter_"), [("bilinear", "BILINEAR"), ("bicubic", "BICUBIC")])
def test_a_resized_crop_is_pillows(name, filter_):
    x = ((images(40, 24) * 0.4 + 0.3) * 255).round() / 255  # Pillow clips cubic overshoot after each axis
    boxes = crop_boxes(uniforms(40, COLUMNS, g(1)), 24, 24, (0.05, 1), (0.5, 2))
    found = resized_crops(x, boxes, name)
    for image, (left, top, w, h), out in zip(x, boxes.tolist(), found, strict=True):
        crop = pillow(image).crop((left, top, left + w, top + h))
        expected = tensor(crop.resize((24, 24), Image.Resampling[filter_]))
        assert (out - expected).abs().max() < 2 * EIGHT_BITS  # Pillow rounds after each axis


def test_a_bilinear_crop_is_kornias():
    x = images(12, 20)
    own = kornia.augmentation.RandomResizedCrop((20, 20), align_corners=False)
    expected = own(x)
    corners = own._params["src"].long()
    boxes = torch.cat([corners[:, 0], corners[:, 2] - corners[:, 0] + 1], 1)
    torch.testing.assert_close(resized_crops(x, boxes, "bilinear"), expected, atol=1e-6, rtol=0)


# ----------------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("kind", "pil"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_brightness_contrast_and_saturation_are_pillows(kind, pil, factor):
    x = images()
    found = x.clone()
    color_jitter(found, only(kind, factor, len(x)))
    for image, out in zip(x, found, strict=True):
        # Pillow rounds the grey that it blends with, too
        assert (out - tensor(pil(pillow(image)).enhance(factor))).abs().max() < EIGHT_BITS * (1 + abs(1 - factor))


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.25, 0.4])
def test_the_hue_is_shifted_in_turns(turns):
    x = images(2, 5)
    found = x.clone()
    color_jitter(found, only(3, turns, 2))
    for image, out in zip(x, found, strict=True):
        for pixel, shifted in zip(image.flatten(1).T.tolist(), out.flatten(1).T.tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            assert shifted == pytest.approx(colorsys.hsv_to_rgb((h + turns) % 1, s, v), abs=1e-4)


def test_colours_change_in_each_images_own_order_as_kornias_jitter():
    x = images(24)
    drawn = draw(plain(jitter=1, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2), x.shape, g(3))
    assert len({tuple(o) for o in drawn.order.tolist()}) > 8
    found = x.clone()
    color_jitter(found, drawn)
    own = kornia.augmentation.ColorJitter(0.8, 0.8, 0.8, 0.2, p=1.0)
    for i in range(len(x)):
        params = own.forward_parameters(x[i : i + 1].shape)
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        params.update({n: drawn.factors[i : i + 1, k].float() for k, n in enumerate(names)}, order=drawn.order[i])
        torch.testing.assert_close(found[i : i + 1], own(x[i : i + 1], params=params), atol=2e-6, rtol=0)


def test_factors_are_uniform_in_torchvisions_ranges():
    f = jitter_factors(uniforms(20_000, 4, g()), (0.4, 1.5, 0.0, 0.1))
    for k, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.1, 0.1)]):
        assert low <= f[:, k].min() <= f[:, k].max() <= high
        assert abs(f[:, k].mean() - (low + high) / 2) < 0.02 * (high - low) + 1e-12


def test_grayscale_has_pillows_weights():
    x = images()
    found = made(x, plain(grayscale=1))
    for image, out in zip(x, found, strict=True):
        expected = tensor(pillow(image).convert("L").convert("RGB"))
        assert (out - expected).abs().max() < EIGHT_BITS
        assert torch.equal(out[0], out[2])


def test_solarisation_is_pillows():
    x = images()
    found = made(x, plain(solarize=1, threshold=128 / 255))
    for image, out in zip(x, found, strict=True):
        torch.testing.assert_close(out, tensor(ImageOps.solarize(pillow(image), 128)), atol=1e-6, rtol=0)


def test_a_flip_mirrors_columns():
    x = images()
    assert torch.equal(made(x, plain(flip=1)), x.flip(3))


def test_blur_is_a_gaussian_of_the_drawn_width():
    x = torch.zeros(3, 1, 61, 61)
    x[:, :, 30, 30] = 1
    view = plain(blur=1, sigma=(0.8, 3.0))
    row = made(x, view)[:, 0].sum(1)  # (3, 61)
    offset = torch.arange(61) - 30.0
    assert row.sum(1) == pytest.approx(1, abs=1e-5)
    variance = (row * offset**2).sum(1).double()
    torch.testing.assert_close(variance, draw(view, x.shape, g()).sigma ** 2, rtol=5e-3, atol=0)


@pytest.mark.parametrize("size", [32, 96])
def test_blur_is_about_pillows(size):
    x = images(3, size)
    view = plain(blur=1, sigma=(1.0, 2.0))
    drawn = draw(view, x.shape, g())
    for image, sigma, out in zip(x, drawn.sigma.tolist(), made(x, view), strict=True):
        expected = tensor(pillow(image).filter(ImageFilter.GaussianBlur(sigma)))
        inside = slice(8, -8)  # Pillow repeats the border
        assert (out - expected)[:, inside, inside].abs().max() < 0.03
        assert image[:, inside, inside].std() > 5 * out[:, inside, inside].std()


def test_blur_is_kornias_class_on_the_same_width_and_kernel():
    x = images(4, 40)
    view = plain(blur=1, kernel=5)
    own = kornia.augmentation.RandomGaussianBlur((5, 5), (0.1, 2.0), p=1.0)
    params = own.forward_parameters(x.shape)
    params["sigma"] = draw(view, x.shape, g()).sigma.float()
    torch.testing.assert_close(made(x, view), own(x, params=params), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("kernel", "side", "radius"), [(None, 224, 8), (None, 8, 7), (23, 224, 11), (3, 32, 1), (9, 1, 0)]
)
def test_the_blurs_kernel_is_the_whole_gaussian_or_the_one_given(kernel, side, radius):
    assert blur_radius(ImageView(kernel=kernel), side) == radius


def test_kornia_is_imported_where_it_is_needed():
    assert kornia_module() is kornia
