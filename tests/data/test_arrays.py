"""Array files as samples: mapped where they can be, refused with a reason where they mean nothing."""

import gzip
import pickle
import struct

import hypothesis.extra.numpy as hn
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from krepes.data.arrays import ArrayImages, load_array, read_array
from krepes.data.idx import read_idx
from krepes.data.images import Preprocess
from krepes.data.npz import read_member
from krepes.data.source import Source
from krepes.errors import ConfigError, DataError, KrepesWarning

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)  # (N, H, W, C)


def saved(folder, array, name="x.npy"):
    np.save(folder / name, array)
    return folder / name


def test_plain_numbers_are_mapped_and_given_as_they_are(tmp_path):
    x = np.random.default_rng(0).random((7, 3), np.float32)
    source = load_array(saved(tmp_path, x), rows=5)
    assert isinstance(source, Source)
    assert torch.equal(source.batch([4, 1]), torch.from_numpy(x[[4, 1]]))
    assert isinstance(read_array(tmp_path / "x.npy"), np.memmap)
    assert len(source) == 5


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_layout_says_where_the_channels_are(tmp_path, layout):
    array = PIXELS if layout == "NHWC" else PIXELS.transpose(0, 3, 1, 2)
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    source = load_array(saved(tmp_path, array), layout=layout, preprocess=preprocess)
    assert isinstance(source, Source)
    assert source.kind == "image"
    expected = torch.stack([preprocess(Image.fromarray(p)) for p in PIXELS])
    assert torch.equal(source.batch([5, 0]), expected[[5, 0]])
    assert torch.equal(source.batch(range(6)), expected)


def test_images_in_an_array_are_resized_and_cropped_as_files_are(tmp_path):
    preprocess = Preprocess(size=12, crop=8, interpolation="bicubic")
    source = load_array(saved(tmp_path, PIXELS), layout="NHWC", preprocess=preprocess)
    assert torch.equal(source.batch([2])[0], preprocess(Image.fromarray(PIXELS[2])))


def test_grey_images_have_no_channel_axis(tmp_path):
    source = load_array(saved(tmp_path, PIXELS[..., 0]), layout="NHW")
    assert source.preprocess.mode == "L"
    np.testing.assert_allclose(source.batch([1])[0, 0].numpy(), PIXELS[1, ..., 0] / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 3, 4, 3), (6, 5, 4, 3), (6, 5, 4)])
def test_the_layout_of_images_is_never_guessed(tmp_path, shape):
    with pytest.raises(DataError, match="images it seems; say how: layout='NHWC'"):
        load_array(saved(tmp_path, np.zeros(shape, np.uint8)))


@pytest.mark.parametrize(
    ("array", "options", "error", "message"),
    [
        (PIXELS, {"layout": "NCHW"}, DataError, "layout NCHW 5 channels; expected 1 or 3"),
        (PIXELS, {"layout": "NHW"}, DataError, "expects 3 axes"),
        (PIXELS, {"layout": "HWC"}, ConfigError, "layout='HWC'"),
        (PIXELS.astype(np.float32), {"layout": "NHWC"}, DataError, "holds float32"),
        (PIXELS, {"preprocess": Preprocess()}, ConfigError, "say how"),
        (PIXELS, {"layout": "NHWC", "preprocess": Preprocess(mode="L")}, DataError, "3 channels, and preprocess"),
        (PIXELS[..., :1], {"layout": "NHWC", "preprocess": Preprocess()}, DataError, "1 channels, and preprocess"),
        (PIXELS, {"layout": "NHWC", "preprocess": Preprocess(crop=9)}, DataError, "smaller than the crop"),
        (PIXELS, {"layout": "NHWC", "ids": ["a"]}, DataError, "1 ids for 6"),
        (PIXELS, {"layout": "NHWC", "ids": ["a"] * 6}, DataError, "more than once"),
        (PIXELS[:0], {"layout": "NHWC"}, DataError, "expects 4 axes and samples"),
        (PIXELS, {"member": "x", "layout": "NHWC"}, ConfigError, "member"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path, array, options, error, message):
    with pytest.raises(error, match=message):
        load_array(saved(tmp_path, array), **options)


def test_a_fingerprint_knows_pixels_layout_and_preprocessing():
    prints = {
        ArrayImages(PIXELS, "NHWC").fingerprint(),
        ArrayImages(PIXELS + 1, "NHWC").fingerprint(),
        ArrayImages(PIXELS, "NHWC", Preprocess(size=(3, 3))).fingerprint(),
        ArrayImages(PIXELS, "NHWC", ids=list("abcdef")).fingerprint(),
        ArrayImages(PIXELS.transpose(0, 3, 1, 2), "NCHW").fingerprint(),
    }
    assert len(prints) == 5
    assert ArrayImages(PIXELS.copy(), "NHWC").fingerprint() in prints


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"not an array", "cannot read"),
        (pickle.dumps({"a": 1}), "pickled Python objects"),
    ],
)
def test_a_file_that_is_no_array_is_named(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"x.npy.*{message}|{message}.*x.npy"):
        load_array(tmp_path / "x.npy")


def test_objects_are_never_unpickled(tmp_path):
    array = np.array([{"a": 1}, None], object)
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match="pickled Python objects"):
        load_array(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises(DataError, match="pickled Python objects"):
        load_array(tmp_path / "x.npz", "x")


def test_a_cut_off_array_is_named(tmp_path):
    path = saved(tmp_path, PIXELS)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match="cannot read"):
        load_array(path, layout="NHWC")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load_array(tmp_path / "x.npy")


@settings(max_examples=30, deadline=None)
@given(
    array=hn.arrays(
        st.sampled_from(["<f4", "<i2", "|u1", "|b1"]), hn.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5)
    ),
    fortran=st.booleans(),
)
def test_a_stored_member_is_mapped_and_is_the_same_as_numpys(array, fortran, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    np.savez(path, first=np.arange(3), x=np.asfortranarray(array) if fortran else array)
    found = read_member(path, "x")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, array)


def test_a_compressed_member_is_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=PIXELS)
    assert torch.equal(load_array(tmp_path / "x.npz", "x", "NHWC").batch([0]), ArrayImages(PIXELS, "NHWC").batch([0]))


def test_a_large_compressed_member_is_said_and_a_larger_one_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(2**21, np.uint8))
    monkeypatch.setattr("krepes.data.npz.LARGE", 2**20)
    with pytest.warns(KrepesWarning, match="2 MiB are read into memory"):
        read_member(tmp_path / "x.npz", "x")
    monkeypatch.setattr("krepes.data.npz.LARGEST", 2**20)
    with pytest.raises(DataError, match="GiB of memory; save it with"):
        read_member(tmp_path / "x.npz", "x")


def test_a_member_has_to_be_named(tmp_path):
    np.savez(tmp_path / "x.npz", a=PIXELS, b=np.zeros(3))
    with pytest.raises(DataError, match=r"archive of arrays \(a: uint8 \(6, 5, 4, 3\), b: float64 \(3,\)\); name one"):
        load_array(tmp_path / "x.npz")
    with pytest.raises(DataError, match="without a member 'c'"):
        load_array(tmp_path / "x.npz", "c")


def test_a_damaged_archive_is_named(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).random(5000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[3000:3400] = b"\xff" * 400
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read 'x' of .*x.npz"):
        load_array(tmp_path / "x.npz", "x")


def idx(array, code):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("code", "dtype"), [(8, ">u1"), (11, ">i2"), (13, ">f4")])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_read_as_written(tmp_path, code, dtype, zipped):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = idx(array, code)
    (tmp_path / "a-idx3-ubyte").write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    found = read_idx(tmp_path / "a-idx3-ubyte")
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative
    np.testing.assert_array_equal(read_array(tmp_path / "a-idx3-ubyte"), array)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_is_known_by_its_first_bytes_whatever_the_name(tmp_path, zipped):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "digits.bin").write_bytes(gzip.compress(idx(array, 8), mtime=0) if zipped else idx(array, 8))
    np.testing.assert_array_equal(read_array(tmp_path / "digits.bin"), array)


GOOD = idx(np.zeros((2, 3), np.uint8), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"PK\3\4aaaa", "no IDX file"),
        (GOOD[:-1], "holds only 5"),
        (GOOD + b"x", "holds more"),
        (GOOD[:7], "cannot read"),
        (gzip.compress(GOOD, mtime=0)[:-9], "cannot read"),
    ],
)
def test_a_file_that_is_no_whole_idx_is_named(tmp_path, content, message):
    (tmp_path / "a-idx1").write_bytes(content)
    with pytest.raises(DataError, match=f"a-idx1.*{message}|{message}.*a-idx1"):
        read_idx(tmp_path / "a-idx1")
