"""Each file of a complete run, damaged in each way: whoever reads it refuses it by name, or the run is made again."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

import krepes
from krepes import comparison, gate
from krepes.cli import app
from krepes.encoders import MLP
from krepes.errors import RunFolderError
from krepes.run_folder import damaged
from krepes.stored import StoredRun

FILES = ("model.safetensors", "landmarks.parquet", "influence.parquet", "points.parquet", "trust.json",
         "explained.parquet", "path.parquet", "views.json", "card.md", "report.html")  # fmt: skip


def flipped(content: bytes) -> bytes:
    """One bit of its middle is another."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


HARMS = {
    "cut": lambda c: c[: len(c) // 2],
    "empty": lambda c: b"",
    "flipped": flipped,
    "zeros": lambda c: bytes(len(c)),
}


@pytest.fixture(params=HARMS)
def harmed(request, expected, tmp_path):
    """(file) ↦ a run of which this file is damaged."""

    def harm(name: str) -> Path:
        run = Path(tempfile.mkdtemp(dir=tmp_path)) / "run"
        shutil.copytree(expected["moments"], run)
        (run / name).write_bytes(HARMS[request.param]((run / name).read_bytes()))
        return run

    return harm


def test_check_and_compare_refuse_it_by_name(harmed, expected):
    for name in FILES:
        run = harmed(name)
        for read in (lambda run=run: gate.check(run), lambda run=run: comparison.compare(expected["moments"], run)):
            with pytest.raises(RunFolderError, match=f"{re.escape(name)} in {run} is missing or changed"):
                read()


def test_load_refuses_the_model_by_name(harmed):
    with pytest.raises(RunFolderError, match=r"model\.safetensors does not have the checksum"):
        krepes.load(harmed("model.safetensors"), encoder=MLP(4, (8,), 3).eval())


def test_report_and_app_show_nothing_of_it_and_name_it(harmed, tmp_path):
    for name in FILES[:8]:
        run = StoredRun.open(harmed(name))
        assert run.path(name) is None
        assert name in run.problems
    said = CliRunner().invoke(app, ["report", str(harmed("points.parquet")), "-o", str(tmp_path / "r.html")])
    assert said.exit_code == 0
    assert "points.parquet is damaged or was changed" in said.output


def test_the_same_command_makes_the_run_again(harmed, audited, expected):
    run = audited(harmed("points.parquet"))
    assert not damaged(run)
    assert (run / "points.parquet").read_bytes() == (expected["moments"] / "points.parquet").read_bytes()
