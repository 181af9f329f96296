"""Which settings predict real retraining: LDS of attribution and of contributions, kernel by kernel, λ, m, sampler.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.lds_settings [--pairs digits,vicreg …] [--work FOLDER] [--quick]

Networks and halves are those of lds.py; the samples are other ones: of the 200 test samples lds.py reports the first
100, and these settings are chosen on the rest. Attribution with 200 landmarks at the encoder over four draws of views,
unless the setting says otherwise; contributions with every sample a landmark. Targets are of the centred embedding.
Every finished setting is kept, so that a stopped measurement goes on; --fresh forgets them.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import measure
import retraining
import torch
from landmark_views import with_views
from lds import HALVES, LANDMARKS, TEST, figures, real
from retraining import CASES, OBJECTIVES, audited

from krepes import NTK, Auditor, Newton
from krepes.landmarks import KMeansPlusPlus, LeverageScores, RPCholesky, Uniform

PAIRS = ("adult,vicreg", "adult,barlow_twins", "digits,vicreg", "digits,barlow_twins")
DRAWS, LAST = 4, retraining.TEST
KERNELS = {"centred cosine": {}, "centred": {"cosine": False}, "cosine": {"center": False},
           "raw": {"center": False, "cosine": False}}  # fmt: skip
SAMPLERS = {"k-means++": KMeansPlusPlus, "leverage": LeverageScores, "RPCholesky": RPCholesky, "uniform": Uniform}
DEFAULT = {"kernel": "centred cosine", "variant": "trace", "m": LANDMARKS, "sampler": "k-means++", "rows": "samples"}
ATTRIBUTION = [
    *({"kernel": k, "λ": d} for k in KERNELS for d in (0.1, 1.0)),
    *({"λ": d} for d in (0.01, 10.0)),
    *({"m": m, "kernel": k} for m in (100, 500, 1000) for k in ("centred cosine", "centred")),
    *({"sampler": s} for s in SAMPLERS if s != "k-means++"),
    *({"variant": v} for v in ("pseudo", "sketch 8")),
    *({"rows": r, "kernel": k} for r in ("views", "sample and two views") for k in ("centred cosine", "centred")),
]
CONTRIBUTIONS = [
    *({"kernel": "centred cosine", "ridge": "coefficients", "λ": d} for d in ("auto", 0.01, 10.0)),
    *({"kernel": k, "ridge": r, "λ": d} for k in KERNELS for r in ("coefficients", "rkhs") for d in (1.0, 100.0)),
]
NOTES = {
    "attribution": f"Default: centred cosine kernel, trace, {LANDMARKS} landmarks by k-means++, one row each, λ = 0.1, "
    f"at the encoder; {DRAWS} draws of views.",
    "contributions": "Every sample a landmark; λ relative to the mean curvature.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="*", default=PAIRS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-lds")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one setting each of one pair, four halves")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = measure.machine_facts()
    kept = None if args.fresh else measure.read_result("paper-lds-settings", args.quick)
    rows: dict[str, Any] = dict(kept["rows"]) if kept else {}
    scores = [(attribution, s) for s in ATTRIBUTION] + [(contributions, s) for s in CONTRIBUTIONS]
    for pair in args.pairs[: 1 if args.quick else None]:
        case, objective, _ = of_pair(pair, args.work)
        truth = real(case, objective, args.work, 4 if args.quick else HALVES, slice(TEST, LAST))
        for score, setting in [scores[0], scores[-1]] if args.quick else scores:
            key = f"{pair}, {score.__name__}, " + ", ".join(f"{k}={v}" for k, v in setting.items())
            if key in rows:
                continue
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                lds = figures(truth.lds(score(pair, setting, args.work)))
            rows[key] = {"pair": pair, "score": score.__name__, "setting": setting, **lds}
            print(f"{key}: {lds['lds']:.3f} ± {lds['standard error']:.3f}, {time.perf_counter() - started:.0f} s",
                  flush=True)  # fmt: skip
            content = {"code": measure.code_fingerprint(), "draws": DRAWS, "samples": [TEST, LAST], "rows": rows,
                       "tables": tables(rows), "checks": []}  # fmt: skip
            measure.write_result("paper-lds-settings", args.quick, content, facts)


def of_pair(pair: str, work: Path) -> tuple[retraining.Case, str, Path]:
    """The case, the objective's name and the folder of their networks."""
    name, objective = pair.split(",")
    case = CASES[name]()
    return case, objective, retraining.folder(work, case, objective)


def attribution(pair: str, setting: dict[str, Any], work: Path) -> torch.Tensor:
    """Scores (t, n)."""
    case, objective, place = of_pair(pair, work)
    chosen = DEFAULT | setting
    variant, _, q = chosen["variant"].partition(" ")
    kernel = NTK(variant, **({"sketch": int(q)} if q else {}), **KERNELS[chosen["kernel"]])
    sampler = SAMPLERS[chosen["sampler"]](m=chosen["m"])
    rows = "views" if chosen["rows"] == "views" else "samples"
    network, newton = audited(case, objective, place), Newton(damping=100.0)
    auditor = Auditor(network, OBJECTIVES[objective], kernel, sampler, newton, seed=0, landmark_rows=rows)
    auditor.fit(case.training, case.views)
    auditor = with_views(auditor, case.views, 3 if chosen["rows"] == "sample and two views" else 1)
    return auditor.attribute(case.test[TEST:LAST], damping=setting.get("λ"), draws=DRAWS)


def contributions(pair: str, setting: dict[str, Any], work: Path) -> torch.Tensor:
    """Scores (t, n)."""
    case, objective, place = of_pair(pair, work)
    newton = Newton(ridge=setting["ridge"], damping=setting["λ"])
    kernel, landmarks = NTK(**KERNELS[setting["kernel"]]), range(len(case.training))
    auditor = Auditor(audited(case, objective, place), OBJECTIVES[objective], kernel, landmarks, newton, seed=0)
    return auditor.fit(case.training, case.views).contribution(case.test[TEST:LAST])


def tables(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """One per score: a row per setting, a column per case and objective, the largest of each in bold."""
    pairs = list(dict.fromkeys(row["pair"] for row in rows.values()))
    found = []
    for score in ("attribution", "contributions"):
        lds: dict[str, dict[str, Any]] = {}
        for row in rows.values():
            if row["score"] == score:
                lds.setdefault(named(row["setting"]), {})[row["pair"]] = row
        cells = []
        for setting, by_pair in lds.items():
            largest = {p: max(of[p]["lds"] for of in lds.values() if p in of) for p in by_pair}
            cells.append([setting, *(cell(by_pair[p], largest[p]) if p in by_pair else "–" for p in pairs)])
        note = NOTES[score] + " LDS ± standard error over test samples [95 % interval over test samples and halves]; "
        note += "–: not measured."
        found.append(measure.table(f"LDS of {score} by setting", ["setting", *pairs], cells, note))
    return found


def named(setting: dict[str, Any]) -> str:
    """A setting in words; kernels that are the default are left out of attribution's."""
    shown = {k: v for k, v in setting.items() if v != DEFAULT.get(k) or len(setting) == 1}
    return ", ".join(f"{k} {v}" for k, v in shown.items())


def cell(row: dict[str, Any], largest: float) -> str:
    """An LDS, in bold where it is the largest of its column."""
    low, high = row["interval"]["over both"]
    text = f"{row['lds']:.3f} ± {row['standard error']:.3f} [{low:.2f}, {high:.2f}]"
    return f"**{text}**" if row["lds"] == largest else text


if __name__ == "__main__":
    main()
