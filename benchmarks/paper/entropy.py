"""Spectral entropy of ÃᵀÃ beside a linear probe, over λ and over the number of landmarks.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.entropy [--cases mnist] [--seeds 0,1,2] [--work FOLDER] [--quick]

The paper: on MNIST with Barlow Twins the label-free entropy peaks where the probe does. Here, for the same encoders:
f after the step with each λ (in units of the mean curvature) and with each m (λ "auto"); a logistic probe on a tenth of
the training labels, its accuracy on the test samples. Figures go to results/paper-entropy.json.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from scipy.stats import spearmanr

from krepes import Auditor, Newton
from krepes.audit.evaluation import probe
from krepes.audit.spectrum import spectral_entropy
from krepes.data.source import Subset
from krepes.pipeline import moment_problem
from krepes.solver.path import solve_path
from paper.cases import OBJECTIVES, SPLIT, Case, arguments, load, work_folder
from paper.fidelity import features
from paper.measured import encoder

OBJECTIVE = "barlow_twins"
DAMPINGS = tuple(10.0**e for e in range(3, -6, -1))
LANDMARKS = (50, 100, 200, 500, 1000)
CONVERGED = 1e-2  # a λ whose solve ends above this residual is left out, and said


def main() -> None:
    parser = arguments(__doc__, "1,000 samples, one epoch, one seed, few landmarks")
    parser.add_argument("--cases", default="mnist")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, found, work = measure.machine_facts(), {}, work_folder(args)
    for name in args.cases.split(","):
        case = load(name, args.data)
        case = case.quick() if args.quick else case
        for seed in [0] if args.quick else [int(s) for s in args.seeds.split(",")]:
            started = time.perf_counter()
            found[f"{name}-{seed}"] = measured(case, seed, work, (50, 80) if args.quick else LANDMARKS)
            print(f"{name}-{seed}: {time.perf_counter() - started:.0f} s", flush=True)
            content = {"code": measure.code_fingerprint(), "command": measure.command_line(), "results": found,
                       "tables": [as_table(name, found) for name in args.cases.split(",")
                                  if f"{name}-0" in found], "checks": []}  # fmt: skip
            measure.write_result("paper-entropy", args.quick, content, facts)
    for table in content["tables"]:
        print(measure.markdown_table(table["columns"], table["rows"]), "\n", table["note"])


def measured(case: Case, seed: int, work: Path, numbers: tuple[int, ...]) -> dict[str, Any]:
    """Entropy and probe accuracy over λ (with the case's landmarks) and over m."""
    network, _ = encoder(case, OBJECTIVE, seed, work)
    auditor = Auditor(network, OBJECTIVES[OBJECTIVE], case.kernel, case.landmarks, Newton(damping="auto"), seed=seed)
    kept = np.random.default_rng(SPLIT + 3).permutation(len(case.training))[: len(case.training) // 10]
    y = np.unique(np.concatenate([case.labels[kept], case.test_labels]), return_inverse=True)[1]
    sources = Subset(case.training, kept), case.test
    accuracy = lambda f: float(probe(f, y, np.arange(len(kept)), np.arange(len(kept), len(y)))[0].mean())  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor.fit(case.training, case.views)
        fit = auditor.fit_
        assert fit.moments is not None
        phi, z = (torch.cat(each) for each in zip(*(features(auditor, network, s) for s in sources), strict=True))
        problem = moment_problem(OBJECTIVES[OBJECTIVE], fit.moments)(fit.nystrom.B0)
        points = solve_path(problem, fit.nystrom.B0, fit.nystrom.eigenvalues, "coefficients", DAMPINGS,
                            torch.Generator().manual_seed(seed), tol=1e-3, max_iter=2000)  # fmt: skip
        over = [
            {"λ": p.relative_damping, "residual": p.residual, "gain ratio": p.gain_ratio,
             "entropy": spectral_entropy(fit.A0 + fit.nystrom.dual(p.dB)),
             "accuracy": accuracy((phi @ (fit.nystrom.B0 + p.dB)).numpy())}
            for p in points
        ]  # fmt: skip
        by_number = []
        for m in numbers:
            other = auditor
            if m != case.landmarks:
                other = Auditor(network, OBJECTIVES[OBJECTIVE], case.kernel, m, Newton(damping="auto"), seed=seed)
                other.fit(case.training, case.views)
            f = torch.cat([other.transform(s) for s in sources]).numpy()
            by_number.append({"m": m, "entropy": other.spectral_entropy_, "accuracy": accuracy(f),
                              "λ": other.outcome_.relative_damping})  # fmt: skip
    return {"λ": over, "m": by_number, "accuracy, network": accuracy(z.numpy()), "labels": len(kept)}


def as_table(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds; ranks of entropy and accuracy against each other."""
    runs = [r for key, r in found.items() if key.startswith(f"{name}-")]
    rows, correlations, peaks = [], {}, {}
    for over in ("λ", "m"):
        for points in zip(*(r[over] for r in runs), strict=True):
            entropy, accuracy = ([p[k] for p in points] for k in ("entropy", "accuracy"))
            unsolved = sum(p.get("residual", 0) > CONVERGED for p in points)
            rows.append([f"{over} = {points[0][over]:g}", spread(entropy), spread(accuracy),
                         f"{unsolved} of {len(points)} not solved" if unsolved else ""])  # fmt: skip
        solved = [[p for p in r[over] if p.get("residual", 0) <= CONVERGED] for r in runs]
        correlations[over] = [float(spearmanr(*zip(*((p["entropy"], p["accuracy"]) for p in s), strict=True)).statistic)
                              for s in solved]  # fmt: skip
        peaks[over] = [
            tuple(f"{max(s, key=lambda p, k=k: p[k])[over]:g}" for k in ("entropy", "accuracy")) for s in solved
        ]
    said = "; ".join(
        f"over {over}: rank correlation {spread(correlations[over])}, peaks (entropy, probe) "
        + " ".join(f"({a}, {b})" for a, b in peaks[over])
        for over in ("λ", "m")
    )
    network = spread([r["accuracy, network"] for r in runs])
    note = f"{len(runs)} encoders, {runs[0]['labels']:,} labels; the network's own probe: {network}. {said}."
    return measure.table(
        f"Spectral entropy and linear probe, {name}", ("", "entropy", "probe accuracy", ""), rows, note
    )


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
