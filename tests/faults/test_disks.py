"""Disks that are full, read-only or gone: an error that names the file, nothing damaged, the same result later."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from krepes import pipeline
from krepes import run as run_module
from krepes.errors import RunFolderError
from krepes.features import FeatureStore
from krepes.pretrain.checkpoint import load_checkpoint, save_checkpoint
from krepes.run_folder import damaged


def whole(run: Path) -> bool:
    """Whether a run is complete and all its files have their checksums; nothing unfinished lies beside them."""
    return not damaged(run) and not list(run.rglob("*.tmp")) and not (run / "work").exists()


def attempt(audited, run: Path, objective: str) -> RunFolderError | None:
    """What an audit ends with."""
    try:
        audited(run, objective)
    except RunFolderError as error:
        return error
    return None


@pytest.mark.parametrize("objective", ["moments", "pairs"])
def test_a_disk_that_is_full_at_any_write_changes_nothing_in_the_end(
    audited, expected, tmp_path, monkeypatch, objective
):
    run, flush, left = tmp_path / "run", os.fsync, 0

    def full(handle):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    errors = []
    for writes in range(100):  # each attempt may write one file more than the one before
        left = writes
        error = attempt(audited, run, objective)
        assert not list(run.rglob("*.tmp"))
        if error is None:
            break
        errors.append(str(error))
    assert whole(run)
    assert len(errors) > 10
    assert all(re.search(rf"cannot write {run}/\S+: .*No space left.* Free space", error) for error in errors)
    for name in ("model.safetensors", "points.parquet"):
        assert (run / name).read_bytes() == (expected[objective] / name).read_bytes()


@pytest.mark.parametrize("objective", ["moments", "pairs"])
def test_an_audit_on_a_small_disk_is_refused_and_goes_on_when_it_has_grown(audited, expected, disk, objective):
    place = disk(40 * 1024)
    with pytest.raises(RunFolderError, match=rf"{place}.*Free space"):
        audited(place / "run", objective)
    subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
    run = audited(place / "run", objective)
    assert whole(run)
    assert (run / "model.safetensors").read_bytes() == (expected[objective] / "model.safetensors").read_bytes()


def test_features_on_a_full_disk_are_an_error_and_not_a_crash(disk):
    place = disk(256 * 1024)
    with pytest.raises(RunFolderError, match=r"cannot keep the pairs' features .*features-a-000.bin.* Free space"):
        FeatureStore(place / "features-a-000.bin", 100_000, 4, torch.float32)
    assert not list(place.iterdir())  # the manifest has to be written yet


def test_a_feature_file_with_holes_is_filled_before_it_is_written_to(disk):
    place = disk(256 * 1024)
    with (place / "f.bin").open("wb") as f:
        f.truncate(1_600_000)  # of the right size, as a copy may leave it, and without blocks
    with pytest.raises(RunFolderError, match=r"f\.bin.* Free space"):
        FeatureStore(place / "f.bin", 100_000, 4, torch.float32)


def test_a_checkpoint_on_a_full_disk_leaves_the_one_before(disk):
    path = disk(256 * 1024) / "training.pt"
    save_checkpoint(path, {"epoch": 1}, {})
    with pytest.raises(RunFolderError, match=r"cannot write .*training\.pt.* Free space"):
        save_checkpoint(path, {"weights": torch.randn(200_000)}, {})
    assert load_checkpoint(path, {}) == {"epoch": 1}


def test_a_read_only_folder_is_refused_by_name(audited, disk):
    place = disk(2**20)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    for folder in (place, place / "run"):
        with pytest.raises(RunFolderError, match=rf"cannot write to {folder}: .*Read-only file system"):
            audited(folder)


@pytest.mark.parametrize("made_again", [False, True])
@pytest.mark.parametrize("stage", ["fit", "scores", "report"])
def test_a_folder_that_vanishes_ends_the_run_by_name(audited, tmp_path, monkeypatch, stage, made_again):
    run = tmp_path / "run"
    owner, name = {"fit": (pipeline, "agreed_nystrom"), "scores": (run_module, "write_tables"),
                   "report": (run_module, "build_card")}[stage]  # fmt: skip
    before = getattr(owner, name)

    def vanish(*arguments):
        found = before(*arguments)
        run.rename(tmp_path / "elsewhere")
        if made_again:  # by another run, which may take the old one's inode where it was removed
            run.mkdir()
            (run / "work").mkdir()
        return found

    monkeypatch.setattr(owner, name, vanish)
    with pytest.raises(RunFolderError, match=rf"{run}\S* was removed or replaced|{run}.*No such file"):
        audited(run)
    assert not (run / "manifest.json").exists() or stage == "report"
    shutil.rmtree(run, ignore_errors=True)
    monkeypatch.setattr(owner, name, before)
    assert whole(audited(run))


@pytest.mark.parametrize("harm", ["cut", "changed", "begun", "removed"])
@pytest.mark.parametrize("view", ["a", "b"])
def test_a_feature_file_that_is_not_whole_is_made_again(audited, expected, tmp_path, monkeypatch, harm, view):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "solve", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audited(run, "pairs")
    path = run / "work" / f"features-{view}-001.bin"
    content = path.read_bytes()
    if harm == "removed":
        path.unlink()
    elif harm == "begun":  # killed while the second shard was written: no block has its checksum
        path.write_bytes(bytes(len(content)))
        (run / "work" / "features-001.safetensors").unlink()
    else:
        changed = np.frombuffer(content, np.uint8).copy()
        changed[len(changed) // 2] ^= 64
        path.write_bytes(content[:-100] if harm == "cut" else changed.tobytes())
    audited(run, "pairs")
    assert (run / "model.safetensors").read_bytes() == (expected["pairs"] / "model.safetensors").read_bytes()
    assert whole(run)
