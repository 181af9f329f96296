"""docs/results.md from results/paper-*.json and results/lds.json: the paper's figure, ours, the spread, the command.

cd benchmarks && python -m paper.results
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np

from paper.cases import CASES
from paper.factorial import ALONE, CROSSED, DEFAULT, FIGURES

TARGET = Path(__file__).parents[2] / "docs" / "results.md"
Run = dict[str, Any]
PAPER = {  # arXiv 2509.24467: accuracy gap in points, Kendall τ; by objective
    "adult": ({"barlow_twins": 0.06, "simclr": 0.12, "vicreg": 0.12},
              {"barlow_twins": 0.845, "simclr": 0.842, "vicreg": 0.840}),
    "higgs": ({"barlow_twins": 0.03, "simclr": -0.10, "vicreg": 0.25},
              {"barlow_twins": 0.781, "simclr": 0.778, "vicreg": 0.783}),
    "covtype": ({"barlow_twins": -0.41, "simclr": 0.87, "vicreg": 0.47},
                {"barlow_twins": 0.872, "simclr": 0.861, "vicreg": 0.863}),
    "cifar10": ({"barlow_twins": -0.92, "simclr": -0.38, "vicreg": -1.10},
                {"barlow_twins": 0.878, "simclr": 0.881, "vicreg": 0.880}),
}  # fmt: skip
DROPS = {"adult": (0.0002, 0.0572), "higgs": (0.0003, 0.0461), "covtype": (0.0003, 0.0810), "cifar10": (0.0011, 0.0667)}
PRECISION = {"adult": (0.872, 0.809), "covtype": (0.772, 0.550)}  # the paper's own, cosine
COVERAGE = {"barlow_twins": 12, "vicreg": 18, "byol": 26, "simclr": 27, "spectral_contrastive": 81}  # CIFAR-10
OTHERS = {
    "lds-settings": "Settings by what retraining does",
    "fidelity": "Where a probe's knowledge is lost", "entropy": "Spectral entropy beside a linear probe",
    "gaps": "Alignment gaps", "removal": "Removal with retraining",
    "counterfactuals": "Counterfactuals against real retraining",
    "along-training": "Attribution along a training against real retraining",
    "kernel-retraining": "What can be known of retraining from where training ended",
    "drops": "Confidence drop by neighbours and landmarks", "limits": "Limits",
}  # fmt: skip
METHODS = {
    "cosine": "representation cosine, centred", "gradient cosine": "gradient cosine, centred",
    "TRAK": "TRAK, 128 dimensions",
    "attribution, 200 landmarks": "attribution at the encoder, 200 landmarks",
    "the same, views of 200 landmarks": "attribution at the encoder, views of 200 landmarks",
    "attribution at the step": "attribution at the step, 200 landmarks",
    "signed contribution, 200 landmarks": "signed contribution, 200 landmarks",
    "signed contribution, all samples": "signed contribution, all samples as landmarks",
    "the same, their views": "signed contribution, views of all samples as landmarks", "ceiling": "ceiling",
}  # fmt: skip
TABLES, TOGETHER = ("adult", "covtype"), "Adult and CoverType, 8,000 samples, three objectives each"
RULES = ("top by influence", "top by contribution", "top toward the predicted class")
INTRODUCTION = """# Results beside the paper's

Written by `python -m paper.results` in the folder benchmarks from the JSON files that the commands below leave. Every
row is the mean over the seeds of encoder, training and audit, ± their standard deviation; a figure without ± is of one
seed. Nothing was tuned on test points: the settings are the library's defaults. What the figures say, and where and why
they fall short of the paper's, stands in [defaults.md](defaults.md).

* **gap**: accuracy of a logistic probe on the kernel's representation less that on the network's, in points; **τ**:
  Kendall's rank correlation of the probability that both give the true class, over test samples. Of *f*, the
  representation after the step, and of the *network in the kernel*: its outputs as the landmarks' kernel gives them by
  least squares over training samples. The paper's stand beside the latter; it does not say which it means. Probes see
  half of the test samples, 2,000 labels on tables; *wide* ones 20,000 training labels, where that many are.
  **noise**: τ of two probes on the network alone, each on half of these labels: what no kernel can exceed by much.
* **drop**: k-NN (k = 50) confidence over the landmarks in the kernel's representation, before and after ten landmarks
  are removed: by influence, by signed contribution, by influence toward the predicted class, and ten random ones (mean
  of 20 draws). Ten of m landmarks at random can cost 10/m at most.
* **P@1**: share of test samples whose first landmark has their class. SimplEx, DkNN and TRAK on the first 1,000. TRAK
  projects to 512 dimensions; the second moment that it inverts is over the 1,000 landmarks on tables, over 4,096
  training samples on images (on MNIST of the seeds that were measured so). These three on images may be of networks
  that were trained again, by the same protocol and seeds.
* **κ**: landmarks by falling ‖ΔÃ‖ until every class was seen.
"""


def main() -> None:
    parts = [INTRODUCTION]
    for name in CASES:
        found = measure.read_result(f"paper-{name}")
        parts.append(section(name, found) if found else f"## {name}\n\nNot measured.\n")
    parts.append("## Cost against the number of samples\n\nUp to a million rows, on log-log axes: "
                 "[benchmarks.md](benchmarks.md).\n")  # fmt: skip
    lds = measure.read_result("lds")
    parts.append(interventions(lds) if lds else "## Attribution against real retraining\n\nNot measured.\n")
    crossed = measure.read_result("paper-factorial")
    parts.append(factorial(crossed) if crossed else "## Settings crossed\n\nNot measured.\n")
    for name, title in OTHERS.items():
        found = measure.read_result(f"paper-{name}")
        parts.append(tables(title, found) if found else f"## {title}\n\nNot measured.\n")
    TARGET.write_text("\n".join(parts), encoding="utf-8")
    print(f"written: docs/{TARGET.name}")


def section(name: str, found: dict[str, Any]) -> str:
    """One data set."""
    runs = by_objective(found["runs"])
    seeds = sorted({r["seed"] for r in found["runs"].values()})
    machine = found["machine"]
    lines = [
        f"## {found['title']}", "",
        f"`make paper-{name}`; {found['note']}; {found['landmarks']} landmarks of {found['training samples']:,} "
        f"samples, kernel {brief(found['kernel'])}, views {views(found['views'])}; seeds {seeds}; "
        f"{machine['cpu']}, one thread.", "",
        table(("objective", "gap, network in the kernel", "paper", "τ, network in the kernel", "paper", "gap, f",
               "τ, f", "gap, f, wide", "τ, f, wide", "noise", "R²", "λ"),
              [fidelity(name, o, r) for o, r in runs.items()]),
        table(("objective", *(f"drop, {rule}" for rule in RULES), "random", "largest / random", "paper"),
              [dropped(name, o, r) for o, r in runs.items()]),
        table(("objective", "P@1 influence", "contribution", "cosine", "gradient cosine", "SimplEx", "DkNN", "TRAK",
               "random", "κ", "paper"), [precise(name, o, r) for o, r in runs.items()]),
    ]  # fmt: skip
    if name in PRECISION:
        own, cosine = PRECISION[name]
        lines.append(f"The paper's precision@1 here: {own:.3f}, and {cosine:.3f} for cosine.\n")
    if any("anchoring" in r for r in found["runs"].values()):
        lines += [anchored(o, r) for o, r in runs.items() if "anchoring" in r[0]]
    return "\n".join(lines)


def brief(kernel: str) -> str:
    """Variant and directions of a kernel's text."""
    q = re.search(r"sketch=(\d+)", kernel)
    return "sketch with " + q[1] + " directions, centred, cosine" if q else kernel


def views(text: str) -> str:
    """A view's text without what it was fitted on, and no more than its first settings."""
    kept, cut, _ = text.partition(", reference")
    name, bracket, settings = kept.removesuffix(")").partition("(")
    few = [s for s in re.split(r", (?=[a-z_]+=)", settings) if not s.endswith(("=None", "=0.0"))]
    return f"{name}{bracket}{', '.join(few[:5])}{' …' if len(few) > 5 else ''}" + (")" if bracket or cut else "")


def by_objective(runs: dict[str, Run]) -> dict[str, list[Run]]:
    """Objective ↦ its runs."""
    found: dict[str, list[Run]] = {}
    for run in runs.values():
        found.setdefault(run["objective"], []).append(run)
    return found


def spread(runs: list[Run], value: Callable[[Run], float | None], digits: int = 3, scale: float = 1.0) -> str:
    """Mean ± standard deviation over the runs that have the value."""
    given = [v for v in map(value, runs) if v is not None]
    values = scale * np.array(given, float)
    if not len(values):
        return "–"
    deviation = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}"


def figure(name: str) -> Callable[[Run], float | None]:
    """Of `Auditor.evaluate`."""
    return lambda run: run["figures"].get(name, {}).get("value")


def wide(name: str) -> Callable[[Run], float | None]:
    """Of the probes on training samples."""
    return lambda run: run.get("probes on training samples", {}).get(name)


def fidelity(name: str, objective: str, runs: list[Run]) -> list[str]:
    """Gap, τ, R²."""
    gaps, taus = PAPER.get(name, ({}, {}))
    dampings = sorted({f"{r['relative damping']:.3g}" for r in runs})
    return [
        objective, spread(runs, figure("accuracy gap, network in the kernel"), 2, 100),
        f"{gaps[objective]:+.2f}" if objective in gaps else "–",
        spread(runs, figure("Kendall τ, network in the kernel")),
        f"{taus[objective]:.3f}" if objective in taus else "–",
        spread(runs, figure("accuracy gap"), 2, 100), spread(runs, figure("Kendall τ")),
        spread(runs, wide("accuracy gap"), 2, 100), spread(runs, wide("τ")),
        spread(runs, wide("τ of two probes on the network")), spread(runs, figure("R² of aligned representations")),
        ", ".join(dampings),
    ]  # fmt: skip


def dropped(name: str, objective: str, runs: list[Run]) -> list[str]:
    """Confidence drops."""
    cells = [spread(runs, figure(f"confidence drop, {rule}"), 4) for rule in (*RULES, "random")]
    *means, random = (
        np.mean([figure(f"confidence drop, {rule}")(r) or 0 for r in runs]) for rule in (*RULES, "random")
    )
    ratio = max(means) / max(random, 1e-9)
    paper = "{1:.4f} / {0:.4f}".format(*DROPS[name]) if name in DROPS else "–"
    return [objective, *cells, f"{ratio:.0f}", paper]


def precise(name: str, objective: str, runs: list[Run]) -> list[str]:
    """Precision@1 and κ."""
    own = ("influence", "contribution", "cosine of the network", "gradient cosine")
    cells = [spread(runs, figure(f"precision@1, {k}")) for k in own]
    others = [spread(runs, lambda r, k=k: r["precision@1 of others"].get(k)) for k in ("SimplEx", "DkNN", "TRAK")]
    return [
        objective, *cells, *others, spread(runs, figure("precision@1, a random landmark")),
        spread(runs, figure("class coverage κ"), 0), str(COVERAGE[objective]) if name == "cifar10" else "–",
    ]  # fmt: skip


def anchored(objective: str, runs: list[Run]) -> str:
    """Which groups' landmarks hold a group's samples."""
    names = runs[0]["anchoring"]["groups"]
    share = np.mean([r["anchoring"]["landmarks"] for r in runs], 0)
    rows = [["all landmarks", *(f"{100 * v:.0f} %" for v in share)]]
    for group in names:
        mean = np.mean([r["anchoring"]["anchors"][group] for r in runs], 0)
        rows.append([group, *(f"{100 * v:.0f} %" for v in mean)])
    return f"Groups of the ten most influential landmarks, {objective}:\n\n" + table(("test samples", *names), rows)


def interventions(found: dict[str, Any]) -> str:
    """LDS of the methods side by side, in the centred embedding."""
    rows = []
    for name, result in found["results"].items():
        scores = result["scores"] | {"ceiling": result["ceiling"]}
        known = [scores[k]["centred embedding"] if k in scores else None for k in METHODS.values()]
        rows.append([name, *("–" if found is None else interval(found) for found in known)])
    return "\n".join(
        ["## Attribution against real retraining", "",
         f"`{found['command']}`; 40 random halves, two seeds each, 100 test samples, centred embedding; 95 % intervals "
         "over test samples and halves. Other methods, the own embedding, the protocol: "
         "[benchmarks.md](benchmarks.md).", "",
         table(("", *METHODS), rows)]
    )  # fmt: skip


def factorial(found: dict[str, Any]) -> str:
    """Every setting's figures: means over the tables, images each alone, and which is best."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"].values():
        alone = f"{row['case']}, {row['objective']}, {found['samples'][row['case']]:,} samples"
        groups.setdefault(TOGETHER if row["case"] in TABLES else alone, []).append(row)
    parts = ["## Settings crossed", "",
             "`make paper-factorial`, and in benchmarks `python -m paper.factorial --cases mnist --objectives "
             "barlow_twins,vicreg`. One encoder per data set and objective; the best of each figure in bold. "
             "Differences of .02 in means over six audits are noise; over seeds of encoder and audit one audit's "
             "precision on MNIST varies by .02 to .09 (above). What was chosen, and why: "
             "[defaults.md](defaults.md).", ""]  # fmt: skip
    return "\n".join(parts + [f"### {title}\n\n{crossed_table(rows)}" for title, rows in groups.items()])


def crossed_table(found: list[dict[str, Any]]) -> str:
    """Means per setting; of the accuracy gap its size's."""
    given = [DEFAULT, *(s for s in [*CROSSED, *ALONE] if s != DEFAULT)]
    measured = {i: [r for r in found if settings_of(r) == s] for i, s in enumerate(given)}
    names = [k for k in FIGURES if k != "drop random"]
    of = {k: abs if k == "gap" else float for k in names}
    means = {i: [float(np.mean([of[k](r[k]) for r in rows])) for k in names] for i, rows in measured.items() if rows}
    worth = [[-v if k == "gap" else v for k, v in zip(names, row, strict=True)] for row in means.values()]
    best = np.array(worth).argmax(0)
    rows = []
    for place, (i, row) in enumerate(means.items()):
        shown = [f"**{v:.3f}**" if best[k] == place else f"{v:.3f}" for k, v in enumerate(row)]
        other = ", ".join(f"{k} {v}" for k, v in given[i].items() if DEFAULT.get(k) != v)
        rows.append([other or "the default: " + ", ".join(map(str, DEFAULT.values())), str(len(measured[i])), *shown])
    return table(("setting that differs", "audits", *("size of gap" if k == "gap" else k for k in names)), rows)


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """The setting of a measured row."""
    return {k: row[k] for k in (*DEFAULT, "views per landmark", "rows") if k in row}


def interval(found: dict[str, Any]) -> str:
    """LDS [95 % interval]."""
    low, high = found["interval"]["over both"]
    return f"{found['lds']:.2f} [{low:.2f}, {high:.2f}]"


def tables(title: str, found: dict[str, Any]) -> str:
    """A benchmark's own tables."""
    lines = [f"## {title}", "", f"`{found['command']}`", ""]
    for t in found["tables"]:
        lines += [f"### {t['title']}", "", t["note"], "", table(t["columns"], t["rows"])]
    return "\n".join(lines)


def table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    """Markdown, with an empty line after it."""
    return measure.markdown_table(columns, rows) + "\n"


if __name__ == "__main__":
    main()
