"""What the Newton step costs: curvature products per λ path, seconds per product, and a subset's error.

    KREPES_DATA=/path/to/data python benchmarks/solver.py products seconds subset

Needs the Adult checkpoints (python examples/adult/train.py --objective NAME for barlow_twins, vicreg and simclr).
Writes benchmarks/results/solver.json, a part at a time, and prints Markdown tables.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import krepes
from krepes import objectives
from krepes.data import Scarf, TableSchema, read_csv
from krepes.encoders import MLP
from krepes.objectives import Moments
from krepes.objectives.pairs import Pairs
from krepes.solver import Newton, shifted_solves, solve
from krepes.solver.newton import GAIN_RATIO, GRID
from krepes.solver.system import System, linearise

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "solver.json"
ADULT = ROOT.parent / "examples" / "adult"
SEED, M, H, TOL, MAX_ITER = 0, 256, 64, 1e-4, 400
RIDGES = ("coefficients", "rkhs")
SUBSETS = (1024, 2048, 4096, 8192, 16384)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("products", "seconds", "subset"))
    parser.add_argument("--data", default=os.environ.get("KREPES_DATA"), help="folder that holds adult/adult.data")
    parser.add_argument("--cache", type=Path, help="folder that keeps the features between runs")
    args = parser.parse_args()
    if args.data is None:
        parser.error("set KREPES_DATA or --data to the folder that holds adult/adult.data")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in args.parts:
        started, rows = time.perf_counter(), []
        for row in {"products": products, "seconds": seconds, "subset": subset}[part](Path(args.data), args.cache):
            print(row, flush=True)
            rows.append(row)
            results[part] = machine(part) | {"wall_seconds": round(time.perf_counter() - started, 1), "rows": rows}
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(f"\n### {part}\n\n{markdown(rows)}")


def machine(part: str) -> dict:
    """Where and how a part ran."""
    return {
        "command": f"python benchmarks/solver.py {part}",
        "processor": platform.processor() or platform.machine(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "krepes": krepes.__version__,
        "seed": SEED,
        "m": M,
        "h": H,
        "tol": TOL,
        "max_iter": MAX_ITER,
    }


def features(name: str, data: Path, cache: Path | None) -> dict[str, Tensor]:
    """φ of both views of all Adult rows (n, r), Λ (r,) and B₀ (r, h); neither depends on the objective's step."""
    if cache and (cache / f"{name}.pt").exists():
        return torch.load(cache / f"{name}.pt")
    sys.path.insert(0, str(ADULT))
    from train import COLUMNS

    schema = TableSchema.load(ADULT / "checkpoints" / "schema.json")
    x = schema.transform(read_csv(data / "adult" / "adult.data", COLUMNS))
    network = MLP(schema.width, (256, 256), H)
    network.load_state_dict(load_file(ADULT / "checkpoints" / f"{name}.safetensors"))
    views, generator = Scarf(x, list(schema.slices.values()), rate=0.3), torch.Generator().manual_seed(SEED)
    a, b = views(x, generator), views(x, generator)
    auditor = krepes.Auditor(
        network.eval(), "spectral_contrastive", krepes.NTK("sketch", sketch=8), M, Newton(damping=1e6, max_iter=1)
    )
    auditor.fit(x[:6000], views=(a[:6000], b[:6000]))
    nystrom = auditor.fit_.nystrom
    phi = [torch.cat([nystrom.features(auditor.kernel(p)).float() for p in view.split(1024)]) for view in (a, b)]
    found = {"phi_a": phi[0], "phi_b": phi[1], "eigenvalues": nystrom.eigenvalues, "B0": nystrom.B0}
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(found, cache / f"{name}.pt")
    return found


def pairs(d: dict[str, Tensor], n: int, seed: int = SEED) -> Pairs:
    return Pairs(d["phi_a"][:n], d["phi_b"][:n], torch.randperm(n, generator=torch.Generator().manual_seed(seed)))


# Products ------------------------------------------------------------------------------------------------


def products(data: Path, cache: Path | None) -> Iterator[dict]:
    """Products that damping="auto" needs, by how its λ are solved; checks and the failing λ included."""
    for name in ("barlow_twins", "vicreg", "simclr"):
        d = features(name, data, cache)
        if name == "simclr":
            problem = objectives.SimCLR(batch_size=512).problem(pairs(d, 2000))
        else:
            problem = objectives.by_name(name).problem(Moments.of(d["phi_a"], d["phi_b"]))
        for ridge in RIDGES:
            system = linearise(problem, d["B0"], d["eigenvalues"], ridge, torch.Generator().manual_seed(SEED))
            row = {"objective": name, "ridge": ridge}
            row["descend, Jacobi"], row["λ tried"] = descend(system, 0)
            row["descend, none"] = descend_plain(system)
            row["multi-shift"], _ = descend(system, None)
            for shared in (32, 64, 128):
                row[f"multi-shift to {shared}, then Jacobi"], _ = descend(system, shared)
            yield row


def descend(system: System, shared: int | None) -> tuple[int, int]:
    """Products and λ until the gain ratio fails, as in `solve`."""
    before = system.curvature.products
    dampings = [relative * system.mean for relative in GRID]
    solves = shifted_solves(system.curvature, -system.gradient, dampings, system.diagonal, TOL, MAX_ITER, shared)
    tried = 0
    for solution in solves:
        tried += 1
        if not system.gain(solution)[0] >= GAIN_RATIO:
            break
    return system.curvature.products - before, tried


def descend_plain(system: System) -> int:
    """The warm-started descent without a preconditioner; stopped in the same norm, √(rᵀPr)."""
    before, x, product = system.curvature.products, torch.zeros_like(system.B), torch.zeros_like(system.B)
    for relative in GRID:
        damping = relative * system.mean
        x = plain(system, damping, x, product)
        product = system.curvature(x)
        predicted = -float((x * (system.gradient + 0.5 * product)).sum())
        after = float(system.problem.value(system.B + system.S * x))
        if not (system.loss - after) / predicted >= GAIN_RATIO:
            break
    return system.curvature.products - before


def plain(system: System, damping: float, x: Tensor, product: Tensor) -> Tensor:
    P = 1 / (system.diagonal + damping)
    target = TOL * (system.gradient.square() * P).sum().sqrt()
    r = -system.gradient - product - damping * x
    p, rr = r.clone(), r.square().sum()
    for _ in range(MAX_ITER):
        if (r.square() * P).sum().sqrt() <= target:
            break
        Ap = system.curvature(p) + damping * p
        alpha = rr / (p * Ap).sum()
        x, r = x + alpha * p, r - alpha * Ap
        rr, old = r.square().sum(), rr
        p = r + rr / old * p
    return x


# Seconds -------------------------------------------------------------------------------------------------


def seconds(data: Path, cache: Path | None) -> Iterator[dict]:
    """Seconds per value, gradient and curvature product of the streamed objectives; the best of three."""
    d = features("simclr", data, cache)
    generator = torch.Generator().manual_seed(SEED)
    V = torch.randn(d["B0"].shape, generator=generator, dtype=torch.float64)
    for name in ("simclr", "byol"):
        for n in (2000, len(d["phi_a"])):
            arguments = (pairs(d, n), d["B0"]) if name == "byol" else (pairs(d, n),)
            problem = objectives.by_name(name).problem(*arguments)
            product = problem.ggn(d["B0"])
            timed = {"value": problem.value, "gradient": problem.gradient}
            row = {"objective": name, "rows": n} | {k: best_of_three(f, d["B0"]) for k, f in timed.items()}
            yield row | {"product": best_of_three(product, V)}


def best_of_three(f, x: Tensor) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        f(x)
        times.append(time.perf_counter() - started)
    return round(min(times), 4)


# Subset --------------------------------------------------------------------------------------------------


def subset(data: Path, cache: Path | None) -> Iterator[dict]:
    """ΔB of a curvature subset against the full curvature's at the same λ; the same with another division."""
    d = features("simclr", data, cache)
    n = len(d["phi_a"])
    for ridge in RIDGES:
        # at the λ that "auto" takes, found cheaply, in absolute units, so that only the curvature differs
        auto, _ = step(d, n, SEED, Newton(ridge, "auto", curvature_samples=8192))
        fixed = {"ridge": ridge, "damping": auto.outcome.damping, "relative": False, "curvature_samples": None}
        full, took = step(d, n, SEED, Newton(**fixed))
        yield {"ridge": ridge, "pairs": f"{n} (all)"} | compare(d, full, full, took)
        for k in SUBSETS:
            found, took = step(d, n, SEED, Newton(**(fixed | {"curvature_samples": k})))
            yield {"ridge": ridge, "pairs": k} | compare(d, found, full, took)
        other, took = step(d, n, SEED + 1, Newton(**fixed))
        yield {"ridge": ridge, "pairs": f"{n} (all), another division"} | compare(d, other, full, took)


def step(d: dict[str, Tensor], n: int, seed: int, settings: Newton):
    problem = objectives.SimCLR(batch_size=1024).problem(pairs(d, n, seed))
    started = time.perf_counter()
    found = solve(settings, lambda B: problem, d["B0"], d["eigenvalues"], torch.Generator().manual_seed(SEED))
    return found, time.perf_counter() - started


def compare(d: dict[str, Tensor], found, full, took: float) -> dict:
    """Relative errors of ΔB in ‖·‖_H and of φΔB over all features, and what the outcome says."""
    error = found.dB - full.dB
    phi = torch.cat([d["phi_a"], d["phi_b"]])
    outcome = found.outcome
    return {
        "error, RKHS": round(float(error.norm() / full.dB.norm()), 4),
        "error, f": round(float((phi @ error.float()).norm() / (phi @ full.dB.float()).norm()), 4),
        "full residual": None if outcome.full_residual is None else round(outcome.full_residual, 4),
        "gain ratio": round(outcome.gain_ratio, 3),
        "loss after": round(outcome.loss_after, 5),
        "products": outcome.products,
        "seconds": round(took, 1),
    }


def markdown(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
