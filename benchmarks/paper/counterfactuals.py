"""Does `counterfactual`, the audit solved again without half of the samples, predict networks trained on the rest?

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.counterfactuals [--cases digits,adult] [--work FOLDER] [--quick]

Networks, halves, test samples and target are those of lds.py; the prediction is the target of the representation that
`Auditor.counterfactual` solves again with the landmarks kept. Beside it stands, from results/lds.json, what the sum of
the half's attributions says. Figures go to results/paper-counterfactuals.json.
"""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import measure
import retraining
import torch
from lds import ATTRIBUTION, HALVES, LANDMARKS, TARGETS, TEST, Truth, cell, figures, real
from retraining import CASES, OBJECTIVES, Case, audited, invariance
from torch import Tensor

from krepes import NTK, Auditor, Newton

DAMPINGS = ("auto", 100.0, 0.01)


def main() -> None:
    args = retraining.arguments(__doc__, "four halves").parse_args()
    torch.set_num_threads(1)
    facts, found, rows = measure.machine_facts(), {}, []
    known, halves = measure.read_result("lds"), 4 if args.quick else HALVES
    for name in args.cases.split(","):
        case = CASES[name]()
        for objective in args.objectives.split(","):
            key = f"{name}, {objective}"
            truth = real(case, objective, args.work, halves)
            found[key] = {str(d): solved_again(case, objective, args.work, truth, d) for d in DAMPINGS}
            summed = known["results"].get(key) if known and not args.quick else None
            last = cell(summed["scores"][ATTRIBUTION][TARGETS[1]]) if summed else "–"
            found_damping = f"{found[key]['auto']['relative damping']:g}"
            rows.append([key, found_damping, *(cell(v["lds"]) for v in found[key].values()), last])
            print(*rows[-1], flush=True)
            note = f"{halves} halves, {TEST} test samples, centred embedding; intervals as in the LDS tables."
            columns = ("", "λ of auto", *(f"counterfactual, λ = {d}" for d in DAMPINGS), "sum of attributions")
            tables = [measure.table("LDS of counterfactual over random halves", columns, rows, note)]
            content = {"code": measure.code_fingerprint(), "results": found, "checks": [], "tables": tables}
            measure.write_result("paper-counterfactuals", args.quick, content, facts)


def solved_again(case: Case, objective: str, work: Path, truth: Truth, damping: float | str) -> dict[str, Any]:
    """LDS of the audit solved again on every half, and how the steps ended."""
    network = audited(case, objective, retraining.folder(work, case, objective))
    auditor = Auditor(network, OBJECTIVES[objective], NTK(), LANDMARKS, Newton(damping=damping), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor.fit(case.training, case.views)
        again = [auditor.counterfactual(members == 0, keep_landmarks=True) for members in truth.members]
    phi = [features(auditor, x) for x in (case.test[:TEST], case.augmented[:TEST].flatten(0, 1), case.training)]
    predicted = torch.stack([invariance_of(one, *phi) for one in again])
    ratios = [one.outcome_.gain_ratio for one in again]
    return {
        "lds": figures(truth.correlations(predicted.double().numpy(), truth.targets.mean(1))),
        "relative damping": auditor.outcome_.relative_damping, "gain ratios": [min(ratios), max(ratios)],
        "statuses": dict(Counter(one.outcome_.status.name for one in again)),
        "shortened": sum(one.outcome_.step_length < 1 for one in again),
    }  # fmt: skip


def features(auditor: Auditor, x: Tensor) -> Tensor:
    """φ (B, r), which the counterfactuals share."""
    return auditor.fit_.nystrom.features(auditor.kernel(x))


def invariance_of(auditor: Auditor, test: Tensor, augmented: Tensor, training: Tensor) -> Tensor:
    """The target (t,) from features."""
    B = auditor.fit_.nystrom.B0 + auditor.fit_.step.dB
    return invariance(lambda phi: phi @ B, test, augmented.unflatten(0, (TEST, -1)), (training @ B).mean(0))


if __name__ == "__main__":
    main()
