"""An image as the encoder was trained to see it, and the file that it comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from krepes.errors import ConfigError, DataError, is_whole

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a GiB as RGB
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")
PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class Preprocess:
    """An image as the encoder was trained to see it: converted, resized, cropped, scaled to [0, 1], normalised.

    The order and the rounding are torchvision's Resize, CenterCrop, ToTensor, Normalize on Pillow images. 16-bit grey
    is scaled by 65535 and resized without rounding; 16-bit colour comes from Pillow as 8 bit; palettes are looked up;
    CMYK is converted without a profile. Floating-point pixels, 32-bit integers and LAB have no range to scale by and
    are refused.

    Attributes:
        size: a number resizes the shorter side to it; (H, W) resizes to that; None leaves the size.
        crop: centre crop to a square or (H, W); None crops nothing.
        interpolation: Pillow's filter: nearest, bilinear, bicubic, lanczos, box or hamming.
        mean, std: per channel, of values in [0, 1]; None does not normalise.
        mode: "RGB" (3 channels) or "L" (1); other images are converted to it.
        exif: turn the image as its EXIF orientation says. Off, as most training code leaves it; TIFF files Pillow
            turns by itself.
        alpha: "drop" ignores transparency, "white" and "black" put that colour behind it, "refuse" refuses such files.

    Example:
        >>> Preprocess(size=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))(image).shape
        torch.Size([3, 224, 224])

    Raises:
        ConfigError: a setting is out of range.
    """

    size: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    mode: Literal["RGB", "L"] = "RGB"
    exif: bool = False
    alpha: Literal["drop", "white", "black", "refuse"] = "drop"

    def __post_init__(self):
        for name in ("size", "crop"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, value := tuple(value))
            sides = value if isinstance(value, tuple) else (1 if value is None else value,) * 2
            if len(sides) != 2 or not all(is_whole(s) and s > 0 for s in sides):
                raise ConfigError(f"{name}={value!r}; expected a positive number of pixels, or two: (H, W)")
        for name, allowed in (("interpolation", FILTERS), ("mode", ("RGB", "L"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.alpha not in ("drop", "white", "black", "refuse") or not isinstance(self.exif, bool):
            raise ConfigError(f"{self}; expected alpha drop, white, black or refuse, and exif true or false")
        if (self.mean is None) != (self.std is None):
            raise ConfigError("mean and std belong together; give both or neither")
        for name in ("mean", "std"):
            if (value := getattr(self, name)) is None:
                continue
            numbers = tuple(float(v) for v in (value if isinstance(value, Sequence) else (value,)))
            if len(numbers) != self.channels or not np.isfinite(numbers).all():
                raise ConfigError(f"{name}={value!r}; expected {self.channels} numbers, one per channel of {self.mode}")
            object.__setattr__(self, name, numbers)
        if self.std is not None and min(self.std) <= 0:
            raise ConfigError(f"std={self.std}; expected positive numbers")
        if self.mean is not None and max(map(abs, self.mean)) > 1:
            raise ConfigError(f"mean={self.mean}; expected values of pixels in [0, 1]: divide by 255")

    @property
    def channels(self) -> int:
        """3 or 1."""
        return 3 if self.mode == "RGB" else 1

    @property
    def moves_pixels(self) -> bool:
        """Whether it resizes or crops."""
        return self.size is not None or self.crop is not None

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """What an image of this size becomes: (C, H, W).

        Raises:
            DataError: it is smaller than the crop.
        """
        W, H = self._resized(width, height)
        return self.channels, *self._cropped(W, H)

    def __call__(self, image: Image.Image) -> Tensor:
        """A Pillow image as the encoder takes it (C, H, W), float32.

        Raises:
            DataError: its kind of pixels has no range, its transparency is refused, or it is smaller than the crop.
        """
        image = self._converted(image)
        wanted = self._resized(*image.size)
        if wanted != image.size:
            image = image.resize(wanted, Image.Resampling[self.interpolation.upper()])
        h, w = self._cropped(*image.size)
        if (w, h) != image.size:
            # torchvision's rounding
            left, top = round((image.width - w) / 2.0), round((image.height - h) / 2.0)
            image = image.crop((left, top, left + w, top + h))
        values = np.array(image)
        if image.mode == "F":  # 16-bit grey, in [0, 1] already
            return self.normalised(torch.from_numpy(values)[None].expand(self.channels, -1, -1).clone())
        pixels = torch.from_numpy(values if values.ndim == 3 else values[:, :, None])
        return self.normalised(pixels.permute(2, 0, 1).contiguous().float().div(255))

    def normalised(self, values: Tensor) -> Tensor:
        """Values in [0, 1] (..., C, H, W) less the mean, by the standard deviation."""
        if self.mean is None:
            return values
        mean, std = (torch.tensor(v, dtype=values.dtype)[:, None, None] for v in (self.mean, self.std))
        return values.sub(mean).div(std)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.size is None:
            return width, height
        if isinstance(self.size, tuple):
            return self.size[1], self.size[0]
        short, long = sorted((width, height))
        other = int(self.size * long / short)
        return (self.size, other) if width <= height else (other, self.size)

    def _cropped(self, width: int, height: int) -> tuple[int, int]:
        """Height and width after the crop, of an image that is resized already."""
        if self.crop is None:
            return height, width
        h, w = _pair(self.crop)
        if h > height or w > width:
            raise DataError(f"{width}×{height} pixels after resizing, smaller than the crop of {w}×{h}")
        return h, w

    def _converted(self, image: Image.Image) -> Image.Image:
        deep = image.mode in DEEP or (image.mode == "I" and image.format == "PNG")
        # before anything else: a converted image has no EXIF
        image = ImageOps.exif_transpose(image) if self.exif else image
        if deep:
            return Image.fromarray(np.asarray(image).astype(np.float32) / 65535)
        if image.mode not in PLAIN:
            raise DataError(f"its pixels are of kind {image.mode}, which has no range to scale by; save it as 8 bit")
        if image.has_transparency_data:
            if self.alpha == "refuse":
                raise DataError(f"it has transparency (mode {image.mode}), and alpha is 'refuse'")
            image = image.convert("RGBA")
            if self.alpha != "drop":
                image = Image.alpha_composite(Image.new("RGBA", image.size, self.alpha), image)
            image = image.convert("RGB")
        return image if image.mode == self.mode else image.convert(self.mode)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def read_image(file: IO[bytes], preprocess: Preprocess, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, str]:
    """A file's image as the encoder takes it (C, H, W), and how its pixels are kept: Pillow's mode.

    Raises:
        DataError: it is no image, damaged, too large, or of a kind that cannot be used; says the reason alone.
    """
    return _opened(file, max_pixels, lambda image: (preprocess(image), _kept_as(image)))


def read_header(file: IO[bytes], preprocess: Preprocess, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, ...], str]:
    """The shape (C, H, W) that `read_image` would give, and Pillow's mode, from the header alone; raises as it."""

    def look(image: Image.Image) -> tuple[tuple[int, ...], str]:
        # Pillow turns TIFF itself, and its size is that of the turned image
        turned = preprocess.exif and image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return preprocess.shape(*(image.size[::-1] if turned else image.size)), _kept_as(image)

    return _opened(file, max_pixels, look)


def _opened(file: IO[bytes], max_pixels: int, use: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(file) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(f"{width}×{height} = {width * height} pixels; the limit is max_pixels={max_pixels}")
            # camera JPEGs carry a preview as a second frame
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise DataError(f"it holds {getattr(image, 'n_frames', 'several')} frames; expected one image")
            return use(image)
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError("it is no image that Pillow knows") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"it has too many pixels: {error}") from error
    except Exception as error:  # decoders raise errors of many types on damaged files
        raise DataError(f"it cannot be decoded: {error or type(error).__name__}") from error


def _kept_as(image: Image.Image) -> str:
    return f"{image.mode} with transparency" if image.has_transparency_data else image.mode
