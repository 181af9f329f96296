"""What every benchmark shares: machine facts, interleaved timing, peak memory of a child, results as JSON, tables."""

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = RESULTS.parent.parent


def machine_facts() -> dict[str, Any]:
    """Processor, memory, versions and thread count; nothing that names the host or its user."""
    facts = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "bfloat16 instructions": bfloat16_instructions(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def cpu_model() -> str:
    """The processor's name and, where the system tells, its family and model number."""
    info = _cpuinfo()
    name = info.get("model name", platform.processor() or "unknown")
    return f"{name} (family {info['cpu family']}, model {info['model']})" if "cpu family" in info else name


def bfloat16_instructions() -> str:
    """Which instructions speed bfloat16 products up: the gain of bfloat16 features hangs on them."""
    flags = _cpuinfo().get("flags", "").split()
    return ", ".join(f for f in ("amx_bf16", "avx512_bf16") if f in flags) or "none"


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.is_file() else []
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as a reader would type it; of absolute paths only the last part is kept."""
    words = list(sys.argv if argv is None else argv)
    script = Path(words[0])
    inside = script.parent.name == "paper"  # modules of the package, started from the folder benchmarks
    name = "paper" if script.stem == "__main__" else f"paper.{script.stem}"
    shown = [f"-m {name}" if inside else f"benchmarks/{script.name}"]
    shown += [f"…/{Path(w).name}" if w.startswith("/") else w for w in words[1:]]
    threads = os.environ.get("OMP_NUM_THREADS")
    return (f"OMP_NUM_THREADS={threads} " if threads else "") + "python " + " ".join(shown)


def interleaved(
    ways: dict[str, Callable[[], Any]], repeats: int, warm_up: int = 1, wait: Callable[[], None] | None = None
) -> dict[str, list[float]]:
    """Seconds of each way, in the order A B A B …, so that a disturbance hits all of them alike.

    Args:
        warm_up: unmeasured calls of each before.
        wait: called after each one, to wait for a device.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if wait is not None:
                wait()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum and all repeats, six significant digits."""
    kept = [float(f"{v:.6g}") for v in values]
    return {"median": statistics.median(kept), "min": min(kept), "max": max(kept), "all": kept}


@dataclass(frozen=True)
class ChildRun:
    """A finished child process: exit code, wall seconds, its own peak resident bytes, both outputs."""

    code: int
    seconds: float
    peak_bytes: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The last line that it said, for a message."""
        lines = (self.stderr.strip() or self.stdout.strip() or f"exit code {self.code}").splitlines()
        return without_paths(lines[-1])[-300:]


def without_paths(text: str) -> str:
    """The text with only the last part of absolute paths: results name no machine."""
    return re.sub(r"(?<![\w.])(/[\w.+-]+)+/", "…/", text)


def code_fingerprint() -> str:
    """Of krepes' sources: figures of two states of the code are never mixed."""
    from krepes.run import code_fingerprint

    return code_fingerprint()


def run_child(command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> ChildRun:
    """Run a command to its end and watch its peak memory.

    Args:
        log: both outputs are kept in log.out and log.err.
    """
    out, err = log.with_suffix(".out"), log.with_suffix(".err")
    with out.open("w") as stdout, err.open("w") as stderr:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr, env={**os.environ, **(environment or {})})
        peak = 0
        try:
            while child.poll() is None:
                peak = max(peak, peak_bytes(child.pid))
                time.sleep(0.02)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - started
    return ChildRun(child.returncode, seconds, peak, out.read_text(), err.read_text())


def peak_bytes(pid: int | str = "self") -> int:
    """Peak resident bytes of a process so far, 0 where the system does not tell.

    The kernel's high-water mark of the address space: `ru_maxrss` of a child starts at its parent's size.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> dict[str, Any]:
    """A table for docs/benchmarks.md, kept in the JSON beside the figures that it was made of."""
    return {"title": title, "note": note, "columns": list(columns), "rows": [[str(c) for c in row] for row in rows]}


def check(claim: str, wanted: str, found: str | None, met: bool | None) -> dict[str, Any]:
    """One figure that the project looks for; met is None where it could not be measured."""
    return {"claim": claim, "wanted": wanted, "found": found or "not measured", "met": met}


def write_result(name: str, quick: bool, content: dict[str, Any], facts: dict[str, Any] | None = None) -> Path:
    """benchmarks/results/NAME.json, or NAME.quick.json: a quick run proves that the script works, nothing else."""
    head = {
        "benchmark": name,
        "quick": quick,
        "command": command_line(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "code": code_fingerprint(),
        "machine": facts or machine_facts(),
    }
    path = result_path(name, quick)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(head | content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def result_path(name: str, quick: bool) -> Path:
    """Where the results of a benchmark are kept."""
    return RESULTS / f"{name}{'.quick' if quick else ''}.json"


def read_result(name: str, quick: bool = False) -> dict[str, Any] | None:
    """The kept results of a benchmark, if there are any."""
    path = result_path(name, quick)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows])


def seconds_text(value: float | None) -> str:
    """Seconds with three significant digits."""
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def mebibytes(value: float | None) -> str:
    """Bytes as MiB."""
    return "–" if value is None else f"{value / 2**20:,.0f}"
