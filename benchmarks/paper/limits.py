"""Where the audit stops to describe the encoder, and whether the trust gate says so.

    cd benchmarks && OMP_NUM_THREADS=1 python -m paper.limits [--parts networks,steps,…] [--seeds 0,1,2] [--quick]

scikit-learn's digits, 1,000 for training and audit, the others as test samples; 150 landmarks, λ "auto".

networks  MLPs of falling and growing depth, a CNN, a transformer, BatchNorm early and late, the same trained to a
          plateau, not trained at all, and with objectives that let the representation collapse: fidelity, τ, verdict
steps     one Newton step against more of them: loss, fidelity, the ranking of landmarks
kernels   trace against pseudo, sketched and projected, the landmarks held: error, agreement of influences, fidelity
outputs   in how many dimensions the outputs of the tables' kept encoders vary, over 2,048 training samples

Figures go to results/paper-limits.json; a part writes its own when it ends.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from safetensors.torch import load_file
from scipy.stats import rankdata
from torch import nn

from krepes import NTK, Auditor, BarlowTwins, Newton, SimCLR, VICReg, demo
from krepes.audit.trust import SAMPLE, effective_dimensions, fidelity
from krepes.data import ArraySource
from krepes.encoders import MLP, SmallCNN
from krepes.encoders.transformers_models import transformer
from krepes.errors import KrepesError
from krepes.pretrain import TrainConfig, train
from paper import cases
from paper.measured import KEPT

N, LANDMARKS, D, WIDTH, EPOCHS, BATCH = 1000, 150, 16, 128, 60, 250
WIDE = 1024  # where projecting saves something
OBJECTIVE = BarlowTwins(weight=0.05)
TRANSFORMER = {
    "model_type": "vit", "image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": D, "num_hidden_layers": 4,
    "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts, kept = measure.machine_facts(), (measure.read_result("paper-limits", args.quick) or {}).get("parts", {})
    seeds = [0] if args.quick else [int(s) for s in args.seeds.split(",")]
    settings = TrainConfig(epochs=2 if args.quick else EPOCHS, batch_size=BATCH)
    for name in args.parts.split(","):
        started = time.perf_counter()
        found = PARTS[name](seeds, settings)
        kept[name] = {"code": measure.code_fingerprint(), "seconds": round(time.perf_counter() - started, 1), **found}
        parts = {p: kept[p] for p in PARTS if p in kept}
        tables = [p["table"] for p in parts.values()]
        measure.write_result("paper-limits", args.quick, {"parts": parts, "tables": tables, "checks": []}, facts)
        print(f"{name}: {kept[name]['seconds']} s")
        print(measure.markdown_table(found["table"]["columns"], found["table"]["rows"]), flush=True)


# Networks ------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """An MLP with batch norm after its first layer, or as its last."""

    def __init__(self, late: bool):
        super().__init__()
        last = [nn.Linear(WIDTH, D), nn.BatchNorm1d(D)] if late else [nn.Linear(WIDTH, D)]
        first = [nn.Linear(64, WIDTH), *([] if late else [nn.BatchNorm1d(WIDTH)]), nn.ReLU()]
        self.layers = nn.Sequential(*first, nn.Linear(WIDTH, WIDTH), nn.ReLU(), *last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, 8, 8) -> (B, D)."""
        return self.layers(x.flatten(1))


def deep(layers: int) -> Callable[[], nn.Module]:
    """An MLP with so many hidden layers."""
    return lambda: MLP(64, (WIDTH,) * layers, D)


Case = tuple[str, Callable[[], nn.Module], Any, float]  # name, network, objective, share of the epochs
NETWORKS: list[Case] = [
    *((f"MLP, {k} hidden layers", deep(k), OBJECTIVE, 1.0) for k in (1, 2, 4, 8, 16)),
    ("CNN", lambda: SmallCNN(1, (16, 32), D), OBJECTIVE, 1.0),
    ("transformer, 4 layers", lambda: transformer("vit", TRANSFORMER, pool="mean"), OBJECTIVE, 1.0),
    ("BatchNorm after the first layer", lambda: Normed(False), OBJECTIVE, 1.0),
    ("BatchNorm as the last layer", lambda: Normed(True), OBJECTIVE, 1.0),
    ("MLP, 2 hidden layers, VICReg", deep(2), VICReg(), 1.0),
    ("MLP, 2 hidden layers, SimCLR", deep(2), SimCLR(temperature=0.5, batch_size=BATCH), 1.0),
    ("ten times as long, to a plateau", deep(2), OBJECTIVE, 10.0),
    ("not trained", deep(2), OBJECTIVE, 0.0),
    ("collapsed: invariance alone", deep(2), VICReg(variance=0.0, covariance=0.0), 1.0),
    ("collapsed to few dimensions: no covariance", deep(2), VICReg(covariance=0.0), 1.0),
]


def networks(seeds: list[int], settings: TrainConfig) -> dict[str, Any]:
    """One row per kind of network: figures of the trust gate and τ of probes."""
    rows, found = [], {}
    for name, make, objective, share in NETWORKS:
        found[name] = [one_network(make, objective, share, seed, settings) for seed in seeds]
        rows.append([name, *summary(found[name])])
        print(*rows[-1], sep=" | ", flush=True)
    columns = ("network", "fidelity R²", "τ", "gain ratio", "Nyström error", "output dimensions", "seed stability",
               "verdicts", "because of")  # fmt: skip
    note = f"{len(seeds)} seeds; τ of probes on half of the test samples, which see the labels; the rest sees none."
    return {"runs": found, "table": measure.table("Networks", columns, rows, note)}


def one_network(
    make: Callable[[], nn.Module], objective: Any, share: float, seed: int, settings: TrainConfig
) -> dict[str, Any]:
    """Train, audit, and ask the gate; what was refused is said."""
    source, test, labels, classes = digits()
    network = trained(make, objective, share, seed, settings)
    auditor = Auditor(network, objective, NTK(), LANDMARKS, Newton(damping="auto"), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            auditor.fit(source, demo.VIEWS)
        except KrepesError as error:
            return {"refused": f"{type(error).__name__}: {error}"}
        gate = auditor.trust_
        of_landmarks = labels[np.asarray(auditor.fit_.indices)]
        try:
            table = auditor.evaluate(test, classes, of_landmarks).set_index("figure")["value"]
            tau = float(table["Kendall τ"])
        except KrepesError as error:
            tau = None
            print(f"no τ: {error}", flush=True)
    figures = {f.name: f.value for f in gate.figures}
    bad = [f.name for f in gate.figures if f.verdict == gate.verdict != "green"]
    return {"τ": tau, "verdict": gate.verdict, "because": bad, "figures": figures, "sentence": gate.sentence}


def trained(make: Callable[[], nn.Module], objective: Any, share: float, seed: int, settings: TrainConfig) -> nn.Module:
    """In eval mode."""
    torch.manual_seed(seed)
    network = make()
    if share:
        settings = settings.model_copy(update={"epochs": round(settings.epochs * share)})
        network = train(network, digits()[0], demo.VIEWS, objective, settings, seed).network
    return network.eval()


def digits() -> tuple[ArraySource, ArraySource, np.ndarray, np.ndarray]:
    """Training and test samples and their classes."""
    images, classes = demo.digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    y, images = np.asarray(classes)[order.numpy()], images[order]
    test = ArraySource(images[N:], ids=[f"test-{i}" for i in range(len(images) - N)])
    return ArraySource(images[:N]), test, y[:N], y[N:]


def summary(runs: list[dict[str, Any]]) -> list[str]:
    """Cells of a row: means, verdicts, and what they rest on."""
    done = [r for r in runs if "refused" not in r]
    if not done:
        return [*["–"] * 6, "refused", runs[0]["refused"].split(":")[0]]
    names = ("fidelity R²", "gain ratio", "Nyström error", "output dimensions", "seed stability")
    means = [mean([r["figures"].get(k) for r in done]) for k in names]
    means.insert(1, mean([r["τ"] for r in done]))
    verdicts = ["refused" if "refused" in r else r["verdict"] for r in runs]
    return [*means, ", ".join(verdicts), ", ".join(sorted({b for r in done for b in r["because"]}))]


def mean(values: list[float | None]) -> str:
    """Mean ± standard deviation of those that are there."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    return f"{np.mean(known):.3f}" + (f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else "")


# Steps ---------------------------------------------------------------------------------------------------


def steps(seeds: list[int], settings: TrainConfig) -> dict[str, Any]:
    """What more Newton steps change: the audit's landmarks, views and kernel are the same."""
    rows, found, source = [], {}, digits()[0]
    for name, objective in {"Barlow Twins": OBJECTIVE, "VICReg": VICReg(),
                            "SimCLR": SimCLR(temperature=0.5, batch_size=BATCH)}.items():  # fmt: skip
        each: dict[int, list[dict[str, float]]] = {}
        for seed in seeds:
            network = trained(deep(2), objective, 1.0, seed, settings)
            first = None
            for count in (1, 2, 5, 10, 20):
                newton = Newton(damping="auto", steps=count, tol=1e-3)
                auditor = Auditor(network, objective, NTK(), LANDMARKS, newton, seed=seed)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    auditor.fit(source, demo.VIEWS)
                x = source.batch(range(200))
                now = {"influence": auditor.influence(x).numpy(), "contribution": auditor.contribution(x).numpy()}
                first = first or now
                with torch.no_grad():
                    z = network(source.batch(range(N)))
                f = auditor.transform(source)
                each.setdefault(count, []).append({
                    "loss": auditor.outcome_.loss_after, "fidelity": linear(f.numpy(), z.double().numpy()),
                    **{f"rank correlation, {k}": ranks(first[k], now[k]) for k in now},
                })  # fmt: skip
        found[name] = each
        for count, runs in each.items():
            rows.append([name, count, *(mean([r[k] for r in runs]) for k in runs[0])])
            print(*rows[-1], sep=" | ", flush=True)
    columns = ("objective", "steps", "loss", "fidelity R²", "influences as after one step", "contributions")
    note = "Mean over samples of Spearman's correlation over landmarks with the scores of one step."
    return {"runs": found, "table": measure.table("One step and more", columns, rows, note)}


def linear(f: np.ndarray, z: np.ndarray) -> float:
    """R² of z by a linear map of f, on the second half."""
    found = fidelity(torch.as_tensor(f), z)
    return found if isinstance(found, float) else float("nan")


def ranks(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of Spearman's correlation."""
    x, y = (rankdata(v, axis=1) for v in (a, b))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    return float(((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))).mean())


# Kernels -------------------------------------------------------------------------------------------------

KERNELS = {
    "trace": NTK("trace"), "pseudo": NTK("pseudo"),
    **{f"sketch, {q} directions": NTK("sketch", sketch=q) for q in (4, 8)},
    **{f"trace, projected to {k}": NTK("trace", project=k) for k in (4096, 1024, 256)},
    "last layer alone": NTK("trace", params="head"), "trace, not centred": NTK("trace", center=False),
    "trace, no cosine": NTK("trace", cosine=False),
}  # fmt: skip


def kernels(seeds: list[int], settings: TrainConfig) -> dict[str, Any]:
    """Other kernels with the landmarks of the trace kernel."""
    source, test, labels, classes = digits()
    found: dict[str, list[dict[str, float | None]]] = {}
    for seed in seeds:
        network = trained(lambda: MLP(64, (WIDE, WIDE), D), OBJECTIVE, 1.0, seed, settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = Auditor(network, OBJECTIVE, NTK(), LANDMARKS, Newton(damping="auto"), seed=seed)
            whole.fit(source, demo.VIEWS)
            x, landmarks = test.batch(range(200)), whole.fit_.indices
            wanted = {"influence": whole.influence(x).numpy(), "contribution": whole.contribution(x).numpy()}
            of_landmarks = labels[np.asarray(landmarks)]
            for name, kernel in KERNELS.items():
                auditor = Auditor(network, OBJECTIVE, kernel, landmarks, Newton(damping="auto"), seed=seed)
                started = time.perf_counter()
                auditor.fit(source, demo.VIEWS)
                seconds = time.perf_counter() - started
                table = auditor.evaluate(test, classes, of_landmarks).set_index("figure")["value"]
                now = {"influence": auditor.influence(x).numpy(), "contribution": auditor.contribution(x).numpy()}
                error = auditor.kernel_error_
                found.setdefault(name, []).append({
                    "kernel error": None if error is None else error.centred,
                    **{f"rank correlation, {k}": ranks(wanted[k], now[k]) for k in now},
                    "top ten shared": shared(wanted["influence"], now["influence"]),
                    "R²": float(table["R² of aligned representations"]), "τ": float(table["Kendall τ"]),
                    "precision@1": float(table["precision@1, contribution"]), "seconds": seconds,
                })  # fmt: skip
    rows = [[name, *(mean([r[k] for r in runs]) for k in runs[0])] for name, runs in found.items()]
    columns = ("kernel", *next(iter(found.values()))[0])
    note = "Rank correlations of a sample's scores, and the share of its ten most influential landmarks, with trace's."
    return {"runs": found, "table": measure.table("Kernels, landmarks held", columns, rows, note)}


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """Mean share of the top landmarks of each row that both have."""
    tops = [np.argsort(-v, axis=1)[:, :TOP] for v in (a, b)]
    return float(np.mean([len(set(i) & set(j)) / TOP for i, j in zip(*tops, strict=True)]))


# Outputs -------------------------------------------------------------------------------------------------


def outputs(seeds: list[int], settings: TrainConfig) -> dict[str, Any]:
    """Effective dimensions of the outputs of every checkpoint that is kept, all of seed 0."""
    found: dict[str, dict[str, float]] = {}
    for name in cases.CASES:
        kept = {o: p for o in cases.OBJECTIVES if (p := KEPT / f"{name}-{o}-0.safetensors").is_file()}
        if kept:
            case = cases.load(name)
            found[name] = {objective: dimensions_of(case, path) for objective, path in kept.items()}
    rows = [[name, *(f"{each[o]:.2f}" if o in each else "–" for o in cases.OBJECTIVES)] for name, each in found.items()]
    note = f"Of 64 on tables, of 32 on MNIST; over {SAMPLE:,} seeded training samples."
    columns = ("data", *cases.OBJECTIVES)
    return {"runs": found, "table": measure.table("Output dimensions of the tables' encoders", columns, rows, note)}


def dimensions_of(case: cases.Case, path: Path) -> float:
    """Of one checkpoint."""
    network = case.network()
    network.load_state_dict(load_file(path))
    chosen = np.random.default_rng(cases.SPLIT).permutation(len(case.training))[:SAMPLE].tolist()
    with torch.no_grad():
        parts = [network.eval()(case.training.batch(chosen[i : i + BATCH])) for i in range(0, SAMPLE, BATCH)]
    return float(effective_dimensions(torch.cat(parts).double()))


PARTS = {"networks": networks, "steps": steps, "kernels": kernels, "outputs": outputs}

if __name__ == "__main__":
    main()
