"""Concept folders take images through the preprocessing of the audited ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from krepes.data.folders import read_concept_folders
from krepes.data.images import Preprocess
from krepes.errors import DataError

LIKE = torch.zeros(3, 8, 8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "striped").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "striped" / "a.png")
    return tmp_path


def test_images_pass_the_same_preprocessing(folder):
    preprocess = Preprocess(size=9, crop=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = read_concept_folders(folder, LIKE, preprocess)
    assert torch.equal(found["striped"][0], preprocess(Image.open(folder / "striped" / "a.png")))


def test_an_image_of_another_shape_is_named(folder):
    with pytest.raises(DataError, match=r"a.png holds shape \(3, 10, 12\); the encoder takes"):
        read_concept_folders(folder, LIKE, Preprocess())


@pytest.mark.parametrize(("content", "reason"), [(b"", "0 bytes"), (b"no image", "no image that Pillow knows")])
def test_a_damaged_image_is_named(folder, content, reason):
    (folder / "striped" / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=f"cannot read .*b.png as an image: .*{reason}"):
        read_concept_folders(folder, LIKE, Preprocess(size=(8, 8)))
