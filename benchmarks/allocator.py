"""What glibc's allocator costs a convolutional network: freed memory given back, and faulted in again, or kept.

OMP_NUM_THREADS=1 python benchmarks/allocator.py [--quick]

An auditor of 2,000 random images (SmallCNN, sketch of 4, 200 landmarks, Barlow Twins) is fitted in processes of its
own, with and without `KEEPING` in their environment, in turn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import measure
import torch

import krepes
from krepes.encoders import SmallCNN

KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
WAYS: dict[str, dict[str, str]] = {"as it is": {}, "freed memory kept": KEEPING}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="300 images, one repeat")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(fitted(args.child)))
        return
    facts, n, repeats = measure.machine_facts(), 300 if args.quick else 2000, 1 if args.quick else args.repeats
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, more in WAYS.items():
            command = [sys.executable, __file__, "--child", str(n)]
            found = subprocess.run(command, env=os.environ | more, check=True, capture_output=True, text=True)
            runs[way].append(json.loads(found.stdout.splitlines()[-1]))
            print(way, runs[way][-1], flush=True)
    units = {"seconds": 1, "system seconds": 1, "page faults": 1e-6, "peak": 1e-6}
    rows = [
        [way, *(f"{measure.summary([r[k] * unit for r in found])['median']:.2f}" for k, unit in units.items())]
        for way, found in runs.items()
    ]
    columns = ["environment", "seconds", "of which the system's", "page faults, millions", "peak memory, GB"]
    note = " ".join(f"`{k}={v}`" for k, v in KEEPING.items()) + f" or nothing; {n} images; medians of {repeats}."
    tables = [measure.table("Fitting an auditor of a CNN", columns, rows, note)]
    content: dict[str, Any] = {"code": measure.code_fingerprint(), "runs": runs, "tables": tables, "checks": []}
    measure.write_result("allocator", args.quick, content, facts)
    print(measure.markdown_table(columns, rows))


def fitted(n: int) -> dict[str, float]:
    """Costs of one fit in this process."""
    torch.manual_seed(0)
    images, network = torch.randn(n, 1, 28, 28), SmallCNN().eval()
    auditor = krepes.Auditor(network, "barlow_twins", krepes.NTK("sketch", sketch=4), 200, krepes.Newton(damping=1.0))
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    auditor.fit(images, lambda batch, generator: batch + 0.1 * torch.randn(batch.shape, generator=generator))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - started, "system seconds": after.ru_stime - before.ru_stime,
        "page faults": after.ru_minflt - before.ru_minflt, "peak": after.ru_maxrss,
    }  # fmt: skip


if __name__ == "__main__":
    main()
