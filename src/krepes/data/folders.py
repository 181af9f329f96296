"""Samples kept in one folder per concept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from krepes.errors import ConfigError, DataError


def read_concept_folders(
    folder: Path, like: Tensor, transform: Callable[[Any], Tensor] | None = None
) -> dict[str, Tensor]:
    """The samples of every subfolder, by its name.

    Args:
        folder: holds one subfolder per concept with `.npy` files (one sample, or a stack of samples, as the encoder
            takes them) or images; hidden files are passed over.
        like: one sample as the encoder takes it (...).
        transform: PIL image ↦ tensor of that shape: the encoder's own preprocessing. Needed for images.

    Returns:
        concept ↦ samples (k, ...), in the order of names.

    Raises:
        ConfigError: no such folder, no subfolder, or images without a transform.
        DataError: a file cannot be read, or holds samples of another shape.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; expected one with a subfolder per concept")
    concepts = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not concepts:
        raise ConfigError(f"{folder} holds no subfolder; expected one per concept")
    found = {}
    for concept in concepts:
        files = sorted(p for p in concept.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"concept folder {concept} is empty")
        found[concept.name] = torch.cat([_read(path, like, transform) for path in files])
    return found


def _read(path: Path, like: Tensor, transform: Callable[[Any], Tensor] | None) -> Tensor:
    """The samples of one file (k, ...)."""
    if path.suffix == ".npy":
        try:
            values = torch.as_tensor(np.load(path, allow_pickle=False))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"cannot read {path} as .npy: {error}") from error
    else:
        values = _image(path, transform)
    values = values[None] if values.shape == like.shape else values
    if values.shape[1:] != like.shape:
        raise DataError(f"{path} holds shape {tuple(values.shape)}; the encoder takes samples of {tuple(like.shape)}")
    if values.is_floating_point() != like.is_floating_point():
        raise DataError(f"{path} holds {values.dtype}; the audited samples are {like.dtype}")
    if not torch.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite")
    return values.to(like.dtype)


def _image(path: Path, transform: Callable[[Any], Tensor] | None) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if transform is None:
        raise ConfigError(
            f"{path} is no .npy file; for images give transform=…, the preprocessing that the encoder was trained with "
            "(PIL image to tensor)"
        )
    try:
        with Image.open(path) as image:
            image.load()
            values = transform(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {path} as an image: {error}") from error
    return torch.as_tensor(values)
