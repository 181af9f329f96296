"""Hugging Face datasets as samples: on disk as they lie there, streams read once."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from krepes.data import chunks
from krepes.data.hub import HubSource
from krepes.data.images import Preprocess
from krepes.data.source import Source
from krepes.errors import ConfigError, DataError, KrepesWarning

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
SCALED = torch.stack([Preprocess()(Image.fromarray(p)) for p in PIXELS])
TEXTS = ["a b c", "d", "e f", "g g g g", "", "h", "i j"]


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(parts=None):
    parts = [png(p) for p in PIXELS] if parts is None else parts
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "name": datasets.Value("string")}
    )
    rows = {
        "img": [None if p is None else {"bytes": p, "path": None} for p in parts],
        "label": [0, 1, 1, 0, 0, 1, 1],
        "name": [f"n{i}" for i in range(7)],
    }
    return datasets.Dataset.from_dict(rows, features)


def letters(texts, padding=None, truncation=None, max_length=4):
    """A tokenizer: one number per word, padded with zeros."""
    return {"input_ids": [([ord(w[0]) for w in t.split()] + [0] * max_length)[:max_length] for t in texts]}


@pytest.fixture(params=["on disk", "stream"])
def source_of(request, tmp_path):
    """HubSource of a dataset as it is, and as a stream."""

    def make(dataset, *arguments, **options):
        if request.param == "on disk":
            return HubSource(dataset, *arguments, **options)
        return HubSource(dataset.to_iterable_dataset(), *arguments, cache=tmp_path / "cache", **options)

    return make


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3 * 3 * 8 * 8 * 4)  # three images
    for module in ("hub", "hub_stream"):
        monkeypatch.setattr(f"krepes.data.{module}.BLOCK", 2)
    monkeypatch.setattr("krepes.data.hub_stream.FIRST", 2)


def test_images_are_preprocessed_and_classes_are_metadata_only_when_named(source_of):
    source = source_of(pictures(), "img", Preprocess(), metadata=["label"])
    assert isinstance(source, Source)
    assert source.kind == "image"
    assert list(source.ids) == [str(i) for i in range(7)]
    assert torch.equal(source.batch([5, 0, 3]), SCALED[[5, 0, 3]])
    assert source.metadata()["label"].tolist() == ["cat", "dog", "dog", "cat", "cat", "dog", "dog"]


def test_nothing_is_metadata_unless_it_is_named(source_of):
    assert source_of(pictures(), "img", Preprocess()).metadata() is None


def test_ids_come_from_a_column(source_of):
    assert list(source_of(pictures(), "img", Preprocess(), ids="name", n=3).ids) == ["n0", "n1", "n2"]


def test_texts_become_token_ids_of_one_length(source_of):
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    source = source_of(dataset, "text", tokenizer=letters, metadata=["text"])
    batch = source.batch([1, 0])
    assert (batch.dtype, source.kind) == (torch.int64, "vector")
    assert batch.tolist() == [[100, 0, 0, 0], [97, 98, 99, 0]]
    assert source.metadata()["text"].tolist() == TEXTS
    assert source.batch(range(7)).shape == (7, 4)


def test_a_tokenizer_of_transformers_pads_to_the_length(source_of):
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    assert source_of(dataset, "text", tokenizer=letters, length=2).batch([0]).tolist() == [[97, 98]]


def test_lists_of_numbers_are_samples(source_of):
    x = np.random.default_rng(0).random((7, 5))
    source = source_of(datasets.Dataset.from_dict({"x": x.tolist()}), "x")
    np.testing.assert_array_equal(source.batch(range(7)).numpy(), x)


BROKEN = [b"", None, png(PIXELS[0])[:70], png(PIXELS[0][:4])]


@pytest.mark.parametrize("part", BROKEN, ids=["zero bytes", "missing", "truncated", "another size"])
def test_images_that_cannot_be_used_are_named_or_left_out_and_others_keep_their_ids(source_of, part):
    parts = [png(p) for p in PIXELS]
    parts[3] = part
    with pytest.raises(DataError, match="1 of 7 items of column 'img' cannot be used: 3: it"):
        source_of(pictures(parts), "img", Preprocess())
    with pytest.warns(KrepesWarning, match="1 of 7"):
        source = source_of(pictures(parts), "img", Preprocess(), on_error="skip", metadata=())
    assert list(source.ids) == ["0", "1", "2", "4", "5", "6"]
    assert source.problems["id"].tolist() == ["3"]
    assert torch.equal(source.batch([3]), SCALED[[4]])


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        ([[1, 2], [3], [4, 5]], {}, "1: it has shape"),
        ([[1, 2], None, [4, 5]], {}, "1: it is missing"),
        ([[[1], [2]], [[3], [4, 5]], [[6], [7]]], {}, "1: its lists have several lengths"),
        ([1, 2, 3], {}, r"0: it is a single number; for a table use TableSource.of"),
        (["a", None, "b"], {"tokenizer": letters}, "1: it is NoneType; expected text"),
        ([["a"], ["b"]], {}, "expected numbers"),
    ],
)
def test_other_items_that_cannot_be_used_are_named(source_of, column, options, message):
    with pytest.raises(DataError, match=message):
        source_of(datasets.Dataset.from_dict({"x": column}), "x", **options)


def test_an_id_given_twice_is_a_problem(source_of):
    dataset = datasets.Dataset.from_dict({"x": [[1.0], [2.0], [3.0]], "id": ["a", "b", "a"]})
    with pytest.raises(DataError, match=r"1 of 3 .* a: (the|its) id is given"):
        source_of(dataset, "x", ids="id")
    with pytest.warns(KrepesWarning):
        assert list(source_of(dataset, "x", ids="id", on_error="skip").ids) == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"column": "image"}, DataError, "unknown column 'image'; did you mean 'img'"),
        ({"metadata": ["labels"]}, DataError, "did you mean 'label'"),
        ({"preprocess": None}, ConfigError, "expected krepes"),
        ({"tokenizer": letters}, ConfigError, "holds image: tokenizer has no use"),
        ({"column": "name", "preprocess": None}, ConfigError, "holds text; give tokenizer"),
        ({"column": "name"}, ConfigError, "holds text: preprocess has no use"),
        ({"column": "name", "preprocess": None, "tokenizer": letters, "length": 0}, ConfigError, "length=0"),
        ({"n": 0}, ConfigError, "n=0"),
        ({"on_error": "ignore"}, ConfigError, "on_error"),
    ],
)
def test_settings_that_do_not_fit_the_column_are_named(source_of, options, error, message):
    with pytest.raises(error, match=message):
        source_of(pictures(), **({"column": "img", "preprocess": Preprocess()} | options))


def test_a_tokenizer_that_does_not_pad_is_named(source_of):
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    with pytest.raises(DataError, match=r"1 to 3 tokens of 2 texts.*pad and truncate"):
        source_of(
            dataset,
            "text",
            tokenizer_name="ones",
            tokenizer=lambda texts: [[1] * max(1, len(t.split())) for t in texts],
        )


def test_something_else_is_no_dataset(tmp_path):
    with pytest.raises(DataError, match="a list is no Hugging Face dataset"):
        HubSource([1], "x")
    with pytest.raises(DataError, match="holds the splits train; pass one"):
        HubSource(datasets.DatasetDict({"train": pictures()}), "img", Preprocess())
    with pytest.raises(DataError, match="no rows"):
        HubSource(datasets.Dataset.from_dict({"x": []}), "x")
    with pytest.raises(ConfigError, match="a stream needs cache"):
        HubSource(pictures().to_iterable_dataset(), "img", Preprocess())
    with pytest.raises(ConfigError, match="cache is for streams"):
        HubSource(pictures(), "img", Preprocess(), cache=tmp_path)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"krepes\[hub\]"):
        HubSource(pictures, "img")


def test_a_dataset_without_verification_fails_by_name_later():
    parts = [png(p) for p in PIXELS]
    parts[3] = parts[3][:70]
    source = HubSource(pictures(parts), "img", Preprocess(), verify=False)
    with pytest.raises(DataError, match="image 3"):
        source.batch([3])
    texts = HubSource(datasets.Dataset.from_dict({"t": [*TEXTS, None]}), "t", tokenizer=letters, verify=False)
    with pytest.raises(DataError, match="item 7 of column 't': it is NoneType"):
        texts.batch([0, 7])


def stream_of(dataset, seen, stop=None):
    """A stream that notes which items it gives, and breaks before one of them."""

    def items():
        for i, item in enumerate(dataset):
            if i == stop:
                raise KeyboardInterrupt
            seen.append(i)
            yield item

    return datasets.IterableDataset.from_generator(items, features=dataset.features)


NUMBERS = datasets.Dataset.from_dict({"x": np.arange(40.0).reshape(20, 2).tolist(), "k": list(range(20))})


def test_a_stream_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 16)
    first = HubSource(NUMBERS.to_iterable_dataset(), "x", cache=tmp_path / "c", metadata=["k"])
    monkeypatch.setattr(datasets.IterableDataset, "__iter__", lambda self: pytest.fail("it is read again"))
    again = HubSource(NUMBERS.to_iterable_dataset(), "x", cache=tmp_path / "c", metadata=["k"])
    assert torch.equal(again.batch(range(20)), torch.arange(40.0, dtype=torch.float64).view(20, 2))
    assert again.metadata()["k"].tolist() == list(range(20))
    assert again.fingerprint() == first.fingerprint()


def test_an_interrupted_stream_goes_on_from_its_whole_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 16)
    with pytest.raises(KeyboardInterrupt):
        HubSource(stream_of(NUMBERS, [], stop=10), "x", cache=tmp_path / "c", metadata=["k"])
    assert [len(np.load(p)) for p in sorted((tmp_path / "c").glob("*.npy"))] == [4, 4]
    kept = (tmp_path / "c" / "000001.npy").stat().st_mtime_ns
    (tmp_path / "c" / "000002.npy").write_bytes(b"half of a ch")
    source = HubSource(stream_of(NUMBERS, []), "x", cache=tmp_path / "c", metadata=["k"])
    whole = HubSource(stream_of(NUMBERS, []), "x", cache=tmp_path / "d", metadata=["k"])
    assert source.fingerprint() == whole.fingerprint()
    assert source.metadata().equals(whole.metadata())
    assert (tmp_path / "c" / "000001.npy").stat().st_mtime_ns == kept


def test_a_stream_that_begins_otherwise_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 16)
    with pytest.raises(KeyboardInterrupt):
        HubSource(stream_of(NUMBERS, [], stop=10), "x", cache=tmp_path / "c")
    other = datasets.Dataset.from_dict({"x": (np.arange(40.0).reshape(20, 2) + 1).tolist(), "k": list(range(20))})
    with pytest.warns(KrepesWarning, match="read anew"):
        source = HubSource(stream_of(other, []), "x", cache=tmp_path / "c")
    assert source.batch([0, 19]).tolist() == [[1, 2], [39, 40]]


def test_a_cache_of_other_samples_is_refused_with_what_differs(tmp_path):
    HubSource(stream_of(NUMBERS, []), "x", cache=tmp_path / "c", n=5)
    with pytest.raises(DataError, match="n: 5 there, 6 here"):
        HubSource(stream_of(NUMBERS, []), "x", cache=tmp_path / "c", n=6)


def test_a_fingerprint_knows_content_and_encoding(source_of):
    assert source_of(pictures(), "img", Preprocess(), n=3).fingerprint()
    one, other = HubSource(pictures(), "img", Preprocess()), HubSource(pictures(), "img", Preprocess(size=(4, 4)))
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == HubSource(pictures(), "img", Preprocess(), metadata=["label"]).fingerprint()
