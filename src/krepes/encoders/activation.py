"""A fingerprint of a network's outputs: the same weights in another function give other numbers."""

import numpy as np
import torch
from torch import Tensor, nn

from krepes.encoders.recipe import Fingerprint, Input, Recipe
from krepes.encoders.resnet import ResNet
from krepes.encoders.state import State
from krepes.errors import EncoderError

SAMPLES, DIRECTIONS = 3, 4
TOLERANCE = 2e-4  # relative; rounding differs by 1e-6, a mean of .5 instead of .485 by 1e-3, a padding by 1e-1


def seeded_input(shape: Input, seed: int = 0) -> Tensor:
    """The same samples (3, …) on every machine: values in [0, 1), or token ids."""
    n = SAMPLES * int(np.prod(shape.shape))
    raw = np.random.PCG64(seed).random_raw(n)  # raw bits are the same in every version of numpy
    if shape.tokens is not None:
        ids = (raw % np.uint64(shape.tokens)).astype(np.int64)
        return torch.from_numpy(ids).reshape(SAMPLES, *shape.shape)
    values = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    return torch.from_numpy(values).reshape(SAMPLES, *shape.shape)


@torch.no_grad()
def fingerprint(module: nn.Module, shape: Input, seed: int = 0) -> Fingerprint:
    """Outputs for the seeded input along four fixed directions.

    Raises:
        EncoderError: the module cannot process the input, or gives no finite (B, d).
    """
    batch = seeded_input(shape, seed)
    try:
        out = module(batch)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:  # timm's networks assert
        raise EncoderError(
            f"the encoder cannot process a batch of shape {tuple(batch.shape)} ({batch.dtype}): {error}. Say the shape "
            "of a sample in the recipe's input (or preprocess.size)."
        ) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != SAMPLES:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise EncoderError(f"the encoder maps {tuple(batch.shape)} to {found}; expected (B, d)")
    if not bool(torch.isfinite(out).all()):
        raise EncoderError("the encoder gives NaN or infinity for a seeded input; look at its weights")
    out = out.double()
    angles = torch.outer(torch.arange(1, out.shape[1] + 1), torch.arange(1, DIRECTIONS + 1)).double()
    projected = out @ torch.cos(angles * 1.1) / out.shape[1] ** 0.5  # (3, 4)
    values = [float(f"{v:.7g}") for v in projected.flatten().tolist()]
    return Fingerprint(seed=seed, values=values, size=float(f"{out.norm() / out.numel() ** 0.5:.7g}"))


def refuse_another_function(found: Fingerprint, expected: Fingerprint) -> None:
    """Raise EncoderError where the outputs are not those that the recipe states."""
    a, b = np.array(found.values), np.array(expected.values)
    scale = max(expected.size, float(np.abs(b).max(initial=0.0)), 1e-12)
    distance = float(np.abs(a - b).max()) / scale if a.shape == b.shape else float("inf")
    if not distance <= TOLERANCE:
        raise EncoderError(
            f"the encoder is not the one that the recipe describes: its weights fit, its outputs for the seeded input "
            f"differ by {distance:.1%} (found {found.values[:3]}…, the recipe says {expected.values[:3]}…). Same "
            "shapes, another function: compare the stem's padding, the activation, the normalisation (mean, std), the "
            "pooling and the branch; or remove 'fingerprint' if the recipe was changed on purpose."
        )


def input_of(recipe: Recipe, module: nn.Module, encoder: State) -> Input:
    """The shape of a sample: the recipe's, the images' size, or what the first layer and the class take.

    Raises:
        EncoderError: it cannot be told.
    """
    if recipe.input is not None:
        return recipe.input
    first = next((t for n, t in encoder.items() if n.endswith("weight") and t.ndim in (2, 4)), None)
    config = getattr(getattr(module, "model", None), "config", None)
    if config is not None and getattr(config, "vocab_size", None):
        length = min(8, getattr(config, "max_position_embeddings", 8) or 8)
        return Input(shape=[length], tokens=config.vocab_size)
    channels = int(first.shape[1]) if first is not None and first.ndim == 4 else 3
    size = None if recipe.preprocess is None else recipe.preprocess.size
    if isinstance(module, ResNet):
        small = 32 if module.conv1.kernel_size[0] == 3 else 64  # any size fits, and these are quick
        return Input(shape=[channels] + [min(size or small, small)] * 2)
    if size:
        return Input(shape=[channels, size, size])
    side = getattr(config, "image_size", None)
    if side:
        return Input(shape=[getattr(config, "num_channels", 3), side, side])
    if first is not None and first.ndim == 4:
        side = 32 if first.shape[2] <= 3 else 64
        return Input(shape=[channels, side, side])
    if first is not None:
        return Input(shape=[int(first.shape[1])])
    raise EncoderError("the shape of a sample cannot be told from the weights; give the recipe an input: {shape: […]}")
