"""Audits by several processes equal one process's to rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

PROGRAM = Path(__file__).with_name("program.py")
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def run(folder: Path, workers: int, dtype: str) -> dict[str, torch.Tensor]:
    start = [sys.executable] if workers == 1 else torchrun(workers)
    command = [*start, str(PROGRAM), str(folder), dtype]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / f"{workers}.safetensors")


def torchrun(workers: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {dtype: run(folder, 1, dtype) for dtype in TOLERANCE}


@pytest.mark.parametrize(("workers", "dtype"), [(2, "float32"), (2, "float64"), (3, "float64"), (4, "float64")])
def test_all_objectives(alone, tmp_path, workers, dtype):
    """Landmarks, f, influence, attribution at every place and counterfactuals; the fourth worker has no shard."""
    found, expected = run(tmp_path, workers, dtype), alone[dtype]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not value.is_floating_point():
            assert torch.equal(found[name], value), name
            continue
        error = float((found[name] - value).norm() / value.norm())
        assert error < TOLERANCE[dtype], f"{name}: {error:.1e}"
