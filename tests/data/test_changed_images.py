"""Image files that change after they were listed: the fingerprint is that of the bytes that are decoded."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from krepes.data.images import ImageFiles, Preprocess
from krepes.errors import DataError


def save(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr("krepes.data.encoded.KEPT_BYTES", 0)


def test_a_file_that_changes_after_it_was_listed_is_named(tmp_path):
    path = save(tmp_path / "a.png", 0)
    source = ImageFiles([path], Preprocess(), ids=["a"])
    before = source.batch([0])
    save(path, 1)
    with pytest.raises(DataError, match=r"image a \(.*a.png\): its bytes have changed since they were first read"):
        source.batch([0])
    save(path, 0)
    assert torch.equal(source.batch([0]), before)


def test_a_fingerprint_is_of_the_bytes_that_were_decoded(tmp_path):
    path = save(tmp_path / "a.png", 0)
    source = ImageFiles([path], Preprocess(), ids=["a"])
    save(path, 1)
    other = ImageFiles([path], Preprocess(), ids=["a"])
    save(path, 0)
    assert source.fingerprint() == ImageFiles([path], Preprocess(), ids=["a"]).fingerprint() != other.fingerprint()


@pytest.mark.parametrize("first", ["batch", "fingerprint"])
def test_without_verification_the_first_reading_counts(tmp_path, first):
    path = save(tmp_path / "a.png", 0)
    source = ImageFiles([path], Preprocess(), ids=["a"], verify=False)
    _ = source.batch([0]) if first == "batch" else source.fingerprint()
    save(path, 1)
    with pytest.raises(DataError, match="have changed"):
        source.batch([0])
    save(path, 0)
    assert source.fingerprint() == ImageFiles([path], Preprocess(), ids=["a"]).fingerprint()


def test_bytes_that_change_while_they_are_read_are_decoded_as_hashed(tmp_path, monkeypatch):
    contents = [save(tmp_path / f"{i}.png", i).read_bytes() for i in range(2)]
    monkeypatch.setattr("krepes.data.images.open_file", lambda path: BytesIO(contents[0]))
    source = ImageFiles(["x.png"], Preprocess())
    monkeypatch.setattr("krepes.data.images.open_file", lambda path: BytesIO(contents[1]))
    with pytest.raises(DataError, match="have changed"):
        source.batch([0])


def test_a_file_of_more_bytes_than_an_image_takes_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("krepes.data.encoded.EXTRA_BYTES", 100)
    path = save(tmp_path / "a.png", 0)
    with path.open("ab") as file:
        file.write(bytes(2000))
    with pytest.raises(DataError, match=r"more than 1124 bytes; no image of max_pixels=128"):
        ImageFiles([path], Preprocess(), max_pixels=128)
