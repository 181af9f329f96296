"""A small audit of three shards, by the command line, and views that hang when they are told to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from krepes.encoders import MLP

N, FEATURES, H = 9000, 6, 4
HERE = str(Path(__file__).parent)
SECONDS = 20  # until something that was asked to stop has ended; a hang would take a minute more


class Views:
    """Noise. A worker hangs at its tenth call for as long as a file `hang` that names its rank is in the folder."""

    def __init__(self, folder: str):
        self.folder, self.calls = Path(folder), 0

    def __call__(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.calls += 1
        told = self.folder / "hang"
        if self.calls == 10 and told.exists() and told.read_text() == os.environ.get("RANK", "0"):
            (self.folder / "hangs").touch()
            time.sleep(SECONDS + 60)
        return batch + 0.3 * torch.randn(batch.shape, generator=generator)


def configuration(folder: Path, objective: dict | None = None, **more) -> Path:
    """Samples, weights, and an audit of them that takes a second beside its start."""
    torch.manual_seed(0)
    save_file(MLP(FEATURES, (8,), H).state_dict(), folder / "weights.safetensors")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(N, FEATURES)).astype(np.float32))
    config = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": FEATURES, "hidden": [8], "n_out": H},
                    "weights": "weights.safetensors"},
        "data": {"array": "x.npy"}, "views": {"name": "audits:Views", "args": {"folder": str(folder)}},
        "objective": objective or {"name": "barlow_twins"}, "landmarks": {"m": 24}, "newton": {"damping": 1.0},
        "audit": {"automatic_concepts": False, "attribution": 0, "refits": 0}, "trust": {"refits": False},
        "report": {"explain": 1},
    }  # fmt: skip
    (folder / "audit.yaml").write_text(yaml.safe_dump(config | more))
    return folder / "audit.yaml"


def started(config: Path, output: Path, workers: int = 1, *more: str) -> subprocess.Popen:
    """`krepes audit`, by torchrun if there are several workers."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"] if workers > 1 else []
    command = [sys.executable, *torchrun, "-m", "krepes", "audit", str(config), "-o", str(output), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": HERE}
    # whoever started the tests in the background may have let them ignore Ctrl-C, which the audit would, too
    heeded = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heeded
    )


def ended(process: subprocess.Popen, seconds: float = 120) -> tuple[int, str]:
    """Exit code and all that was said; a process that does not end in this time is a failure, and killed."""
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        for pid in (*children(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"still running after {seconds} s:\n{process.communicate()[0]}") from None
    return process.returncode, said


def children(pid: int) -> list[int]:
    """Processes that this one started, in that order."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return sorted(int(word) for word in found.stdout.split())


def until(process: subprocess.Popen, happened) -> None:
    """Wait until something has happened in a running process."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def standing(run: Path) -> tuple[str, str | None]:
    """Status and stage of a run folder."""
    manifest = json.loads((run / "manifest.json").read_text())
    return manifest["status"], manifest.get("stage")
