"""One kernel block of 256 samples × 1024 landmarks by krepes, by plain torch and by other packages.

    python benchmarks/kernel_block.py [--quick] [--models mlp,resnet,vit] [--repeats 5] [--no-memory]

The landmarks' gradient features are prepared before the clock starts, for every way alike. Errors are relative
Frobenius errors against explicit per-sample gradients in float64, raw and after double centring: a tangent kernel has
a large mean, so that only the centred one is honest.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import measure
import peers
import torch
from networks import build, samples
from torch import Tensor, nn
from truth import Truth

SEEDS = {"network": 0, "samples": 1, "landmarks": 2, "sketch": 0, "projection": 0}
MODELS = {
    "mlp": "MLP 108→256→256→128",
    "resnet": "small ResNet, BatchNorm in eval mode, 3×32×32 → 128",
    "vit": "small ViT, patches of 4×4, LayerNorm, 3×32×32 → 128",
}
PROJECT = 512
Made = peers.Way | tuple[str, str]  # a way, or its name and why it cannot be had


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 × 64, two repeats: proves that it runs")
    parser.add_argument("--models", default="mlp,resnet,vit")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--no-memory", action="store_true", help="do not measure each way's peak memory in a child")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = (32, 64) if args.quick else (256, 1024)
    if args.child:
        measure_child(*args.child, size)
        return
    facts = measure.machine_facts()
    content: dict[str, Any] = {"seeds": SEEDS, "block": size, "packages": package_versions(), "models": {}}
    for model in args.models.split(","):
        print(MODELS[model], flush=True)
        memory = not args.no_memory and (model == "mlp" or not args.quick)
        repeats = args.repeats or (2 if args.quick else 5)
        content["models"][model] = measure_model(model, size, repeats, memory, args.quick)
        content["tables"] = [model_table(r, size) for r in content["models"].values()]
        content["checks"] = checks(content["models"])
        path = measure.write_result("kernel_block", args.quick, content, facts)
    print(f"written: benchmarks/results/{path.name}")


def package_versions() -> dict[str, str]:
    """Versions of krepes and of the packages beside it."""
    found = {}
    for name in ("krepes", "traker", "dattri", "lfxai"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


# ------------------------------------------------------------------ what is measured
def krepes_settings(model: str) -> dict[str, dict[str, Any]]:
    """krepes' own ways. Where gradients are explicit, q directions cost q pseudo kernels and tell nothing new."""
    several = {
        "krepes, sketch q=8": {"variant": "sketch", "sketch": 8},
        "krepes, sketch q=32": {"variant": "sketch", "sketch": 32},
        "krepes, trace (exact)": {"variant": "trace"},
    }
    return {
        "krepes, pseudo": {"variant": "pseudo"},
        "krepes, pseudo, bfloat16": {"variant": "pseudo", "precision": "bfloat16", "center": True},
        **(several if model == "mlp" else {}),
        f"krepes, pseudo, project={PROJECT}": {"variant": "pseudo", "project": PROJECT},
        "krepes, pseudo, project=4096": {"variant": "pseudo", "project": 4096},
    }


def make_ways(model: str, network: nn.Module, z: Tensor, batch: int, only: str | None = None) -> Iterator[Made]:
    """Every way, or those whose name begins like `only`, so that a child holds nothing else."""
    for label, settings in krepes_settings(model).items():
        if only in (None, label):
            yield from attempt(label, lambda s=settings, n=label: [peers.krepes_way(network, z, n, **s)])
    if only is not None and only.startswith("krepes"):
        return
    w = peers.pseudo_direction(peers.outputs(network))
    Z = torch.cat([peers.sample_gradients(network, part, w) for part in z.split(256)])
    groups = {
        "vmap": lambda: [peers.gemm_way(network, Z), peers.gemm_way(network, Z, "bfloat16")],
        "TRAK": lambda: peers.trak_ways(network, Z, PROJECT),
        "dattri": lambda: peers.dattri_ways(network, Z, PROJECT),
        "LFXAI": lambda: [peers.lfxai_way(network, Z, z, batch)],
    }
    for name, make in groups.items():
        if only is None or only.startswith(name):
            yield from attempt(name, make)


def attempt(name: str, make) -> Iterator[Made]:
    """What `make` returns, or why it cannot."""
    try:
        yield from make()
    except Exception as error:
        yield name, reason(error)


def reason(error: Exception) -> str:
    """The first line of an error."""
    line = measure.without_paths((str(error).splitlines() or [""])[0])[:200]
    return line if isinstance(error, peers.MissingError) else f"{type(error).__name__}: {line}"


def measure_model(model: str, size: tuple[int, int], repeats: int, memory: bool, quick: bool) -> dict[str, Any]:
    """Seconds, errors and peak memory of every way on one network."""
    network, x, z = build(model), samples(model, size[0], 1), samples(model, size[1], 2)
    truth, ways, missing = Truth(model, x, z), [], {}
    results: dict[str, Any] = {}
    for made in make_ways(model, network, z, len(x)):
        if not isinstance(made, peers.Way):
            missing[made[0]] = made[1]
            continue
        try:
            errors = truth.errors(made)
        except Exception as error:
            missing[made.name] = reason(error)
            continue
        ways.append(made)
        results[made.name] = {"covers": made.covers, "note": made.note, "scale": made.scale, **errors}
    timed = {w.name: (lambda w=w: w.block(x)) for w in ways}
    timed |= {f"{w.name}, plus": w.plus for w in ways if w.plus is not None}
    for plus in (w.plus for w in ways if w.plus is not None):
        plus()  # of the others, the errors' pass was the warm-up
    seconds = measure.interleaved(timed, repeats, warm_up=0)
    for way in ways:
        added = seconds.get(f"{way.name}, plus", [0.0] * repeats)
        whole = [s * way.scale + more for s, more in zip(seconds[way.name], added, strict=True)]
        results[way.name]["seconds"] = measure.summary(whole)
        print(f"  {way.name:<36} {results[way.name]['seconds']['median']:.4g} s", flush=True)
    for name, why in missing.items():
        print(f"  {name:<36} not measured: {why}", flush=True)
    ways.clear()
    for name in results if memory else ():
        results[name]["memory"] = peak_of(model, name, quick)
    return {
        "network": MODELS[model],
        "parameters": peers.parameter_count(network),
        "samples_on_a_kink": truth.kinks,
        "ways": results,
        "missing": missing,
    }


# --------------------------------------------------------------------- peak memory
def peak_of(model: str, way: str, quick: bool) -> dict[str, Any]:
    """Peak resident bytes of one way in a process of its own, over what stands after the imports."""
    command = [sys.executable, __file__, "--child", model, way, *(["--quick"] if quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        run = measure.run_child(command, Path(folder) / "child")
    return {"failed": run.last_words} if run.code else json.loads(run.stdout.strip().splitlines()[-1])


def measure_child(model: str, wanted: str, size: tuple[int, int]) -> None:
    """Prepare and run one way, print what memory it took."""
    network, x, z = build(model), samples(model, size[0], 1), samples(model, size[1], 2)
    network(x[:2])
    before = measure.peak_bytes()
    way = next(m for m in make_ways(model, network, z, len(x), wanted) if getattr(m, "name", "") == wanted)
    way.block(x)
    peak = measure.peak_bytes()
    print(json.dumps({"before_bytes": before, "peak_bytes": peak, "over_bytes": peak - before}))


# --------------------------------------------------------------------- what is shown
def model_table(result: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The table of one network."""
    plain = result["ways"].get("vmap(grad) + GEMM")
    rows = []
    for name, r in result["ways"].items():
        s = r["seconds"]
        times = f"{plain['seconds']['median'] / s['median']:.3g}" if plain else "–"
        skipped = result["parameters"] - r["covers"]
        remarks = [r["note"]] if r["note"] else []
        remarks += [f"leaves out {skipped:,} parameters"] if skipped else []
        against = r.get("error_against_trace_centred")
        remarks += [f"{against:.1e} centred against the exact trace"] if against is not None else []
        rows.append(
            [
                name,
                measure.seconds_text(s["median"]),
                f"{measure.seconds_text(s['min'])}–{measure.seconds_text(s['max'])}",
                times,
                "–" if r["error"] is None else f"{r['error']:.1e}",
                f"{r['error_centred']:.1e}",
                measure.mebibytes(r.get("memory", {}).get("over_bytes")),
                "; ".join(remarks),
            ]
        )
    rows += [[name, "not measured", "", "", "", "", "", why] for name, why in result["missing"].items()]
    note = f"Errors leave out {result['samples_on_a_kink']} of {sum(size):,} samples on a ReLU's kink, whose gradients "
    note += "differ between float32 and float64 whoever computes them (the JSON has the errors with all samples)."
    columns = ["way", "s", "min–max", "× vmap", "error", "centred", "peak MiB", "remark"]
    title = f"Kernel block {size[0]} × {size[1]}: {result['network']}, {result['parameters']:,} parameters"
    return measure.table(title, columns, rows, note)


def checks(models: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures that the project looks for."""
    found = []

    def faster(model: str, ours: str, theirs: str, wanted: float) -> None:
        ways = models.get(model, {}).get("ways", {})
        have = ours in ways and theirs in ways
        ratio = ways[theirs]["seconds"]["median"] / ways[ours]["seconds"]["median"] if have else None
        claim = f"{model}: {ours} against {theirs}"
        met = None if ratio is None else ratio >= wanted
        found.append(measure.check(claim, f"≥ {wanted} × faster", ratio and f"{ratio:.3g} ×", met))

    def exact(model: str, ours: str, key: str, wanted: float) -> None:
        value = models.get(model, {}).get("ways", {}).get(ours, {}).get(key)
        met = None if value is None else value <= wanted
        found.append(
            measure.check(f"{model}: {ours}, {key.replace('_', ', ')}", f"≤ {wanted:g}", value and f"{value:.1e}", met)
        )

    faster("mlp", "krepes, pseudo", "vmap(grad) + GEMM", 50)
    exact("mlp", "krepes, pseudo", "error", 1e-5)
    faster("resnet", "krepes, pseudo", "vmap(grad) + GEMM", 1)
    faster("resnet", "krepes, pseudo, bfloat16", "vmap(grad) + GEMM", 1.4)
    faster("resnet", "krepes, pseudo", "TRAK, NoOp featurize + GEMM", 3)
    faster("resnet", "krepes, pseudo", "TRAK, NoOp + GEMM, in memory", 3)
    exact("resnet", "krepes, pseudo", "error_centred", 5e-4)
    exact("resnet", "krepes, pseudo, bfloat16", "error_centred", 5e-3)
    return found


if __name__ == "__main__":
    main()
