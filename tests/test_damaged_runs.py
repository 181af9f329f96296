"""`krepes check` and `krepes compare` of damaged runs and hostile names: words and exit codes, never a traceback."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from krepes import Auditor, AuditPlan, BarlowTwins, Newton, Trust, comparison, gate
from krepes.cli import app
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.files import sha256_file
from krepes.run import run_audit


def krepes_command(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A small run."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "small"
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    auditor = Auditor(MLP(4, (8,), 3).eval(), BarlowTwins(), landmarks=20, newton=Newton(damping=0.1),
                      trust=Trust(refits=False))  # fmt: skip
    run_audit(
        auditor, ArraySource(x), lambda b, g: b + 0.2 * torch.randn(b.shape, generator=g), folder, {},
        Console(quiet=True), title="t", command="c", plan=AuditPlan(automatic_concepts=False, features=()),
    )  # fmt: skip
    return folder


def copied(run: Path, to: Path, changes: dict | None = None, files: dict[str, bytes] | None = None) -> Path:
    """A run with another manifest and other files, whose checksums fit."""
    shutil.copytree(run, to)
    manifest = json.loads((to / "manifest.json").read_text())
    for name, content in (files or {}).items():
        (to / name).write_bytes(content)
        manifest["outputs"][name] = sha256_file(to / name)
    manifest = {k: v for k, v in (manifest | (changes or {})).items() if v != "left out"}
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def ends_in_words(result, code: int) -> str:
    """What a command printed that ended with an error of its own, not with a traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    assert "error: " in result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"outputs": 5}, {}),
        ({"outputs": "trust.json"}, {}),
        ({"outputs": {"trust.json": None}}, {}),
        ({"sha256": [1]}, {}),
        ({}, {"trust.json": b"{}"}),
        ({}, {"trust.json": b"[]"}),
        ({}, {"trust.json": b'{"verdict": "blue", "sentence": 3}'}),
        ({}, {"trust.json": b"\xff\xfe"}),
        ({}, {"trust.json": b"[" * 100_000}),
        ({}, {"feature_gap.parquet": b"PAR1"}),
        ({}, {"feature_gap.parquet": b""}),
    ],
    ids=str,
)
def test_check_of_a_damaged_run_has_its_own_exit_code_and_names_the_folder(small, tmp_path, changes, files):
    run = copied(small, tmp_path / "run", changes, files)
    assert str(run) in ends_in_words(krepes_command("check", run, "--max-gap", "a=0.1"), 2)


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"outputs": 5}, {}),
        ({"figures": "left out"}, {}),
        ({"fingerprints": "left out"}, {}),
        ({"settings": "left out"}, {}),
        ({"fingerprints": 3}, {}),
        ({}, {"landmarks.parquet": b"PAR1"}),
        ({}, {"concepts.parquet": b"PAR1"}),
        ({}, {"trust.json": b"{}"}),
    ],
    ids=str,
)
def test_compare_of_a_damaged_run_ends_in_words(small, tmp_path, changes, files):
    run = copied(small, tmp_path / "run", changes, files)
    assert str(run) in ends_in_words(krepes_command("compare", small, run), 1)
    assert str(run) in ends_in_words(krepes_command("compare", run, small), 1)


def test_two_limits_for_a_column_are_refused(small):
    result = krepes_command("check", small, "--max-gap", "x=y=0.1", "--max-gap", "x=y=0.2")
    assert "names column 'x=y' twice: 0.1 and 0.2" in ends_in_words(result, 2)


HOSTILE = "\x1b[2J:smile: [bold]\u202e\n7"
SHOWN = "\\x1b[2J:smile: [bold]\\u202e\\n7"


def test_check_and_compare_show_control_characters_and_read_no_markup(monkeypatch, tmp_path):
    monkeypatch.setattr(gate, "check", lambda *_: [gate.Check(HOSTILE, 0.1, 0.0, 0.2, "≤ 1", True, HOSTILE)])
    landmarks = pd.DataFrame({"landmark": [HOSTILE], "change": ["gained"], "share": [0.5]})
    side = pd.DataFrame({"name": [HOSTILE], "a": [0.1], "b": [0.2], "difference": [0.1], "low": [0.0], "high": [0.2]})
    found = comparison.Comparison(landmarks, 1, side, side, side.rename(columns={"name": "figure"}), (HOSTILE,))
    monkeypatch.setattr(comparison, "compare", lambda *_: found)
    for arguments, times in ((("check", tmp_path), 2), (("compare", tmp_path, tmp_path), 5)):
        result = krepes_command(*arguments)
        assert result.exit_code == 0, result.output
        assert result.output.count(SHOWN) == times
        assert not {"\x1b", "\u202e"} & set(result.output)
