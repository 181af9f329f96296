"""What of real retraining can be known from where training ended: by its kernel, and by the network's own weights.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.kernel_retraining [--cases digits,adult] [--work FOLDER]

An attribution says what another set of samples would have done to the trained network, from one point: its weights.
Here that point is really trained on from, on every half of lds.py, and the outcome predicts the networks that were
trained on the half from nothing.

* The kernel machine: f = Bᵀφ in the features of the trained network, every sample a landmark, minimises the objective
  on the half by Adam, a draw of its views per step: from B₀, where the audit's step starts; from a random B, where
  networks start; and from the network's outputs, by least squares.
* The same, linear: all samples, in batches, the half's with weight 1.1 and the others' with .9. What that changes is
  what the exact derivatives of such a training by the samples' weights add up to.
* The network: the training of retraining.py again, on the half, from the trained weights; at its own rate and at a
  tenth of it, where it stays near to them.

Figures go to results/paper-kernel-retraining.json.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import retraining
import torch
from lds import HALVES, TEST, cell, figures, real
from retraining import CASES, OBJECTIVES, Case, audited, invariance
from torch import Tensor, nn
from torch.nn.functional import normalize

from krepes import NTK, Auditor, Newton
from krepes.audit.places import DAMPING, at_encoder
from krepes.objectives.vicreg import off_diagonal

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

DRAWS, RATE = 16, 0.02
MARKS = (1, 10, 30, 100, 300)  # steps of the kernel machine
STARTS = ("B₀", "random", "outputs")
SHIFT = 0.1  # of the weights
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
    phi, loss = of_kernel(case, objective, work), WEIGHTED[objective]
    check_weighted(loss, OBJECTIVES[objective], phi)
    for start in STARTS:
        for way, batches in (("", half_alone), (", linear", all_weighted)):
            each = torch.stack([kernel_machine(loss, phi, start, batches(case.half(i))) for i in range(halves)])
            yield from ((f"kernel, {start}{way}", steps, each[:, k]) for k, steps in enumerate(MARKS))
    network = audited(case, objective, retraining.folder(work, case, objective))
    for rate in RATES:
        each = torch.stack([trained_on(case, objective, network, rate, i) for i in range(halves)])
        yield f"network, its rate × {rate:g}", retraining.STEPS, each


def of_kernel(case: Case, objective: str, work: Path) -> dict[str, Any]:
    """φ of training and test samples, of the tests' augmentations and of draws of the training samples' views; B's."""
    network = audited(case, objective, retraining.folder(work, case, objective))
    auditor = Auditor(network, OBJECTIVES[objective], NTK(), range(len(case.training)), Newton(damping=100.0), seed=0)
    auditor.fit(case.training, case.views)
    generator = torch.Generator().manual_seed(retraining.AUGMENT)

    def features(x: Tensor) -> Tensor:
        return auditor.fit_.nystrom.features(auditor.kernel(x)).float()

    B0, training = auditor.fit_.nystrom.B0.float(), features(case.training)
    drawn = torch.randn(B0.shape, generator=torch.Generator().manual_seed(1))
    return {
        "training": training, "test": features(case.test[:TEST]),
        "augmented": features(case.augmented[:TEST].flatten(0, 1)),
        "views": [[features(case.views(case.training, generator)) for _ in range(2)] for _ in range(DRAWS)],
        "B₀": B0, "random": drawn / (training @ drawn).std(),  # outputs of unit variance
        "outputs": at_encoder(auditor.fit_, auditor.settings, auditor.seen_.training, DAMPING).B.float(),
    }  # fmt: skip


Batches = Callable[[int], tuple[Tensor, Tensor]]  # step ↦ samples and their weights


def half_alone(half: Tensor) -> Batches:
    """The half at every step, as retraining.train has it: its batch is as large."""
    return lambda step: (half, torch.ones(len(half)))


def all_weighted(half: Tensor) -> Batches:
    """Batches of all samples, the same for every half but for the weights."""
    weights = torch.full((retraining.N,), 1 - SHIFT)
    weights[half] = 1 + SHIFT

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(retraining.N, generator=torch.Generator().manual_seed(step))[: retraining.BATCH]
        return chosen, weights[chosen]

    return batch


def kernel_machine(loss: Loss, phi: dict[str, Any], start: str, batches: Batches) -> Tensor:
    """Invariance of the test samples after each of `MARKS` steps (marks, t)."""
    B, found = phi[start].clone().requires_grad_(True), []
    optimiser = torch.optim.Adam([B], lr=RATE * float(phi[start].std()))
    for step in range(1, MARKS[-1] + 1):
        chosen, weights = batches(step)
        a, b = (side[chosen] @ B for side in phi["views"][step % DRAWS])
        optimiser.zero_grad()
        loss(a, b, weights / weights.sum()).backward()
        optimiser.step()
        if step in MARKS:
            with torch.no_grad():
                mean = (phi["training"] @ B).mean(0)
                augmented = phi["augmented"].unflatten(0, (TEST, -1))
                found.append(invariance(lambda p: p @ B, phi["test"], augmented, mean))
    return torch.stack(found)


# Objectives of weighted samples: outputs (n, h) of both views, weights (n,) that sum to 1 -----------------------------


def barlow_twins(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    a, b = (z - w @ z for z in (a, b))
    C = (w[:, None] * a).T @ b / ((w @ a.square())[:, None] * (w @ b.square())).sqrt()
    return (C.diagonal() - 1).square().sum() + OBJECTIVES["barlow_twins"].weight * off_diagonal(C).square().sum()


def vicreg(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    v, h = OBJECTIVES["vicreg"], a.shape[1]
    total = v.invariance * (w @ (a - b).square()).mean()
    for z in (a, b):
        C = (w[:, None] * (z - w @ z)).T @ (z - w @ z)
        total = total + v.variance / 2 * (1 - (C.diagonal() + v.eps).sqrt()).relu().mean()
        total = total + v.covariance * off_diagonal(C).square().sum() / h
    return total


def simclr(a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """A sample's weight is that of its rows and of its columns among the negatives."""
    z, w = normalize(torch.cat([a, b])), torch.cat([w, w]) / 2
    logits = z @ z.T / OBJECTIVES["simclr"].temperature
    positive = logits.diagonal(len(a)).repeat(2)
    logits = (logits + (w * len(w)).log()).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return w @ (logits.logsumexp(1) - positive)


WEIGHTED: dict[str, Loss] = {"barlow_twins": barlow_twins, "vicreg": vicreg, "simclr": simclr}


def check_weighted(loss: Loss, objective: Any, phi: dict[str, Any]) -> None:
    """Refuse a weighted objective that is not the library's where weights are equal (but for n − 1 and ε: 1 in 100)."""
    a, b = (side @ phi["outputs"] for side in phi["views"][0])
    found, known = (float(v) for v in (loss(a, b, torch.full((len(a),), 1 / len(a))), objective.loss(a, b)))
    if not abs(found - known) < 0.01 * abs(known):
        raise AssertionError(f"the weighted {objective.name} is {found}, the objective {known}")


def trained_on(case: Case, objective: str, network: nn.Module, rate: float, i: int) -> Tensor:
    """Invariance of the test samples (t,) after the network's training went on with half i."""
    again = retraining.train(case, OBJECTIVES[objective], retraining.RETRAINED[0], case.half(i), network, rate)
    return retraining.targets(again, case)[1, :TEST]


if __name__ == "__main__":
    main()
