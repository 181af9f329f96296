"""The paper's table of one data set: encoders trained with five objectives, audited, compared.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper adult [--seeds 0,1,2] [--objectives …] [--work FOLDER] [--quick]

Every finished encoder is kept in results/paper-NAME.json, so that a stopped measurement goes on; --fresh forgets them,
--baselines measures the other methods of kept ones again.
docs/results.md is written from these files by `python -m paper.results`.
"""

import time
from typing import Any

import measure
import torch

from paper.cases import CASES, OBJECTIVES, arguments, load, work_folder
from paper.measured import measured, others_alone


def main() -> None:
    parser = arguments(__doc__, "1,000 samples, one epoch, one seed")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--objectives", default=",".join(OBJECTIVES))
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--baselines", action="store_true", help="of the kept runs, precision@1 of other methods anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, name, work = measure.machine_facts(), f"paper-{args.case}", work_folder(args)
    case = load(args.case, args.data)
    case = case.quick() if args.quick else case
    kept = None if args.fresh else measure.read_result(name, args.quick)
    runs: dict[str, Any] = dict(kept["runs"]) if kept else {}
    seeds = [0] if args.quick else [int(s) for s in args.seeds.split(",")]
    for seed in seeds:
        for objective in args.objectives.split(","):
            if ((key := f"{objective}-{seed}") in runs) != args.baselines:
                continue
            started = time.perf_counter()
            if args.baselines:
                when = {"command": measure.command_line(), "cpu": facts["cpu"]}
                runs[key] |= {"precision@1 of others": others_alone(case, objective, seed, work),
                              "precision@1 of others, measured": when}  # fmt: skip
            else:
                runs[key] = {"code": measure.code_fingerprint(), "command": measure.command_line(),
                             **measured(case, objective, seed, work)}  # fmt: skip
            print(f"{args.case}, {key}: {time.perf_counter() - started:.0f} s", flush=True)
            content = {"title": case.title, "note": case.note, "views": repr(case.views), "kernel": repr(case.kernel),
                       "landmarks": case.landmarks, "training": case.settings.model_dump(),
                       "training samples": len(case.training), "test samples": len(case.test), "runs": runs,
                       "tables": [], "checks": []}  # fmt: skip
            measure.write_result(name, args.quick, content, kept["machine"] if kept and args.baselines else facts)


if __name__ == "__main__":
    main()
