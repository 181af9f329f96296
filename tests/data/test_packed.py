"""Packed images: each is decoded when it is asked for, and a damaged pack or image is named."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from krepes.data.images import Preprocess
from krepes.data.packed import PackedImages
from krepes.data.source import Source
from krepes.errors import ConfigError, DataError, KrepesWarning

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def members(parts=None, **more):
    if parts is None:
        parts = []
        for p in PIXELS:
            buffer = io.BytesIO()
            Image.fromarray(p).save(buffer, "PNG")
            parts.append(buffer.getvalue())
    return {
        "blob": np.frombuffer(b"".join(parts), np.uint8),
        "offsets": np.cumsum([0, *map(len, parts)]),
        **more,
    }


def packed(folder, save=np.savez_compressed, **options):
    save(folder / "p.npz", **options)
    return folder / "p.npz"


LABELS = {"labels": np.array([1, 0, 1, 1, 0], np.uint8), "classes": np.array(["cat", "dog"])}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_packed_images_are_samples_with_their_members_as_metadata(tmp_path, save):
    path = packed(tmp_path, save, **members(**LABELS, age=np.arange(5.0)))
    source = PackedImages(path, Preprocess(), show_label=True)
    assert isinstance(source, Source)
    assert list(source.ids) == ["0", "1", "2", "3", "4"]
    assert torch.equal(source.batch([3, 0]), torch.stack([Preprocess()(Image.fromarray(PIXELS[i])) for i in (3, 0)]))
    assert source.metadata()["labels"].tolist() == ["dog", "cat", "dog", "dog", "cat"]
    assert source.metadata()["age"].tolist() == [0, 1, 2, 3, 4]


def test_hidden_labels_are_out_of_the_metadata(tmp_path):
    source = PackedImages(packed(tmp_path, **members(**LABELS)), Preprocess(), hide=["labels"])
    assert source.metadata() is None
    assert source.column("labels").tolist() == ["dog", "cat", "dog", "dog", "cat"]
    with pytest.raises(DataError, match="unknown column 'label'; did you mean 'labels'"):
        PackedImages(packed(tmp_path, **members(**LABELS)), Preprocess(), hide=["label"])


def test_ids_and_names_of_codes_are_members(tmp_path):
    path = packed(
        tmp_path, **members(ids=np.arange(10, 15), sex=np.array([0, 1, 1, 0, 0]), sex_names=np.array(["f", "m"]))
    )
    source = PackedImages(path, Preprocess(), rows=3)
    assert source.ids == ["10", "11", "12"]
    assert source.metadata().to_dict("list") == {"sex": ["f", "m", "m"]}


@pytest.mark.parametrize("rows", [-1, 0, 2.5, True, "3"])
def test_a_number_of_rows_that_is_none_is_refused(tmp_path, rows):
    with pytest.raises(ConfigError, match=r"rows=.*expected a positive whole number"):
        PackedImages(packed(tmp_path, **members()), Preprocess(), rows=rows)


def test_more_rows_than_there_are_give_all(tmp_path):
    assert len(PackedImages(packed(tmp_path, **members()), Preprocess(), rows=99)) == 5


def test_damaged_images_are_named_or_left_out_and_the_others_keep_their_ids(tmp_path):
    whole = members(**LABELS)
    parts = [whole["blob"][a:b].tobytes() for a, b in zip(whole["offsets"], whole["offsets"][1:], strict=False)]
    path = packed(tmp_path, **members([parts[0], parts[1][:60], parts[2], b"", parts[4]], **LABELS))
    with pytest.raises(DataError, match=r"2 of 5 images of .*p.npz cannot be used: 1: it cannot.*3: it is empty"):
        PackedImages(path, Preprocess())
    with pytest.warns(KrepesWarning, match="2 of 5"):
        source = PackedImages(path, Preprocess(), on_error="skip", show_label=True)
    assert list(source.ids) == ["0", "2", "4"]
    assert source.metadata()["labels"].tolist() == ["dog", "dog", "cat"]
    assert source.problems["id"].tolist() == ["1", "3"]
    assert torch.equal(source.batch([1])[0], Preprocess()(Image.fromarray(PIXELS[2])))


def test_an_id_given_twice_is_a_problem(tmp_path):
    path = packed(tmp_path, **members(ids=np.array(["a", "b", "a", "c", "d"])))
    with pytest.raises(DataError, match=r"1 of 5 .* a: the id is given 2 times"):
        PackedImages(path, Preprocess())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 5, 3, 9, 9, 9])}, "offsets 5 and 3 of image 1 do not ascend"),
        ({"offsets": np.array([0, 10**9])}, "within the blob's .* bytes"),
        ({"offsets": np.array([-3, 4])}, "offsets -3"),
        ({"offsets": np.array([0.0, 4.0])}, "expected n . 1 whole numbers"),
        ({"offsets": np.array([0])}, "expected n . 1 whole numbers"),
        ({"blob": np.zeros(4)}, "expected bytes"),
        ({"labels": np.array([0, 1, 2, 0, 0])}, "'labels' holds codes that 'classes'"),
    ],
)
def test_a_pack_that_does_not_fit_together_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        PackedImages(packed(tmp_path, **(members(**LABELS) | change)), Preprocess())


def test_an_archive_of_something_else_is_named(tmp_path):
    with pytest.raises(DataError, match="holds x; packed images need 'blob'"):
        PackedImages(packed(tmp_path, x=np.zeros(3)), Preprocess())
    (tmp_path / "p.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match="cannot read"):
        PackedImages(tmp_path / "p.npz", Preprocess())


def test_a_member_without_an_entry_per_image_is_said(tmp_path):
    with pytest.warns(KrepesWarning, match=r"note \(2,\) have no entry"):
        PackedImages(packed(tmp_path, **members(note=np.zeros(2))), Preprocess())


def test_a_fingerprint_knows_the_bytes_and_not_the_container(tmp_path):
    one = PackedImages(packed(tmp_path, np.savez, **members()), Preprocess()).fingerprint()
    assert one == PackedImages(packed(tmp_path, **members(**LABELS)), Preprocess(), ["labels"]).fingerprint()
    assert one != PackedImages(packed(tmp_path, **members()), Preprocess(size=(4, 4))).fingerprint()
    assert one != PackedImages(packed(tmp_path, **members()), Preprocess(), rows=4).fingerprint()
