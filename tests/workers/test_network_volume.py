"""What an iteration of the linear solve sends over the network."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "volume.py"


def test_a_product_sums_the_numbers_of_one_step_over_the_workers():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: float(n) / int(size) for name, n, size in re.findall(r"(\w+): (\S+) of (\d+)", done.stdout)}
    assert found == {"simclr": 1.0, "byol": 1.0, "barlow_twins": 0.0}  # times r·h
