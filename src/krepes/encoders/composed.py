"""Normalisation, backbone, projector and predictor as one network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from krepes.encoders.recipe import Preprocess
from krepes.errors import EncoderError

RANGE = 1e-3  # how far resizing and rounding may leave [0, 1]


class Encoder(nn.Module):
    """Normalisation, backbone, and as much of the projector and predictor as the space asks for.

    Args:
        encoder: the backbone.
        head, predictor: none where the audited space ends before them.
        preprocess: with mean and std, of images in [0, 1].
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        predictor: nn.Module | None = None,
        preprocess: Preprocess | None = None,
    ):
        super().__init__()
        mean, std = (preprocess.mean, preprocess.std) if preprocess is not None else (None, None)
        self.normalise = None if mean is None or std is None else Normalise(mean, std)
        self.encoder, self.head, self.predictor = encoder, head, predictor

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, d); images in [0, 1]."""
        if self.normalise is not None:
            x = self.normalise(x)
        out = self.encoder(x)
        if out.ndim == 4 and out.shape[2:] == (1, 1):
            out = out.flatten(1)  # (B, d, 1, 1) of a network cut before its last layer
        if self.head is not None:
            out = self.head(out)
        return out if self.predictor is None else self.predictor(out)


class Normalise(nn.Module):
    """(x − mean)/std per channel, of values in [0, 1]; other values are refused, as they were prepared otherwise."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        self.refuse_other_ranges(x)
        if x.ndim == 4 and x.shape[1] != len(mean):
            raise EncoderError(f"the images have {x.shape[1]} channels, the recipe's preprocess.mean has {len(mean)}")
        return (x - mean) / std

    def extra_repr(self) -> str:
        """The numbers, so that they are part of the encoder's fingerprint."""
        return f"mean={self.get_buffer('mean').flatten().tolist()}, std={self.get_buffer('std').flatten().tolist()}"

    def refuse_other_ranges(self, x: Tensor) -> None:
        """Raise EncoderError where values lie outside [0, 1]."""
        try:
            low, high = (float(v) for v in torch.aminmax(x.detach()))
        except RuntimeError:  # inside torch.func.vmap no value can be looked at; it has been, outside
            return
        if high > 1 + RANGE or low < -RANGE:
            kind = "normalised already" if low < -RANGE else "values up to 255" if high > 10 else "not scaled to [0, 1]"
            raise EncoderError(
                f"the images lie between {low:.3g} and {high:.3g}: {kind}? The recipe's mean and std are applied by "
                "the encoder to values in [0, 1]. Divide by 255, take the normalisation out of the data, clamp what "
                "the views give, or remove mean and std from the recipe's preprocess."
            )
