"""Which Hugging Face dataset is meant, and which data it gave."""

import sys
from types import SimpleNamespace

import pytest

from krepes.data.hub import HubSource
from krepes.data.hub_loading import load_hub
from krepes.errors import ConfigError, DataError, KrepesWarning

datasets = pytest.importorskip("datasets", reason="datasets is not installed")
hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

ROWS = datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "k": ["a", None]})
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def saved(tmp_path):
    ROWS.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": ROWS, "test": ROWS.select([0])}).save_to_disk(str(tmp_path / "two"))
    return tmp_path


def test_a_saved_dataset_says_where_it_comes_from(saved):
    dataset, origin = load_hub(saved / "one")
    assert dataset["k"][:] == ["a", None]
    assert origin["path"] == str(saved / "one")
    assert (origin["split"], origin["revision"], origin["rows"]) == (None, None, 2)
    assert origin["fingerprint"] == load_hub(saved / "one")[1]["fingerprint"]
    assert origin["datasets"] == datasets.__version__


@pytest.mark.parametrize(("split", "rows"), [("train", 2), ("test", 1)])
def test_a_split_is_chosen_by_name(split, rows, saved):
    dataset, origin = load_hub(saved / "two", split=split)
    assert (len(dataset), origin["split"], origin["rows"]) == (rows, split, rows)


@pytest.mark.parametrize(
    ("folder", "options", "error", "message"),
    [
        ("two", {}, DataError, "split is missing: .*two holds train, test; say which"),
        ("two", {"split": "dev"}, DataError, "split='dev' is not in .*two, which holds train, test"),
        ("one", {"split": "dev"}, DataError, "one dataset without splits; leave split out"),
        ("one", {"revision": "main"}, ConfigError, "revision='main' says nothing"),
        ("one", {"name": "en"}, ConfigError, "name='en' says nothing"),
        ("none/at/all", {}, DataError, "there is no folder"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(folder, options, error, message, saved):
    with pytest.raises(error, match=message):
        load_hub(saved / folder, **options)


def test_a_damaged_folder_is_named(saved):
    (saved / "two" / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match="two cannot be read as a dataset of save_to_disk: JSONDecodeError"):
        load_hub(saved / "two", split="train")
    (saved / "one" / "data-00000-of-00001.arrow").write_bytes(b"half")
    with pytest.raises(DataError, match="one cannot be read as a dataset of save_to_disk"):
        load_hub(saved / "one")


def test_a_saved_dataset_as_a_stream_gives_the_same_samples(saved, tmp_path):
    stream = HubSource.load(saved / "two", "x", split="train", streaming=True, cache=tmp_path / "c", hide=["k"])
    assert stream.batch([1, 0]).tolist() == HubSource.load(saved / "one", "x").batch([1, 0]).tolist()
    assert (stream.origin["split"], stream.origin["rows"]) == ("train", None)
    assert stream.metadata() is None
    assert stream.column("k").tolist() == ["a", None]


def test_a_hidden_column_is_not_shown_whether_it_is_named_or_not():
    source = HubSource(ROWS, "x", metadata=["k"], hide=["k"])
    assert source.metadata() is None
    assert source.column("k").tolist() == ["a", None]
    with pytest.raises(DataError, match="unknown column 'l'"):
        HubSource(ROWS, "x", hide=["l"])


@pytest.fixture
def online(monkeypatch):
    """A hub that has one dataset, and notes what it is asked for."""
    asked = []
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda self, path, **_: SimpleNamespace(sha=COMMIT))
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, name, revision: ["train"])

    def load(path, name, split, revision, streaming):
        asked.append((path, name, split, revision, streaming))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_name_on_the_hub_is_loaded_at_the_commit_that_is_kept(online):
    _, origin = load_hub("someone/reviews", "en", revision="main")
    assert online == [("someone/reviews", "en", "train", COMMIT, False)]
    assert (origin["revision"], origin["split"], origin["name"]) == (COMMIT, "train", "en")


def test_a_commit_that_nobody_tells_is_warned_of_unless_it_is_given(online, monkeypatch):
    def offline(self, path, **_):
        raise ConnectionError("no network")

    monkeypatch.setattr(hub.HfApi, "dataset_info", offline)
    with pytest.warns(KrepesWarning, match=r"commit of someone/reviews cannot be told \(no network\)"):
        assert load_hub("someone/reviews")[1]["revision"] is None
    assert load_hub("someone/reviews", revision=COMMIT)[1]["revision"] == COMMIT


def test_a_dataset_that_cannot_be_loaded_is_named_with_the_librarys_reason(online, monkeypatch):
    def fails(*_, **__):
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(DataError, match="someone/reviews cannot be loaded: ConnectionError: Couldn't reach the hub"):
        load_hub("someone/reviews")


def test_a_folder_of_data_files_is_read_by_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.csv").write_text("text,y\na b,1\nc,2\n")
    dataset, origin = load_hub(tmp_path / "files")
    assert dataset["text"][:] == ["a b", "c"]
    assert (origin["split"], origin["revision"]) == ("train", None)
    with pytest.raises(DataError, match=r"has no split 'test': .*train"):
        load_hub(tmp_path / "files", split="test")


def test_a_missing_library_is_named_with_its_extra_before_anything_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"krepes\[hub\]"):
        load_hub(tmp_path / "none")
