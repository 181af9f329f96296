"""What an audit's findings cost beside its scores: concepts, gaps, attribution, evaluation, the trust gate's refits.

    python benchmarks/findings.py --data FOLDER [--quick] [--sizes 32561,1000000] [--landmarks 1000]

`krepes audit` with its defaults on the enlarged Adult table of benchmarks/scale.py; seconds per stage in one run each.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import measure
import scale

STAGES = ("concepts", "gaps", "adjoint", "attribution", "evaluation", "trust", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("KREPES_DATA"), help="folder that holds adult/adult.data")
    parser.add_argument("--quick", action="store_true", help="5,000 rows, 100 landmarks, one epoch of training")
    parser.add_argument("--sizes", help="rows (default 32561,1000000)")
    parser.add_argument("--landmarks", type=int)
    args = parser.parse_args()
    if args.data is None:
        parser.error("set KREPES_DATA or --data to the folder that holds adult/adult.data")
    sizes = [int(s) for s in (args.sizes or ("5000" if args.quick else "32561,1000000")).split(",")]
    m = str(args.landmarks or (100 if args.quick else 1000))
    facts, runs = measure.machine_facts(), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = scale.read_adult(Path(args.data))
        checkpoint = scale.train(Path(args.data), work, args.quick)
        for n in sizes:
            run = scale.audit(source, n, m, "csv", checkpoint, work, findings=True)
            runs.append({"n": n, **run})
            print(run.get("failed") or f"n = {n:,}: {run['seconds']:.1f} s", flush=True)
            path = save(runs, args.quick, facts)
    print(f"written: benchmarks/results/{path.name}")


def save(runs: list[dict[str, Any]], quick: bool, facts: dict[str, Any]) -> Path:
    """JSON and table of the runs so far."""
    done = [r for r in runs if not r.get("failed")]
    rows = []
    for run in done:
        found = [run["stages"].get(s, 0.0) for s in STAGES]
        rest = run["seconds"] - sum(found)
        rows.append([f"{run['n']:,}", f"{run['m']:,}", *map(measure.seconds_text, (rest, *found, run["seconds"])),
                     measure.mebibytes(run["peak_bytes"])])  # fmt: skip
    note = "Seconds of one run each; attribution looks at up to 200,000 training samples for four explained ones."
    header = ["n", "m", "scores and all before", *STAGES, "total", "peak MiB"]
    tables = [measure.table("`krepes audit` with its defaults", header, rows, note)] if rows else []
    content = {"runs": runs, "tables": tables, "seeds": {"bootstrap": 0, "training": 0, "audit": 0}}
    return measure.write_result("findings", quick, content, facts)


if __name__ == "__main__":
    main()
