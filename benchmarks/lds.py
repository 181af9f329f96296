"""Linear datamodelling score: does an attribution to training samples predict what retraining really does?

    OMP_NUM_THREADS=1 python benchmarks/lds.py [--cases digits,adult] [--halves 40] [--quick] [--work FOLDER]

Networks are trained on 1,000 samples (scikit-learn's digits; rows of Adult, from KREPES_DATA or a download) with
Barlow Twins, VICReg and SimCLR, and trained again on random halves (benchmarks/retraining.py). Target of a test sample:
the mean cosine between f(x) and f of 16 augmentations of x, the same ones for every network; once with the network's
own embedding, once with its mean over the training samples taken off, which is what krepes explains. LDS of scores
(t, n): per test sample Spearman's correlation over the halves between the sum of the members' scores and the target,
averaged over test samples. Scores come from one network trained on all samples, whose seed no half has. 95 % intervals
are bootstrapped over test samples, over halves, and over both, which is what the tables show. The ceiling is the LDS of
one seed's targets by the other's. Methods were chosen on 64 other digits.

What is trained and scored is kept in --work: an interrupted run goes on, and another state of krepes scores anew.
"""

import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import retraining
import torch
from landmark_views import with_views
from retraining import CASES, OBJECTIVES, Case, audited, cached, invariance
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import normalize

from krepes import NTK, Auditor, Newton

TARGETS = ("own embedding", "centred embedding")
TEST, HALVES, LANDMARKS = 100, 40, 200
AUDIT, BOOTSTRAP, DRAWS, VIEW_DRAWS = 0, 0, 2000, 8
TRAK_DIMENSIONS = (128, 512)
COSINE = "representation cosine, centred"
ALL = "all samples as landmarks"
CONTRIBUTION, ATTRIBUTION = f"signed contribution, {ALL}", f"attribution at the encoder, {LANDMARKS} landmarks"
OF_VIEWS = f"attribution at the encoder, views of {LANDMARKS} landmarks"


def main() -> None:
    parser = retraining.arguments(__doc__, "6 halves, 10 test samples")
    parser.add_argument("--halves", type=int, default=HALVES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, code, started = measure.machine_facts(), measure.code_fingerprint(), time.perf_counter()
    found: dict[str, Any] = {}
    tables, checks = [], []
    for name in args.cases.split(","):
        case = CASES[name]()
        for objective in args.objectives.split(","):
            halves, test = (6, 10) if args.quick else (args.halves, TEST)
            result, differences = evaluate(case, objective, args.work, code, halves, test)
            found[f"{name}, {objective}"] = result
            tables.append(result_table(f"{case.name}, {objective}", result))
            checks += differences
            print(f"\n### {tables[-1]['title']}\n\n{measure.markdown_table(tables[-1]['columns'], tables[-1]['rows'])}")
            content: dict[str, Any] = {
                "code": code,
                "seeds": {"split": retraining.SPLIT, "augmentations": retraining.AUGMENT, "halves": retraining.DRAW,
                          "audited network": retraining.AUDITED, "retrained networks": list(retraining.RETRAINED),
                          "audit": AUDIT, "bootstrap": BOOTSTRAP},
                "protocol": {"training samples": retraining.N, "test samples": test, "halves": halves,
                             "augmentations": retraining.AUGMENTATIONS, "hidden widths": retraining.WIDTHS,
                             "outputs": retraining.D, "steps": retraining.STEPS, "batch": retraining.BATCH,
                             "bootstrap draws": DRAWS},
                "seconds": round(time.perf_counter() - started, 1),
                "results": found, "tables": tables, "checks": checks,
            }  # fmt: skip
            measure.write_result("lds", args.quick, content, facts)
    print("\n", *(f"{c['claim']}: {c['found']}\n" for c in checks))


# Scores, all (t, n) --------------------------------------------------------------------------------------


def simple_scores(network: nn.Module, objective: Any, case: Case, test: int) -> dict[str, Tensor]:
    """Similarities, which are expected to raise the target, and products of gradients."""
    x, n = case.test[:test], len(case.training)
    with torch.no_grad():
        spaces = {"input cosine": (x.flatten(1), case.training.flatten(1))}
        spaces["representation cosine"] = network(x), network(case.training)
    found = {"random": torch.randn(test, n, generator=torch.Generator().manual_seed(AUDIT))}
    for name, (a, b) in spaces.items():
        found[name] = normalize(a) @ normalize(b).T
        found[f"{name}, centred"] = normalize(a - b.mean(0)) @ normalize(b - b.mean(0)).T
    auditor = Auditor(network, objective, NTK(), range(n), Newton(damping=100.0), seed=AUDIT)
    found["gradient cosine, centred"] = auditor.fit(case.training, case.views).kernel(x)
    found["gradient product (TracIn)"] = gradient_products(network, objective, case, test)
    from paper.baselines import trak

    for dimensions in TRAK_DIMENSIONS:
        if (scores := trak(network, x, case.training, dimensions)) is not None:
            found[f"TRAK, {dimensions} dimensions"] = scores
    return found


def gradient_products(network: nn.Module, objective: Any, case: Case, test: int) -> Tensor:
    """−⟨∇T_t, J_iᵀ ∂L/∂f_i⟩ over the parameters: the first step of training with more weight on sample i."""
    weights = {k: v.detach() for k, v in network.named_parameters()}

    def f(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(network, w, (x,))

    def target_of(w: dict[str, Tensor], x: Tensor, v: Tensor) -> Tensor:
        return invariance(lambda batch: f(w, batch), x[None], v[None])[0]

    ascents = [grad(target_of)(weights, x, v) for x, v in zip(case.test[:test], case.augmented[:test], strict=True)]
    scores, generator = torch.zeros(test, len(case.training)), torch.Generator().manual_seed(AUDIT)
    for _ in range(VIEW_DRAWS):
        pair = [case.views(case.training, generator) for _ in range(2)]
        z = [f(weights, view).requires_grad_() for view in pair]
        for view, slope in zip(pair, torch.autograd.grad(objective.loss(*z), z), strict=True):
            along = [jvp(lambda w, view=view: f(w, view), (weights,), (a,))[1] for a in ascents]
            scores -= torch.stack([(slope * change).sum(1) for change in along])
    return scores


def with_all_landmarks(network: nn.Module, objective: Any, case: Case, test: int) -> dict[str, Tensor]:
    """Influence and contribution of every training sample."""
    x, n, found = case.test[:test], len(case.training), {}
    for rows, what in (("samples", ALL), ("views", f"views of {ALL}")):
        auditor = Auditor(network, objective, NTK(), range(n), Newton(damping=100.0), seed=AUDIT, landmark_rows=rows)
        auditor.fit(case.training, case.views)
        found[f"sample influence, {what}"] = auditor.influence(x)
        found[f"signed contribution, {what}"] = auditor.contribution(x)
    return found


def with_few_landmarks(network: nn.Module, objective: Any, case: Case, test: int) -> dict[str, Tensor]:
    """Attribution to every training sample, and the landmarks' scores, others having none."""
    auditor = Auditor(network, objective, NTK(), LANDMARKS, Newton(damping="auto"), seed=AUDIT)
    auditor.fit(case.training, case.views)
    x, n = case.test[:test], len(case.training)
    found = {"sample influence": auditor.influence(x), "signed contribution": auditor.contribution(x)}
    found = {
        f"{name}, {LANDMARKS} landmarks": torch.zeros(test, n).index_copy(
            1, torch.as_tensor(auditor.fit_.indices), s.float()
        )
        for name, s in found.items()
    }
    found |= {
        ATTRIBUTION: auditor.attribute(x),
        f"the same, λ = 1, {LANDMARKS} landmarks": auditor.attribute(x, damping=1.0),
        f"attribution at the step, {LANDMARKS} landmarks": auditor.attribute(x, at="step"),
    }
    viewed = with_views(auditor, case.views, 3)
    found[f"attribution at the encoder, {LANDMARKS} landmarks and two views of each"] = viewed.attribute(x)
    newton = Newton(damping="auto")
    auditor = Auditor(network, objective, NTK(), LANDMARKS, newton, seed=AUDIT, landmark_rows="views")
    auditor.fit(case.training, case.views)
    return found | {
        OF_VIEWS: auditor.attribute(x),
        f"the same, λ = 1, views of {LANDMARKS} landmarks": auditor.attribute(x, damping=1.0),
        f"attribution at the step, views of {LANDMARKS} landmarks": auditor.attribute(x, at="step"),
    }


# The datamodelling score ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """What retraining did, and the bootstrap's draws, which are the same for every method.

    Attributes:
        targets: (halves, seeds, t).
        members: 1 where a half holds a sample, (halves, n).
    """

    targets: np.ndarray
    members: np.ndarray

    def lds(self, scores: Tensor) -> dict[str, np.ndarray]:
        """See `correlations`."""
        return self.correlations(self.members @ scores.double().numpy().T, self.targets.mean(1))

    def spread(self) -> dict[str, float]:
        """How much the target varies, averaged over test images."""
        halves, seeds = self.targets.mean(1).std(0, ddof=1).mean(), np.sqrt(self.targets.var(1, ddof=1).mean())
        return {"mean": self.targets.mean(), "sd over halves": halves, "sd between seeds": float(seeds)}

    def ceiling(self) -> dict[str, np.ndarray]:
        """Of one seed's targets by the other's."""
        return self.correlations(self.targets[:, 1], self.targets[:, 0])

    def correlations(self, predicted: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
        """Spearman's correlation over halves of two (halves, t): per test image, and its mean over bootstrap draws.

        A draw of halves weighs the ranks that they have among all halves.
        """
        generator, (halves, t) = np.random.default_rng(BOOTSTRAP), found.shape
        counts = generator.multinomial(halves, np.full(halves, 1 / halves), DRAWS) / halves  # (draws, halves)
        points = generator.multinomial(t, np.full(t, 1 / t), DRAWS) / t  # (draws, t)
        a, b = (rankdata(values, axis=0) / halves for values in (predicted, found))

        def weighted(w: np.ndarray) -> np.ndarray:
            mean_a, mean_b = w @ a, w @ b
            variances = (w @ a**2 - mean_a**2) * (w @ b**2 - mean_b**2)
            return (w @ (a * b) - mean_a * mean_b) / np.sqrt(variances.clip(1e-12))

        each, drawn = weighted(np.full((1, halves), 1 / halves))[0], weighted(counts)
        return {"points": each, "over points": points @ each, "over halves": drawn.mean(1),
                "over both": (points * drawn).sum(1)}  # fmt: skip


def real(case: Case, objective: str, work: Path, halves: int, samples: slice = slice(TEST)) -> Truth:
    """What the networks did to some of the test samples, with the centred embedding."""
    place = retraining.folder(work, case, objective)
    drawn = [retraining.retrained(case, objective, place, i)[1, :, samples] for i in range(halves)]
    members = np.zeros((halves, len(case.training)))
    for i in range(halves):
        members[i, case.half(i)] = 1
    return Truth(torch.stack(drawn).double().numpy(), members)


def figures(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """LDS, its standard error over test images, and 95 % intervals."""
    each = found["points"]
    ends = {k: np.quantile(v, (0.025, 0.975)).round(4).tolist() for k, v in found.items() if k != "points"}
    error = each.std(ddof=1) / math.sqrt(len(each))
    return {"lds": round(float(each.mean()), 4), "standard error": round(float(error), 4), "interval": ends}


def evaluate(
    case: Case, objective: str, work: Path, code: str, halves: int, test: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One case and objective: figures of every score, and the comparisons with the cosine of the representation."""
    place, drawn = retraining.folder(work, case, objective), []
    network = audited(case, objective, place)
    for i in range(halves):
        drawn.append(retraining.retrained(case, objective, place, i)[..., :test])
    members = np.zeros((halves, len(case.training)))
    for i in range(halves):
        members[i, case.half(i)] = 1
    truths = dict(zip(TARGETS, (Truth(t, members) for t in torch.stack(drawn, 1).double().numpy()), strict=True))
    scores: dict[str, Tensor] = {}
    said: list[str] = []
    for make in (simple_scores, with_all_landmarks, with_few_landmarks):

        def compute(make: Any = make) -> Any:
            started = time.perf_counter()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                made = make(network, OBJECTIVES[objective], case, test)
            took = time.perf_counter() - started
            print(f"{case.name}, {objective}, {make.__name__}: {took:.0f} s", file=sys.stderr, flush=True)
            return made, [str(w.message) for w in caught]

        made, warned = cached(place / f"{make.__name__}-{test}-{code}.pt", compute)
        scores, said = scores | made, said + warned
    found = {name: {on: truth.lds(s) for on, truth in truths.items()} for name, s in scores.items()}
    result = {
        "halves": halves,
        "targets": {on: truth.spread() for on, truth in truths.items()},
        "ceiling": every({on: truth.ceiling() for on, truth in truths.items()}),
        "scores": {name: every(v) for name, v in found.items()},
        "warnings": sorted(set(said)),
    }
    return result, [
        difference(f"{case.name}, {objective}", score, on, found)
        for score in (CONTRIBUTION, ATTRIBUTION, OF_VIEWS)
        for on in TARGETS
    ]


def every(found: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """`figures` of each target."""
    return {on: figures(v) for on, v in found.items()}


def difference(name: str, score: str, on: str, found: dict[str, Any]) -> dict[str, Any]:
    """Whether a score is above the better cosine of the representation, with the same draws."""
    best = max((COSINE, "representation cosine"), key=lambda k: found[k][on]["points"].mean())
    shown = figures({k: found[score][on][k] - found[best][on][k] for k in found[score][on]})
    return measure.check(f"LDS, {name}, {on}: {score} above the {best}", "95 % interval above 0", cell(shown),
                         shown["interval"]["over both"][0] > 0)  # fmt: skip


# Tables --------------------------------------------------------------------------------------------------


def cell(f: dict[str, Any]) -> str:
    """LDS ± standard error over test images [interval over both]."""
    low, high = f["interval"]["over both"]
    return f"{f['lds']:.3f} ± {f['standard error']:.3f} [{low:.2f}, {high:.2f}]"


def result_table(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """All scores of a case and objective."""
    note = f"{result['halves']} halves, {len(retraining.RETRAINED)} seeds each; ± is the standard error over test "
    note += (
        "samples, brackets are the 95 % interval over test samples and halves. The ceiling is one seed's targets by "
    )
    note += "the other's, c; a perfect prediction of both seeds' mean would reach about √(2c/(1 + c))."
    rows = {"ceiling": result["ceiling"]} | result["scores"]
    cells = [[k, *(cell(v[on]) for on in TARGETS)] for k, v in rows.items()]
    return measure.table(f"LDS, {name}", ["score", *TARGETS], cells, note)


if __name__ == "__main__":
    main()
