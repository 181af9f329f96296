"""The report of an image run with 1,000 landmarks: seconds to build it, its size, and its first paint in Chromium.

    python benchmarks/report.py            # add --landmarks, --samples; the first paint needs playwright and Chromium

The images are coloured noise at 96 × 96 pixels, which compress worse than photographs.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import measure
import torch
from rich.console import Console

import krepes
from krepes.data import ArraySource, GaussianNoise
from krepes.encoders import SmallCNN
from krepes.run import run_audit, write_report
from krepes.stored import StoredRun

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landmarks", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="few samples: shows that the script works")
    asked = parser.parse_args()
    n, m = (200, 60) if asked.quick else (asked.samples, asked.landmarks)
    with tempfile.TemporaryDirectory() as place:
        facts = measure.machine_facts()
        run = made(Path(place) / "run", n, m)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            path = write_report(StoredRun.open(run), Path(place) / "report.html")
            seconds.append(time.perf_counter() - start)
        size, paint = path.stat().st_size / 1e6, first_paint(path)
    built = statistics.median(seconds)
    painted = statistics.median(paint) if isinstance(paint, list) else None
    fast = None if painted is None else painted < 2000
    checks = [
        measure.check(f"report of {m:,} landmarks: seconds to build", "< 10", f"{built:.2f}", built < 10),
        measure.check(f"report of {m:,} landmarks: size", "≤ 10 MB", f"{size:.2f} MB", size <= 10),
        measure.check("first contentful paint in headless Chromium", "< 2 s",
                      None if painted is None else f"{painted / 1000:.2f} s", fast),
    ]  # fmt: skip
    content = {"figures": {"samples": n, "landmarks": m, "build_seconds": measure.summary(seconds),
                           "megabytes": round(size, 2), "paint_ms": paint}, "checks": checks}  # fmt: skip
    print(measure.write_result("report", asked.quick, content, facts))
    for one in checks:
        print(f"{one['claim']}: {one['found']} (wanted {one['wanted']})")


def made(folder: Path, n: int, m: int) -> Path:
    """A run over n images with m landmarks."""
    torch.manual_seed(0)
    small = torch.rand(n, 3, 24, 24)
    images = (
        torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear") + 0.3 * torch.rand(n, 3, 96, 96)
    ) / 1.3
    network = SmallCNN(in_channels=3, widths=(8, 16), n_out=16).eval()
    auditor = krepes.Auditor(
        network, "vicreg", landmarks=m, newton=krepes.Newton(damping=1.0), trust=krepes.Trust(refits=False)
    )
    plan = krepes.AuditPlan(refits=0, attribution=1024, automatic_concepts=False)
    run_audit(auditor, ArraySource(images), GaussianNoise(0.05), folder, {}, Console(quiet=True), title="benchmark",
              command="benchmarks/report.py", plan=plan)  # fmt: skip
    return folder


def first_paint(path: Path) -> list[float] | str:
    """Milliseconds from opening the file to its first contentful paint, by the browser's own clock; or why not."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "playwright is not installed"
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return "no Chromium was found"
    ask = "() => performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)[0] ?? null"
    found = []
    with sync_playwright() as play:
        for _ in range(REPEATS):
            chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_page()
            page.goto(path.as_uri())
            while (painted := page.evaluate(ask)) is None:
                page.wait_for_timeout(20)
            found.append(round(painted, 1))
            chromium.close()
    return found


if __name__ == "__main__":
    main()
