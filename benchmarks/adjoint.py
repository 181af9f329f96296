"""The adjoint solves of an audit's queries: all in one Krylov space, or each alone.

OMP_NUM_THREADS=1 python benchmarks/adjoint.py [--quick] [--queries 32] [--work FOLDER]

Networks and samples are those of lds.py (1,000 samples, digits and Adult), audited with 200 landmarks; the queries are
test samples, their target the local invariance. Both ways solve the same systems to the same true residual.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import retraining
import torch
from retraining import CASES, OBJECTIVES, audited
from torch import Tensor

from krepes import NTK, Auditor, Newton
from krepes.audit import attribution
from krepes.solver.cg import block_conjugate_gradients, conjugate_gradients
from krepes.solver.system import System

PAIRS = (("digits", "vicreg"), ("digits", "barlow_twins"), ("adult", "barlow_twins"), ("digits", "simclr"))
LANDMARKS, SEED = 200, 0
TOLERANCES = (1e-3, 1e-4, 1e-6)
LIMIT = 2000
ALONE = 8  # queries that are solved alone, too; seconds are those of all by these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=32, help="as many as an audit explains")
    parser.add_argument("--quick", action="store_true", help="three queries of one pair")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-lds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, rows, found = measure.machine_facts(), [], {}
    queries = 3 if args.quick else args.queries
    for name, objective in PAIRS[:1] if args.quick else PAIRS:
        result = compared(name, objective, queries, args.work)
        found[f"{name}, {objective}"] = result
        for tol, ways in result["tolerances"].items():
            alone, together = ways["alone"], ways["together"]
            per_query = f"{min(alone['products'])}–{max(alone['products'])}"
            rows.append([f"{name}, {objective}", tol, per_query, together["products"], f"{alone['seconds']:.1f}",
                         f"{together['seconds']:.1f}", f"{alone['seconds'] / together['seconds']:.1f}"])  # fmt: skip
            print(rows[-1], flush=True)
    columns = [
        "case",
        "residual",
        "products of each query alone",
        "of all together",
        "seconds alone",
        "together",
        "ratio",
    ]
    note = f"{queries} queries, {LANDMARKS} landmarks, λ = .1 of the mean curvature. A product together is one of "
    note += f"all queries; seconds alone are those of {min(ALONE, queries)} times {queries / min(ALONE, queries):g}."
    content: dict[str, Any] = {
        "code": measure.code_fingerprint(), "seed": SEED, "landmarks": LANDMARKS, "results": found,
        "tables": [measure.table("Adjoint solves", columns, rows, note)], "checks": [],
    }  # fmt: skip
    measure.write_result("adjoint", args.quick, content, facts)
    print(measure.markdown_table(columns, rows))


def compared(name: str, objective: str, queries: int, work: Path) -> dict[str, Any]:
    """Products and seconds of both ways, by tolerance."""
    case, found = CASES[name](), {}
    network = audited(case, objective, retraining.folder(work, case, objective))
    auditor = Auditor(network, OBJECTIVES[objective], NTK(), LANDMARKS, Newton(), seed=SEED)
    auditor.fit(case.training, case.views)
    solve = attribution.adjoint

    def both(system: System, damping: float, gradients: Tensor, *limits: Any) -> attribution.Adjoint:
        found["shape"] = list(gradients.shape)
        for tol in TOLERANCES:
            found.setdefault("tolerances", {})[f"{tol:.0e}"] = timed(system, damping, gradients, tol)
        return solve(system, damping, gradients, *limits)

    with patch.object(attribution, "adjoint", both):
        auditor.attribute(case.test[:queries], draws=1)
    return found


def timed(system: System, damping: float, gradients: Tensor, tol: float) -> dict[str, Any]:
    """One tolerance; the ways in turn."""
    preconditioner, right = 1 / (system.diagonal + damping), system.S * gradients
    some, started = right[:ALONE], time.perf_counter()
    alone = [conjugate_gradients(system.curvature, b, preconditioner, tol, LIMIT, shift=damping) for b in some]
    between = time.perf_counter()
    together = block_conjugate_gradients(system.curvature, right, preconditioner, tol, LIMIT, shift=damping)
    ended = time.perf_counter()
    return {
        "alone": {"products": [s.iterations for s in alone], "residual": max(s.residual for s in alone),
                  "seconds": (between - started) * len(right) / len(some)},
        "together": {"products": together.iterations, "residual": max(together.residuals), "seconds": ended - between},
    }  # fmt: skip


if __name__ == "__main__":
    main()
