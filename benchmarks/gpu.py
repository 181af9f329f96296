"""krepes on a CUDA device: a ResNet-18's images per second, what TF32 and bfloat16 cost, a million table rows.

    python benchmarks/gpu.py [--quick] [--landmarks 1000] [--batch 256] [--rows 1000000]

Next to each figure stands its floor: the larger of operations over the peak rate and bytes over the bandwidth, both
measured here with plain products and copies. `--device cpu --quick` proves that the script works without such a device.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import measure
import peers
import torch
from networks import build, samples
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from truth import relative

import krepes
from krepes.data import Scarf
from krepes.encoders import MLP

SEEDS = {"network": 0, "samples": 1, "landmarks": 2, "table": 3, "audit": 0}
# encoded width of each column of the Adult table: six numbers, eight categories with slots for missing and unseen
WIDTHS = (1, 1, 1, 1, 1, 1, 10, 18, 9, 16, 8, 7, 4, 43)
DIRECTIONS, HIDDEN, OUT = 8, (256, 256), 64
PROJECT = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 images × 8 landmarks, 2,000 rows × 100 landmarks")
    parser.add_argument("--landmarks", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py measures a CUDA device, and torch sees none here: nothing was measured.")
    if args.quick:
        args.landmarks, args.batch, args.rows, args.repeats = 8, 4, 2000, 2
    facts, device = measure.machine_facts(), torch.device(args.device)
    peaks = measure_peaks(device, 256 if args.quick else 8192)
    images, missing = measure_images(device, args, peaks)
    content: dict[str, Any] = {"seeds": SEEDS, "peaks": peaks, "images": images, "missing": missing}
    content["tables"] = [peaks_table(peaks), images_table(images, missing, args)]
    measure.write_result("gpu", args.quick, content, facts)  # kept even if the long run below fails
    content["rows"] = []
    for precision in ("float32", "bfloat16") if peers.accepts(krepes.Auditor, "precision") else ("float32",):
        content["rows"].append(measure_rows(device, args.rows, 100 if args.quick else 1000, peaks, precision))
        content["tables"].append(rows_table(content["rows"][-1]))
    path = measure.write_result("gpu", args.quick, content, facts)
    for shown in content["tables"]:
        print(f"\n{shown['title']}\n{measure.markdown_table(shown['columns'], shown['rows'])}")
    print(f"written: benchmarks/results/{path.name}")


# -------------------------------------------------------------------------- the device
@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions with or without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_peaks(device: torch.device, size: int) -> dict[str, float]:
    """Operations per second of a square product in three precisions, bytes per second of a copy."""
    found = {}
    for name, dtype, allowed in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        with tf32(allowed):
            seconds = measure.interleaved({"x": lambda a=a, b=b: a @ b}, 5, 2, lambda: wait(device))["x"]
        found[name] = 2 * size**3 / min(seconds)
    x = torch.empty(size * size * 4, device=device)
    y = torch.empty_like(x)
    seconds = measure.interleaved({"x": lambda: y.copy_(x)}, 5, 2, lambda: wait(device))["x"]
    return found | {"bytes": 2 * 4 * x.numel() / min(seconds)}


# -------------------------------------------------------------------------- images
def measure_images(
    device: torch.device, args: argparse.Namespace, peaks: dict[str, float]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """ResNet-18, pseudo kernel, explicit and projected, in float32, TF32 and bfloat16.

    One way at a time: the landmarks' explicit gradients take tens of gigabytes.
    """
    network = build("resnet18")
    x, z = samples("resnet18", args.batch, 1), samples("resnet18", args.landmarks, 2)
    x, z = x.to(device), z.to(device)
    found, missing, exact = [], {}, None
    for project in (None, PROJECT):
        reference = None
        for mode in ("float32", "tf32", "bfloat16"):
            label = f"{'explicit' if project is None else f'projected, k={project:,}'}, {mode}"
            settings: dict[str, Any] = {"variant": "pseudo"} | ({"project": project} if project else {})
            settings |= {"precision": "bfloat16"} if mode == "bfloat16" else {}
            try:
                with tf32(mode == "tf32"):
                    way = peers.krepes_way(network, z, label, device=str(device), **settings)
                    K = way.block(x).cpu()
                    times = measure.interleaved({"x": lambda w=way: w.block(x)}, args.repeats, 1, lambda: wait(device))
            except Exception as error:
                missing[label] = measure.without_paths((str(error).splitlines() or [type(error).__name__])[0])[:200]
                continue
            reference = K if reference is None else reference
            exact = K if exact is None else exact
            (raw, centred), against_exact = relative(K, reference), relative(K, exact)[1]
            floor = image_floor(network, args, mode, project, peaks)
            s = measure.summary(times["x"])
            errors = {"error": raw, "error_centred": centred, "error_against_explicit_centred": against_exact}
            found.append({"way": label, "seconds": s, **errors, "floor": floor})
            print(f"{label:<28} {args.batch / s['median']:.4g} images/s", flush=True)
            del way
            if device.type == "cuda":
                found[-1]["peak_device_bytes"] = torch.cuda.max_memory_allocated()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return found, missing


def image_floor(
    network: nn.Module, args: argparse.Namespace, mode: str, project: int | None, peaks: dict[str, float]
) -> dict[str, float]:
    """Least seconds of a batch: forward, two backward products per layer, the block's product; bytes moved once.

    Explicit: gradients are written and read once, the landmarks' read once per batch. Projected: no weight gradient
    need be formed, k numbers per sample are written and read.
    """
    with FlopCounterMode(display=False) as counter:
        network(samples("resnet18", 1, 0))
    P, B, m = peers.parameter_count(network), args.batch, args.landmarks
    width = 2 if mode == "bfloat16" else 4
    convolutions = (2 if project else 3) * counter.get_total_flops() * B
    product = 2 * B * m * (project or P)
    moved = (2 * B + m) * (project or P) * width + 4 * P
    # bfloat16 concerns the stored features: convolutions stay in float32
    seconds = convolutions / peaks["float32" if mode == "bfloat16" else mode] + product / peaks[mode]
    by_bytes = moved / peaks["bytes"]
    return {"operations": convolutions + product, "bytes": moved, "seconds": max(seconds, by_bytes)}


# ---------------------------------------------------------------------------- rows
def synthetic_rows(n: int) -> tuple[Tensor, list[slice]]:
    """Encoded rows of the Adult table's shape (n, 121): normal numbers and one-hot categories."""
    generator = torch.Generator().manual_seed(SEEDS["table"])
    ends = torch.tensor(WIDTHS).cumsum(0).tolist()
    slices = [slice(end - width, end) for end, width in zip(ends, WIDTHS, strict=True)]
    x = torch.zeros(n, ends[-1])
    for part in slices:
        width = part.stop - part.start
        if width == 1:
            x[:, part.start] = torch.randn(n, generator=generator)
        else:
            weights = torch.arange(1, width + 1, dtype=torch.float).reciprocal()
            drawn = torch.multinomial(weights, n, replacement=True, generator=generator)
            x[torch.arange(n), part.start + drawn] = 1
    return x, slices


def measure_rows(device: torch.device, n: int, m: int, peaks: dict[str, float], precision: str) -> dict[str, Any]:
    """`Auditor.fit` on n rows: seconds per stage. The weights are random: time does not hang on them."""
    x, slices = synthetic_rows(n)
    torch.manual_seed(SEEDS["network"])
    auditor = krepes.Auditor(
        MLP(x.shape[1], HIDDEN, OUT).eval(),
        krepes.BarlowTwins(),
        kernel=krepes.NTK("sketch", sketch=DIRECTIONS),
        landmarks=m,
        newton=krepes.Newton(damping="auto"),
        device=device,
        **({} if precision == "float32" else {"precision": precision}),
    )
    started = time.perf_counter()
    auditor.fit(x, Scarf(x, slices, 0.3))
    wait(device)
    seconds = time.perf_counter() - started
    sizes = [(x.shape[1], HIDDEN[0]), (HIDDEN[0], HIDDEN[1]), (HIDDEN[1], OUT)]
    network = sum(2 * a * b for a, b in sizes) * (1 + DIRECTIONS)
    block = sum(2 * m * (a + 1 + DIRECTIONS * b) for a, b in sizes)
    moments = 3 * 2 * m * m / 2 + 2 * m * m  # per view: its share of the three sums, and the features
    operations = 2.0 * n * (network + block + moments)
    moved = 2.0 * n * (4 * x.shape[1] + 2 * 4 * m)  # rows in, kernel rows written and read
    return {
        "n": n,
        "m": m,
        "precision": precision,
        "seconds": seconds,
        "stages": {k: round(v, 4) for k, v in auditor.progress.timings.items()},
        "outcome": auditor.outcome_.status.name,
        "floor": {
            "operations": operations,
            "bytes": moved,
            "seconds": max(operations / peaks["float32"], moved / peaks["bytes"]),
        },
    }


# --------------------------------------------------------------------------- tables
def peaks_table(peaks: dict[str, float]) -> dict[str, Any]:
    """What the device does at best."""
    rows = [[f"product, {k}", f"{v / 1e12:.3g} TFLOP/s"] for k, v in peaks.items() if k != "bytes"]
    rows.append(["copy", f"{peaks['bytes'] / 1e9:,.0f} GB/s"])
    return measure.table("The device's peaks, measured", ["what", "rate"], rows)


def images_table(found: list[dict[str, Any]], missing: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """Images per second into kernel rows."""
    rows = []
    for f in found:
        floor = f["floor"]
        rows.append(
            [
                f["way"],
                f"{args.batch / f['seconds']['median']:.4g}",
                f"{args.batch / floor['seconds']:.4g}",
                f"{floor['operations'] / 1e12:.3g}",
                f"{floor['bytes'] / 1e9:.3g}",
                f"{f['error']:.1e}",
                f"{f['error_centred']:.1e}",
                f"{f['error_against_explicit_centred']:.1e}",
                f"{f['peak_device_bytes'] / 2**30:.1f}" if "peak_device_bytes" in f else "–",
            ]
        )
    rows += [[name, f"not measured: {why}", "", "", "", "", "", "", ""] for name, why in missing.items()]
    columns = [
        "way",
        "images/s",
        "at the floor",
        "TFLOP",
        "GB moved",
        "error",
        "centred",
        "against explicit",
        "device GiB",
    ]
    note = "Errors are against the same kernel in float32, and (centred) against the explicit one in float32. "
    note += "TFLOP and GB are of one batch, as counted for the floor."
    title = f"ResNet-18 (3×32×32, pseudo kernel), {args.batch} images × {args.landmarks:,} landmarks"
    return measure.table(title, columns, rows, note)


def rows_table(r: dict[str, Any]) -> dict[str, Any]:
    """Seconds per stage of the table run."""
    rows = [[k, measure.seconds_text(v)] for k, v in r["stages"].items()]
    rows.append(["all", measure.seconds_text(r["seconds"])])
    floor = r["floor"]
    counted = f"{floor['operations'] / 1e12:.3g} TFLOP, {floor['bytes'] / 1e9:.3g} GB"
    rows.append([f"floor of the views' pass ({counted}, float32)", measure.seconds_text(floor["seconds"])])
    title = f"Auditor.fit on {r['n']:,} synthetic rows of Adult's shape, m = {r['m']:,}, sketch of {DIRECTIONS}"
    title += f", {r['precision']}"
    return measure.table(title, ["stage", "s"], rows)


if __name__ == "__main__":
    main()
