"""What of real retraining can be known from where training ended: by its kernel, and by the network's own weights.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.kernel_retraining [--cases digits,adult] [--work FOLDER]

An attribution says what another set of samples would have done to the trained network, from one point: its weights.
Here that point is really trained on from, on every half of lds.py, in three ways, and the outcome predicts the networks
that were trained on the half from nothing. What these reach no exact attribution of their kind can exceed by much.

* The kernel machine: f = Bᵀφ in the features of the trained network, every sample a landmark, minimises the objective
  on the half by Adam, a draw of its views per step; from B₀, where the audit's step starts, and from a random B, where
  networks start.
* The network: the training of retraining.py again, on the half, from the trained weights; at its own rate and at a
  tenth of it, where it stays near to them.

Figures go to results/paper-kernel-retraining.json.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import retraining
import torch
from lds import HALVES, TEST, Truth, cell, figures
from retraining import CASES, OBJECTIVES, Case, audited, invariance
from torch import Tensor, nn

from krepes import NTK, Auditor, Newton

DRAWS, RATE = 16, 0.02
MARKS = (1, 10, 30, 100, 300)  # steps of the kernel machine
STARTS = ("B₀", "random")
RATES = (1.0, 0.1)  # of the network, in units of its own


def main() -> None:
    args = retraining.arguments(__doc__, "four halves").parse_args()
    torch.set_num_threads(1)
    facts, found, rows = measure.machine_facts(), {}, []
    halves = 4 if args.quick else HALVES
    for name in args.cases.split(","):
        case = CASES[name]()
        for objective in args.objectives.split(","):
            truth = real(case, objective, args.work, halves)
            for what, steps, predicted in learners(case, objective, args.work, halves):
                lds = figures(truth.correlations(predicted.double().numpy(), truth.targets.mean(1)))
                found[f"{name}, {objective}, {what}, {steps}"] = lds
                rows.append([f"{name}, {objective}", what, steps, cell(lds)])
                print(*rows[-1], flush=True)
            note = f"{halves} halves, {TEST} test samples, centred embedding; intervals as in the LDS tables. The "
            note += "kernel machine's steps are Adam's; the network's are all of its training, once more."
            columns = ("", "trained on from", "steps", "LDS")
            tables = [measure.table("LDS of training on from the end", columns, rows, note)]
            content = {"code": measure.code_fingerprint(), "results": found, "checks": [], "tables": tables}
            measure.write_result("paper-kernel-retraining", args.quick, content, facts)


def learners(case: Case, objective: str, work: Path, halves: int) -> Iterator[tuple[str, int, Tensor]]:
    """Name, steps, and the invariance (halves, t) that each way of training on from the end has."""
    features = of_kernel(case, objective, work)
    for start in STARTS:
        each = torch.stack([kernel_machine(case, objective, features, start, i) for i in range(halves)])
        yield from ((f"kernel, {start}", steps, each[:, k]) for k, steps in enumerate(MARKS))
    network = audited(case, objective, retraining.folder(work, case, objective))
    for rate in RATES:
        each = torch.stack([trained_on(case, objective, network, rate, i) for i in range(halves)])
        yield f"network, its rate × {rate:g}", retraining.STEPS, each


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


def kernel_machine(case: Case, objective: str, phi: dict[str, Any], start: str, i: int) -> Tensor:
    """Invariance of the test samples after each of `MARKS` steps on half i (marks, t)."""
    members, B = case.half(i), phi["start"].clone()
    if start == "random":
        B = torch.randn(B.shape, generator=torch.Generator().manual_seed(1))
        B = B / (phi["training"] @ B).std()  # outputs of unit variance
    B.requires_grad_(True)
    views = [[side[members] for side in pair] for pair in phi["views"]]
    optimiser, found = torch.optim.Adam([B], lr=RATE * float(B.detach().std())), []
    for step in range(1, MARKS[-1] + 1):
        a, b = views[step % len(views)]
        optimiser.zero_grad()
        OBJECTIVES[objective].loss(a @ B, b @ B).backward()
        optimiser.step()
        if step in MARKS:
            with torch.no_grad():
                mean = (phi["training"] @ B).mean(0)
                augmented = phi["augmented"].unflatten(0, (TEST, -1))
                found.append(invariance(lambda p: p @ B, phi["test"], augmented, mean))
    return torch.stack(found)


def trained_on(case: Case, objective: str, network: nn.Module, rate: float, i: int) -> Tensor:
    """Invariance of the test samples (t,) after the network's training went on with half i."""
    again = retraining.train(case, OBJECTIVES[objective], retraining.RETRAINED[0], case.half(i), network, rate)
    return retraining.targets(again, case)[1, :TEST]


if __name__ == "__main__":
    main()
