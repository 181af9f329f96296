"""What `krepes plan` says against what audits take.

    cd benchmarks && OMP_NUM_THREADS=1 python cost.py [--quick]

Audits of a table (Barlow Twins, SimCLR) and of images (convolutional network, VICReg), random weights; the
rates of this machine are measured in the same process just before each audit. Stages whose iterations are not
known beforehand are counted by the settings' limits, and compared with the count for the products that were
made. To results/cost.json.
"""

import argparse
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import torch
from rich.console import Console

from krepes import NTK, Auditor, BarlowTwins, Newton, SimCLR, VICReg
from krepes.audit.findings import AuditPlan
from krepes.cost import cost_of, measured_here
from krepes.data import as_source
from krepes.encoders import MLP, SmallCNN
from krepes.landmarks import KMeansPlusPlus
from krepes.progress import Progress
from krepes.run import run_audit

STAGES = ("landmarks", "nystrom", "views", "newton", "scores", "refits", "adjoint", "attribution", "trust")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the samples")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, part = measure.machine_facts(), 10 if args.quick else 1
    cases = {
        "table, Barlow Twins": (MLP(100, (256, 256), 64), BarlowTwins(), NTK("sketch"), (60_000 // part, 100), 300),
        "table, SimCLR": (MLP(100, (256, 256), 64), SimCLR(batch_size=512), NTK("sketch"), (20_000 // part, 100), 200),
        "images, VICReg": (SmallCNN(1, n_out=64), VICReg(), NTK("pseudo"), (8_000 // part, 1, 28, 28), 200),
    }
    rows, results = [], {}
    for name, (network, objective, kernel, shape, m) in cases.items():
        found = compared(network, objective, kernel, shape, m)
        results[name] = found
        for stage, (planned, taken) in found.items():
            rows.append(
                [name, stage, f"{planned:.2f}", f"{taken:.2f}", f"{planned / taken:.2f}" if taken > 0.05 else ""]
            )
    table = {"title": "Seconds that `krepes plan` says, and CPU seconds that the audits took, one thread",
             "columns": ["case", "stage", "planned", "taken", "ratio"], "rows": rows,
             "note": "newton, refits and trust are counted for the products that the step made."}  # fmt: skip
    content = {"code": measure.code_fingerprint(), "command": measure.command_line(), "results": results,
               "tables": [table], "checks": []}  # fmt: skip
    measure.write_result("cost", args.quick, content, facts)
    print(measure.markdown_table(table["columns"], rows))


def compared(network: Any, objective: Any, kernel: NTK, shape: tuple[int, ...], m: int) -> dict[str, list[float]]:
    """Stage ↦ seconds planned and taken."""
    generator = torch.Generator().manual_seed(0)
    source = as_source(torch.randn(*shape, generator=generator))
    progress = CpuProgress()
    newton = Newton(damping="auto")
    auditor = Auditor(network.eval(), objective, kernel, KMeansPlusPlus(m=m), newton, progress=progress)
    plan = AuditPlan(automatic_concepts=False, attribution=20_000)
    here = measured_here(auditor, source, noisy)
    with tempfile.TemporaryDirectory() as folder:
        run_audit(auditor, source, noisy, Path(folder) / "run", {}, Console(quiet=True), title="cost", command="",
                  explain=4, plan=plan, thumbnails=False)  # fmt: skip
    # with the products that were made, where the settings' limits bound them
    outcome = auditor.outcome_
    made = replace(auditor.settings.newton, max_iter=max(1, outcome.products))
    auditor.settings = replace(auditor.settings, newton=made)
    cost = cost_of(auditor, source, noisy, plan, 4, here)
    taken = dict(progress.timings)
    taken["landmarks"] = taken["landmarks"] + taken["nystrom"]  # where K_mm is computed
    planned = {stage.name: cost.seconds(stage) for stage in cost.stages}
    planned["landmarks"] += planned["nystrom"]
    return {name: [planned[name], taken[name]] for name in STAGES if name != "nystrom"} | {
        "together": [cost.total, sum(taken[name] for name in STAGES if name != "nystrom")]
    }


class CpuProgress(Progress):
    """CPU seconds of this process in every stage, which other processes do not lengthen much."""

    @contextmanager
    def stage(self, name: str, total: int | None = None):
        started = time.process_time()
        with super().stage(name, total) as note:
            yield note
        self.timings[name] = time.process_time() - started


def noisy(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.3 * torch.randn(batch.shape, generator=generator)


if __name__ == "__main__":
    main()
