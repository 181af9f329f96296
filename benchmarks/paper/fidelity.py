"""Where the kernel loses what a probe reads from the network's representation: in the probes, the kernel, or the step.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.fidelity [--cases adult,covtype,higgs] [--work FOLDER] [--quick]

Probes of `Auditor.evaluate` on representations of the same samples: another probe on the network's own z; the least
squares map of the Nyström features φ to z, which is all that landmarks and kernel know of it; φ itself; its leading
components f₀ = B₀ᵀφ, where the step starts, d of them and 4d; and f after the step. τ is against a probe on z that saw
the same labels. Seed 0 of the encoders of `python -m paper`. Figures go to results/paper-fidelity.json.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor

from krepes import Auditor, Newton
from krepes.audit.evaluation import kendall, probe
from krepes.data.source import Source, Subset
from paper.cases import OBJECTIVES, SPLIT, Case, arguments, load, work_folder
from paper.measured import encoder

LABELS = (2_000, 20_000)
CASES, TRAINED = "adult,covtype,higgs", "barlow_twins,vicreg,simclr"
BLOCK = 1024


def main() -> None:
    parser = arguments(__doc__, "1,000 samples, one epoch")
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--objectives", default=TRAINED)
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, found, work = measure.machine_facts(), {}, work_folder(args)
    for name in args.cases.split(","):
        case = load(name, args.data)
        case = case.quick() if args.quick else case
        for objective in args.objectives.split(","):
            started = time.perf_counter()
            found[f"{name}, {objective}"] = measured(case, objective, work)
            print(f"{name}, {objective}: {time.perf_counter() - started:.0f} s", flush=True)
            content = {"code": measure.code_fingerprint(), "command": measure.command_line(), "results": found,
                       "tables": [as_table(found)], "checks": []}  # fmt: skip
            measure.write_result("paper-fidelity", args.quick, content, facts)
    print(measure.markdown_table(content["tables"][0]["columns"], content["tables"][0]["rows"]))


def measured(case: Case, objective: str, work: Path) -> dict[str, Any]:
    """τ, accuracy and R² of every representation, for each number of labels."""
    network, _ = encoder(case, objective, 0, work)
    newton = Newton(damping="auto")
    auditor = Auditor(network, OBJECTIVES[objective], case.kernel, case.landmarks, newton, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor.fit(case.training, case.views)
    fit = auditor.fit_
    known = np.random.default_rng(SPLIT + 2).permutation(len(case.training))[: max(LABELS)]
    parts = [Subset(case.training, known), case.test]
    phi, z = (torch.cat(each) for each in zip(*(features(auditor, network, p) for p in parts), strict=True))
    n, d = len(known), fit.nystrom.h
    # without the rows that a probe is judged on; the ridge is far below what would matter for a million rows
    centred, mean = z - z[:n].mean(0), phi[:n].mean(0)
    ridge = 1e-6 * float((phi[:n] - mean).square().sum()) / n
    gram = (phi[:n] - mean).T @ (phi[:n] - mean) + n * ridge * torch.eye(phi.shape[1], dtype=phi.dtype)
    least = torch.linalg.solve(gram, (phi[:n] - mean).T @ centred[:n])
    representations = {
        "least squares φ ↦ z": (phi - mean) @ least,
        "φ": phi,
        "f₀, d components": phi @ fit.nystrom.B0,
        "f₀, 4 d components": leading(phi, 4 * d),
        "f, after the step": phi @ (fit.nystrom.B0 + fit.step.dB),
    }
    y = np.unique(np.concatenate([case.labels[known], case.test_labels]), return_inverse=True)[1]
    test, found = np.arange(n, len(y)), {}
    for labels in LABELS:
        train = np.arange(min(labels, n))
        hit, p = probe(z.numpy(), y, train, test)
        _, again = probe(z.numpy(), y, np.arange(n)[-len(train) :], test)
        rows = {"z, other labels": {"τ": kendall(p, again), "accuracy gap": 0.0, "R²": 1.0}}
        for name, f in representations.items():
            other, q = probe(f.numpy(), y, train, test)
            rows[name] = {
                "τ": kendall(p, q),
                "accuracy gap": float(other.mean() - hit.mean()),
                "R²": explained(f, z, n),
            }
        found[str(labels)] = {"accuracy, z": float(hit.mean()), "representations": rows}
    return found | {"rank": phi.shape[1], "d": d, "samples": n}


def features(auditor: Auditor, network: torch.nn.Module, source: Source) -> tuple[Tensor, Tensor]:
    """φ (n, r) and z (n, d), float64."""
    phi, z = [], []
    for start in range(0, len(source), BLOCK):
        batch = source.batch(range(start, min(start + BLOCK, len(source))))
        phi.append(auditor.fit_.nystrom.features(auditor.kernel(batch)))
        with torch.no_grad():
            z.append(network(batch).double())
    return torch.cat(phi), torch.cat(z)


def leading(phi: Tensor, h: int) -> Tensor:
    """The h components of largest eigenvalue; φ has them in falling order."""
    order = phi.square().sum(0).argsort(descending=True)
    return phi[:, order[:h]]


def explained(f: Tensor, z: Tensor, n: int) -> float:
    """R² of z on the test rows by a linear map fitted on the others."""
    design = torch.cat([f, torch.ones(len(f), 1, dtype=f.dtype)], 1)
    scale = design[:n].square().mean(0).sqrt().clamp_min(1e-12)
    weights = torch.linalg.lstsq(design[:n] / scale, z[:n], driver="gelsd").solution
    left = (z[n:] - design[n:] / scale @ weights).square().sum()
    return float(1 - left / (z[n:] - z[:n].mean(0)).square().sum())


def as_table(found: dict[str, Any]) -> dict[str, Any]:
    """One row per encoder and number of labels."""
    names = list(next(iter(found.values()))[str(LABELS[0])]["representations"])
    rows = []
    for key, result in found.items():
        each: dict[str, Any] = {}
        for labels in LABELS:
            each = result[str(labels)]["representations"]
            rows.append([key, f"{min(labels, result['samples']):,}", *(f"{each[k]['τ']:.3f}" for k in names)])
        rows.append([key, "gap", *(f"{100 * each[k]['accuracy gap']:+.2f}" for k in names)])
        rows.append([key, "R²", *(f"{each[k]['R²']:.3f}" for k in names)])
    note = (
        "Kendall's τ against a probe on z with the same labels; accuracy less that of z in points, with most labels; "
    )
    note += "R² of z by a linear map; all on the test samples."
    return measure.table("What a probe reads from each representation", ("encoder", "labels", *names), rows, note)


if __name__ == "__main__":
    main()
