"""Frames of the app's map over a million points, in headless Chromium that renders in software.

    python benchmarks/app_frames.py [--points 1000000] [--seconds 5] [--quick]

The mouse drags the map and its wheel zooms in and out; the page's own clock tells how long each frame took. Server,
browser and this script share the machine's cores: the page at rest and the map without landmarks are told beside it.
At the end the wheel turns once more while the browser notes what its threads do. Figures go to
results/app_frames.json. Needs playwright and Chromium (KREPES_CHROMIUM names another one).
"""

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from app import App, write_run
from measure import check, machine_facts, table, write_result
from playwright.sync_api import Browser, Page, sync_playwright

LONG = 50.0  # milliseconds: a frame that is seen to hang
THREADS = {  # of Chromium, their tasks, and what these are
    "VizCompositorThread": {"RunTask": "compositor thread, all",
                            "SoftwareRenderer::DoDrawQuad": "compositor: drawing tiles"},
    "CrRendererMain": {"RunTask": "page's thread, all", "FunctionCall": "page: its script",
                       "UpdateLayoutTree": "page: styles", "Commit": "page: handing over to the compositor"},
}  # fmt: skip
CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline", "toplevel", "cc", "viz", "blink", "v8"]
RECORD = """() => {
    window.frames_ = []; let last = null, going = true;
    const next = (now) => {
        if (last !== null) frames_.push(now - last);
        last = now;
        if (going) requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
    window.stop_ = () => { going = false; return frames_; };
}"""


def main() -> None:
    """Make the folder, start the app, move its map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each movement")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    n, seconds = (20_000, 1.0) if asked.quick else (asked.points, asked.seconds)
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="krepes-frames-") as place:
        folder = Path(place) / "run"
        write_run(folder, n)
        with App(folder) as app, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            facts["browser"] = f"Chromium {browser.version}, headless, software rendering"
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"http://{app._host}/?token={app._cookie.partition('=')[2]}")
            settled(page)
            frames = {name: distribution(found) for name, found in moved(page, seconds).items()}
            threads = traced(browser, page, seconds, Path(place) / "trace.json")
            browser.close()
    result = {"figures": {"points": n, "seconds": seconds, "frames": frames, "threads": threads},
              "tables": [as_table(n, frames), of_threads(threads)],
              "checks": checks(frames)}  # fmt: skip
    print(json.dumps(facts | result["figures"], indent=1))
    print(write_result("app_frames", asked.quick, result, facts))


def chromium() -> str:
    """The browser's path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("KREPES_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or sys.exit("no Chromium was found; name one in KREPES_CHROMIUM")


def settled(page: Page) -> None:
    """Until the page is there and all its tiles have arrived."""
    page.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
    page.wait_for_load_state("networkidle", timeout=120_000)
    page.wait_for_timeout(500)


def moved(page: Page, seconds: float) -> dict[str, list[float]]:
    """Milliseconds between frames, for each kind of movement."""
    box = page.locator("#map").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(at: float) -> None:
        page.mouse.move(x + 250 * math.sin(2.1 * at), y + 150 * math.sin(3.3 * at))

    def wheel(at: float) -> None:
        turn(page, at)

    def zoomed() -> None:
        page.mouse.move(x, y)
        for _ in range(3):
            page.mouse.wheel(0, -120)
            page.wait_for_timeout(400)
        settled(page)

    found = {"at rest": recorded(page, seconds, lambda at: page.wait_for_timeout(50))}
    page.mouse.move(x, y)
    found["zoom by wheel"] = recorded(page, seconds, wheel)
    page.click("#whole")
    zoomed()
    found["drag"] = dragged(page, seconds, drag, x, y)
    settled(page)
    page.uncheck("#marks")
    found["drag without landmarks"] = dragged(page, seconds, drag, x, y)
    page.click("#whole")
    settled(page)
    page.mouse.move(x, y)
    found["zoom without landmarks"] = recorded(page, seconds, wheel)
    return found


def turn(page: Page, at: float) -> None:
    """The wheel in for two seconds and out for two."""
    page.mouse.wheel(0, -60 if at % 4 < 2 else 60)
    page.wait_for_timeout(30)


def traced(browser: Browser, page: Page, seconds: float, path: Path) -> list[dict[str, Any]]:
    """What the browser's threads do while the wheel zooms: share of the time at work, and their longest task."""
    page.click("#whole")
    settled(page)
    page.locator("#map").hover()
    browser.start_tracing(page=page, path=path, categories=CATEGORIES)
    begun = time.perf_counter()
    recorded(page, seconds, lambda at: turn(page, at))
    passed = time.perf_counter() - begun
    browser.stop_tracing()
    events = json.loads(path.read_bytes())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    tasks = [(names.get((e["pid"], e["tid"]), "?"), e["name"], e["dur"] / 1000) for e in events if e.get("ph") == "X"]
    found = []
    for thread, parts in THREADS.items():
        for part in parts:
            times = [ms for name, what, ms in tasks if name == thread and what == part]
            found.append({"thread": thread, "task": part, "share": sum(times) / 1000 / passed, "n": len(times),
                          "max_ms": max(times, default=0.0)})  # fmt: skip
    return found


def of_threads(threads: list[dict[str, Any]]) -> dict[str, Any]:
    """For docs/benchmarks.md."""
    rows = [(THREADS[t["thread"]][t["task"]], f"{100 * t['share']:.0f} %", t["n"], f"{t['max_ms']:.1f}")
            for t in threads]  # fmt: skip
    note = "A wall-clock trace while the wheel zooms; tracing itself slows the page."
    return table("What the browser does meanwhile", ("task", "of the time", "n", "longest ms"), rows, note)


def dragged(page: Page, seconds: float, drag: Callable[[float], Any], x: float, y: float) -> list[float]:
    """Frames while the mouse holds the map."""
    page.mouse.move(x, y)
    page.mouse.down()
    found = recorded(page, seconds, drag)
    page.mouse.up()
    return found


def recorded(page: Page, seconds: float, step: Callable[[float], Any]) -> list[float]:
    """Milliseconds between frames while something is done again and again."""
    page.evaluate(RECORD)
    begun = time.perf_counter()
    while (at := time.perf_counter() - begun) < seconds:
        step(at)
    return page.evaluate("stop_()")


def distribution(frames: list[float]) -> dict[str, float]:
    """Of the milliseconds of some frames."""
    found = np.array(frames)
    return {"frames": len(found), "p50_ms": float(np.quantile(found, 0.5)), "p95_ms": float(np.quantile(found, 0.95)),
            "max_ms": float(found.max()), "share_over_50_ms": float((found > LONG).mean())}  # fmt: skip


def as_table(n: int, frames: dict[str, dict[str, float]]) -> dict[str, Any]:
    """For docs/benchmarks.md."""
    rows = [(name, f["frames"], f"{f['p50_ms']:.1f}", f"{f['p95_ms']:.1f}", f"{f['max_ms']:.1f}",
             f"{100 * f['share_over_50_ms']:.1f} %") for name, f in frames.items()]  # fmt: skip
    return table(f"Frames of the map, {n:,} points", ("movement", "frames", "p50 ms", "p95 ms", "max ms", "over 50 ms"),
                 rows)  # fmt: skip


def checks(frames: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The figures that the project looks for."""
    return [
        check(f"{name}: no frame over 50 ms", "0 %", f"{100 * frames[name]['share_over_50_ms']:.1f} %",
              frames[name]["share_over_50_ms"] == 0)
        for name in ("drag", "zoom by wheel")
    ]  # fmt: skip


if __name__ == "__main__":
    main()
