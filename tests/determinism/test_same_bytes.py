"""The same seed gives the same bytes; another number of threads, or another device, the same numbers within a bound.

The bounds are those that docs/installation.md states.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from krepes.encoders import MLP

OBJECTIVES = {"moments": {"name": "barlow_twins"}, "pairs": {"name": "simclr", "batch_size": 256}}
DATED = {"manifest.json", "report.html"}  # they say when, where and how long
THREADS, DEVICES = 1e-6, 1e-3  # of the largest entry, in float32


def audit(folder: Path, objective: str, run: str, threads: int = 1, hash_seed: int = 0, **settings: object) -> Path:
    """A whole `krepes audit` in a process of its own; the run's folder."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_file(MLP(32, (256,), 16).state_dict(), folder / "weights.safetensors")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(1000, 32)).astype(np.float32))
    config = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 32, "hidden": [256], "n_out": 16},
                    "weights": "weights.safetensors"},
        "data": {"array": "x.npy"}, "views": {"name": "gaussian", "std": 0.3}, "objective": OBJECTIVES[objective],
        "landmarks": {"m": 60}, "newton": {"damping": 1.0},
        "audit": {"automatic_concepts": False, "attribution": 200}, "trust": {"refits": False},
    } | settings  # fmt: skip
    (folder / "audit.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-m", "krepes", "audit", str(folder / "audit.yaml"), "-o", str(folder / run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / run


def assert_close(found: Path, expected: Path, bound: float) -> None:
    """The step, the map and the explanations, eigenvectors' free signs aside."""
    one, other = (load_file(folder / "model.safetensors") for folder in (found, expected))
    signs = torch.sign((one["A0"] * other["A0"]).sum(0))
    for name in ("A0", "dA"):
        assert (one[name] * signs - other[name]).abs().max() <= bound * other[name].abs().max(), name
    order = ["sample", "landmark"]
    tables = [pd.read_parquet(f / "influence.parquet").set_index(order) for f in (found, expected)]
    both = tables[0].join(tables[1].add_suffix("_expected"), how="inner")  # at the end of the list, ties may swap
    assert len(both) >= 0.99 * len(tables[1])
    for name in ("influence", "contribution"):
        difference = (both[name] - both[f"{name}_expected"]).abs().max()
        assert difference <= bound * both[f"{name}_expected"].abs().max(), name


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Callable[[str], Path]:
    """The run of an objective that the others are compared with: one thread, on the processor."""
    return functools.cache(lambda objective: audit(tmp_path_factory.mktemp(objective), objective, "run"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path, first, objective):
    one, other = first(objective), audit(tmp_path, objective, "elsewhere", hash_seed=1)
    names = {p.name for p in one.iterdir()}
    assert names == {p.name for p in other.iterdir()}
    assert {"model.safetensors", "influence.parquet", "attribution.parquet", "trust.json"} <= names - DATED
    assert [n for n in sorted(names - DATED) if (one / n).read_bytes() != (other / n).read_bytes()] == []


def test_another_seed_writes_other_bytes(tmp_path, first):
    one, other = first("moments"), audit(tmp_path, "moments", "run", seed=1)
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_threads_give_the_numbers_of_one(tmp_path, first, objective):
    one, two = first(objective), audit(tmp_path, objective, "run", threads=2)
    for folder, threads in ((one, 1), (two, 2)):
        assert json.loads((folder / "manifest.json").read_text())["versions"]["threads"] == str(threads)
    assert_close(two, one, THREADS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_gpu_gives_the_numbers_of_the_processor(tmp_path, first, objective):
    one, gpu = first(objective), audit(tmp_path, objective, "run", device="cuda")
    assert_close(gpu, one, DEVICES)
