"""What every worker of the network's test runs: the numbers that one product of the linear solve puts into sums.

torchrun --nproc-per-node N volume.py
"""

from unittest.mock import patch

import torch
from program import H, M, samples, views

from krepes import BYOL, Auditor, BarlowTwins, Newton, SimCLR, pipeline
from krepes.encoders import MLP
from krepes.workers import started

OBJECTIVES = {"simclr": SimCLR(batch_size=90), "byol": BYOL(batch_size=70), "barlow_twins": BarlowTwins()}


def exchanged(name: str, workers, iterations: int) -> tuple[int, int, int]:
    """Numbers put into sums by a solve of so many iterations, its products, and r·h."""
    torch.manual_seed(0)
    newton = Newton(damping=1e-3, tol=1e-14, max_iter=iterations)
    auditor = Auditor(MLP(6, (12,), H).eval(), OBJECTIVES[name], landmarks=M, newton=newton, dtype=torch.float64)
    found, solve = [], pipeline.solve

    def counting(*arguments):
        before = workers.numbers
        step = solve(*arguments)
        found.append(workers.numbers - before)
        return step

    with patch.object(pipeline, "solve", counting):
        auditor.fit(samples(), views)
    return found[0], auditor.outcome_.products, auditor.fit_.nystrom.rank * H


if __name__ == "__main__":
    torch.set_num_threads(1)
    with started() as workers:
        for name in OBJECTIVES:
            (few, p, size), (many, q, _) = (exchanged(name, workers, k) for k in (4, 24))
            assert q > p
            if workers.first:
                print(f"{name}: {(many - few) / (q - p):g} of {size}")
