"""Linear datamodelling score: does an attribution to training samples predict what retraining really does?

    OMP_NUM_THREADS=1 python benchmarks/lds.py [--quick] [--work FOLDER]

MLPs are trained on 1,000 digits with Barlow Twins and with VICReg, and trained again on random halves of the digits.
Target of a test image: the mean cosine between f(x) and f of 16 augmentations of x, the same ones for every network;
once with the network's own embedding, once with its mean over the 1,000 images taken off, which is what krepes explains
(both objectives ignore the mean, so that no data determines it). LDS of scores (t, n): per test image Spearman's
correlation over the halves between the sum of the members' scores and the target, averaged over test images. Scores
come from one network trained on all 1,000, whose seed no half has; the seeds of the halves' networks are the same for
every half. 95 % intervals are bootstrapped over test images, over halves, and over both, which is what the tables show.
The ceiling is the LDS of one seed's targets by the other seed's. Width and number of training steps were chosen by the
ceiling, other settings by no figure here. Labels are not used.

What is trained and scored is kept in --work: an interrupted run goes on, and another state of krepes scores anew.
"""

import argparse
import hashlib
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import cosine_similarity, normalize

from krepes import NTK, Auditor, Newton, VICReg, demo
from krepes.encoders import MLP

OBJECTIVES = {"barlow_twins": demo.OBJECTIVE, "vicreg": VICReg()}
VIEWS, AUGMENTATIONS = demo.VIEWS, 16
N, TEST, HALVES = 1000, 64, 60
WIDTHS, D, STEPS, BATCH, RATE, DECAY = (1024,), 32, 150, 500, 2e-3, 1e-4
AUDITED, RETRAINED = 0, (1, 2)  # seeds of initialisation, batches and views
SPLIT, AUGMENT, DRAW, AUDIT, BOOTSTRAP = 0, 7, 100, 0, 0  # seeds; DRAW + i makes half i
LANDMARKS = 200
KERNELS = {"centred cosine": NTK(), "centred": NTK(cosine=False)}
SCORES = ("influence", "contribution", "attribution", "attribution, one draw of views")
TARGETS = ("own embedding", "centred embedding")
COSINE, COMPARED = "representation cosine", (N, "centred cosine", "coefficients", 100.0)
DRAWS, VIEW_DRAWS = 2000, 8


@dataclass(frozen=True)
class Data:
    """Training images (n, 1, 8, 8), test images (t, 1, 8, 8), and the test images' augmentations (t, v, 1, 8, 8)."""

    training: Tensor
    test: Tensor
    augmented: Tensor

    @classmethod
    def load(cls) -> "Data":
        images, _ = demo.digits()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT))
        test, generator = images[order[N : N + TEST]], torch.Generator().manual_seed(AUGMENT)
        augmented = torch.stack([VIEWS(test, generator) for _ in range(AUGMENTATIONS)], 1)
        return cls(images[order[:N]], test, augmented)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help='6 halves, 200 landmarks, damping "auto"')
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-lds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, code, started = measure.machine_facts(), measure.code_fingerprint(), time.perf_counter()
    protocol = (OBJECTIVES, VIEWS, AUGMENTATIONS, N, TEST, WIDTHS, D, STEPS, BATCH, RATE, DECAY)
    protocol += (AUDITED, RETRAINED, SPLIT, AUGMENT, DRAW, AUDIT, VIEW_DRAWS, torch.__version__)
    work = args.work / hashlib.sha256(repr(protocol).encode()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    data, found, tables, checks = Data.load(), {}, [], []
    for name in OBJECTIVES:
        result, differences = evaluate(name, data, work, code, args.quick)
        found[name] = result
        tables += result_tables(name, result)
        checks += differences
    content: dict[str, Any] = {
        "code": code,
        "seeds": {"split": SPLIT, "augmentations": AUGMENT, "halves": DRAW, "audited network": AUDITED,
                  "retrained networks": list(RETRAINED), "audit": AUDIT, "bootstrap": BOOTSTRAP},
        "protocol": {"training images": N, "test images": TEST, "augmentations": AUGMENTATIONS, "views": repr(VIEWS),
                     "network": [64, *WIDTHS, D], "steps": STEPS, "batch": BATCH, "bootstrap draws": DRAWS},
        "seconds": round(time.perf_counter() - started, 1),
        "objectives": found, "tables": tables, "checks": checks,
    }  # fmt: skip
    path = measure.write_result("lds", args.quick, content, facts)
    for t in tables:
        print(f"\n### {t['title']}\n\n{t['note']}\n\n{measure.markdown_table(t['columns'], t['rows'])}")
    print("\n", *(f"{c['claim']}: {c['found']}\n" for c in checks))
    print(f"written: benchmarks/results/{path.name}, {content['seconds']:.0f} s")


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, or what it returned before."""
    if not path.is_file():
        value, draft = make(), path.with_suffix(".tmp")
        torch.save(value, draft)
        draft.replace(path)
    return torch.load(path)


# Retraining ----------------------------------------------------------------------------------------------


def train(objective: Any, x: Tensor, seed: int) -> tuple[nn.Module, float]:
    """A network trained on images x (n, 1, 8, 8), in eval mode, and its last loss."""
    torch.manual_seed(seed)
    network, generator, loss = MLP(64, WIDTHS, D), torch.Generator().manual_seed(seed), torch.tensor(math.nan)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        batch = x[torch.randperm(len(x), generator=generator)[:BATCH]]
        loss = objective.loss(network(VIEWS(batch, generator)), network(VIEWS(batch, generator)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval(), loss.item()


def target(network: Callable[[Tensor], Tensor], x: Tensor, augmented: Tensor, mean: Any = 0) -> Tensor:
    """Mean cosine between f − mean of images (t, 1, 8, 8) and of their augmentations (t, v, 1, 8, 8), (t,)."""
    views = network(augmented.flatten(0, 1)).unflatten(0, augmented.shape[:2])
    return cosine_similarity((network(x) - mean)[:, None], views - mean, dim=2).mean(1)


@torch.no_grad()
def targets(network: nn.Module, data: Data) -> Tensor:
    """Of the network's own embedding and of the centred one, (2, t)."""
    return torch.stack([target(network, data.test, data.augmented, m) for m in (0, network(data.training).mean(0))])


def half(i: int) -> Tensor:
    """Positions of half i of the training images, (n/2,)."""
    return torch.randperm(N, generator=torch.Generator().manual_seed(DRAW + i))[: N // 2]


def retrained(name: str, data: Data, i: int) -> Tensor:
    """Targets of networks trained on half i, (2, seeds, t)."""
    networks = [train(OBJECTIVES[name], data.training[half(i)], seed)[0] for seed in RETRAINED]
    return torch.stack([targets(network, data) for network in networks], 1)


# Scores, all (t, n) --------------------------------------------------------------------------------------


def baselines(network: nn.Module, objective: Any, data: Data) -> dict[str, Tensor]:
    """Similarities, which are expected to raise the target, and the product of gradients at the last step."""
    with torch.no_grad():
        spaces = {"input cosine": (data.test.flatten(1), data.training.flatten(1))}
        spaces[COSINE] = network(data.test), network(data.training)
    found = {"random": torch.randn(TEST, N, generator=torch.Generator().manual_seed(AUDIT))}
    for name, (a, b) in spaces.items():
        found[name] = normalize(a) @ normalize(b).T
        found[f"{name}, centred"] = normalize(a - b.mean(0)) @ normalize(b - b.mean(0)).T
    for name, center in (("gradient cosine", False), ("gradient cosine, centred", True)):
        auditor = Auditor(network, objective, NTK(center=center), range(N), Newton(damping="auto"), seed=AUDIT)
        found[name] = auditor.fit(data.training, VIEWS).kernel(data.test)
    return found | {"gradient product (TracIn)": gradient_products(network, objective, data)}


def gradient_products(network: nn.Module, objective: Any, data: Data) -> Tensor:
    """−⟨∇T_t, J_iᵀ ∂L/∂f_i⟩ over the parameters: the first step of training with more weight on sample i."""
    weights = {k: v.detach() for k, v in network.named_parameters()}

    def f(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(network, w, (x,))

    def target_of(w: dict[str, Tensor], x: Tensor, v: Tensor) -> Tensor:
        return target(lambda batch: f(w, batch), x[None], v[None])[0]

    ascents = [grad(target_of)(weights, x, v) for x, v in zip(data.test, data.augmented, strict=True)]
    scores, generator = torch.zeros(TEST, N), torch.Generator().manual_seed(AUDIT)
    for _ in range(VIEW_DRAWS):
        pair = [VIEWS(data.training, generator) for _ in range(2)]
        z = [f(weights, view).requires_grad_() for view in pair]
        for view, slope in zip(pair, torch.autograd.grad(objective.loss(*z), z), strict=True):
            along = [jvp(lambda w, view=view: f(w, view), (weights,), (a,))[1] for a in ascents]
            scores -= torch.stack([(slope * change).sum(1) for change in along])
    return scores


def audits(quick: bool) -> list[tuple[int, str, str, Any]]:
    """Number of landmarks, kernel, ridge and damping of every audit."""
    if quick:
        return [(LANDMARKS, "centred cosine", "coefficients", "auto")]
    return [  # adjoint solves with 1,000 landmarks and λ below the mean curvature take ten minutes an audit
        (N, "centred cosine", "coefficients", 1e4),  # nearly a gradient step
        (N, "centred cosine", "coefficients", 100.0),
        (N, "centred cosine", "coefficients", 10.0),
        (LANDMARKS, "centred cosine", "coefficients", "auto"),
    ]


def audit(network: nn.Module, objective: Any, data: Data, m: int, kernel: str, ridge: str, damping: Any) -> dict:
    """krepes' three scores of one audit and how its solves ended; samples that are no landmarks have none of the first
    two."""
    landmarks, newton = range(N) if m == N else m, Newton(ridge=ridge, damping=damping)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        auditor = Auditor(network, objective, KERNELS[kernel], landmarks, newton, seed=AUDIT)
        auditor.fit(data.training, VIEWS)
        found: dict[str, Any] = {name: torch.zeros(TEST, N, dtype=torch.float64) for name in SCORES[:2]}
        found["influence"][:, auditor.fit_.indices] = auditor.influence(data.test)
        found["contribution"][:, auditor.fit_.indices] = auditor.contribution(data.test)
        found["attribution"] = auditor.attribute(data.test)
        found["attribution, one draw of views"] = auditor.attribute(data.test, draws=1)
    said, outcome = [str(w.message) for w in caught], auditor.outcome_
    print(m, kernel, ridge, damping, f"{time.perf_counter() - started:.0f} s", *said, file=sys.stderr, flush=True)
    kept = ("relative_damping", "gain_ratio", "step_length", "loss_before", "loss_after")
    return found | {k: getattr(outcome, k) for k in kept} | {"status": outcome.status.name, "warnings": said}


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


def figures(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """LDS, its standard error over test images, and 95 % intervals."""
    each = found["points"]
    ends = {k: np.quantile(v, (0.025, 0.975)).round(4).tolist() for k, v in found.items() if k != "points"}
    error = each.std(ddof=1) / math.sqrt(len(each))
    return {"lds": round(float(each.mean()), 4), "standard error": round(float(error), 4), "interval": ends}


def evaluate(name: str, data: Data, work: Path, code: str, quick: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One objective: its figures, and the comparisons with the cosine of the representation."""
    drawn = []
    for i in range(6 if quick else HALVES):
        drawn.append(cached(work / f"{name}-half-{i}.pt", lambda i=i: retrained(name, data, i)))
        print(f"{name}: half {i}", end="\r", file=sys.stderr, flush=True)
    members = np.zeros((len(drawn), N))
    for i in range(len(drawn)):
        members[i, half(i)] = 1
    truths = dict(zip(TARGETS, (Truth(t, members) for t in torch.stack(drawn, 1).double().numpy()), strict=True))
    objective = OBJECTIVES[name]
    network, loss = train(objective, data.training, AUDITED)

    def lds(scores: Tensor) -> dict[str, dict[str, np.ndarray]]:
        return {on: truth.lds(scores) for on, truth in truths.items()}

    simple = cached(work / f"{name}-baselines-{code}.pt", lambda: baselines(network, objective, data))
    found, rows = {k: lds(v) for k, v in simple.items()}, []
    for settings in audits(quick):
        path = work / f"{name}-{'-'.join(map(str, settings)).replace(' ', '-')}-{code}.pt"
        scored = cached(path, lambda settings=settings: audit(network, objective, data, *settings))
        of = {score: lds(scored.pop(score)) for score in SCORES}
        found |= of if settings == COMPARED else {}
        head = dict(zip(("landmarks", "kernel", "ridge", "damping"), settings, strict=True))
        rows.append(head | scored | {score: every(v) for score, v in of.items()})
    result = {
        "halves": len(drawn),
        "audited network": {"loss": loss, "targets": targets(network, data).mean(1).tolist()},
        "targets": {on: truth.spread() for on, truth in truths.items()},
        "ceiling": every({on: truth.ceiling() for on, truth in truths.items()}),
        "baselines": {k: every(found[k]) for k in simple},
        "audits": rows,
    }
    return result, [difference(name, score, on, found) for score in SCORES[1:3] for on in TARGETS]


def every(found: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """`figures` of each target."""
    return {on: figures(v) for on, v in found.items()}


def difference(name: str, score: str, on: str, found: dict[str, Any]) -> dict[str, Any]:
    """Whether a score of the compared audit is above the cosine of the representation, with the same draws."""
    claim = f"LDS, {name}, {on}: {score} of all samples above the {COSINE}"
    if score not in found:
        return measure.check(claim, "95 % interval above 0", None, None)
    shown = figures({k: found[score][on][k] - found[COSINE][on][k] for k in found[score][on]})
    return measure.check(claim, "95 % interval above 0", cell(shown), shown["interval"]["over both"][0] > 0)


# Tables --------------------------------------------------------------------------------------------------


def cell(f: dict[str, Any]) -> str:
    """LDS ± standard error over test images [interval over both]."""
    low, high = f["interval"]["over both"]
    return f"{f['lds']:.3f} ± {f['standard error']:.3f} [{low:.2f}, {high:.2f}]"


def result_tables(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The simple scores, and krepes' by setting."""
    note = (
        f"{result['halves']} halves, {len(RETRAINED)} seeds each; ± is the standard error over test images, brackets "
    )
    note += "are the 95 % interval over test images and halves. The ceiling is one seed's targets by the other's, c; a "
    note += "perfect prediction of both seeds' mean would reach about √(2c/(1 + c))."
    simple = {"ceiling": result["ceiling"]} | result["baselines"]
    tables = [measure.table(f"LDS, {name}: simple scores", ["score", *TARGETS],
                            [[k, *(cell(v[on]) for on in TARGETS)] for k, v in simple.items()], note)]  # fmt: skip
    columns = ["landmarks", "kernel", "ridge", "relative λ", "gain ratio", *SCORES]
    for on in TARGETS:
        rows = []
        for a in result["audits"]:
            damping = f"auto ({a['relative_damping']:.3g})" if a["damping"] == "auto" else f"{a['damping']:g}"
            rows.append([a["landmarks"], a["kernel"], a["ridge"], damping + " *" * bool(a["warnings"])])
            rows[-1] += [f"{a['gain_ratio']:.2f}", *(cell(a[score][on]) for score in SCORES)]
        starred = "* a solve did not converge: the JSON has the warning."
        tables.append(measure.table(f"LDS, {name}, {on}: krepes", columns, rows, starred))
    return tables


if __name__ == "__main__":
    main()
