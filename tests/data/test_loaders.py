"""Loaders of batches as samples: one pass in order, kept on disk, and compared with a second one."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from krepes.data import chunks
from krepes.data.loaders import LoaderSource
from krepes.data.source import Source
from krepes.errors import ConfigError, DataError

X = torch.randn(23, 3, 4, 4, generator=torch.Generator().manual_seed(0))
PAIRS = TensorDataset(X, torch.arange(23))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5 * 3 * 4 * 4 * 4)  # five samples
    monkeypatch.setattr(chunks, "OPEN", 2)


def test_a_loader_gives_its_samples_in_order_from_bounded_chunks(tmp_path):
    source = LoaderSource(DataLoader(PAIRS, batch_size=6), take=0, cache=tmp_path / "c")
    assert isinstance(source, Source)
    assert source.kind == "image"
    assert list(source.ids) == [str(i) for i in range(23)]
    assert torch.equal(source.batch(range(23)), X)
    assert torch.equal(source.batch([22, 3, 3, 0]), X[[22, 3, 3, 0]])
    assert len(list((tmp_path / "c").glob("*.npy"))) == 5


def test_the_same_samples_have_the_same_fingerprint_whatever_the_batches():
    one = LoaderSource(DataLoader(PAIRS, batch_size=6), take=0)
    assert one.fingerprint() == LoaderSource([[x[None]] for x in X], take=0).fingerprint()
    assert one.fingerprint() != LoaderSource(DataLoader(X + 1, batch_size=6)).fingerprint()


def test_a_temporary_cache_goes_with_its_source():
    source = LoaderSource(DataLoader(X, batch_size=6))
    folder = source._chunks.folder
    assert folder.is_dir()
    del source
    assert not folder.exists()


def test_the_first_samples_only():
    assert torch.equal(LoaderSource(DataLoader(X, batch_size=6), n=8).batch(range(8)), X[:8])


def test_a_complete_cache_is_not_read_again_and_another_loader_refused(tmp_path):
    LoaderSource(DataLoader(X, batch_size=6), cache=tmp_path / "c", check=False)
    again = LoaderSource((x[None] for x in ()), cache=tmp_path / "c", check=False)
    assert torch.equal(again.batch(range(23)), X)
    with pytest.raises(DataError, match="another loader's"):
        LoaderSource(DataLoader(X + 1, batch_size=6), cache=tmp_path / "c")
    with pytest.raises(DataError, match="n: None there, 5 here"):
        LoaderSource(DataLoader(X, batch_size=6), cache=tmp_path / "c", n=5)


def test_a_half_written_cache_is_redone(tmp_path):
    def breaks():
        yield from X[:12].split(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LoaderSource(breaks(), cache=tmp_path / "c", check=False)
    assert list((tmp_path / "c").glob("*.npy"))
    assert torch.equal(LoaderSource(DataLoader(X, batch_size=6), cache=tmp_path / "c").batch(range(23)), X)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"holds thesis.tex and is no cache"):
        LoaderSource(DataLoader(X, batch_size=6), cache=tmp_path)
    assert (tmp_path / "thesis.tex").exists()


class Passes:
    """Another list of batches at each pass."""

    def __init__(self, *passes):
        self._passes, self._next = passes, -1

    def __iter__(self):
        self._next += 1
        return iter(self._passes[min(self._next, len(self._passes) - 1)])


A, B = X[:4], X[4:8]
GOOD = [A, B]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(X, batch_size=6, shuffle=True), "another first batch each time: it shuffles or augments. Use shuf"),
        (Passes(GOOD, GOOD, GOOD, [A, B + 1]), "batch 1 of the loader differs"),
        (Passes(GOOD, GOOD, GOOD, [A]), "gave 8 samples at first and 4 in the second pass"),
        (Passes(GOOD, GOOD, GOOD, [A, B, B]), "batch 2 of the loader differs"),
        (DataLoader(PAIRS, batch_size=6), "is a list of 2: it seems to carry labels.*take=0"),
        ([{"x": A}], "is a dict of 1"),
        ([A, B[:, :, :3]], r"batch 1 of the loader: it has shape \(3, 3, 4\).*have \(3, 4, 4\)"),
        ([A, B.double()], r"batch 1 .*torch.float64; those before"),
        ([A, B[:0]], "batch 1 of the loader has shape"),
        (["text"], "expected a tensor or array"),
        ([torch.tensor(3.0)], r"has shape \(\); expected"),
        ([], "gives no batch"),
        ((b for b in GOOD), "generator can be read once only.*check=False"),
    ],
)
def test_a_loader_whose_samples_would_mean_nothing_is_refused(loader, message):
    with pytest.raises(DataError, match=message):
        LoaderSource(loader)


class Breaks:
    """A dataset that raises at an item."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise OSError("no disk")
        return X[index]


def test_a_loader_that_raises_halfway_is_named_by_its_batch(tmp_path):
    with pytest.raises(DataError, match="batch 2 of the loader cannot be read: it raises OSError: no disk"):
        LoaderSource(DataLoader(Breaks(), batch_size=2), cache=tmp_path / "c")
    assert torch.equal(LoaderSource([A, B], cache=tmp_path / "c").batch(range(8)), X[:8])


def test_a_loader_of_samples_of_several_sizes_is_named_by_its_batch():
    items = [*X[:5], X[5, :, :2]]
    with pytest.raises(DataError, match=r"batch 1 of the loader cannot be read: .*equal size"):
        LoaderSource(DataLoader(items, batch_size=3))


def test_a_number_of_samples_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="n=-1"):
        LoaderSource([A], n=-1)


def test_an_id_given_twice_is_named():
    with pytest.raises(DataError, match="more than once: a"):
        LoaderSource([A], ids=list("abca"))


def test_a_part_that_batches_do_not_have_is_named():
    with pytest.raises(DataError, match="no part take='image'"):
        LoaderSource([{"x": A}], take="image")
    with pytest.raises(DataError, match="no part take=2"):
        LoaderSource(DataLoader(PAIRS, batch_size=6), take=2)


def test_a_generator_is_read_when_no_check_is_asked_for():
    assert torch.equal(LoaderSource((b for b in GOOD), check=False).batch(range(8)), X[:8])


def test_arrays_and_half_floats_are_batches_too():
    assert torch.equal(LoaderSource([A.numpy(), B.numpy()]).batch(range(8)), X[:8])
    made = LoaderSource([A.bfloat16()]).batch(range(4))
    assert torch.equal(made, A.bfloat16().float())


def test_samples_that_hold_nan_are_kept_for_whoever_names_them():
    x = A.clone()
    x[1, 0, 0, 0] = torch.nan
    assert np.isnan(LoaderSource([x]).batch([1]).numpy()).sum() == 1


def test_a_damaged_key_is_named(tmp_path):
    LoaderSource([A], cache=tmp_path / "c")
    (tmp_path / "c" / "cache.json").write_text("{")
    with pytest.raises(DataError, match=r"cache.json is damaged"):
        LoaderSource([A], cache=tmp_path / "c")


def test_what_stands_beside_a_chunk_is_plain_json(tmp_path):
    LoaderSource([A, B], cache=tmp_path / "c")
    assert json.loads((tmp_path / "c" / "complete.json").read_text())["n"] == 8
