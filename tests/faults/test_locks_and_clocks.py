"""One writer per folder, whatever became of the last one; no clock has a say in anything."""

import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from krepes import run as run_module
from krepes.cli import app
from krepes.cli.console import errors_in_words
from krepes.errors import RunFolderError
from krepes.files import one_writer

HOLDER = """
import sys, time
from pathlib import Path
from krepes.files import one_writer
with one_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_held_folder_is_refused_until_its_process_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunFolderError, match="another process is writing to"), one_writer(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / ".lock").exists()  # what a crash leaves does not matter
    with one_writer(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_who_lost_its_folder_does_not_take_the_lock_of_the_next_one(tmp_path):
    folder = tmp_path / "run"
    with one_writer(folder):
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        (folder / ".lock").write_text("of another process")
    assert (folder / ".lock").exists()


@pytest.mark.parametrize("years", [-40, 40])
def test_a_clock_that_jumps_changes_neither_what_is_used_again_nor_the_result(
    audited, expected, tmp_path, monkeypatch, years
):
    run, now, jump = tmp_path / "run", time.time, years * 365 * 86400

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "find", stop)
        with pytest.raises(KeyboardInterrupt):
            audited(run)
    for path in run.rglob("*"):
        os.utime(path, (now() + jump, now() + jump))
    before = {path: path.stat().st_mtime_ns for path in (run / "work").iterdir()}
    seen = {}
    findings = run_module.find

    def looked(*arguments):
        seen.update({path: path.stat().st_mtime_ns for path in (run / "work").iterdir()})
        return findings(*arguments)

    monkeypatch.setattr(run_module, "find", looked)
    monkeypatch.setattr(time, "time", lambda: now() - jump)
    audited(run)
    assert len(before) > 5
    assert seen == before  # every block was used as it stood
    for name in ("model.safetensors", "points.parquet", "influence.parquet"):
        assert (run / name).read_bytes() == (expected["moments"] / name).read_bytes()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")],
    ids=["Python's", "PyTorch's"],
)
def test_a_lack_of_memory_is_said_in_words(tmp_path, monkeypatch, error):
    from krepes import demo

    def lack(*arguments):
        raise error

    monkeypatch.setattr(demo, "auditor", lack)
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "out of memory" in done.output
    assert "engine.memory" in done.output


def test_any_other_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a bug"), errors_in_words():
        raise RuntimeError("a bug")
