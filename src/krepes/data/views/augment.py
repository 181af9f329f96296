"""Image augmentations as torchvision defines them, on whole batches: parameters first, then the operations."""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from krepes.data.views.draws import uniforms
from krepes.errors import ConfigError

if TYPE_CHECKING:
    from krepes.data.views.images import ImageView

WIDTHS = 4  # of the Gaussian on either side: all but 6e-5 of it
ATTEMPTS = 10  # of a random crop, as in torchvision
# Columns of the table of uniforms. Every setting reads its own, so that changing one leaves what others draw.
AREA, RATIO, PLACE = slice(0, ATTEMPTS), slice(ATTEMPTS, 2 * ATTEMPTS), (20, 21)
FLIP, JITTER = 22, 23
FACTORS, ORDER, GRAYSCALE, BLUR, SIGMA, SOLARIZE = slice(24, 28), slice(28, 32), 32, 33, 34, 35
COLUMNS = 36


@dataclass(frozen=True)
class Drawn:
    """What is done to each image of a batch; on the generator's device.

    Attributes:
        boxes: left, top, width and height of the crops in pixels (B, 4), int64.
        flip, jitter, grayscale, blur, solarize: whether (B,), bool.
        factors: of brightness, contrast and saturation, and the turn of the hue (B, 4), float64.
        order: in which these four are applied (B, 4), int64.
        sigma: of the blur in pixels (B,), float64.
    """

    boxes: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor


def draw(view: "ImageView", shape: torch.Size, generator: torch.Generator) -> Drawn:
    """Parameters of a view of images (B, C, H, W): one row of uniforms per image."""
    u = uniforms(shape[0], COLUMNS, generator)
    low, high = view.sigma
    return Drawn(
        boxes=crop_boxes(u, shape[-2], shape[-1], view.scale, view.ratio),
        flip=u[:, FLIP] < view.flip,
        jitter=u[:, JITTER] < view.jitter,
        factors=jitter_factors(u[:, FACTORS], (view.brightness, view.contrast, view.saturation, view.hue)),
        order=u[:, ORDER].argsort(1),
        grayscale=u[:, GRAYSCALE] < view.grayscale,
        blur=u[:, BLUR] < view.blur,
        sigma=low + (high - low) * u[:, SIGMA],
        solarize=u[:, SOLARIZE] < view.solarize,
    )


def crop_boxes(u: Tensor, H: int, W: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Left, top, width and height of RandomResizedCrop (B, 4).

    Area a ~ U(scale)·HW and width / height r with log r ~ U(log ratio) give w = √(a r), h = √(a / r), rounded; the
    first of ten draws that fits is taken, at a uniform place. If none fits: the largest centred box whose ratio lies
    in the range. So given that the first draw fits, (a, log r) is uniform on {a max(r H/W, W/(r H)) ≤ HW}.
    """
    area = H * W * (scale[0] + (scale[1] - scale[0]) * u[:, AREA])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * u[:, RATIO]).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (B, 10)
    fits = (w > 0) & (w <= W) & (h > 0) & (h <= H)
    first = fits.int().argmax(1, keepdim=True)  # (B, 1)
    whole = W / H  # without a box that fits, the image's own ratio is clipped to the range
    width = min(W, round(H * ratio[1])) if whole > ratio[1] else W
    height = min(H, round(W / ratio[0])) if whole < ratio[0] else H
    found = fits.any(1)
    w = torch.where(found, w.gather(1, first)[:, 0], float(max(1, width)))
    h = torch.where(found, h.gather(1, first)[:, 0], float(max(1, height)))
    x = torch.where(found, (u[:, PLACE[0]] * (W - w + 1)).floor(), ((W - w) / 2).floor())
    y = torch.where(found, (u[:, PLACE[1]] * (H - h + 1)).floor(), ((H - h) / 2).floor())
    return torch.stack([x, y, w, h], 1).long()


def jitter_factors(u: Tensor, strengths: tuple[float, float, float, float]) -> Tensor:
    """U(max(0, 1 − s), 1 + s) for brightness, contrast and saturation, U(−s, s) turns for the hue: (B, 4)."""
    low = torch.tensor([*(max(0.0, 1 - s) for s in strengths[:3]), -strengths[3]], dtype=u.dtype, device=u.device)
    high = torch.tensor([*(1 + s for s in strengths[:3]), strengths[3]], dtype=u.dtype, device=u.device)
    return low + (high - low) * u


def apply(images: Tensor, drawn: Drawn, view: "ImageView") -> Tensor:
    """Crop, flip, colour jitter, grayscale, blur and solarisation of images (B, C, H, W) in [0, 1].

    Saturation, hue and grayscale leave images of one channel as they are.
    """
    out = resized_crops(images, drawn.boxes, view.interpolation)
    kornia = kornia_module()
    change(out, drawn.flip, kornia.geometry.transform.hflip)
    color_jitter(out, drawn)
    if images.shape[1] == 3:
        change(out, drawn.grayscale, lambda x: kornia.color.rgb_to_grayscale(x).expand_as(x))
    radius = blur_radius(view, min(images.shape[-2:]))
    if radius:
        sigma = drawn.sigma[drawn.blur][:, None].expand(-1, 2)
        change(out, drawn.blur, lambda x: kornia.filters.gaussian_blur2d(x, (2 * radius + 1,) * 2, sigma.to(x)))
    change(out, drawn.solarize, lambda x: kornia.enhance.solarize(x, float(view.threshold)))
    return out.clamp_(0, 1)


def resized_crops(images: Tensor, boxes: Tensor, interpolation: str) -> Tensor:
    """The boxes' contents at the images' size (B, C, H, W), in [0, 1].

    Image by image, as boxes differ in size. Pixels are areas (no aligned corners) and cubic weights those of Pillow,
    which PyTorch has where antialiasing is on and kornia has not.
    """
    size, out = images.shape[-2:], torch.empty_like(images)
    for i, (x, y, w, h) in enumerate(boxes.tolist()):
        crop = images[i : i + 1, :, y : y + h, x : x + w]
        if crop.shape[-2:] != size:
            crop = interpolate(crop, size, mode=interpolation, align_corners=False, antialias=True)
        out[i] = crop[0]
    return out.clamp_(0, 1)  # cubic weights overshoot


def color_jitter(images: Tensor, drawn: Drawn) -> None:
    """Brightness, contrast, saturation and hue in each image's own order, in place."""
    enhance = kornia_module().enhance
    steps = (
        enhance.adjust_brightness_accumulative,
        enhance.adjust_contrast_with_mean_subtraction,  # around the mean of the grayscale image
        enhance.adjust_saturation_with_gray_subtraction,
        lambda x, turns: enhance.adjust_hue(x, 2 * math.pi * turns).clamp(0, 1),
    )
    usable = 4 if images.shape[1] == 3 else 2
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=drawn.factors.dtype, device=drawn.factors.device)
    active = drawn.jitter[:, None] & (drawn.factors != neutral)  # (B, 4)
    for place in range(4):
        for kind, step in enumerate(steps[:usable]):
            which = active[:, kind] & (drawn.order[:, place] == kind)
            factor = drawn.factors[which, kind]
            change(images, which, lambda x, step=step, factor=factor: step(x, factor.to(x)))


def change(images: Tensor, which: Tensor, operation) -> None:
    """Apply an operation to some of the images, in place."""
    index = which.nonzero().flatten().to(images.device)
    if len(index):
        images[index] = operation(images[index])


def blur_radius(view: "ImageView", side: int) -> int:
    """Of the kernel: four widths of the Gaussian unless the view says it, less than the image's shorter side."""
    radius = math.ceil(WIDTHS * view.sigma[1]) if view.kernel is None else view.kernel // 2
    return min(radius, side - 1)  # the border is reflected


def kornia_module() -> ModuleType:
    """kornia, imported where it is needed.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    try:
        import kornia
        import kornia.geometry.transform
    except ImportError as error:
        if getattr(error, "name", None) in (None, "kornia"):
            raise ConfigError(
                'image views need kornia, which is not installed: pip install "krepes[images]"'
            ) from error
        raise ConfigError(f"kornia is installed but cannot be imported: {error}") from error
    except (RuntimeError, AttributeError, OSError) as error:
        raise ConfigError(f"kornia is installed but cannot be imported: {error}. Reinstall it") from error
    return kornia
