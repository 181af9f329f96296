"""`krepes audit` end to end on the Adult table enlarged to a million rows: seconds per stage, peak memory, exponents.

    python benchmarks/scale.py --data FOLDER [--quick] [--sizes 10000,30000,…] [--landmarks 1000,sqrt]
                               [--format csv|parquet] [--repeats 1] [--keep FOLDER] [--fresh]

FOLDER holds adult/adult.data (see examples/adult/README.md; KREPES_DATA does as well). Rows are drawn from it with
replacement; age, fnlwgt, hours-per-week and the capital columns get normal noise of 5 % of their standard deviation,
zeros of the capital columns stay zero, everything is rounded and kept within the column's range, missing cells stay
missing. What an audit asks beside the scores is left out (benchmarks/findings.py measures it). The encoder is a
Barlow Twins network trained by examples/adult/train.py on the original rows; the kernel is the sketch with 8
directions. Finished runs are kept in the JSON, so that a stopped measurement goes on.
"""

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import measure
import numpy as np
import pandas as pd

matplotlib.use("svg")
import matplotlib.pyplot as plt

SIZES, QUICK_SIZES = "10000,30000,100000,300000,1000000", "5000,6500,8000"
COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship",
    "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
JITTERED = ("age", "fnlwgt", "capital-gain", "capital-loss", "hours-per-week")
JITTER = 0.05
SCORES_ALONE = {
    "audit": "{automatic_concepts: false, features: [], attribution: 0, evaluate: false}", "trust": "{refits: false}"
}  # fmt: skip
LARGE = 100_000  # from here on, what a run costs whatever n is hardly counts
SEED = 0
PLOT = measure.ROOT / "docs" / "benchmarks-scale.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("KREPES_DATA"), help="folder that holds adult/adult.data")
    parser.add_argument("--quick", action="store_true", help="5,000 to 8,000 rows, 100 landmarks, one epoch")
    parser.add_argument("--sizes", help=f"rows (default {SIZES})")
    parser.add_argument("--landmarks", help="numbers, or sqrt for ⌈√n⌉ (default 1000,sqrt)")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave table, checkpoint and last run folder there")
    parser.add_argument("--fresh", action="store_true", help="forget the finished runs")
    args = parser.parse_args()
    if args.data is None:
        parser.error("set KREPES_DATA or --data to the folder that holds adult/adult.data")
    sizes = [int(s) for s in (args.sizes or (QUICK_SIZES if args.quick else SIZES)).split(",")]
    landmarks = (args.landmarks or ("100,sqrt" if args.quick else "1000,sqrt")).split(",")
    facts = measure.machine_facts()
    kept = None if args.fresh else measure.read_result("scale", args.quick)
    runs = unfinished(kept)
    done = {(r["n"], r["rule"], r["format"], r["repeat"]) for r in runs}
    with tempfile.TemporaryDirectory() as name:
        work = args.keep or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        source = read_adult(Path(args.data))
        checkpoint = train(Path(args.data), work, args.quick)
        # repeats outermost: a disturbance of the machine then hits every size alike
        for repeat, n, rule in itertools.product(range(args.repeats), sizes, landmarks):
            if (n, rule, args.format, repeat) in done:
                continue
            run = audit(source, n, rule, args.format, checkpoint, work)
            runs.append({"n": n, "rule": rule, "format": args.format, "repeat": repeat, **run})
            print(run.get("failed") or f"n = {n:,}, m = {run['m']:,}: {run['seconds']:.1f} s", flush=True)
            save(runs, args.quick, facts)
    path = save(runs, args.quick, facts)
    print(f"written: benchmarks/results/{path.name}")


def unfinished(kept: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The runs of a stopped measurement that still count: those that succeeded, if the code is the same."""
    if kept is None:
        return []
    if kept.get("code") != measure.code_fingerprint():
        print("the kept runs are of another state of the code: all sizes are measured anew", flush=True)
        return []
    return [r for r in kept["runs"] if not r.get("failed")]


# --------------------------------------------------------------------------- data
def read_adult(folder: Path) -> pd.DataFrame:
    """adult.data as text, cells stripped."""
    path = folder / "adult" / "adult.data"
    return pd.read_csv(path, names=list(COLUMNS), dtype=str, skipinitialspace=True, keep_default_na=False)


def enlarge(table: pd.DataFrame, n: int, seed: int = SEED) -> pd.DataFrame:
    """A bootstrap of n rows with jittered numeric columns (the module's docstring says how)."""
    generator = np.random.default_rng(seed)
    drawn = table.iloc[generator.integers(len(table), size=n)].reset_index(drop=True)
    for name in JITTERED:
        known = pd.to_numeric(table[name], errors="coerce")
        value = pd.to_numeric(drawn[name], errors="coerce").to_numpy(float)
        noisy = np.round(value + generator.normal(0, JITTER * float(known.std()), n)).clip(known.min(), known.max())
        keep = np.isnan(value) | ((value == 0) & name.startswith("capital"))
        text = pd.Series(np.where(keep, 0, noisy).astype(np.int64)).astype(str)
        drawn[name] = drawn[name].where(keep, text)
    return drawn


def write_table(source: pd.DataFrame, n: int, kind: str, work: Path) -> Path:
    """The enlarged table as a file; the previous size's is removed, since a million rows take 100 MB."""
    path = work / f"adult-{n}.{kind}"
    if path.exists():
        return path
    for old in work.glob("adult-*.*"):
        old.unlink()
    table = enlarge(source, n)
    if kind == "csv":
        table.to_csv(path, header=False, index=False)
        return path
    typed = {c: pd.to_numeric(table[c], errors="coerce") for c in (*JITTERED, "education-num")}
    table.replace("?", None).assign(**typed).to_parquet(path, index=False)
    return path


def train(data: Path, work: Path, quick: bool) -> Path:
    """The folder with the weights and the schema that examples/adult/train.py makes."""
    out = work / "checkpoints"
    script = measure.ROOT / "examples" / "adult" / "train.py"
    command = [sys.executable, str(script), "--data", str(data), "--out", str(out), "--seed", str(SEED)]
    run = measure.run_child([*command, *(["--epochs", "1"] if quick else [])], work / "train")
    if run.code:
        raise SystemExit(f"examples/adult/train.py failed: {run.last_words}")
    return out


# ---------------------------------------------------------------------------- runs
def audit(
    source: pd.DataFrame, n: int, rule: str, kind: str, checkpoint: Path, work: Path, findings: bool = False
) -> dict[str, Any]:
    """One `krepes audit` as a user starts it: wall seconds, seconds per stage, peak memory; or why it failed.

    Args:
        findings: also what is asked beside the scores, whose cost benchmarks/findings.py measures.
    """
    m = math.ceil(math.sqrt(n)) if rule == "sqrt" else min(int(rule), n)
    table, target = write_table(source, n, kind, work), work / "run"
    settings = {
        "data.table": str(table),
        "data.schema": str(checkpoint / "schema.json"),
        "encoder.weights": str(checkpoint / "barlow_twins.safetensors"),
        "kernel": "{variant: sketch, sketch: 8}",
        "landmarks.m": str(m),
        **({"data.columns": "null"} if kind == "parquet" else {}),
        **({} if findings else SCORES_ALONE),
    }
    config = measure.ROOT / "examples" / "adult" / "barlow_twins.yaml"
    command = [sys.executable, "-m", "krepes", "audit", str(config), "--overwrite", "-o", str(target)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    load = os.getloadavg()[0]
    run = measure.run_child(command, work / "audit", {"KREPES_DATA": str(work)})
    if run.code:
        return {"m": m, "failed": f"n = {n:,}, m = {m:,}: {run.last_words}"}
    manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    stages = manifest["timings_seconds"]
    return {
        "m": m,
        "command": measure.command_line(),
        "load_before": round(load, 2),
        "seconds": round(run.seconds, 3),
        "peak_bytes": run.peak_bytes,
        "stages": stages,
        "outside_stages": round(run.seconds - sum(stages.values()), 3),
        "table_bytes": table.stat().st_size,
        "run_folder_bytes": sum(p.stat().st_size for p in target.iterdir()),
        "trust": json.loads((target / "trust.json").read_text(encoding="utf-8")).get("verdict"),
    }


# ------------------------------------------------------------------------- results
def medians(runs: list[dict[str, Any]], rule: str, kind: str) -> dict[int, dict[str, float]]:
    """n ↦ median over repeats of the total, the stages and the peak memory."""
    found: dict[int, dict[str, float]] = {}
    chosen = [r for r in runs if r["rule"] == rule and r["format"] == kind and not r.get("failed")]
    for n in sorted({r["n"] for r in chosen}):
        same = [r for r in chosen if r["n"] == n]
        flat = [
            {"total": r["seconds"], "reading, imports": r["outside_stages"], **r["stages"], "peak": r["peak_bytes"]}
            for r in same
        ]
        found[n] = {k: float(np.median([f.get(k, 0.0) for f in flat])) for k in flat[0]} | {"m": same[0]["m"]}
    return found


def exponent(points: dict[int, dict[str, float]], key: str, least: int = 0) -> float | None:
    """Least-squares slope of log(value) over log(n) for n ≥ least; None for fewer than three sizes."""
    pairs = [(n, p[key]) for n, p in points.items() if n >= least and p.get(key, 0) > 0]
    if len(pairs) < 3:
        return None
    x, y = np.log(np.array(pairs, float)).T
    return float(np.polyfit(x, y, 1)[0])


def save(runs: list[dict[str, Any]], quick: bool, facts: dict[str, Any]) -> Path:
    """JSON, table and plot of the runs so far."""
    groups = sorted({(r["rule"], r["format"]) for r in runs})
    tables, fits, checks = [], {}, []
    for rule, kind in groups:
        points = medians(runs, rule, kind)
        if not points:
            continue
        tables.append(stage_table(points, rule, kind))
        keys = [k for k in next(iter(points.values())) if k != "m"]
        fits[f"{rule}, {kind}"] = {k: exponent(points, k) for k in keys}
        fits[f"{rule}, {kind}, n ≥ {LARGE:,}"] = {k: exponent(points, k, LARGE) for k in keys}
        # what a run costs whatever n is would flatter the exponent of all sizes
        slope = exponent(points, "total", LARGE)
        wanted = 1.1 if rule != "sqrt" else 1.55
        checks.append(
            measure.check(
                f"seconds over n ≥ {LARGE:,}, m = {'⌈√n⌉' if rule == 'sqrt' else rule} ({kind})",
                f"exponent ≤ {wanted}",
                None if slope is None else f"{slope:.2f}",
                None if slope is None else slope <= wanted,
            )
        )
    failed = [r["failed"] for r in runs if r.get("failed")]
    if not quick and tables:
        plot(runs, groups)
    content = {"seeds": {"bootstrap": SEED, "training": SEED, "audit": 0}, "runs": runs, "exponents": fits}
    content |= {"tables": tables, "checks": checks, "failures": failed}
    return measure.write_result("scale", quick, content, facts)


def stage_table(points: dict[int, dict[str, float]], rule: str, kind: str) -> dict[str, Any]:
    """Seconds per stage over n, with the fitted exponents in the last row."""
    stages = [k for k in next(iter(points.values())) if k not in ("m", "peak")]
    rows = [
        [f"{n:,}", f"{p['m']:,.0f}", *(measure.seconds_text(p.get(s)) for s in stages), measure.mebibytes(p["peak"])]
        for n, p in points.items()
    ]
    for name, least in (("exponent", 0), (f"exponent, n ≥ {LARGE:,}", LARGE)):
        slopes = [exponent(points, k, least) for k in (*stages, "peak")]
        rows.append([name, "", *("–" if s is None else f"{s:.2f}" for s in slopes)])
    title = f"krepes audit, Adult enlarged, m = {'⌈√n⌉' if rule == 'sqrt' else rule}, {kind.upper()}"
    note = "Seconds of the whole command and of its stages; peak resident memory of the process."
    return measure.table(title, ["n", "m", *stages, "peak MiB"], rows, note)


def plot(runs: list[dict[str, Any]], groups: list[tuple[str, str]]) -> None:
    """Total seconds and peak memory over n, both axes logarithmic."""
    plt.rcParams["svg.hashsalt"] = "krepes"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for rule, kind in groups:
        points = medians(runs, rule, kind)
        for axis, key, unit in zip(axes, ("total", "peak"), (1.0, 2**30), strict=True):
            slope = exponent(points, key)
            label = f"m = {'⌈√n⌉' if rule == 'sqrt' else rule}, {kind}" + (f" (∝ n^{slope:.2f})" if slope else "")
            axis.loglog(list(points), [p[key] / unit for p in points.values()], "o-", label=label)
    for axis, text in zip(axes, ("seconds, whole command", "peak memory, GiB"), strict=True):
        axis.set(xlabel="rows n", ylabel=text)
        axis.grid(True, which="both", alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
