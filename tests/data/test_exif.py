"""EXIF orientations: obeyed for every kind of pixels and file, and foretold by the header."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from krepes.data.preprocess import Preprocess, read_header, read_image

RNG = np.random.default_rng(0)
COLOUR, GREY = RNG.integers(0, 256, (6, 10, 3), np.uint8), RNG.integers(0, 65536, (6, 10), np.uint16)
FILES = [("JPEG", COLOUR), ("PNG", COLOUR), ("TIFF", COLOUR), ("PNG", GREY), ("TIFF", GREY)]


def written(kind: str, pixels: np.ndarray, orientation: int) -> io.BytesIO:
    notes, file = Image.Exif(), io.BytesIO()
    notes[0x0112] = orientation
    Image.fromarray(pixels).save(file, kind, exif=notes)
    file.seek(0)
    return file


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "pixels"), FILES, ids=[f"{k} {p.dtype}" for k, p in FILES])
def test_an_orientation_is_obeyed_as_pillow_obeys_it(kind, pixels, orientation):
    preprocess = Preprocess(exif=True, crop=(5, 4))
    turned = ImageOps.exif_transpose(Image.open(written(kind, pixels, orientation)))
    assert (turned.size == (10, 6)) == (orientation < 5)
    grey = pixels is GREY
    values = np.asarray(turned).astype(np.float32) / (65535 if grey else 255)
    expected = torch.from_numpy(np.stack([values] * 3) if grey else values.transpose(2, 0, 1))
    found, _ = read_image(written(kind, pixels, orientation), Preprocess(exif=True))
    torch.testing.assert_close(found, expected)
    file = written(kind, pixels, orientation)
    assert read_header(file, Preprocess(exif=True))[0] == tuple(found.shape)
    assert read_image(written(kind, pixels, orientation), preprocess)[0].shape == (3, 5, 4)


@pytest.mark.parametrize(("kind", "pixels"), FILES, ids=[f"{k} {p.dtype}" for k, p in FILES])
def test_an_orientation_that_is_not_asked_for_turns_tiff_alone(kind, pixels):
    found, _ = read_image(written(kind, pixels, 6), Preprocess())
    assert tuple(found.shape) == ((3, 10, 6) if kind == "TIFF" else (3, 6, 10))
    assert read_header(written(kind, pixels, 6), Preprocess())[0] == tuple(found.shape)
