"""kill -9 at any moment, start again: the result of an uninterrupted run, from the blocks that were finished."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import krepes
from krepes.cli import app
from krepes.encoders import MLP
from krepes.errors import RunFolderError
from krepes.files import one_writer
from krepes.run_folder import RunFolder

TABLES = ("landmarks.parquet", "influence.parquet", "points.parquet")


def configuration(folder: Path, objective: dict) -> Path:
    """An audit of 13,000 samples in four shards."""
    torch.manual_seed(0)
    save_file(MLP(6, (16,), 4).state_dict(), folder / "weights.safetensors")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(13_000, 6)).astype(np.float32))
    config = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 6, "hidden": [16], "n_out": 4},
                    "weights": "weights.safetensors"},
        "data": {"array": "x.npy"}, "views": {"name": "gaussian", "std": 0.3}, "objective": objective,
        "landmarks": {"m": 40}, "newton": {"damping": 1.0},
        "audit": {"automatic_concepts": False, "attribution": 0}, "trust": {"refits": False},
    }  # fmt: skip
    (folder / "audit.yaml").write_text(yaml.safe_dump(config))
    return folder / "audit.yaml"


def start(config: Path, output: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "krepes", "audit", str(config), "-o", str(output)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_when(process: subprocess.Popen, file: Path) -> None:
    """kill -9 as soon as the file is there."""
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_same_run(found: Path, expected: Path) -> None:
    one, other = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    for name in TABLES:
        pd.testing.assert_frame_equal(pd.read_parquet(found / name), pd.read_parquet(expected / name))
    assert {p.name for p in found.iterdir()} == {p.name for p in expected.iterdir()}


@pytest.mark.parametrize(
    ("objective", "kills"),
    [
        ({"name": "barlow_twins"}, ["landmarks", "moments-001", "step", "scores-002"]),
        ({"name": "simclr", "batch_size": 512}, ["features-001", "scores-000"]),
    ],
    ids=["moments", "pairs"],
)
def test_killed_run_goes_on_to_the_same_result(tmp_path, objective, kills):
    config = configuration(tmp_path, objective)
    whole = start(config, tmp_path / "whole")
    output = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, output

    broken = tmp_path / "broken"
    for name in kills:
        kill_when(start(config, broken), broken / "work" / f"{name}.safetensors")
        assert json.loads((broken / "manifest.json").read_text())["status"] == "running"
    # a block that was damaged meanwhile is redone
    first = sorted((broken / "work").glob("*-000.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:-7])
    (broken / ".manifest.json.abc.tmp").touch()  # as if killed while it was written
    stamps = {p.name: p.stat().st_mtime_ns for p in (broken / "work").glob("*.safetensors") if p != first}

    last = start(config, broken)
    seen = {}
    while last.poll() is None:
        with suppress(FileNotFoundError):  # the run takes its work away, a file or the whole folder, as we look
            for p in (broken / "work").glob("*.safetensors"):
                seen[p.name] = p.stat().st_mtime_ns
        time.sleep(0.005)
    output = last.communicate()[0]
    assert last.returncode == 0, output
    assert "finished blocks of an earlier run used" in output
    assert stamps
    assert all(seen[name] == stamp for name, stamp in stamps.items())
    assert_same_run(broken, tmp_path / "whole")


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    config = configuration(tmp_path, {"name": "barlow_twins"})
    with one_writer(tmp_path / "run"):
        second = start(config, tmp_path / "run")
        output = second.communicate(timeout=120)[0]
    assert second.returncode == 1
    assert "another process is writing to" in output


def test_a_run_that_made_nothing_binds_no_other(tmp_path):
    """A mistake that only the fit can see; corrected, the same command goes on without --overwrite."""
    config, run = configuration(tmp_path, {"name": "barlow_twins"}), tmp_path / "run"
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(settings | {"landmarks": {"m": 20_000}}))
    result = CliRunner().invoke(app, ["audit", str(config), "-o", str(run)])
    assert result.exit_code == 1
    assert "20000" in result.output
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
    config.write_text(yaml.safe_dump(settings))
    kill_when(start(config, run), run / "work" / "landmarks.safetensors")
    # from its first block on it does: that block would be lost
    config.write_text(yaml.safe_dump(settings | {"landmarks": {"m": 30}}))
    result = CliRunner().invoke(app, ["audit", str(config), "-o", str(run)])
    assert result.exit_code == 1
    assert "these settings differ: landmarks" in result.output


@pytest.mark.parametrize(
    ("manifest", "files"),
    [
        ({"format": "zip", "entries": [1, 2]}, []),  # another program's
        ({"status": "complete"}, []),
        ({}, ["work/thesis.txt"]),
        ({}, ["work/work", "work/manifest.json"]),
        ({}, ["work"]),
        ({}, ["model.safetensors"]),
    ],
)
def test_what_may_be_somebodys_binds(manifest, files, tmp_path):
    versions = {"krepes": krepes.__version__}
    ours = {"status": "failed", "config": {"m": 1}, "fingerprints": {}, "versions": versions, "behaviour": {}}
    written = manifest if "entries" in manifest else ours | manifest
    (tmp_path / "manifest.json").write_text(json.dumps(written))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(RunFolderError, match="belongs to another configuration"):
        RunFolder.open(tmp_path, {"fingerprints": {}, "config": {"m": 2}, "behaviour": {}})
    if not manifest:
        for name in files:
            (tmp_path / name).unlink()
        assert RunFolder.open(tmp_path, {"fingerprints": {}, "config": {"m": 2}, "behaviour": {}}).found is None
