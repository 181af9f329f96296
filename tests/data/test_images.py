"""Image files as samples: every file is used as the recipe says, or named with its reason."""

import io
import os
import warnings
import zlib
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from krepes.config import DataConfig, build_data
from krepes.data.encoded import open_file
from krepes.data.images import ImageFiles, ImageFolder, Preprocess
from krepes.data.source import Source, fingerprint
from krepes.errors import ConfigError, DataError, KrepesWarning

PLAIN = Preprocess()
folder_of = partial(ImageFolder, show_label=True)


def picture(width=8, height=8, mode="RGB", seed=0) -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).convert(mode)


@pytest.fixture
def tree(tmp_path):
    """Two classes of two images, and one deeper."""
    for i, name in enumerate(["cat/b.png", "cat/a.png", "dog/c.png", "dog/more/d.png"]):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed=i).save(path)
    return tmp_path / "tree"


def test_a_tree_gives_sorted_relative_ids_and_its_folders_as_metadata(tree):
    source = folder_of(tree, PLAIN)
    assert isinstance(source, Source)
    assert source.kind == "image"
    assert source.ids == ["cat/a.png", "cat/b.png", "dog/c.png", "dog/more/d.png"]
    assert source.metadata()["folder"].tolist() == ["cat", "cat", "dog", "dog"]
    batch = source.batch([1, 0])
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch[0].numpy(), np.asarray(picture(seed=0)).transpose(2, 0, 1) / 255, rtol=1e-6)


def test_hidden_folders_are_out_of_the_metadata_and_can_be_asked_for(tree):
    source = folder_of(tree, PLAIN, hide=["folder"])
    assert source.metadata() is None
    assert source.column("folder").tolist() == ["cat", "cat", "dog", "dog"]


def test_a_flat_folder_has_no_metadata(tree):
    assert folder_of(tree / "cat", PLAIN).metadata() is None


def test_a_fingerprint_knows_files_ids_and_preprocessing_and_not_the_place(tree, tmp_path):
    source = folder_of(tree, PLAIN)
    (tmp_path / "moved").symlink_to(tree)
    assert source.fingerprint() == folder_of(tmp_path / "moved", PLAIN).fingerprint()
    assert source.fingerprint() != folder_of(tree, Preprocess(mean=(0.5,) * 3, std=(1,) * 3)).fingerprint()
    picture(seed=9).save(tree / "cat" / "a.png")
    assert source.fingerprint() != folder_of(tree, PLAIN).fingerprint()


def truncated(path):
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-400])


def huge(path):
    """A PNG header of 30000×30000 pixels."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    size = (30000).to_bytes(4, "big")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + size + b"\x08\x02\0\0\0") + chunk(b"IDAT", b""))


def animated(path):
    picture().save(path, "GIF", save_all=True, append_images=[picture(seed=1)])


BROKEN = {
    "truncated": (truncated, "cannot be decoded"),
    "text": (lambda p: p.write_text("no image"), "no image that Pillow knows"),
    "zero bytes": (lambda p: p.write_bytes(b""), "0 bytes"),
    "mixed size": (lambda p: picture(9, 8).save(p, "PNG"), r"becomes \(3, 8, 9\), and most become \(3, 8, 8\)"),
    "huge": (huge, "pixels"),
    "animated": (animated, "2 frames"),
    "float pixels": (lambda p: Image.fromarray(np.ones((8, 8), np.float32)).save(p, "TIFF"), "kind F"),
    "pipe": (os.mkfifo, "no ordinary file"),
    "dangling link": (lambda p: p.symlink_to("nowhere.png"), "No such file"),
    "link to itself": (lambda p: p.symlink_to(p), "symbolic links"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_used_is_named_or_left_out(tree, kind):
    make, reason = BROKEN[kind]
    make(tree / "cat" / "aa.png")
    with pytest.raises(DataError, match=f"1 of 5 images of .*cat/aa.png: .*{reason}"):
        folder_of(tree, PLAIN)
    with pytest.warns(KrepesWarning, match=r"1 of 5 images .* left out"):
        source = folder_of(tree, PLAIN, on_error="skip")
    assert source.ids == ["cat/a.png", "cat/b.png", "dog/c.png", "dog/more/d.png"]
    assert source.metadata()["folder"].tolist() == ["cat", "cat", "dog", "dog"]
    assert source.problems["id"].tolist() == ["cat/aa.png"]
    assert source.problems.columns.tolist() == ["id", "path", "problem"]
    assert torch.equal(source.batch(range(4))[0], PLAIN(picture(seed=1)))


def test_an_error_names_five_files_and_the_count(tree):
    for i in range(7):
        (tree / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="7 of 11 images") as error:
        folder_of(tree, PLAIN)
    assert "bad4.png" in str(error.value)
    assert "bad5.png" not in str(error.value)
    assert "and 2 more" in str(error.value)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="None is left"):
        folder_of(tmp_path, PLAIN, on_error="skip")


def test_a_file_that_only_its_header_vouches_for_fails_by_name_when_it_is_read(tree):
    truncated(tree / "cat" / "a.png")
    source = folder_of(tree, Preprocess(size=(8, 8)), verify=False)
    assert len(source) == 4
    with pytest.raises(DataError, match=r"image cat/a.png \(.*\): it cannot be decoded"):
        source.batch([0, 1])


@settings(max_examples=25, deadline=None)
@given(
    size=st.none() | st.integers(4, 20) | st.tuples(st.integers(4, 20), st.integers(4, 20)),
    crop=st.none() | st.integers(1, 12),
    width=st.integers(3, 30),
    height=st.integers(3, 30),
    orientation=st.integers(1, 8),
    exif=st.booleans(),
)
def test_headers_foretell_what_decoding_gives(size, crop, width, height, orientation, exif, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "one.jpg"
    notes = Image.Exif()
    notes[0x0112] = orientation
    picture(width, height).save(path, exif=notes)
    preprocess = Preprocess(size=size, crop=crop, exif=exif)
    outcomes = []
    for verify in (True, False):
        try:
            outcomes.append(ImageFiles([path], preprocess, verify=verify).batch([0]).shape)
        except DataError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_the_transform_is_resize_shorter_side_centre_crop_scale_and_normalise():
    image = picture(40, 20)
    preprocess = Preprocess(size=10, crop=(6, 7), interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2))
    resized = image.resize((20, 10), Image.Resampling.BICUBIC).crop((6, 2, 13, 8))  # round(6.5) is 6
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    expected = (expected - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 1, 2])[:, None, None]
    assert torch.equal(preprocess(image), expected)
    assert "interpolation='bicubic'" in repr(preprocess)


def test_two_numbers_resize_without_regard_to_the_aspect():
    assert Preprocess(size=(5, 9))(picture(40, 20)).shape == (3, 5, 9)


def test_an_orientation_is_obeyed_only_when_asked(tmp_path):
    notes = Image.Exif()
    notes[0x0112] = 6
    picture(12, 8).save(tmp_path / "a.jpg", exif=notes)
    assert ImageFiles([tmp_path / "a.jpg"], PLAIN).batch([0]).shape == (1, 3, 8, 12)
    assert ImageFiles([tmp_path / "a.jpg"], Preprocess(exif=True)).batch([0]).shape == (1, 3, 12, 8)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 1000], [30000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.warns(KrepesWarning, match="1 I;16"):
        made = ImageFiles([tmp_path / "a.png"], PLAIN).batch([0])[0]
    np.testing.assert_allclose(made.numpy(), np.broadcast_to(values / 65535, (3, 2, 2)), rtol=1e-6)


def test_a_palette_is_looked_up_without_a_warning(tmp_path):
    image = picture().quantize(8)
    image.save(tmp_path / "a.png")
    made = ImageFiles([tmp_path / "a.png"], PLAIN).batch([0])[0]
    assert torch.equal(made, PLAIN(image.convert("RGB")))


@pytest.mark.parametrize(("alpha", "expected"), [("drop", 1.0), ("white", 1.0), ("black", 0.0)])
def test_transparency_is_treated_as_said(tmp_path, alpha, expected):
    Image.new("RGBA", (2, 2), (255, 255, 255, 0)).save(tmp_path / "a.png")
    with pytest.warns(KrepesWarning, match="1 RGBA with transparency"):
        made = ImageFiles([tmp_path / "a.png"], Preprocess(alpha=alpha)).batch([0])
    assert made.unique().tolist() == [expected]


def test_transparency_can_be_refused(tmp_path):
    Image.new("RGBA", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="transparency"):
        ImageFiles([tmp_path / "a.png"], Preprocess(alpha="refuse"))


@pytest.mark.parametrize(("mode", "wanted"), [("L", "RGB"), ("CMYK", "RGB"), ("RGB", "L")])
def test_other_numbers_of_channels_are_converted_and_counted(tmp_path, mode, wanted):
    image = picture(mode=mode)
    image.save(tmp_path / "a.tif")
    with pytest.warns(KrepesWarning, match=f"1 of 1 images are not {wanted} and are converted to it: 1 {mode}"):
        source = ImageFiles([tmp_path / "a.tif"], Preprocess(mode=wanted))
    assert source.modes == {mode: 1}
    assert torch.equal(source.batch([0])[0], Preprocess(mode=wanted)(image.convert(wanted)))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": (3, 4, 5)}, "size"),
        ({"crop": 2.5}, "crop"),
        ({"interpolation": "cubic"}, "bilinear, bicubic"),
        ({"mode": "BGR"}, "mode"),
        ({"alpha": "pink"}, "alpha"),
        ({"mean": (0.5,) * 3}, "belong together"),
        ({"mean": (0.5,), "std": (0.5,)}, "3 numbers"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0, 1)}, "positive"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4,) * 3}, "divide by 255"),
    ],
)
def test_a_wrong_preprocessing_is_named(settings_, message):
    with pytest.raises(ConfigError, match=message):
        Preprocess(**settings_)


def test_a_smaller_image_than_the_crop_is_a_problem(tree):
    with pytest.raises(DataError, match="smaller than the crop of 9×9"):
        folder_of(tree, Preprocess(crop=9))


def test_a_callable_is_no_preprocessing(tree):
    with pytest.raises(ConfigError, match=r"expected krepes.data.Preprocess"):
        folder_of(tree, lambda image: image)


def test_the_pixel_limit_is_the_users(tree):
    with pytest.raises(DataError, match="8×8 = 64 pixels; the limit is max_pixels=63"):
        folder_of(tree, PLAIN, max_pixels=63)


def test_a_name_that_is_not_utf8_is_a_problem(tree):
    path = os.fsencode(tree / "cat") + b"/\xe9t\xe9.png"
    try:
        with open(path, "wb") as file:
            picture().save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(DataError, match=r"cat/\\xe9t\\xe9.png: its name is not UTF-8"):
        folder_of(tree, PLAIN)
    with pytest.warns(KrepesWarning, match="1 of 5"):
        source = folder_of(tree, PLAIN, on_error="skip")
    assert len(source) == 4
    assert source.fingerprint()


def test_a_link_to_a_folder_above_is_a_problem_and_no_endless_walk(tree):
    (tree / "dog" / "again").symlink_to(tree)
    with pytest.raises(DataError, match="dog/again: it is a link to a folder above it"):
        folder_of(tree, PLAIN)


def test_a_folder_that_cannot_be_read_is_a_problem(tree, monkeypatch):
    real = os.scandir

    def refuse(folder):
        if str(folder).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cat: the folder cannot be read: Permission denied"):
        folder_of(tree, PLAIN)


def test_a_file_that_cannot_be_read_is_a_problem(tree, monkeypatch):
    def refuse(path):
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return open_file(path)

    monkeypatch.setattr("krepes.data.images.open_file", refuse)
    with pytest.raises(DataError, match=r"cat/a.png: it cannot be read: Permission denied"):
        folder_of(tree, PLAIN)


def test_other_files_are_passed_over_with_their_count_and_hidden_ones_silently(tree):
    (tree / ".DS_Store").write_text("x")
    assert len(folder_of(tree, PLAIN)) == 4
    (tree / "notes.txt").write_text("x")
    with pytest.warns(KrepesWarning, match=r"1 files of .* passed over: notes.txt"):
        assert len(folder_of(tree, PLAIN)) == 4


def test_a_missing_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        folder_of(tmp_path / "none", PLAIN)
    with pytest.raises(DataError, match="no images of"):
        folder_of(tmp_path, PLAIN)


def test_arrays_in_place_of_images_are_told_how_they_are_given(tmp_path):
    said = r"no images of .*, but 2 files of arrays, such as a.npy.*data: \{array: file.npy\}.*load_array"
    (tmp_path / "sub").mkdir()
    for name in ("a.npy", "sub/b.NPZ", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        folder_of(tmp_path, PLAIN)
    with pytest.raises(DataError, match=r"a.npy, but 1 files of arrays.*data: \{array: file.npy\}"):
        ImageFiles(tmp_path / "a.npy", PLAIN)
    config = {"images": str(tmp_path), "preprocess": {}}
    with pytest.raises(DataError, match=said):
        build_data(DataConfig.model_validate(config), tmp_path)


def test_ids_of_images_are_no_single_text(tree):
    with pytest.raises(DataError, match="ids='ab' is a single text"):
        ImageFiles([tree / "dog/c.png", tree / "cat/a.png"], PLAIN, ids="ab")


def test_a_list_of_paths_keeps_its_order_and_a_repeated_one_is_a_problem(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert ImageFiles(["dog/c.png", "./cat/a.png"], PLAIN).ids == ["dog/c.png", "cat/a.png"]
    with pytest.raises(DataError, match=r"1 of 3 images .* dog/c.png: the id is given 2 times"):
        ImageFiles(["dog/c.png", "cat/a.png", "cat/../dog/c.png"], PLAIN)
    with pytest.warns(KrepesWarning, match="1 of 3"):
        source = ImageFiles(["dog/c.png", "cat/a.png", "dog/c.png"], PLAIN, on_error="skip")
    assert source.ids == ["dog/c.png", "cat/a.png"]


def test_a_text_file_lists_paths_from_its_folder(tree):
    (tree / "list.txt").write_bytes("\ufeffdog/c.png\r\n\r\ncat/a.png\n".encode())
    source = ImageFiles(tree / "list.txt", PLAIN)
    assert source.ids == ["dog/c.png", "cat/a.png"]
    assert torch.equal(source.batch([1])[0], PLAIN(picture(seed=1)))


def test_a_text_file_that_is_not_utf8_is_named(tree):
    (tree / "list.txt").write_bytes(b"\xe9.png\n")
    with pytest.raises(DataError, match=r"list.txt is not UTF-8"):
        ImageFiles(tree / "list.txt", PLAIN)


def test_a_csv_lists_paths_ids_and_metadata(tree):
    (tree / "list.csv").write_text("id,path,age\n007,dog/c.png,3\n08,cat/a.png,4\n")
    source = ImageFiles(tree / "list.csv", PLAIN)
    assert source.ids == ["007", "08"]
    assert source.metadata().to_dict("list") == {"age": [3.0, 4.0]}


def test_a_csv_without_paths_is_named(tree):
    (tree / "list.csv").write_text("id,file\n1,dog/c.png\n")
    with pytest.raises(DataError, match=r"no column 'path'.*id, file"):
        ImageFiles(tree / "list.csv", PLAIN)
    (tree / "list.csv").write_text("id,path\n1,dog/c.png\n2,\n")
    with pytest.raises(DataError, match="'path' is empty in 1 rows"):
        ImageFiles(tree / "list.csv", PLAIN)


def test_metadata_and_ids_belong_to_the_files_and_skipping_keeps_them_aligned(tree):
    (tree / "bad.png").write_bytes(b"")
    files = [tree / "cat/a.png", tree / "bad.png", tree / "dog/c.png"]
    with pytest.warns(KrepesWarning):
        source = ImageFiles(files, PLAIN, ids=["x", "y", "z"], metadata=pd.DataFrame({"n": [1, 2, 3]}), on_error="skip")
    assert (source.ids, source.metadata()["n"].tolist()) == (["x", "z"], [1, 3])
    with pytest.raises(DataError, match="2 ids for 3 images"):
        ImageFiles(files, PLAIN, ids=["x", "y"])


def test_many_threads_give_the_same_as_one(tree, monkeypatch):
    one = folder_of(tree, PLAIN).batch(range(4))
    monkeypatch.setattr("krepes.data.problems.WORKERS", 4)
    monkeypatch.setattr("krepes.data.problems.TOGETHER", 3)
    assert torch.equal(folder_of(tree, PLAIN).batch(range(4)), one)


@pytest.mark.parametrize("limit", [0, 2**20])
def test_few_images_are_decoded_once_and_many_whenever_they_are_read(tree, monkeypatch, limit):
    monkeypatch.setattr("krepes.data.encoded.KEPT_BYTES", limit)
    source = folder_of(tree, PLAIN)
    first = source.batch([2, 0, 2])
    first.zero_()  # a batch belongs to whoever asked for it
    (tree / "dog" / "c.png").unlink()
    if limit:
        assert torch.equal(source.batch([2])[0], PLAIN(picture(seed=2)))
        return
    with pytest.raises(DataError, match=r"image dog/c.png .*: .*No such file"):
        source.batch([2])


def test_the_fingerprint_of_a_source_does_not_decode_but_agrees_on_equality(tree):
    same, other = folder_of(tree, PLAIN), folder_of(tree / "dog", PLAIN)
    assert (fingerprint(same) == fingerprint(other)) == (same.fingerprint() == other.fingerprint())


def test_pillow_told_to_pass_damaged_files_is_said(tree, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.warns(KrepesWarning, match="LOAD_TRUNCATED_IMAGES"):
        folder_of(tree, PLAIN)


def test_an_unknown_way_with_errors_is_refused(tree):
    with pytest.raises(ConfigError, match="on_error='ignore'"):
        folder_of(tree, PLAIN, on_error="ignore")


def test_good_files_give_no_warning(tree):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder_of(tree, PLAIN).problems.empty
