"""Kernel, ridge, λ, landmarks and sampler crossed, on the trained encoders of the tables: what the defaults rest on.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.factorial [--cases adult,covtype] [--work FOLDER] [--quick]

Encoders are those of `python -m paper CASE`, seed 0, from benchmarks/checkpoints or --work. Audits see 8,000 seeded
training samples (MNIST: 2,000); labels come in for the figures alone. LDS is measured by lds.py, on networks that can
be retrained.
"""

import argparse
import itertools
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from landmark_views import with_views

from krepes import NTK, Auditor, Newton
from krepes.data.source import Subset
from krepes.landmarks import KMeansPlusPlus, LeverageScores, RPCholesky, Uniform
from paper.cases import OBJECTIVES, SPLIT, Case, load
from paper.measured import encoder

SAMPLES = {"adult": 8_000, "covtype": 8_000, "mnist": 2_000}  # of training, seeded
TESTS = 4_000  # at most; MNIST: 2,000
FIGURES = {
    "τ": "Kendall τ", "gap": "accuracy gap", "R²": "R² of aligned representations",
    "P@1 influence": "precision@1, influence", "P@1 contribution": "precision@1, contribution",
    "drop influence": "confidence drop, top by influence", "drop contribution": "confidence drop, top by contribution",
    "drop class": "confidence drop, top toward the predicted class", "drop random": "confidence drop, random",
}  # fmt: skip
KERNELS = {
    "centred cosine": {}, "centred": {"cosine": False}, "cosine": {"center": False},
    "raw": {"center": False, "cosine": False},
}  # fmt: skip
SAMPLERS = {"k-means++": KMeansPlusPlus, "leverage": LeverageScores, "RPCholesky": RPCholesky, "uniform": Uniform}
DEFAULT = {"kernel": "centred cosine", "variant": "sketch 8", "ridge": "coefficients", "damping": "auto", "m": 500,
           "sampler": "k-means++"}  # fmt: skip
# kernel × ridge × λ in full; the other factors one at a time around the default
CROSSED = [
    DEFAULT | {"kernel": k, "ridge": r, "damping": d}
    for k, r, d in itertools.product(KERNELS, ("coefficients", "rkhs"), ("auto", 10.0))
]
ALONE = [
    *(DEFAULT | {"m": m} for m in (100, 200, 1000)),
    *(DEFAULT | {"sampler": s} for s in SAMPLERS if s != DEFAULT["sampler"]),
    *(DEFAULT | {"variant": v} for v in ("pseudo", "sketch 32")),
    *(DEFAULT | {"views per landmark": v} for v in (2, 3)),
    DEFAULT | {"rows": "views"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="adult,covtype")
    parser.add_argument("--objectives", default="barlow_twins,vicreg,spectral_contrastive")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-paper" / "full")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one setting of one objective")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = measure.machine_facts()
    kept = None if args.fresh else measure.read_result("paper-factorial", args.quick)
    rows: dict[str, Any] = dict(kept["rows"]) if kept else {}
    for name in args.cases.split(","):
        case = load(name, args.data)
        for objective in args.objectives.split(",")[: 1 if args.quick else None]:
            network, _ = encoder(case, objective, 0, args.work)
            for setting in [DEFAULT] if args.quick else [*CROSSED, *ALONE]:
                key = f"{name}, {objective}, " + ", ".join(f"{k}={v}" for k, v in setting.items())
                if key in rows:
                    continue
                started = time.perf_counter()
                figures = audited(case, objective, network, setting)
                stamp = {"code": measure.code_fingerprint(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
                rows[key] = {"case": name, "objective": objective, **setting, **figures, **stamp}
                print(f"{key}: {time.perf_counter() - started:.0f} s", flush=True)
                content = {"samples": SAMPLES, "tests": TESTS, "rows": rows, "tables": [], "checks": []}
                measure.write_result("paper-factorial", args.quick, content, facts)


def audited(case: Case, objective: str, network: torch.nn.Module, setting: dict[str, Any]) -> dict[str, Any]:
    """The figures of one audit."""
    chosen = np.sort(np.random.default_rng(SPLIT + 1).permutation(len(case.training))[: SAMPLES[case.name]])
    variant, _, q = setting["variant"].partition(" ")
    kernel = NTK(variant, **({"sketch": int(q)} if q else {}), **KERNELS[setting["kernel"]])
    newton = Newton(ridge=setting["ridge"], damping=setting["damping"])
    sampler = SAMPLERS[setting["sampler"]](m=setting["m"])
    rows = setting.get("rows", "samples")
    auditor = Auditor(network, OBJECTIVES[objective], kernel, sampler, newton, seed=0, landmark_rows=rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor.fit(Subset(case.training, chosen), case.views)
        auditor = with_views(auditor, case.views, setting.get("views per landmark", 1))
        landmarks = case.labels[chosen][np.asarray(auditor.fit_.indices)]
        table = auditor.evaluate(case.test, case.test_labels, landmarks).set_index("figure")["value"]
    found = {short: float(table[name]) for short, name in FIGURES.items() if name in table}
    outcome = auditor.outcome_
    return found | {"relative damping": outcome.relative_damping, "gain ratio": outcome.gain_ratio}


if __name__ == "__main__":
    main()
