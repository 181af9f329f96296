"""What of real retraining the frozen kernel can know: the kernel machine itself, trained again on the same halves.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.kernel_retraining [--work FOLDER] [--quick]

For every half of retraining.py's digits, f = Bᵀφ minimises the objective on the half's views (four draws) by Adam, in
the features of the network trained on all samples, every sample a landmark; from B₀, where the audit's step starts, and
from a random B, where the networks start. The test samples' invariance in that f predicts that of the retrained
networks: the LDS of it is what any attribution that is exact for the kernel could reach. Figures go to
results/paper-kernel-retraining.json.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
import retraining
import torch
from lds import Truth, cell, figures
from retraining import CASES, OBJECTIVES, Case, audited, invariance
from torch import Tensor

from krepes import NTK, Auditor, Newton

TEST, HALVES, DRAWS, RATE = 100, 40, 4, 0.02
MARKS = (1, 10, 30, 100, 300)  # steps
STARTS = ("B₀", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", default="barlow_twins,vicreg")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-lds")
    parser.add_argument("--quick", action="store_true", help="four halves")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, found, rows = measure.machine_facts(), {}, []
    case, halves = CASES["digits"](), 4 if args.quick else HALVES
    for objective in args.objectives.split(","):
        truth = real(case, objective, args.work, halves)
        features = of_kernel(case, objective, args.work)
        for start in STARTS:
            predicted = [retrained(case, objective, features, start, i) for i in range(halves)]
            for k, steps in enumerate(MARKS):
                lds = figures(truth.correlations(torch.stack([p[k] for p in predicted]).double().numpy(),
                                                 truth.targets.mean(1)))  # fmt: skip
                found[f"{objective}, {start}, {steps}"] = lds
                rows.append([objective, start, steps, cell(lds)])
                print(*rows[-1], flush=True)
    note = f"{halves} halves of the digits, {TEST} test samples, centred embedding; intervals as in the LDS tables."
    columns = ("objective", "start", "steps", "LDS")
    tables = [measure.table("LDS of the kernel machine trained again", columns, rows, note)]
    content = {"code": measure.code_fingerprint(), "results": found, "checks": [], "tables": tables}
    measure.write_result("paper-kernel-retraining", args.quick, content, facts)


def real(case: Case, objective: str, work: Path, halves: int) -> Truth:
    """What the networks did."""
    place = retraining.folder(work, case, objective)
    drawn = [retraining.retrained(case, objective, place, i)[1, :, :TEST] for i in range(halves)]
    members = np.zeros((halves, len(case.training)))
    for i in range(halves):
        members[i, case.half(i)] = 1
    return Truth(torch.stack(drawn).double().numpy(), members)


def of_kernel(case: Case, objective: str, work: Path) -> dict[str, Any]:
    """φ of training and test samples, of the tests' augmentations and of draws of the training samples' views."""
    network = audited(case, objective, retraining.folder(work, case, objective))
    auditor = Auditor(network, OBJECTIVES[objective], NTK(), range(len(case.training)), Newton(damping=100.0), seed=0)
    auditor.fit(case.training, case.views)
    generator = torch.Generator().manual_seed(retraining.AUGMENT)

    def features(x: Tensor) -> Tensor:
        return auditor.fit_.nystrom.features(auditor.kernel(x)).float()

    return {
        "training": features(case.training), "test": features(case.test[:TEST]),
        "start": auditor.fit_.nystrom.B0.float(),
        "augmented": features(case.augmented[:TEST].flatten(0, 1)),
        "views": [[features(case.views(case.training, generator)) for _ in range(2)] for _ in range(DRAWS)],
    }  # fmt: skip


def retrained(case: Case, objective: str, phi: dict[str, Any], start: str, i: int) -> list[Tensor]:
    """Invariance of the test samples (t,) after each of `MARKS` steps on half i."""
    members, B = case.half(i), phi["start"].clone()
    if start == "random":
        B = torch.randn(B.shape, generator=torch.Generator().manual_seed(1))
        B = B / (phi["training"] @ B).std()  # outputs of unit variance
    B.requires_grad_(True)
    a, b = (torch.cat([pair[side][members] for pair in phi["views"]]) for side in (0, 1))
    optimiser, found = torch.optim.Adam([B], lr=RATE * float(B.detach().std())), []
    for step in range(1, MARKS[-1] + 1):
        optimiser.zero_grad()
        OBJECTIVES[objective].loss(a @ B, b @ B).backward()
        optimiser.step()
        if step in MARKS:
            with torch.no_grad():
                mean = (phi["training"] @ B).mean(0)
                augmented = phi["augmented"].unflatten(0, (TEST, -1))
                found.append(invariance(lambda p: p @ B, phi["test"], augmented, mean))
    return found


if __name__ == "__main__":
    main()
