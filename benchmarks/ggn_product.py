"""Seconds and memory of one GGN product: moment objectives against a stream over stored features.

    python benchmarks/ggn_product.py [--quick] [--sizes 10000,1000000] [--r 1000] [--h 64]
                                     [--repeats 5] [--stream-rows 100000]

Features are random: φ_a = s∘x, φ_b = s∘(x + .3 noise) with a decaying scale s. Barlow Twins and VICReg know the data
through moments of size r², so that their product does not grow with n; SimCLR runs over all pairs in batches of 1,024.
Beyond --stream-rows, or where features and the float64 copies of the batches do not fit into the memory that is free,
the stream is measured on fewer rows and scaled in n, in which it is linear; the table says so.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

from krepes import objectives
from krepes.objectives import Moments
from krepes.objectives.pairs import Pairs

MOMENT, STREAMED = ("barlow_twins", "vicreg"), "simclr"
BLOCK = 8192
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="n = 1,000 and 4,000, r = 60, h = 8")
    parser.add_argument("--sizes")
    parser.add_argument("--r", type=int)
    parser.add_argument("--h", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--stream-rows", type=int, default=100_000, help="rows on which SimCLR is measured at most")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    r, h = args.r or (60 if args.quick else 1000), args.h or (8 if args.quick else 64)
    if args.child:
        print(json.dumps(product_memory(args.child[0], int(args.child[1]), r, h)))
        return
    facts = measure.machine_facts()
    sizes = [int(s) for s in (args.sizes or ("1000,4000" if args.quick else "10000,1000000")).split(",")]
    repeats, cases = args.repeats or (2 if args.quick else 5), []
    for n in sizes:
        cases += measure_size(n, r, h, repeats, args.stream_rows)
        for case in cases[-3:]:
            print(f"n = {n:,} {case['objective']:<14} {case['seconds']['median']:.4g} s", flush=True)
    for case in cases:
        case["memory"] = in_child(case["objective"], case["rows_measured"], r, h)
    content = {"seeds": {"features": SEED}, "r": r, "h": h, "cases": cases, "tables": [result_table(cases, r, h)]}
    content["checks"] = checks(cases)
    path = measure.write_result("ggn_product", args.quick, content, facts)
    print(f"written: benchmarks/results/{path.name}")


def blocks(n: int, r: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Paired random features, block by block, the same for every caller."""
    generator = torch.Generator().manual_seed(SEED)
    scale = torch.linspace(0, -3, r).exp()
    for start in range(0, n, BLOCK):
        x = torch.randn(min(BLOCK, n - start), r, generator=generator)
        yield scale * x, scale * (x + 0.3 * torch.randn(x.shape, generator=generator))


def store(n: int, r: int) -> Pairs:
    """The features of n samples in memory, as the pipeline keeps them for a streamed objective."""
    phi_a, phi_b = torch.empty(n, r), torch.empty(n, r)
    for i, (a, b) in enumerate(blocks(n, r)):
        phi_a[i * BLOCK : i * BLOCK + len(a)], phi_b[i * BLOCK : i * BLOCK + len(b)] = a, b
    return Pairs(phi_a, phi_b, torch.randperm(n, generator=torch.Generator().manual_seed(SEED)))


def rows_that_fit(n: int, r: int) -> int:
    """n, or fewer rows: two float32 views and their float64 copies shall take 60 % of the free memory at most."""
    affordable = int(0.6 * measure.available_bytes() / (2 * r * (4 + 8)))
    while n > affordable:
        n //= 10
    return n


def measure_size(n: int, r: int, h: int, repeats: int, most: int) -> list[dict[str, Any]]:
    """One product per objective, interleaved."""
    B, V = start(r, h)
    started = time.perf_counter()
    moments = moments_of(n, r)
    pass_seconds = time.perf_counter() - started
    rows = min(rows_that_fit(n, r), most)
    pairs = store(rows, r)
    problems = {name: objectives.by_name(name).problem(moments) for name in MOMENT}  # type: ignore[attr-defined]
    problems[STREAMED] = objectives.by_name(STREAMED).problem(pairs)  # type: ignore[attr-defined]
    products, prepare = {}, {}
    for name, problem in problems.items():
        started = time.perf_counter()
        products[name] = problem.ggn(B)
        prepare[name] = time.perf_counter() - started
    few = {name: repeats if name in MOMENT or rows <= 10_000 else min(repeats, 2) for name in products}
    seconds = measure.interleaved({k: (lambda p=p: p(V)) for k, p in products.items()}, min(few.values()))
    more = {k: (lambda p=p: p(V)) for k, p in products.items() if k in MOMENT}
    for name, extra in measure.interleaved(more, repeats - min(few.values())).items():
        seconds[name] += extra
    cases = []
    for name in products:
        scale = n / rows if name == STREAMED else 1.0
        held = moment_bytes(moments) if name in MOMENT else 2 * n * r * 4
        cases.append(
            {
                "objective": name,
                "n": n,
                "rows_measured": rows if name == STREAMED else n,
                "scale": scale,
                "seconds": measure.summary([s * scale for s in seconds[name]]),
                "prepare_seconds": prepare[name] * scale,
                "held_bytes": held,
                **({"moments_pass_seconds": pass_seconds} if name in MOMENT else {}),
            }
        )
    return cases


def moments_of(n: int, r: int) -> Moments:
    """Moments of all blocks."""
    stream = blocks(n, r)
    total = Moments.of(*next(stream))
    for a, b in stream:
        total = total + Moments.of(a, b)
    return total


def moment_bytes(moments: Moments) -> int:
    """Bytes of the five sums."""
    return sum(t.numel() * t.element_size() for t in moments.tensors().values())


def start(r: int, h: int) -> tuple[Tensor, Tensor]:
    """B near the principal components, and a direction V."""
    generator = torch.Generator().manual_seed(SEED + 1)
    noise = torch.randn(r, h, generator=generator, dtype=torch.float64)
    return torch.eye(r, h, dtype=torch.float64) + 0.05 * noise, torch.randn(noise.shape, generator=generator).double()


def product_memory(name: str, n: int, r: int, h: int) -> dict[str, Any]:
    """Peak resident bytes of one product over what stands after the imports."""
    B, V = start(r, h)
    before = measure.peak_bytes()
    if name in MOMENT:  # the sums have the same size whatever n is
        problem = objectives.by_name(name).problem(moments_of(min(n, BLOCK), r))  # type: ignore[attr-defined]
    else:
        problem = objectives.by_name(name).problem(store(n, r))  # type: ignore[attr-defined]
    problem.ggn(B)(V)
    return {"over_bytes": measure.peak_bytes() - before}


def in_child(name: str, n: int, r: int, h: int) -> dict[str, Any]:
    """`product_memory` in a process of its own."""
    command = [sys.executable, __file__, "--r", str(r), "--h", str(h), "--child", name, str(n)]
    with tempfile.TemporaryDirectory() as folder:
        run = measure.run_child(command, Path(folder) / "child")
    return {"failed": run.last_words} if run.code else json.loads(run.stdout.strip().splitlines()[-1])


def result_table(cases: list[dict[str, Any]], r: int, h: int) -> dict[str, Any]:
    """Seconds and memory of every case."""
    rows = []
    for c in cases:
        s, scaled = c["seconds"], c["scale"] != 1
        remark = f"measured on {c['rows_measured']:,} rows, scaled by {c['scale']:g}" if scaled else ""
        if "moments_pass_seconds" in c:
            remark = f"the pass that sums the moments, once: {measure.seconds_text(c['moments_pass_seconds'])} s"
        rows.append(
            [
                c["objective"],
                f"{c['n']:,}",
                measure.seconds_text(s["median"]),
                f"{measure.seconds_text(s['min'])}–{measure.seconds_text(s['max'])}",
                measure.mebibytes(c["held_bytes"]),
                measure.mebibytes(c.get("memory", {}).get("over_bytes")),
                remark,
            ]
        )
    columns = ["objective", "n", "s per product", "min–max", "held MiB", "peak MiB", "remark"]
    note = "held: the moments, or both views' features in float32 for all n. peak: of a process that does one product."
    return measure.table(f"One GGN product, r = {r:,}, h = {h}", columns, rows, note)


def checks(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A moment objective's product must not grow with n."""
    found = []
    for name in MOMENT:
        times = [c["seconds"]["median"] for c in sorted(cases, key=lambda c: c["n"]) if c["objective"] == name]
        ratio = times[-1] / times[0] if len(times) > 1 else None
        met = None if ratio is None else ratio <= 1.2
        text = None if ratio is None else f"{ratio:.2f} ×"
        found.append(measure.check(f"{name}: a product at the largest n against the smallest", "≤ 1.2 ×", text, met))
    return found


if __name__ == "__main__":
    main()
