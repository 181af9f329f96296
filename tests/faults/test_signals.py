"""A request to stop ends an audit within seconds, whatever it waits for; the same command goes on to the same bits."""

import os
import signal
import subprocess
import sys

import pytest
from audits import SECONDS, children, configuration, ended, standing, started, until

from krepes.signals import Interrupted, stop_requests


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A configuration, and the folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    config = configuration(folder)
    code, said = ended(started(config, folder / "whole"))
    assert code == 0, said
    return config, folder / "whole"


def hung(config, output, workers: int = 1) -> subprocess.Popen:
    """An audit whose last worker hangs in the views."""
    (config.parent / "hangs").unlink(missing_ok=True)
    (config.parent / "hang").write_text(str(workers - 1))
    process = started(config, output, workers)
    until(process, (config.parent / "hangs").exists)
    (config.parent / "hang").unlink()
    return process


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_hanging_audit_ends_by_a_signal_and_says_where_it_stood(whole, tmp_path, name, code):
    config, _ = whole
    process = hung(config, tmp_path / "run")
    process.send_signal(signal.Signals[name])
    found, said = ended(process, SECONDS)
    assert found == code, said
    assert f"interrupted by {name}" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert standing(tmp_path / "run") == ("interrupted", "fit")


def test_an_interrupted_audit_goes_on_to_the_same_bits(whole, tmp_path):
    config, undisturbed = whole
    process = hung(config, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    ended(process, SECONDS)
    code, said = ended(started(config, tmp_path / "run"))
    assert code == 0, said
    assert "finished blocks of an earlier run used" in said
    assert (tmp_path / "run/model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


@pytest.mark.parametrize("whom", ["torchrun", "a worker that waits", "the worker that hangs"])
def test_workers_end_by_a_signal_to_any_of_them_while_one_hangs(whole, tmp_path, whom):
    config, _ = whole
    process = hung(config, tmp_path / "run", workers=2)
    first, second = children(process.pid)
    os.kill({"torchrun": process.pid, "a worker that waits": first}.get(whom, second), signal.SIGTERM)
    code, said = ended(process, SECONDS)
    assert code != 0
    assert "interrupted by SIGTERM" in said
    assert standing(tmp_path / "run") == ("interrupted", "fit")


def test_the_first_signal_given_twice_is_one():
    def told_twice():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:  # as a scheduler does that tells torchrun and its workers, which torchrun tells again
            os.kill(os.getpid(), signal.SIGTERM)

    with stop_requests(), pytest.raises(Interrupted) as stopped:
        told_twice()
    assert stopped.value.code == 143


SECOND = """
import os, signal
from krepes import signals
signals.TWICE = 0
with signals.stop_requests():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("went on")
"""


def test_a_second_signal_ends_at_once():
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr


HANDLERS = """
import signal
before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
import krepes, krepes.cli, krepes.run, krepes.signals
assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
signal.signal(signal.SIGINT, signal.SIG_IGN)
with krepes.signals.stop_requests():
    assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as nohup asks
assert signal.getsignal(signal.SIGTERM) == before[0]
"""


def test_imports_leave_signals_alone_and_the_command_gives_them_back():
    subprocess.run([sys.executable, "-c", HANDLERS], check=True, timeout=120)
