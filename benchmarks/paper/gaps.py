"""Alignment gaps of Adult's columns, with intervals that hold refits on halves of the samples.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.gaps [--objectives …] [--seeds 0,1,2] [--work FOLDER] [--quick]

The paper: the objective amplifies sex and relationship over education and occupation. Figures go to
results/paper-gaps.json.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

from krepes import Auditor, Newton
from paper.cases import OBJECTIVES, Case, arguments, load, work_folder
from paper.measured import encoder


def main() -> None:
    parser = arguments(__doc__, "1,000 samples, one epoch, one seed")
    parser.add_argument("--objectives", default="barlow_twins,vicreg,spectral_contrastive")
    parser.add_argument("--seeds", default="0,1,2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, found, work = measure.machine_facts(), {}, work_folder(args)
    case = load("adult", args.data)
    case = case.quick() if args.quick else case
    seeds = [0] if args.quick else [int(s) for s in args.seeds.split(",")]
    for objective in args.objectives.split(","):
        for seed in seeds:
            started = time.perf_counter()
            found.setdefault(objective, []).append(gaps(case, objective, seed, work))
            print(f"{objective}-{seed}: {time.perf_counter() - started:.0f} s", flush=True)
            content = {"code": measure.code_fingerprint(), "command": measure.command_line(), "seeds": seeds,
                       "results": found, "tables": [as_table(*i) for i in found.items()], "checks": []}  # fmt: skip
            measure.write_result("paper-gaps", args.quick, content, facts)
    for table in content["tables"]:
        print(f"\n{table['title']}\n{measure.markdown_table(table['columns'], table['rows'])}")


def gaps(case: Case, objective: str, seed: int, work: Path) -> dict[str, Any]:
    """The rows of `feature_gap` by column."""
    network, _ = encoder(case, objective, seed, work)
    newton = Newton(damping="auto")
    auditor = Auditor(network, OBJECTIVES[objective], case.kernel, case.landmarks, newton, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = auditor.fit(case.training, case.views).feature_gap()
    wanted = ["gap", "low", "high", "agreement", "random", "p", "q", "refits", "explained_by", "gap_given"]
    return {
        row["column"]: {k: None if row[k] != row[k] else row[k] for k in wanted} for row in table.to_dict("records")
    }


def as_table(objective: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns by falling mean gap, with each encoder's interval."""
    rows = []
    for column in sorted(runs[0], key=lambda c: -mean_gap(runs, c)):
        each = [r[column] for r in runs]
        found = sum(g["q"] is not None and g["q"] < 0.05 for g in each)
        known = [g["explained_by"] for g in each if g["explained_by"]]
        rows.append([column, f"{mean_gap(runs, column):.3f}",
                     *("–" if g["low"] is None else f"{g['gap']:.3f} [{g['low']:.3f}, {g['high']:.3f}]" for g in each),
                     f"{found} of {len(each)}", ", ".join(sorted(set(known)))])  # fmt: skip
    encoders = tuple(f"encoder {i}" for i in range(len(runs)))
    note = (
        "1,000 samples, ten landmarks each; intervals over samples and ten refits on halves; q by Benjamini–Hochberg."
    )
    return measure.table(f"Alignment gaps, Adult, {objective}",
                         ("column", "mean gap", *encoders, "q < .05", "explained by"), rows, note)  # fmt: skip


def mean_gap(runs: list[dict[str, Any]], column: str) -> float:
    """Over encoders; −∞ where there is none."""
    values = [r[column]["gap"] for r in runs if r[column]["gap"] is not None]
    return float(np.mean(values)) if values else -np.inf


if __name__ == "__main__":
    main()
