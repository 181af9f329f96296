"""The settings of each view in a configuration file; what a number means stands with the view."""

from typing import Any, Literal

from pydantic import Field

from krepes.config.reading import Section


class Rate(Section):
    """Of SCARF; pytorch-scarf's corruption_rate is the share that it keeps: say `convention: pytorch-scarf`.

    `both: false` leaves view a as the sample is, as the paper and pytorch-scarf do.
    """

    rate: float | None = None
    convention: Literal["corrupted", "pytorch-scarf"] = "corrupted"
    both: bool = True
    count: Literal["random", "exact"] = "random"


class Nothing(Section):
    """No settings."""


class Std(Section):
    """Of noise."""

    std: float = 0.1


class Shift(Section):
    """See `ShiftNoise`."""

    max_shift: int = 1
    std: float = 0.1
    contrast: float = 0.2


class Feature(Section):
    """See `FeatureDropout`."""

    rate: float = 0.2
    fill: Literal["mean", "missing"] = "mean"


class Mixup(Section):
    """See `TableMixup`."""

    alpha: float = 0.2


class Images(Section):
    """See `ImageView`; what is not given is the framework's."""

    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    flip: float | None = None
    jitter: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    grayscale: float | None = None
    blur: float | None = None
    sigma: tuple[float, float] | None = None
    kernel: int | None = None
    solarize: float | None = None
    threshold: float | None = None


class Framework(Images):
    """The same, with the variant for CIFAR."""

    small: bool = False


class SimCLR(Framework):
    """The same, with the strength of the jitter."""

    strength: float | None = None


class Dropout(Section):
    """See `TokenDropout`."""

    rate: float
    pad_id: int
    special_ids: list[int] = Field(default_factory=list)
    vocabulary: int | None = None


class Mask(Section):
    """See `TokenMask`."""

    rate: float
    mask_id: int
    pad_id: int | None = None
    special_ids: list[int] = Field(default_factory=list)
    vocabulary: int | None = None


class Crop(Section):
    """See `SpanCrop`."""

    low: float
    high: float
    pad_id: int
    special_ids: list[int] = Field(default_factory=list)
    vocabulary: int | None = None


class Arguments(Section):
    """Of a user's class or factory; without them a function is the view itself."""

    args: dict[str, Any] | None = None
