"""Does attribution along a training of the kernel machine predict real retraining, and which training?

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.along_training [--cases digits,adult] [--work FOLDER] [--quick]

Networks, halves and target are those of lds.py, whose other figures stand beside it, from results/lds.json. The number
of steps, and of moments' objectives that of random starts and the pace of the kernel's components, are chosen on the
100 test samples that lds.py does not report: every setting is measured there, and the chosen one, which is the
library's, on the reported samples, too. Every finished setting is kept, so that a stopped measurement goes on; --fresh
forgets them. Figures go to results/paper-along-training.json.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import retraining
import torch
from lds import ATTRIBUTION, HALVES, LANDMARKS, TARGETS, TEST, cell, figures, real
from retraining import CASES, OBJECTIVES, Case, audited
from torch import Tensor
from torch.nn.functional import normalize

from krepes import NTK, Auditor, Newton
from krepes.audit import descent, training

CHOSEN, REPORTED = slice(TEST, retraining.TEST), slice(TEST)
DRAWS = 8
COLUMNS = ("", "seconds", "cosine", "attribution at the encoder", "along a training", "difference to the cosine")


@dataclass(frozen=True)
class Setting:
    """A training: whether the kernel's components go at an equal pace, or at that of the plain gradient."""

    steps: int = descent.STEPS
    starts: int = training.STARTS
    draws: int = DRAWS
    equal: bool = True

    def __str__(self) -> str:
        pace = "equal pace" if self.equal else "plain gradient"
        return (
            f"{pace}, {self.steps} steps, {_number(self.starts, 'start')}, {_number(self.draws, 'draw')} of the views"
        )


OF_MOMENTS = [
    Setting(), Setting(15), Setting(60), Setting(60, starts=1), Setting(60, draws=1), Setting(60, equal=False),
]  # fmt: skip
OF_PAIRS = [Setting(starts=1), Setting(60, starts=1)]


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def main() -> None:
    parser = retraining.arguments(__doc__, "four halves, five test samples, the library's training")
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, code = measure.machine_facts(), measure.code_fingerprint()
    kept = None if args.fresh else measure.read_result("paper-along-training", args.quick)
    found: dict[str, Any] = dict(kept["results"]) if kept else {}
    halves = 4 if args.quick else HALVES
    for name in args.cases.split(","):
        case = CASES[name]()
        for objective in args.objectives.split(","):
            settings = OF_PAIRS if OBJECTIVES[objective].streaming else OF_MOMENTS
            asked = [(REPORTED, settings[0]), (CHOSEN, None), *((CHOSEN, setting) for setting in settings)]
            for samples, setting in asked[: 3 if args.quick else None]:
                which = "reported" if samples == REPORTED else "other"
                key = f"{name}, {objective}, {which} samples, {setting or 'at the encoder'}"
                if key in found:
                    continue
                few = slice(samples.start or 0, (samples.start or 0) + 5) if args.quick else samples
                row = measured(case, objective, args.work, halves, few, setting)
                found[key] = {"case": f"{name}, {objective}", "reported": samples == REPORTED,
                              "setting": asdict(setting) if setting else None, **row}  # fmt: skip
                print(f"{key}: {cell(row['attribution'])}, {row['seconds']} s", flush=True)
                content = {"code": code, "results": found, "checks": [], "tables": tables(found, halves, args.quick)}
                measure.write_result("paper-along-training", args.quick, content, facts)


def measured(
    case: Case, objective: str, work: Path, halves: int, samples: slice, setting: Setting | None
) -> dict[str, Any]:
    """LDS of attribution along a training, None: at the encoder, and on the same samples of the cosine."""
    truth = real(case, objective, work, halves, samples)
    network = audited(case, objective, retraining.folder(work, case, objective))
    auditor = Auditor(network, OBJECTIVES[objective], NTK(), LANDMARKS, Newton(damping=100.0), seed=0)
    auditor.fit(case.training, case.views)
    started = time.perf_counter()
    x = case.test[samples]
    if setting is None:
        scores = auditor.attribute(x)
    else:
        with as_in(setting):
            scores = auditor.attribute(x, at="training", starts=setting.starts, draws=setting.draws)
    seconds = time.perf_counter() - started
    along, similar = truth.lds(scores), truth.lds(cosine(network, x, case.training))
    difference = {k: along[k] - similar[k] for k in along}
    return {"attribution": figures(along), "cosine": figures(similar), "difference": figures(difference),
            "seconds": round(seconds, 1)}  # fmt: skip


@contextmanager
def as_in(setting: Setting) -> Iterator[None]:
    """The library's training with a setting's steps and pace."""
    pace = training.scale_of if setting.equal else lambda nystrom: torch.ones_like(nystrom.eigenvalues)[:, None]
    with patch.object(descent, "STEPS", setting.steps), patch.object(training, "scale_of", pace):
        yield


@torch.no_grad()
def cosine(network: Any, x: Tensor, samples: Tensor) -> Tensor:
    """Of the centred embeddings (t, n)."""
    z, others = network(x), network(samples)
    return normalize(z - others.mean(0)) @ normalize(others - others.mean(0)).T


def tables(found: dict[str, Any], halves: int, quick: bool) -> list[dict[str, Any]]:
    """The chosen training on the reported samples, and all of them on the others."""
    known = None if quick else measure.read_result("lds")
    reported, others = [], []
    for row in found.values():
        if row["reported"]:
            at_encoder = cell(known["results"][row["case"]]["scores"][ATTRIBUTION][TARGETS[1]]) if known else "–"
            reported.append([row["case"], f"{row['seconds']:.0f}", cell(row["cosine"]), at_encoder,
                             cell(row["attribution"]), cell(row["difference"])])  # fmt: skip
        else:
            setting = str(Setting(**row["setting"])) if row["setting"] else "none: at the encoder"
            others.append([row["case"], setting, cell(row["attribution"]), f"{row['seconds']:.0f}"])
    note = f"{halves} halves, 100 test samples, centred embedding, {LANDMARKS} landmarks; intervals as in the LDS "
    note += "tables. Seconds of all samples together, one thread, two runs at a time. "
    chosen, rest = f"{note}{Setting()}; of SimCLR one start.", ("", "training", "LDS", "seconds")
    return [
        measure.table("LDS of attribution along a training", COLUMNS, reported, chosen),
        measure.table("The same by training, on test samples that are not reported elsewhere", rest, others, note),
    ]


if __name__ == "__main__":
    main()
