"""Audits whose workers are killed at seeded random moments, until torchrun's restarts bring them to their end.

python tests/workers/faults.py --runs 50 [--workers 2] [--objective simclr]

Every finished run is compared with one that nobody disturbed: the model's tensors to rounding, the tables' samples.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import load_file, save_file

from krepes.encoders import MLP

N, FEATURES, H, M = 9000, 6, 4, 40  # three shards
OBJECTIVES = {"barlow_twins": {"name": "barlow_twins"}, "simclr": {"name": "simclr", "batch_size": 512}}


@dataclass(frozen=True)
class Ended:
    """A run that came to its end: exit code, seconds, kills, and what was said."""

    code: int
    seconds: float
    kills: int
    said: str


def prepare(folder: Path, objective: str) -> Path:
    """Samples, weights and a configuration."""
    generator = torch.Generator().manual_seed(0)
    np.save(folder / "samples.npy", torch.randn(N, FEATURES, generator=generator).numpy())
    torch.manual_seed(0)
    save_file(MLP(FEATURES, (16,), H).state_dict(), folder / "weights.safetensors")
    config = {
        "title": "faults",
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": FEATURES, "hidden": [16], "n_out": H},
                    "weights": "weights.safetensors"},
        "data": {"array": "samples.npy"},
        "views": {"name": "gaussian", "std": 0.3},
        "objective": OBJECTIVES[objective],
        "landmarks": {"m": M},
        "newton": {"damping": 1.0},
        "audit": {"refits": 2, "points": 200, "automatic_concepts": False},
        "report": {"explain": 2},
    }  # fmt: skip
    path = folder / f"{objective}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def launched(config: Path, output: Path, workers: int, restarts: int = 0) -> subprocess.Popen:
    """`krepes audit` by so many workers."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}",
             f"--max-restarts={restarts}"]  # fmt: skip
    command = [*start, "-m", "krepes", "audit", str(config), "-o", str(output)]
    log = output.with_suffix(".log").open("w")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def children(pid: int) -> list[int]:
    """Processes that this one started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def disturbed(config: Path, output: Path, workers: int, kills: int, seed: int, whole: float) -> Ended:
    """Kill a random worker at random moments, `kills` times at most; `whole` is what a run takes, in seconds."""
    draw, started, done = random.Random(seed), time.monotonic(), 0
    job = launched(config, output, workers, restarts=kills + 1)
    while done < kills and job.poll() is None:
        until = time.monotonic() + draw.uniform(0.3, 1.0) * whole
        while time.monotonic() < until and job.poll() is None:
            time.sleep(0.02)
        alive = children(job.pid)
        if alive and job.poll() is None:
            try:
                os.kill(draw.choice(alive), signal.SIGKILL)
                done += 1
            except ProcessLookupError:
                continue
    try:
        job.wait(timeout=300)
    except subprocess.TimeoutExpired:
        job.kill()
    return Ended(job.returncode, time.monotonic() - started, done, output.with_suffix(".log").read_text())


def difference(one: Path, other: Path) -> float:
    """Largest relative difference of two runs' tensors and scores; infinite where they hold other samples."""
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    errors = [
        float((a[k] - b[k]).double().norm() / a[k].double().norm().clamp_min(1e-12)) for k in ("A0", "dA", "K_mm")
    ]
    for name in ("points", "influence", "landmarks"):
        x, y = (pd.read_parquet(folder / f"{name}.parquet") for folder in (one, other))
        key = "id" if name == "points" else "landmark"
        if len(x) != len(y) or set(x[key]) != set(y[key]):
            return float("inf")
    x, y = (pd.read_parquet(folder / "points.parquet")[["x", "y"]].to_numpy() for folder in (one, other))
    return max(*errors, float(np.abs(x - y).max() / np.abs(x).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=2, help="per run, at most")
    parser.add_argument("--objective", choices=OBJECTIVES, default="barlow_twins")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, quiet = prepare(folder, args.objective), folder / "quiet"
        started = time.monotonic()
        assert launched(config, quiet, args.workers).wait() == 0
        whole, wrong, lost, kills = time.monotonic() - started, 0, 0, 0
        for seed in range(args.runs):
            output = folder / f"run-{seed}"
            ended = disturbed(config, output, args.workers, args.kills, seed, whole)
            kills += ended.kills
            error = difference(quiet, output) if ended.code == 0 else float("nan")
            lost += ended.code != 0
            wrong += ended.code == 0 and not error < 1e-5
            print(
                f"{seed}: {ended.kills} kills, exit {ended.code}, {ended.seconds:.0f} s, difference {error:.1e}",
                flush=True,
            )
        print(f"{args.runs} runs, {kills} kills: {lost} not finished, {wrong} wrong")


if __name__ == "__main__":
    main()
