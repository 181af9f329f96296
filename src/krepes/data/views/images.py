"""The views on which SimCLR, BYOL, Barlow Twins and VICReg encoders of images were trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from krepes.data.views.augment import apply, draw
from krepes.data.views.compose import Pair
from krepes.data.views.draws import check_rate
from krepes.errors import ConfigError, DataError, is_whole

TOLERANCE = 0.05  # beyond [0, 1]; cubic resizing without clipping overshoots by as much


@dataclass(frozen=True)
class ImageView:
    """Random resized crop, flip, colour jitter, grayscale, Gaussian blur, solarisation, in this order.

    What each does is torchvision's definition; the size stays. Images (B, C, H, W) or (B, H, W) of one or three
    channels, normalised by `mean` and `std`: they are taken back to [0, 1], augmented, clipped, normalised again.
    Saturation, hue and grayscale do nothing to one channel. Half precision is computed in float32.

    Args:
        scale: range of the crop's share of the area.
        ratio: range of the crop's width / height.
        interpolation: "bilinear" or "bicubic", with Pillow's weights.
        flip, jitter, grayscale, blur, solarize: probabilities.
        brightness, contrast, saturation: factors are uniform in [max(0, 1 − s), 1 + s].
        hue: turns are uniform in ± hue, at most 0.5.
        sigma: range of the blur in pixels.
        kernel: width of the blur's kernel, odd; None: the whole Gaussian, as Pillow blurs. No kernel reaches farther
            than the image.
        threshold: values from here on are inverted by solarisation.
        mean, std: of the encoder's preprocessing, one number per channel or for all; None: images are in [0, 1].

    Raises:
        ConfigError: a setting is out of range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int | None = None
    solarize: float = 0.0
    threshold: float = 0.5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        for name in ("scale", "ratio", "sigma", "mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        check_rate(self, "flip", "jitter", "grayscale", "blur", "solarize", "threshold")
        for name in ("scale", "ratio", "sigma"):
            found = getattr(self, name)
            if len(found) != 2 or not 0 < found[0] <= found[1] or (name == "scale" and found[1] > 1):
                limit = " <= 1" if name == "scale" else ""
                raise ConfigError(f"ImageView: {name}={found}; expected (low, high), 0 < low <= high{limit}")
        for name, limit in (("brightness", 100), ("contrast", 100), ("saturation", 100), ("hue", 0.5)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
                raise ConfigError(f"ImageView: {name}={value!r}; expected a number from 0 to {limit}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"ImageView: interpolation={self.interpolation!r}; expected 'bilinear' or 'bicubic'")
        if self.kernel is not None and not (is_whole(self.kernel) and self.kernel > 0 and self.kernel % 2):
            raise ConfigError(f"ImageView: kernel={self.kernel!r}; expected an odd number of pixels, or None")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("ImageView: mean and std belong together; give both or neither")
        if self.std is not None and not all(s > 0 for s in self.std):
            raise ConfigError(f"ImageView: std={self.std}; expected positive numbers")

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """A view of the batch's shape, dtype and device.

        Raises:
            DataError: these are no images of one or three channels, or not in [0, 1] before normalisation.
            ConfigError: kornia is missing.
        """
        images = self.unnormalised(batch)
        out = apply(images, draw(self, images.shape, generator), self)
        mean, std = self._moments(images)
        return ((out - mean) / std).reshape(batch.shape).to(batch.dtype)

    def unnormalised(self, batch: Tensor) -> Tensor:
        """The images (B, C, H, W) in [0, 1], float32 or float64; raises as a call does."""
        if not isinstance(batch, Tensor) or not batch.is_floating_point():
            found = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
            raise DataError(
                f"image views got {found}; expected floating-point images. Divide integer ones by their maximum (255) "
                "and normalise them as the encoder was trained"
            )
        if batch.ndim not in (3, 4) or (batch.ndim == 4 and batch.shape[1] not in (1, 3)) or 0 in batch.shape[1:]:
            raise DataError(
                f"image views got a batch of shape {tuple(batch.shape)}; expected (B, 1 or 3, H, W) or (B, H, W)"
            )
        images = batch if batch.ndim == 4 else batch[:, None]
        images = images if images.dtype == torch.float64 else images.float()
        mean, std = self._moments(images)
        images = images * std + mean
        low, high = (float(images.min()), float(images.max())) if len(images) else (0.0, 1.0)
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            given = f"mean={self.mean} and std={self.std} are" if self.mean else "no mean and std are"
            raise DataError(
                f"images have values from {low:.3g} to {high:.3g} before normalisation, where {given} given; expected "
                "[0, 1]. Give mean and std of the encoder's preprocessing" + (", or divide by 255" if high > 10 else "")
            )
        return images.clamp(0, 1)

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        channels, out = images.shape[1], []
        for name, values, none in (("mean", self.mean, (0.0,)), ("std", self.std, (1.0,))):
            values = none if values is None else values
            if len(values) not in (1, channels):
                raise ConfigError(f"ImageView: {name} has {len(values)} numbers for images of {channels} channels")
            out.append(torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None])
        return out[0], out[1]


def SimCLRViews(
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    small: bool = False,
    strength: float | None = None,
    **changes: Any,
) -> ImageView:
    """SimCLR (Chen et al., arXiv 2002.05709): both views alike, jitter s · (0.8, 0.8, 0.8, 0.2), blur in half of them.

    Crops are resized bicubically, as in its code (data_util.py).

    Args:
        mean, std: as in `ImageView`.
        small: for CIFAR: strength 0.5 and no blur (appendix B.9).
        strength: s; default 1, or 0.5 if small.
        changes: settings of `ImageView` that differ.
    """
    s = (0.5 if small else 1.0) if strength is None else strength
    jitter = {"brightness": 0.8 * s, "contrast": 0.8 * s, "saturation": 0.8 * s, "hue": 0.2 * s}
    shared = {"interpolation": "bicubic", "blur": 0.0 if small else 0.5, "mean": mean, "std": std}
    return _view({**jitter, **shared}, changes)


def BYOLViews(
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, small: bool = False, **changes: Any
) -> Pair:
    """BYOL (Grill et al., arXiv 2006.07733, appendix B): blur 1 and 0.1, solarisation 0 and 0.2 in the two views.

    Args:
        mean, std: as in `ImageView`.
        small: for CIFAR: no blur.
        changes: settings of `ImageView` that differ, for both views.
    """
    shared = {"interpolation": "bicubic", "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1,
              "mean": mean, "std": std}  # fmt: skip
    a, b = (0.0, 0.0) if small else (1.0, 0.1)
    return Pair(
        _view({**shared, "blur": a, "solarize": 0.0}, changes), _view({**shared, "blur": b, "solarize": 0.2}, changes)
    )


def BarlowViews(
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, small: bool = False, **changes: Any
) -> Pair:
    """Barlow Twins (Zbontar et al., arXiv 2103.03230, section 2.2): BYOL's. Arguments as in `BYOLViews`."""
    return BYOLViews(mean, std, small, **changes)


def VICRegViews(
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, small: bool = False, **changes: Any
) -> Pair:
    """VICReg (Bardes et al., arXiv 2105.04906) as its published code trains: BYOL's. Arguments as in `BYOLViews`."""
    return BYOLViews(mean, std, small, **changes)


def _view(settings: dict[str, Any], changes: dict[str, Any]) -> ImageView:
    unknown = sorted(set(changes) - set(ImageView.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} is no setting of image views; expected some of "
            f"{', '.join(ImageView.__dataclass_fields__)}"
        )
    return ImageView(**{**settings, **changes})


def _numbers(name: str, values: Any) -> tuple[float, ...] | None:
    if values is None and name in ("mean", "std"):
        return None
    values = [values] if isinstance(values, int | float) else values
    try:
        out = tuple(float(v) for v in values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"ImageView: {name}={values!r}; expected numbers") from error
    if not out or not all(abs(v) < float("inf") for v in out):
        raise ConfigError(f"ImageView: {name}={values!r}; expected finite numbers")
    return out
