"""What a large table costs in memory, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROWS = 200_000
MEASURE = """
import json, sys
def resident(which):  # the peak of this process alone; ru_maxrss also counts the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(which))
import torch, krepes
from krepes.data import Scarf, TableSchema, TableSource, read_table
torch.set_num_threads(1)
before = resident("VmHWM:")
frame = read_table(sys.argv[1])
read = resident("VmHWM:") - before
source = TableSource(frame, TableSchema.fit(frame))
source.fingerprint()
Scarf.of_table(source)(source.batch(range(256)), torch.Generator().manual_seed(0))
print(json.dumps({"read": read, "all": resident("VmHWM:") - before}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read from /proc")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_read_and_held_without_its_text_or_its_matrix(tmp_path, suffix):
    g = np.random.default_rng(0)
    columns = {f"c{i}": g.choice([f"category number {j}" for j in range(20)], ROWS) for i in range(8)}
    frame = pd.DataFrame(columns | {f"x{i}": g.integers(0, 10**6, ROWS) for i in range(6)})
    path = tmp_path / f"t.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    out = subprocess.run([sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True)
    peak = json.loads(out.stdout)
    text = ROWS * (8 * 18 + 6 * 7)  # the CSV file's size, about
    # the bounds are twice what is needed; cells as Python objects take 420 MB, and with the encoded matrix 670 MB
    assert peak["read"] < 2 * text + 150e6
    assert peak["all"] < 2 * text + 200e6
