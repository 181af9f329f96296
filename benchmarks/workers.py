"""Two workers on two cores against one on one: the stages that stream over samples.

    cd benchmarks && OMP_NUM_THREADS=1 python workers.py [--repeats 3] [--quick]

The same audit (table of 120,000 × 100, Barlow Twins, 300 landmarks) by `krepes audit` and by torchrun, in
turns; seconds of the stages as it prints them, medians. Figures go to results/workers.json.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from krepes.encoders import MLP

STAGES = ("views", "scores", "refits", "attribution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples, once")
    args = parser.parse_args()
    facts, repeats = measure.machine_facts(), 1 if args.quick else args.repeats
    taken: dict[int, dict[str, list[float]]] = {w: {s: [] for s in STAGES} for w in (1, 2)}
    with tempfile.TemporaryDirectory() as place:
        config = prepared(Path(place), 12_000 if args.quick else 120_000)
        for turn in range(repeats):
            for workers in (1, 2):
                said = audited(config, Path(place) / f"run-{turn}-{workers}", workers)
                for stage in STAGES:
                    found = re.search(rf"^{stage} +([0-9.]+) s", said, re.MULTILINE)
                    assert found, said
                    taken[workers][stage].append(float(found[1]))
    rows = []
    for stage in STAGES:
        one, two = (statistics.median(taken[w][stage]) for w in (1, 2))
        ratios = [a / b for a, b in zip(taken[1][stage], taken[2][stage], strict=True)]
        rows.append([stage, f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}", f"{min(ratios):.2f} … {max(ratios):.2f}"])
    table = {"title": "One worker on one core against two on two", "columns": ["stage", "one, s", "two, s", "ratio",
             "of turns"], "rows": rows, "note": f"medians of {repeats}"}  # fmt: skip
    content = {"code": measure.code_fingerprint(), "command": measure.command_line(), "results": {str(k): v for k, v in
               taken.items()}, "tables": [table], "checks": []}  # fmt: skip
    measure.write_result("workers", args.quick, content, facts)
    print(measure.markdown_table(table["columns"], rows))


def prepared(folder: Path, n: int) -> Path:
    """Samples, weights and a configuration."""
    np.save(folder / "samples.npy", torch.randn(n, 100, generator=torch.Generator().manual_seed(0)).numpy())
    torch.manual_seed(0)
    save_file(MLP(100, (256, 256), 64).state_dict(), folder / "weights.safetensors")
    config = {
        "encoder": {"factory": "krepes.encoders:MLP", "args": {"n_in": 100, "hidden": [256, 256], "n_out": 64},
                    "weights": "weights.safetensors"},
        "data": {"array": "samples.npy"}, "views": {"name": "gaussian", "std": 0.3},
        "objective": {"name": "barlow_twins"}, "kernel": {"variant": "sketch"}, "landmarks": {"m": 300},
        "audit": {"automatic_concepts": False, "attribution": n}, "report": {"explain": 4},
    }  # fmt: skip
    (folder / "audit.yaml").write_text(yaml.safe_dump(config))
    return folder / "audit.yaml"


def audited(config: Path, output: Path, workers: int) -> str:
    """What one audit prints; a worker alone is bound to one core, since its reading ahead would take a second one."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"] if workers > 1 else []
    command = [sys.executable, *torchrun, "-m", "krepes", "audit", str(config), "-o", str(output)]
    bound = lambda: os.sched_setaffinity(0, cores)  # noqa: E731
    return subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=bound).stdout


if __name__ == "__main__":
    main()
