"""What retraining without the training samples that a score names does to the sample that they are named for.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.removal [--cases digits,adult] [--work FOLDER] [--quick]

Cases and networks are those of retraining.py. For each of 12 test samples the 50 training samples (5 %) of the highest
score are taken out, and networks of two seeds are trained on the others; the fall of the sample's invariance (centred
embedding) against networks trained on all samples, and the same without 50 random ones, eight draws. The kernel's own
prediction is `Auditor.counterfactual` with the landmarks kept. Figures go to results/paper-removal.json.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import measure
import numpy as np
import retraining
import torch
from retraining import CASES, OBJECTIVES, RETRAINED, Case, audited, cached, invariance, targets, train
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize

from krepes import NTK, Auditor, Newton

QUERIES, REMOVED, RANDOM, LANDMARKS, DRAWS = 12, 50, 8, 200, 2000


def main() -> None:
    args = retraining.arguments(__doc__, "two test samples, two random draws").parse_args()
    torch.set_num_threads(1)
    facts, found, tables = measure.machine_facts(), {}, []
    for name in args.cases.split(","):
        case = CASES[name]()
        for objective in args.objectives.split(","):
            key = f"{name}, {objective}"
            found[key] = measured(case, objective, args.work, *((2, 2) if args.quick else (QUERIES, RANDOM)))
            tables.append(as_table(key, found[key]))
            print(f"{key}\n{measure.markdown_table(tables[-1]['columns'], tables[-1]['rows'])}", flush=True)
            content = {"code": measure.code_fingerprint(), "removed": REMOVED, "results": found, "tables": tables,
                       "checks": []}  # fmt: skip
            measure.write_result("paper-removal", args.quick, content, facts)


def measured(case: Case, objective: str, work: Path, queries: int, draws: int) -> dict[str, Any]:
    """Falls of the invariance per method (queries,), and what the kernel predicted of them."""
    place, n = retraining.folder(work, case, objective), len(case.training)
    network = audited(case, objective, place)
    auditor = Auditor(network, OBJECTIVES[objective], NTK(), LANDMARKS, Newton(damping="auto"), seed=0)
    whole = Auditor(network, OBJECTIVES[objective], NTK(), range(n), Newton(damping=100.0), seed=0)
    x = case.test[:queries]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        z = network(case.training)
        with torch.enable_grad():
            auditor.fit(case.training, case.views)
            attributed = auditor.attribute(x)
            scores = {
                "attribution": attributed,
                "signed contribution": whole.fit(case.training, case.views).contribution(x),
            }
        scores["representation cosine"] = normalize(network(x) - z.mean(0)) @ normalize(z - z.mean(0)).T
        before = after_removal(case, objective, place, torch.tensor([], dtype=torch.long))
        generator = torch.Generator().manual_seed(0)
        groups = [torch.randperm(n, generator=generator)[:REMOVED] for _ in range(draws)]
        random = torch.stack([before - after_removal(case, objective, place, g) for g in groups])[:, :queries]
        falls, predicted, linear, real = {}, [], [], []
        for method, score in scores.items():
            each = []
            for q in range(queries):
                group = score[q].topk(REMOVED).indices
                each.append(float((before - after_removal(case, objective, place, group))[q]))
                real.append(each[-1])
                linear.append(float(attributed[q][group].sum()))
                with torch.enable_grad():
                    predicted.append(counterfactual_fall(auditor, case, q, group))
            falls[method] = each
    return {"falls": falls, "random": random.tolist(), "kernel's predictions": predicted, "sums of scores": linear,
            "real": real, "invariance before": before[:queries].tolist()}  # fmt: skip


def after_removal(case: Case, objective: str, place: Path, gone: Tensor) -> Tensor:
    """Invariance of the test samples in the centred embedding without some training samples, mean over seeds (t,)."""
    keep = torch.ones(len(case.training), dtype=torch.bool)
    keep[gone] = False
    name = hashlib.sha256(keep.numpy().tobytes()).hexdigest()[:12]

    def make() -> Tensor:
        with torch.enable_grad():
            networks = [train(case, OBJECTIVES[objective], seed, keep.nonzero()[:, 0]) for seed in RETRAINED]
        return torch.stack([targets(network, case)[1] for network in networks])

    return cached(place / f"without-{name}.pt", make).mean(0)


def counterfactual_fall(auditor: Auditor, case: Case, q: int, group: Tensor) -> float:
    """The same fall by the kernel's own counterfactual."""
    mask = np.zeros(len(case.training), dtype=bool)
    mask[group.numpy()] = True
    other = auditor.counterfactual(mask, keep_landmarks=True)
    one, sides = case.test[q : q + 1], []
    for a in (auditor, other):
        mean = a.transform(case.training).mean(0)
        sides.append(float(invariance(a.transform, one, case.augmented[q : q + 1], mean)[0]))
    return sides[0] - sides[1]


def as_table(title: str, found: dict[str, Any]) -> dict[str, Any]:
    """Mean falls with 95 % intervals over test samples, and by random's."""
    random = np.array(found["random"])
    rows = []
    for method, each in [*found["falls"].items(), ("random", random.mean(0).tolist())]:
        drawn = np.random.default_rng(0).choice(each, (DRAWS, len(each))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        beyond = np.mean(np.array(each) > random.max(0)) if method != "random" else float("nan")
        rows.append(
            [method, f"{np.mean(each):.4f} [{low:.4f}, {high:.4f}]", f"{beyond:.2f}" if method != "random" else "–"]
        )
    known = {"counterfactual": found["kernel's predictions"], "sum of attributions": found["sums of scores"]}
    said = ", ".join(f"{k} {spearmanr(v, found['real']).statistic:.2f}" for k, v in known.items())
    note = f"Spearman's correlation of a prediction with what retraining did, over all removals: {said}."
    columns = ("removed: 50 with the highest", "fall of the invariance", "larger than all random draws")
    return measure.table(f"Removal and retraining, {title}", columns, rows, note)


if __name__ == "__main__":
    main()
