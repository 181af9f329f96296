"""The report of an image run with 1,000 landmarks: seconds to build it, its size, and its first paint in Chromium.

    python benchmarks/report.py            # add --landmarks, --samples; the first paint needs playwright and Chromium

The images are coloured noise at 96 × 96 pixels, which compress worse than photographs.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

import krepes
from krepes.data import ArraySource, GaussianNoise
from krepes.encoders import SmallCNN
from krepes.run import run_audit, write_report
from krepes.stored import StoredRun

RESULT = Path(__file__).parent / "results" / "report.json"
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landmarks", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        run = made(Path(place) / "run", asked.samples, asked.landmarks)
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            path = write_report(StoredRun.open(run), Path(place) / "report.html")
            seconds.append(time.perf_counter() - start)
        result = {
            "samples": asked.samples, "landmarks": asked.landmarks, "seconds to build": spread(seconds),
            "megabytes": round(path.stat().st_size / 1e6, 2), "first contentful paint, ms": first_paint(path),
            "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


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


def first_paint(path: Path) -> dict[str, float] | str:
    """From opening the file to its first contentful paint, by the browser's own clock."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "playwright is not installed"
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return "no Chromium was found"
    ask = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    found = []
    with sync_playwright() as play:
        for _ in range(REPEATS):
            chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_page()
            page.goto(path.as_uri())
            page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
            found.append(page.evaluate(ask))
            chromium.close()
    return spread(found)


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
