"""Why the confidence drop is what it is: other numbers of neighbours and of landmarks, and the most that can be lost.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.drops [--cases adult,covtype,higgs] [--work FOLDER] [--quick]

Protocol of paper.measured: ten landmarks leave, k-NN over the landmarks in f before and after. Beside the three rules
stand two that know more. *nearest*: the ten that are nearest in the space in which the neighbours vote. *any ten*: the
most that the removal of any ten can take, known from all labels: of the first k + 10 neighbours ten that agree with the
vote leave. Figures go to results/paper-drops.json.
"""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

from krepes import Auditor, Newton
from krepes.audit.evaluation import REMOVED, Labelled, Vote, confidence_drop, labelled
from paper.cases import OBJECTIVES, Case, arguments, load, work_folder
from paper.measured import encoder
from paper.results import RULES

NEIGHBOURS = (10, 20, 50, 100)
LANDMARKS = (250, 1000, 2000)
ALL_SEEDS = 1000  # landmarks with which all seeds are measured; the first seed alone with the others
COLUMNS = ("influence", "contribution", "toward the class", "nearest", "any ten", "random")


def main() -> None:
    parser = arguments(__doc__, "1,000 samples, one epoch, one seed, few landmarks")
    parser.add_argument("--cases", default="adult,covtype,higgs")
    parser.add_argument("--objectives", default="barlow_twins,vicreg,simclr")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, work, found = measure.machine_facts(), work_folder(args), {}
    numbers, seeds = ((120, 150), [0]) if args.quick else (LANDMARKS, [int(s) for s in args.seeds.split(",")])
    for name in args.cases.split(","):
        case = load(name, args.data)
        case = case.quick() if args.quick else case
        for objective in args.objectives.split(","):
            for seed in seeds:
                for m in numbers if seed == seeds[0] else (ALL_SEEDS,):
                    started = time.perf_counter()
                    data = audited(replace(case, landmarks=m), objective, seed, work)
                    for k in NEIGHBOURS:
                        found[f"{name}, {objective}, {m}, {k}, {seed}"] = measured(data, k, seed)
                    print(f"{name}, {objective}, {seed}, {m}: {time.perf_counter() - started:.0f} s", flush=True)
            content = {"code": measure.code_fingerprint(), "command": measure.command_line(), "results": found,
                       "tables": [as_table(found)], "checks": []}  # fmt: skip
            measure.write_result("paper-drops", args.quick, content, facts)
    print(measure.markdown_table(content["tables"][0]["columns"], content["tables"][0]["rows"]))


def audited(case: Case, objective: str, seed: int, work: Path) -> Labelled:
    """The audit of paper.measured."""
    network, _ = encoder(case, objective, seed, work)
    auditor = Auditor(network, OBJECTIVES[objective], case.kernel, case.landmarks, Newton(damping="auto"), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor.fit(case.training, case.views)
        return labelled(auditor, case.test, case.test_labels, case.labels[np.asarray(auditor.fit_.indices)])


def measured(data: Labelled, k: int, seed: int) -> dict[str, float]:
    """Mean drop over test samples by every rule, and the shares of the predicted class by which it is limited.

    `near`: among the k neighbours; `next`: among those that take the place of ten.
    """
    vote, drops = Vote.over(data, k), confidence_drop(data, k, REMOVED, seed)
    nearness = -np.argsort(vote.order, axis=1)
    reached = vote.agrees[:, : k + REMOVED].sum(1)
    most = vote.confidence - np.maximum(reached - REMOVED, 0) / k
    rules = [drops[name] for name in RULES]
    values = [*rules, vote.drop(nearness, REMOVED), most, drops["random"]]
    shares = {"near": vote.confidence, "next": vote.agrees[:, k : k + REMOVED].mean(1)}
    return {name: float(np.mean(v)) for name, v in [*zip(COLUMNS, values, strict=True), *shares.items()]}


def as_table(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Means over the seeds."""
    groups: dict[str, list[dict[str, float]]] = {}
    for key, value in found.items():
        groups.setdefault(key.rsplit(", ", 1)[0], []).append(value)
    rows = []
    for key, each in groups.items():
        mean = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        largest = max(mean[name] for name in COLUMNS[:3])
        ratios = (f"{top / mean['random']:.0f}" for top in (largest, mean["any ten"]))
        shares = (f"{mean[name]:.3f}" for name in ("near", "next"))
        rows.append([*key.split(", "), str(len(each)), *(f"{mean[c]:.4f}" for c in COLUMNS), *ratios, *shares])
    columns = ("data", "objective", "m", "k", "seeds", *COLUMNS, "largest rule / random", "any ten / random",
               "class among the k", "among the next ten")  # fmt: skip
    note = "Mean loss of k-NN confidence when ten of m landmarks leave. any ten: the most that any ten can take, which "
    note += "needs all labels; the last columns: share of the predicted class among the k neighbours and the next ten."
    return measure.table("Confidence drop by neighbours and landmarks", columns, rows, note)


if __name__ == "__main__":
    main()
