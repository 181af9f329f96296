"""The worked examples, each run as its README says in a copy outside of the repository."""

import json
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from krepes.cli import app

EXAMPLES = Path(__file__).parents[1] / "examples"
MADE = shutil.ignore_patterns("checkpoints", "__pycache__", "runs")


def commands(name: str) -> list[list[str]]:
    """What a README's shell block says, a list of words per line."""
    block = re.search(r"```bash\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[1].replace("\\\n", " ").splitlines()]


def run(words: list[str], monkeypatch) -> str:
    """One command in this process, as importing torch again would take longer than the command."""
    while "=" in words[0]:
        variable, _, value = words[0].partition("=")
        assert variable == "PYTHONPATH"
        monkeypatch.syspath_prepend(value)
        words = words[1:]
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
        return ""
    assert words[0] == "krepes"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


def run_all(name: str, folder: Path, monkeypatch) -> dict[str, str]:
    """Verb ↦ its output, of all the README's commands in a copy of the example."""
    shutil.copytree(EXAMPLES / name, folder / "examples" / name, ignore=MADE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return {words[2] if "=" in words[0] else words[1]: run(words, monkeypatch) for words in commands(name)}


def finished(folder: Path) -> dict:
    """The manifest of a run that is whole."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert not [name for name in manifest["outputs"] if not (folder / name).is_file()]
    assert {"report.html", "influence.parquet", "trust.json"} <= set(manifest["outputs"])
    trust = json.loads((folder / "trust.json").read_text())
    assert trust["verdict"] in ("green", "amber", "red")
    assert "seed stability" in {f["name"] for f in trust["figures"]}
    return manifest


def test_minimal(tmp_path, monkeypatch, capsys):
    shutil.copy(EXAMPLES / "minimal.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    run(["python", "minimal.py", "out"], monkeypatch)
    printed = capsys.readouterr().out
    assert re.search(r"trust: (green|amber)", printed)
    assert "sample 0 owes most of its invariance to training sample" in printed
    assert {p.name for p in Path("out").iterdir()} == {"report.html", "auditor"}


def test_lightly(tmp_path, monkeypatch):
    pytest.importorskip("kornia", reason="the extra krepes[images] is not installed")
    said = run_all("lightly", tmp_path, monkeypatch)
    assert "lightly: lightly's examples" in said["inspect"]
    assert "loaded 127 tensors" in said["convert"]
    assert "ignored 1 tensors (1 numbers), allowed by criterion.*" in said["convert"]
    assert "names by position: 0 → conv1" in said["convert"]
    assert "audited the projection's output" in said["audit"]
    manifest = finished(Path("runs/lightly"))
    assert manifest["space"] == "projection"
    assert manifest["account"][0].startswith("loaded     127 tensors")
    prepared = manifest["config"]["data"]["preprocess"]
    assert (prepared["size"], prepared["crop"], prepared["mean"]) == (32, 32, None)
    assert manifest["config"]["objective"]["temperature"] == 0.5
    landmarks = pd.read_parquet("runs/lightly/landmarks.parquet")
    assert landmarks["landmark"].str.fullmatch(r"\d/\d{3}\.png").all()
    assert "data.folder" not in landmarks


def test_solo_learn(tmp_path, monkeypatch):
    pytest.importorskip("kornia", reason="the extra krepes[images] is not installed")
    said = run_all("solo_learn", tmp_path, monkeypatch)
    assert "stem_padding: 2" in said["inspect"]
    assert "loaded 136 tensors" in said["convert"]
    assert "ignored 2 tensors (5,130 numbers), allowed by classifier.*" in said["convert"]
    assert "audited the projection's output" in said["audit"]
    config = finished(Path("runs/solo_learn"))["config"]
    assert config["objective"] == {"name": "barlow_twins", "weight": 0.0051, "scale": 0.1}
    assert config["data"]["preprocess"]["size"] == 8


def test_own_table(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "train", raising=False)
    said = run_all("own_table", tmp_path, monkeypatch)
    monkeypatch.delitem(sys.modules, "train", raising=False)
    assert "trust:" in said["audit"]
    assert "pass gap job" in said["check"]
    finished(Path("runs/own_table"))
    concepts = pd.read_parquet("runs/own_table/concepts.parquet")
    assert {"drivers", "old nurses"} <= set(concepts["concept"])
    gaps = pd.read_parquet("runs/own_table/feature_gap.parquet")
    assert set(gaps["column"]) == {"age", "job", "member"}
    assert set(pd.read_parquet("runs/own_table/influence.parquet")["sample"].head(1)) == {"p000"}
    schema = Path("examples/own_table/checkpoints/schema.yaml").read_text()
    assert "income" not in schema
    assert "kind: boolean" in schema


def test_hugging_face(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the extra krepes[hub] is not installed")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    said = run_all("hugging_face", tmp_path, monkeypatch)
    assert "loaded 37 tensors" in said["convert"]
    assert "ignored" not in said["convert"]
    assert "audited the network's output" in said["audit"]
    manifest = finished(Path("runs/hugging_face"))
    assert (manifest["space"], manifest["note"]) == ("output", "")
    assert manifest["config"]["views"]["name"] == "token_dropout"
    assert (Path("runs/hugging_face") / "evaluation.parquet").is_file()
    assert (manifest["data_origin"]["split"], manifest["data_origin"]["rows"]) == ("train", 200)
    assert "data.text" in pd.read_parquet("runs/hugging_face/landmarks.parquet")


@pytest.mark.parametrize("name", ["lightly", "solo_learn", "own_table", "hugging_face"])
def test_an_example_has_three_files(name):
    kept = {p.name for p in (EXAMPLES / name).iterdir() if p.is_file()}
    assert kept in ({"README.md", "make.py", "audit.yaml"}, {"README.md", "train.py", "audit.yaml"})
