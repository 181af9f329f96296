"""docs/benchmarks.md from the JSON files in benchmarks/results. What was not measured is said to be so.

python benchmarks/table.py [--quick]
"""

import argparse
from typing import Any

import measure

PAGE = measure.ROOT / "docs" / "benchmarks.md"
# name ↦ title, and what the page says where the file is missing
BENCHMARKS = {
    "kernel_block": "Kernel block: krepes, plain torch and other packages",
    "allocator": "Freed memory, kept or given back",
    "scale": "End to end: `krepes audit` from ten thousand to a million rows",
    "ggn_product": "One product with the generalised Gauss–Newton matrix",
    "solver": "The linear solve",
    "adjoint": "The adjoint solves of many queries",
    "findings": "What the findings cost beside the scores",
    "lds": "Attribution against real retraining",
    "planted": "Planted truth",
    "sentence_encoder": "A pretrained sentence encoder",
    "report": "The report of a run with 1,000 landmarks",
    "app": "The web app over a million points",
    "app_frames": "The app's map in a software-rendered browser",
    "gpu": "On a GPU",
}
INTRODUCTION = """# Benchmarks

Made by `python benchmarks/table.py` from the files in `benchmarks/results/`, which hold every repeat. How to measure:
[benchmarks/README.md](../benchmarks/README.md). Times are medians of interleaved repeats (A B A B …) in one process;
absolute times belong to the machine named in each section, ratios travel better. Errors are relative Frobenius errors
against explicit gradients in float64; *centred* is after double centring, the honest one, since tangent kernels have
a large mean. Peak memory is resident memory of a process that does only this, over what stands after the imports.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="print the page of the quick runs, write nothing")
    args = parser.parse_args()
    results = {name: measure.read_result(name, args.quick) for name in BENCHMARKS}
    parts = [INTRODUCTION, wanted(results)]
    parts += [section(name, title, results[name]) for name, title in BENCHMARKS.items()]
    page = "\n".join(parts)
    if args.quick:
        print(page)
        return
    PAGE.write_text(page, encoding="utf-8")
    print(f"written: docs/{PAGE.name}")


def wanted(results: dict[str, dict[str, Any] | None]) -> str:
    """The figures that the project looks for, and what was found."""
    verdict = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        [c["claim"], c["wanted"], c["found"], verdict[c["met"]]]
        for result in results.values()
        for c in (result or {}).get("checks", ())
    ]
    absent = [f"`{name}`" for name, result in results.items() if result is None]
    text = "## What we look for\n\n"
    text += measure.markdown_table(["figure", "wanted", "found", "met"], rows) if rows else "Nothing was measured yet."
    if absent:
        text += f"\n\nNot measured: {', '.join(absent)}."
    return text + "\n"


def section(name: str, title: str, result: dict[str, Any] | None) -> str:
    """One benchmark: where and how it was measured, its tables, what failed."""
    if result is None:
        return f"## {title}\n\nNot measured: there is no `benchmarks/results/{name}.json`.\n"
    if name == "solver":
        return parts_section(title, result)
    lines = [f"## {title}", "", provenance(result), ""]
    for shown in result.get("tables", []):
        lines += [f"### {shown['title']}", ""]
        lines += [shown["note"], ""] if shown.get("note") else []
        lines += [measure.markdown_table(shown["columns"], shown["rows"]), ""]
    if not result.get("tables"):
        lines += [f"The figures are in `benchmarks/results/{name}.json`.", ""]
    if name == "scale" and (measure.ROOT / "docs" / "benchmarks-scale.svg").is_file():
        lines += ["![Seconds and peak memory over the number of rows](benchmarks-scale.svg)", ""]
    lines += [f"* failed: {text}" for text in result.get("failures", [])]
    return "\n".join(lines).rstrip() + "\n"


def parts_section(title: str, result: dict[str, Any]) -> str:
    """solver.json: parts that were run one by one, each with its own facts and rows."""
    lines = [f"## {title}", ""]
    for part, content in result.items():
        rows = content.get("rows", [])
        facts = [f"{k} {v}" for k, v in content.items() if k not in ("rows", "command")]
        lines += [f"### {part}", "", f"`{content.get('command', '?')}`; {', '.join(facts)}.", ""]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [measure.markdown_table(columns, [[row.get(c, "") for c in columns] for row in rows]), ""]
    return "\n".join(lines).rstrip() + "\n"


def provenance(result: dict[str, Any]) -> str:
    """Machine, versions, date, command and seeds in one paragraph."""
    machine = result.get("machine", {})
    words = [
        f"`{result.get('command', '?')}`",
        result.get("date", "undated"),
        f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores "
        f"(bfloat16: {machine.get('bfloat16 instructions', '?')}), {machine.get('memory_gib', '?')} GiB",
        *([machine["gpu"]] if "gpu" in machine else []),
        f"torch {machine.get('torch', '?')}, {machine.get('torch_threads', '?')} threads",
        f"state of the code {result.get('code', '?')}",
        f"load before {machine.get('load_before', '?')}",
    ]
    packages = [f"{k} {v}" for k, v in result.get("packages", {}).items()]
    seeds = [f"{k} {v}" for k, v in result.get("seeds", {}).items()]
    words += [", ".join(packages)] if packages else []
    words += [f"seeds: {', '.join(seeds)}"] if seeds else []
    return "; ".join(words) + "."


if __name__ == "__main__":
    main()
