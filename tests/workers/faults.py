"""Audits whose workers are killed at seeded random moments, until torchrun's restarts bring them to their end.

python tests/workers/faults.py --runs 50 [--workers 2] [--objective simclr]

Every finished run is compared with one that nobody disturbed: the model's tensors to rounding, the tables' samples.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import load_file, save_file

from krepes.encoders import MLP

N, FEATURES, H, M = 9000, 6, 4, 40  # three shards
STAGES = ("start", "fit", "scores", "findings", "report", "end")  # start: imports and data; end: parting
OBJECTIVES = {"barlow_twins": {"name": "barlow_twins"}, "simclr": {"name": "simclr", "batch_size": 512}}


@dataclass(frozen=True)
class Ended:
    """A run that came to its end: exit code, seconds, the stages in which a worker was killed, and what was said."""

    code: int
    seconds: float
    kills: tuple[str, ...]
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
        "trust": {"refits": False},  # not divided otherwise than those of the intervals
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


def stage_of(folder: Path) -> str:
    """Where a run stands, by its manifest: "start" before there is one, "end" when it is complete."""
    try:
        return json.loads((folder / "manifest.json").read_text()).get("stage", "end")
    except FileNotFoundError:
        return "start"


def undisturbed(config: Path, output: Path, workers: int) -> dict[str, float]:
    """A run to its end; the seconds that each stage took."""
    job, taken, looked = launched(config, output, workers), dict.fromkeys(STAGES, 0.0), time.monotonic()
    while job.poll() is None:
        time.sleep(0.01)
        now = time.monotonic()
        taken[stage_of(output)] += now - looked
        looked = now
    assert job.returncode == 0, output.with_suffix(".log").read_text()[-3000:]
    return taken


def disturbed(config: Path, output: Path, workers: int, kills: int, seed: int, taken: dict[str, float]) -> Ended:
    """Kill a random worker at random moments of random stages, `kills` times at most.

    Args:
        taken: seconds of each stage of a run that nobody disturbs.
    """
    draw, started, done = random.Random(seed), time.monotonic(), []
    job = launched(config, output, workers, restarts=kills + 1)
    while len(done) < kills and job.poll() is None:
        stage = draw.choice(STAGES)
        while STAGES.index(stage_of(output)) < STAGES.index(stage) and job.poll() is None:
            time.sleep(0.005)
        until = time.monotonic() + draw.random() * taken[stage]
        while time.monotonic() < until and job.poll() is None:
            time.sleep(0.005)
        alive = children(job.pid)
        if alive and job.poll() is None:
            with suppress(ProcessLookupError):  # it has ended by itself meanwhile
                at = stage_of(output)
                os.kill(draw.choice(alive), signal.SIGKILL)
                done.append(at)
    try:
        job.wait(timeout=300)
    except subprocess.TimeoutExpired:
        job.kill()
        job.wait()
    return Ended(job.returncode, time.monotonic() - started, tuple(done), output.with_suffix(".log").read_text())


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
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next ones count on")
    parser.add_argument("--objective", choices=OBJECTIVES, default="barlow_twins")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, quiet = prepare(folder, args.objective), folder / "quiet"
        taken = undisturbed(config, quiet, args.workers)
        print(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in taken.items()), flush=True)
        wrong, lost, kills = 0, 0, Counter()
        for seed in range(args.seed, args.seed + args.runs):
            output = folder / f"run-{seed}"
            ended = disturbed(config, output, args.workers, args.kills, seed, taken)
            kills.update(ended.kills)
            error = difference(quiet, output) if ended.code == 0 else float("nan")
            lost += ended.code != 0
            wrong += ended.code == 0 and not error < 1e-5
            print(f"{seed}: killed in {', '.join(ended.kills) or 'no stage'}; exit {ended.code}, "
                  f"{ended.seconds:.0f} s, difference {error:.1e}", flush=True)  # fmt: skip
            if ended.code != 0 or not error < 1e-5:
                print(ended.said[-5000:], flush=True)
        told = ", ".join(f"{kills[stage]} in {stage}" for stage in STAGES)
        print(f"{args.runs} runs, {sum(kills.values())} kills ({told}): {lost} not finished, {wrong} wrong")
        sys.exit(1 if lost or wrong else 0)


if __name__ == "__main__":
    main()
