"""A Hugging Face dataset named in a configuration file, from its keys to the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import krepes
from krepes.cli import app
from krepes.config import build_data, build_source, read_config
from krepes.encoders import SmallCNN
from krepes.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets", reason="the extra krepes[hub] is not installed")

N = 90
TEXTS = ["the sea is near", "bread and salt", "a storm", "old wind"]


@pytest.fixture(autouse=True, scope="module")
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def saved(folder: Path) -> Path:
    """Two splits of 8 × 8 pictures and sentences with classes."""
    rng = np.random.default_rng(0)
    rows = {
        "img": [Image.fromarray(p) for p in rng.integers(0, 256, (N, 8, 8, 3), np.uint8)],
        "text": [TEXTS[i % 4] for i in range(N)],
        "topic": [i % 2 for i in range(N)],
        "place": [["north", "south", "east"][i % 3] for i in range(N)],
        "key": [f"k{i}" for i in range(N)],
    }
    kinds = {"img": datasets.Image(), "topic": datasets.ClassLabel(names=["sea", "land"])}
    kinds |= {k: datasets.Value("string") for k in ("text", "place", "key")}
    whole = datasets.Dataset.from_dict(rows, datasets.Features({k: kinds[k] for k in rows}))
    datasets.DatasetDict({"train": whole, "test": whole.select(range(4))}).save_to_disk(str(folder / "photos"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = saved(tmp_path_factory.mktemp("hugging_face"))
    args = {"in_channels": 3, "n_out": 4}
    torch.manual_seed(0)
    save_file(SmallCNN(**args).state_dict(), place / "w.safetensors")
    return place


HUB = {"path": "photos", "split": "train", "column": "img", "metadata": ["place"]}
DATA = {"hugging_face": HUB, "preprocess": {}, "label": "topic", "id": "key"}


def configuration(folder: Path, data: dict, name: str = "audit.yaml", **more) -> Path:
    content = {
        "encoder": {"factory": "krepes.encoders:SmallCNN", "args": {"in_channels": 3, "n_out": 4},
                    "weights": "w.safetensors"},
        "data": data, "views": {"name": "gaussian", "std": 0.05}, "objective": {"name": "vicreg"},
        "landmarks": {"m": 12}, "audit": {"refits": 2, "points": 20, "attribution": 0, "automatic_concepts": False},
        "report": {"explain": 2},
    } | more  # fmt: skip
    path = folder / name
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def sources(folder: Path, data: dict):
    return build_data(read_config(configuration(folder, data)).data, folder)


def test_an_audit_of_a_saved_dataset_can_be_repeated_and_loaded(folder, tmp_path):
    path = configuration(folder, DATA)
    result = CliRunner().invoke(app, ["audit", str(path), "-o", str(tmp_path / "run"), "-q"])
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    origin = manifest["data_origin"]
    assert (origin["path"], origin["split"], origin["rows"]) == (str(folder / "photos"), "train", N)
    assert origin["fingerprint"] == datasets.load_from_disk(str(folder / "photos" / "train"))._fingerprint
    source = build_source(read_config(path).data, folder)
    assert manifest["fingerprints"]["data"] == source.fingerprint()
    assert manifest["config"]["data"]["hugging_face"]["column"] == "img"
    landmarks = pd.read_parquet(tmp_path / "run" / "landmarks.parquet")
    assert landmarks["landmark"].str.fullmatch(r"k\d+").all()
    assert "data.place" in landmarks
    assert "data.topic" not in landmarks
    assert (tmp_path / "run" / "evaluation.parquet").is_file()
    auditor = krepes.load(tmp_path / "run")
    assert auditor.transform(source.batch([0, 1])).shape[0] == 2
    again = CliRunner().invoke(app, ["audit", str(path), "-o", str(tmp_path / "run")])
    assert "holds a complete run of this configuration" in again.output


def test_a_run_is_refused_for_a_dataset_whose_rows_have_changed(folder, tmp_path):
    place = saved(tmp_path)
    (place / "w.safetensors").write_bytes((folder / "w.safetensors").read_bytes())
    path = configuration(place, DATA)
    assert CliRunner().invoke(app, ["audit", str(path), "-o", str(tmp_path / "run"), "-q"]).exit_code == 0
    rows = datasets.load_from_disk(str(folder / "photos" / "train")).select([1, 0, *range(2, N)])
    shutil.rmtree(place / "photos")
    datasets.DatasetDict({"train": rows}).save_to_disk(str(place / "photos"))
    result = CliRunner().invoke(app, ["audit", str(path), "-o", str(tmp_path / "run"), "-q"])
    assert result.exit_code == 1
    assert "belongs to another data set" in " ".join(result.output.split())


def test_classes_stay_hidden_unless_they_are_asked_for(folder):
    source, labels = sources(folder, DATA)
    assert labels is not None
    assert labels[:3].tolist() == ["sea", "land", "sea"]
    assert list(source.metadata().columns) == ["place"]
    shown, labels = sources(folder, DATA | {"show_label": True, "rows": 5})
    assert len(shown) == len(labels) == 5
    assert list(shown.metadata().columns) == ["place", "topic"]


@pytest.fixture(scope="module")
def tokenizer(folder):
    transformers = pytest.importorskip("transformers", reason="the extra krepes[hub] is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", *sorted({w for text in TEXTS for w in text.split()})]
    rules = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=rules, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder / "words")
    return words


TEXT = {"path": "photos", "split": "train", "column": "text", "tokenizer": "words", "length": 3}


def test_texts_become_tokens_by_the_tokenizer_of_a_folder(folder, tokenizer, tmp_path):
    source, _ = sources(folder, {"hugging_face": TEXT})
    expected = [[tokenizer.index(w) for w in text.split()][:3] for text in TEXTS]
    assert source.batch(range(4)).tolist() == [[*row, *[0] * (3 - len(row))] for row in expected]
    moved = TEXT | {"path": str(folder / "photos"), "tokenizer": str(tmp_path / "moved")}
    (folder / "words").rename(tmp_path / "moved")
    try:  # where the tokenizer lies is not part of what the samples are
        assert sources(folder, {"hugging_face": moved})[0].fingerprint() == source.fingerprint()
    finally:
        (tmp_path / "moved").rename(folder / "words")


def test_a_stream_is_read_into_its_cache(folder, tokenizer, tmp_path):
    streaming = TEXT | {"streaming": True, "cache": str(tmp_path / "cache"), "metadata": ["place"]}
    for _ in range(2):
        source, labels = sources(folder, {"hugging_face": streaming, "label": "topic", "rows": 9})
        assert (len(source), len(labels)) == (9, 9)
        assert source.batch([3]).tolist() == sources(folder, {"hugging_face": TEXT})[0].batch([3]).tolist()
    with pytest.raises(DataError, match="there, 2 here"):
        sources(folder, {"hugging_face": streaming | {"length": 2}, "label": "topic", "rows": 9})


@pytest.mark.parametrize(
    ("key", "value"), [("colum", "img"), ("split", {"of": "train"}), ("streaming", "perhaps"), ("length", 0)]
)
def test_a_wrong_key_or_value_is_named_with_its_line(key, value, folder):
    path = configuration(folder, DATA | {"hugging_face": HUB | {key: value}})
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if text.startswith(f"    {key}:"))
    with pytest.raises(ConfigError, match=rf"audit\.yaml:\n  {line}:5: data\.hugging_face\.{key}"):
        read_config(path)


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"split": "dev"}, "split", r"split='dev' is not in .*photos, which holds train, test"),
        ({"split": None}, "split", "split is missing: .*photos holds train, test; say which"),
        ({"path": "phoots/x/y"}, "path", "there is no folder phoots/x/y"),
        ({"column": "image"}, "column", "unknown column 'image'; did you mean 'img'"),
        ({"metadata": ["pace"]}, "metadata", "did you mean 'place'"),
        ({"revision": "main"}, "revision", "leave it out"),
        ({"tokenizer": "words"}, "tokenizer", "is for text; column 'img' holds images"),
        ({"column": "text"}, "tokenizer", "is missing: column 'text' holds text"),
        ({"column": "text", "tokenizer": "none", "length": 3}, "tokenizer", "cannot be loaded"),
        ({"column": "text", "tokenizer": "words"}, "length", "is missing: column 'text' holds text"),
        ({"streaming": True}, "cache", "is missing: with streaming"),
        ({"cache": "c"}, "cache", "says nothing without"),
    ],
)
def test_a_mistake_that_the_dataset_shows_is_named_with_its_line(change, key, message, folder, tokenizer):
    path = configuration(folder, DATA | {"hugging_face": HUB | change})
    lines = path.read_text().splitlines()
    stated = next((i for i, text in enumerate(lines, 1) if text.startswith(f"    {key}:")), None)
    section = next(i for i, text in enumerate(lines, 1) if "hugging_face:" in text)
    result = CliRunner().invoke(app, ["audit", str(path), "-o", str(folder / "never"), "-q"])
    said = " ".join(result.output.split())
    assert result.exit_code == 1
    assert f"audit.yaml:{stated or section}:{5 if stated else 3}: data.hugging_face.{key}" in said
    assert pd.Series([said]).str.contains(message).all(), said


def test_images_without_preprocess_and_labels_that_are_not_there_are_named_with_their_lines(folder):
    path = configuration(folder, {k: v for k, v in DATA.items() if k != "preprocess"})
    said = " ".join(CliRunner().invoke(app, ["audit", str(path), "-q"]).output.split())
    assert "data.preprocess is missing: column 'img' holds images" in said
    path = configuration(folder, DATA)
    said = " ".join(CliRunner().invoke(app, ["audit", str(path), "-q", "--set", "data.label=topik"]).output.split())
    assert "error: --set data.label=topik: data.label: unknown column 'topik'; did you mean 'topic'" in said


def test_a_key_of_another_kind_of_data_is_refused(folder):
    with pytest.raises(ConfigError, match=r"data\.separator does not apply to data\.hugging_face"):
        sources(folder, DATA | {"separator": ";"})
    with pytest.raises(ConfigError, match=r"exactly one of .* 'hugging_face' .*; found array, hugging_face"):
        sources(folder, DATA | {"array": "x.npy"})


def test_a_missing_library_is_named_with_its_extra_and_key(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"data\.hugging_face\.path: .*pip install \"krepes\[hub\]\""):
        sources(folder, DATA)


def test_the_library_is_imported_only_for_a_dataset_of_its_own(folder):
    np.save(folder / "x.npy", np.zeros((3, 3, 8, 8), np.float32))
    path = configuration(folder, {"array": "x.npy"}, "array.yaml")
    code = (
        "import sys; from pathlib import Path; from krepes.config import build_source, read_config\n"
        f"path = Path({str(path)!r}); build_source(read_config(path).data, path.parent)\n"
        "print([m for m in ('datasets', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_pretraining_writes_finds_the_dataset_from_another_folder(folder, tokenizer):
    from krepes.pretrain.outputs import data_section

    data = read_config(configuration(folder, {"hugging_face": TEXT | {"cache": "someone/elsewhere"}})).data
    written = data_section(SimpleNamespace(data=data), folder)["hugging_face"]
    assert (written["path"], written["tokenizer"]) == (str(folder / "photos"), str(folder / "words"))
    assert written["cache"] == "someone/elsewhere"
