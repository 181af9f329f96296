"""Damaged .npz files: whatever is wrong with them, the file and the member are named."""

import struct
import zipfile

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from krepes.data.arrays import load_array
from krepes.data.images import Preprocess
from krepes.data.npz import members_of, read_member
from krepes.data.packed import PackedImages
from krepes.errors import DataError

X = np.random.default_rng(0).random((50, 4)).astype(np.float32)


def npy_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path, content: bytes, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr("x.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_wrong_checksum_is_named(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, x=X)
    with zipfile.ZipFile(path) as file:
        crc = struct.pack("<I", file.getinfo("x.npy").CRC)
    path.write_bytes(path.read_bytes().replace(crc, bytes(b ^ 1 for b in crc)))
    with pytest.raises(DataError, match=r"'x' of .*x.npz"):
        load_array(path, "x")


def test_a_changed_byte_of_a_mapped_member_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    large = np.tile(X, (100, 1))
    np.savez(path, x=large, y=X[:3])
    content = bytearray(path.read_bytes())
    content[content.index(large.tobytes()) + large.nbytes - 77] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read 'x' of .*x.npz: its bytes do not have the checksum"):
        load_array(path, "x")
    np.testing.assert_array_equal(read_member(path, "y"), X[:3])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_truncated_archive_is_named(tmp_path, save, keep):
    path = tmp_path / "x.npz"
    save(path, x=X)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(DataError, match=r"cannot read .*x.npz as .npz"):
        load_array(path, "x")
    with pytest.raises(DataError, match=r"x.npz"):
        PackedImages(path, Preprocess())


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy_header("(1000000000000, 4)") + bytes(64), "'x' holds 64 bytes, and its header says"),
        (npy_header("(-1, 4)") + bytes(64), "shape"),
        (npy_header("(2, 4)") + bytes(64), "'x' holds 64 bytes"),
        (npy_header("(4, 4)", "<f9") + bytes(64), "x"),
        (npy_header("(4, 4") + bytes(64), "x"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(10**6), "x"),
        (b"nothing", "x"),
    ],
    ids=["larger", "negative", "smaller", "type", "header", "long header", "text"],
)
def test_a_member_whose_header_lies_is_named(tmp_path, how, content, message):
    path = archive(tmp_path / "x.npz", content, how)
    with pytest.raises(DataError, match=message) as error:
        load_array(path, "x")
    assert "'x'" in str(error.value)
    assert "x.npz" in str(error.value)


def test_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = archive(tmp_path / "x.npz", npy_header("(1000000,)") + bytes(4 * 10**6))
    assert path.stat().st_size < 10**4
    monkeypatch.setattr("krepes.data.npz.LARGEST", 10**6)
    with pytest.raises(DataError, match=r"x.npz: 'x' is compressed and takes"):
        load_array(path, "x")


@settings(max_examples=150, deadline=None)
@given(compressed=st.booleans(), place=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_any_changed_byte_gives_the_same_array_or_a_data_error(compressed, place, byte, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X[:5])
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= byte
    path.write_bytes(content)
    try:
        found = read_member(path, "x")
    except DataError:
        return
    np.testing.assert_array_equal(found, X[:5])
    assert list(members_of(path)) == ["x"]
