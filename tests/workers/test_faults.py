"""Workers that fail, differ or are killed: the others stop with them or the job goes on; no number changes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import faults
import pytest
import torch

HERE = Path(__file__).parent
STOPPED = 30  # seconds, beside the start


def small(mode: str) -> tuple[int, str, float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(HERE / "small.py"), mode]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - started


def test_one_that_stops_stops_all_and_says_why():
    code, said, seconds = small("stops")
    assert code != 0
    assert "there is no file samples.npy here" in said
    assert seconds < STOPPED + 30


def test_other_data_are_refused_by_name():
    code, said, _ = small("differs")
    assert code != 0
    assert "worker 1 has the data 'bbb', worker 0 'aaa'" in said


def test_an_error_of_one_alone_stops_all():
    code, said, seconds = small("alone")
    assert code != 0
    assert "worker 1 alone met an error: out of luck" in said
    assert seconds < STOPPED + 30


def test_an_error_of_all_stops_nobody():
    code, said, _ = small("together")
    assert code == 0, said
    assert said.count("went on") == 2


def test_an_error_before_a_sum_is_everyones():
    code, said, _ = small("sums")
    assert code == 0, said
    assert all(f"met by {rank}: sample 7 is not finite" in said for rank in (0, 1))


def test_one_that_vanishes_with_open_connections_is_missed():
    code, said, _ = small("vanishes")  # torchrun itself waits 30 s before it kills the stopped process
    assert code != 0
    assert "worker 1 was lost: no sign of life for" in said


def test_one_that_computes_for_long_is_waited_for():
    code, said, _ = small("long")
    assert code == 0, said
    assert said.count("went on") == 2


def test_a_lack_of_memory_of_one_stops_all_and_says_where():
    code, said, seconds = small("memory")
    assert code != 0
    # by the other one, or by itself where torchrun ends the other one before it speaks
    assert re.search(r"(worker 1 stopped|\[rank1\]): (RuntimeError: .*can't allocate memory|MemoryError)", said), said
    assert seconds < STOPPED + 30


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A run that nobody disturbs: its configuration, its folder, and the seconds of each stage."""
    folder = tmp_path_factory.mktemp("quiet")
    config = faults.prepare(folder, "barlow_twins")
    return config, folder / "quiet", faults.undisturbed(config, folder / "quiet", 2)


def test_a_killed_worker_is_started_again_and_the_run_ends_as_if_undisturbed(quiet, tmp_path):
    config, undisturbed, taken = quiet
    ended = faults.disturbed(config, tmp_path / "run", workers=2, kills=2, seed=22, taken=taken)  # fifty: faults.py
    assert ended.code == 0, ended.said[-3000:]
    assert ended.kills
    assert faults.difference(undisturbed, tmp_path / "run") < 1e-5


def test_a_killed_job_goes_on_with_another_number_of_workers(quiet, tmp_path):
    config, undisturbed, _ = quiet
    job = faults.launched(config, tmp_path / "run", workers=2)
    work, until = tmp_path / "run" / "work", time.monotonic() + 120
    while not list(work.glob("moments-*.safetensors")) and time.monotonic() < until:
        time.sleep(0.01)
    for pid in faults.children(job.pid):
        os.kill(pid, signal.SIGKILL)
    job.kill()
    job.wait()
    assert not (tmp_path / "run" / "report.html").exists()
    assert faults.launched(config, tmp_path / "run", workers=3).wait(timeout=300) == 0
    assert "finished blocks of an earlier run used" in (tmp_path / "run.log").read_text()
    assert faults.difference(undisturbed, tmp_path / "run") < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_workers_without_a_gpu_say_so_and_end(quiet, tmp_path):
    config, _, _ = quiet
    elsewhere = tmp_path / "cuda.yaml"
    elsewhere.write_text(config.read_text().replace("weights.safetensors", str(config.parent / "weights.safetensors"))
                         .replace("samples.npy", str(config.parent / "samples.npy")) + "device: cuda\n")  # fmt: skip
    started = time.monotonic()
    assert faults.launched(elsewhere, tmp_path / "run", workers=2).wait(timeout=120) != 0
    assert "cuda" in (tmp_path / "run.log").read_text()
    assert time.monotonic() - started < STOPPED + 30
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_second_job_on_the_folder_of_a_running_one_stops_and_changes_nothing(quiet, tmp_path):
    config, undisturbed, _ = quiet
    first = faults.launched(config, tmp_path / "run", workers=2)
    until = time.monotonic() + 120
    while faults.stage_of(tmp_path / "run") == "start" and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # torchrun itself, and its workers: the first job is slow
    for pid in faults.children(first.pid):
        os.kill(pid, signal.SIGSTOP)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "run").symlink_to(tmp_path / "run")  # the same folder, another log
    started = time.monotonic()
    second = faults.launched(config, tmp_path / "second" / "run", workers=2)
    assert second.wait(timeout=120) != 0
    assert time.monotonic() - started < STOPPED + 30
    assert "another process" in (tmp_path / "second" / "run.log").read_text()
    for pid in [first.pid, *faults.children(first.pid)]:
        os.kill(pid, signal.SIGCONT)
    assert first.wait(timeout=300) == 0
    assert faults.difference(undisturbed, tmp_path / "run") < 1e-5
