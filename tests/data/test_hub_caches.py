"""A stream's cache is never taken for that of other data."""

import numpy as np
import pytest

from krepes.data import chunks
from krepes.data.hub import HubSource
from krepes.errors import ConfigError, DataError, KrepesWarning

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


def rows(change=None):
    x = np.arange(40.0).reshape(20, 2)
    if change is not None:
        x[change] += 1
    return datasets.Dataset.from_dict({"x": x.tolist(), "k": [None if i == 3 else str(i) for i in range(20)]})


def generated(dataset):
    return datasets.IterableDataset.from_generator(lambda: iter(dataset), features=dataset.features)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 16)
    for module in ("hub", "hub_stream"):
        monkeypatch.setattr(f"krepes.data.{module}.BLOCK", 2)


def test_a_complete_cache_of_other_rows_is_refused(tmp_path):
    HubSource(rows().to_iterable_dataset(), "x", cache=tmp_path / "c")
    with pytest.raises(DataError, match="holds other samples"):
        HubSource(rows(change=13).to_iterable_dataset(), "x", cache=tmp_path / "c")


def test_a_complete_cache_of_another_generator_is_refused(tmp_path):
    HubSource(generated(rows()), "x", cache=tmp_path / "c")
    with pytest.raises(DataError, match="holds other items"):
        HubSource(generated(rows(change=13)), "x", cache=tmp_path / "c")


def test_a_stream_that_shuffles_is_refused(tmp_path):
    with pytest.raises(DataError, match="the stream shuffles"):
        HubSource(rows().to_iterable_dataset().shuffle(seed=0), "x", cache=tmp_path / "c")


def test_a_tokenizer_that_cannot_be_told_from_others_is_refused_unless_it_is_named(tmp_path):
    stream = datasets.Dataset.from_dict({"t": ["a", "b"]}).to_iterable_dataset()
    with pytest.raises(ConfigError, match="tokenizer_name="):
        HubSource(stream, "t", tokenizer=lambda texts: [[1] for _ in texts], cache=tmp_path / "c")
    options = {"tokenizer": lambda texts: [[1] for _ in texts], "cache": tmp_path / "c"}
    HubSource(stream, "t", tokenizer_name="ones", **options)
    with pytest.raises(DataError, match="tokenizer: 'ones' there, 'twos' here"):
        HubSource(stream, "t", tokenizer_name="twos", **options)


def test_a_chunk_that_is_missing_or_changed_is_named(tmp_path):
    source = HubSource(rows().to_iterable_dataset(), "x", cache=tmp_path / "c")
    path = tmp_path / "c" / "000002.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(DataError, match=r"000002\.npy has changed"):
        HubSource(rows().to_iterable_dataset(), "x", cache=tmp_path / "c").batch([9])
    path.unlink()
    with pytest.raises(DataError, match=r"lacks 000002\.npy"):
        HubSource(rows().to_iterable_dataset(), "x", cache=tmp_path / "c")
    assert len(source) == 20


def test_an_id_that_is_missing_is_a_problem(tmp_path):
    with pytest.warns(KrepesWarning, match="1 of 20 .*item 3: its id, column 'k', is missing"):
        source = HubSource(rows().to_iterable_dataset(), "x", ids="k", cache=tmp_path / "c", on_error="skip")
    assert "None" not in source.ids


@pytest.mark.parametrize(
    "choose", [lambda s: s.take(9), lambda s: s.skip(3), lambda s: s.map(lambda r: {"x": [0.0, 0.0]})]
)
def test_a_complete_cache_of_other_items_of_the_same_rows_is_refused(tmp_path, choose):
    HubSource(rows().to_iterable_dataset(), "x", cache=tmp_path / "c")
    with pytest.raises(DataError, match="holds other"):
        HubSource(choose(rows().to_iterable_dataset()), "x", cache=tmp_path / "c")


@pytest.mark.parametrize(("one", "other"), [(9, 12), (12, 9)])
def test_a_complete_cache_of_more_or_fewer_items_is_refused(tmp_path, one, other):
    HubSource(rows().to_iterable_dataset().take(one), "x", cache=tmp_path / "c")
    with pytest.raises(DataError, match="holds other"):
        HubSource(rows().to_iterable_dataset().take(other), "x", cache=tmp_path / "c")


def test_an_interrupted_cache_of_data_that_changed_later_is_read_anew(tmp_path):
    def breaks():
        yield from (r for i, r in enumerate(rows()) if i < 18)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HubSource(datasets.IterableDataset.from_generator(breaks, features=rows().features), "x", cache=tmp_path / "c")
    with pytest.warns(KrepesWarning, match="read anew"):
        source = HubSource(generated(rows(change=6)), "x", cache=tmp_path / "c")
    assert source.batch([6]).tolist() == [[13, 14]]
