"""One encoder: train it, audit it, and every figure of the paper's tables that its labels allow."""

import hashlib
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from krepes import Auditor, Newton
from krepes.audit.evaluation import kendall, probe
from krepes.data.source import Source
from krepes.data.stream import blocks, probe_of, read
from krepes.kernel.ntk import gradient_map
from krepes.pipeline import kept_landmarks, planned_memory
from krepes.pretrain import train
from krepes.work import Work
from paper import baselines
from paper.cases import OBJECTIVES, SPLIT, Case

KEPT = Path(__file__).parents[1] / "checkpoints"
LARGEST = 5 * 10**6  # bytes of a checkpoint that is kept
BASELINE_TESTS = 1000
TRAK_TRAINING, TRAK_DIMENSIONS = 4096, 512
PROBED = 20_000  # labels of training samples


def encoder(case: Case, objective: str, seed: int, work: Path) -> tuple[nn.Module, float | None]:
    """The trained network in eval mode, and the seconds of its training, None if it was there."""
    torch.manual_seed(seed)
    network, name = case.network(), f"{case.name}-{objective}-{seed}.safetensors"
    stamp = protocol(case, objective, seed, network)
    path = next((p for p in (KEPT / name, work / name) if p.is_file() and stamped(p) == stamp), None)
    if path is not None:
        network.load_state_dict(load_file(path))
        return network.eval(), None
    started = time.perf_counter()
    network = train(network, case.training, case.views, OBJECTIVES[objective], case.settings, seed).network
    save_file(network.state_dict(), work / name, metadata={"protocol": stamp})
    return network, time.perf_counter() - started


def protocol(case: Case, objective: str, seed: int, network: nn.Module) -> str:
    """A digest of everything that the training depends on but the library's versions."""
    parts = (case.name, len(case.training), repr(case.views), OBJECTIVES[objective], case.settings, repr(network), seed)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def stamped(path: Path) -> str | None:
    """The digest that a kept network carries."""
    with safe_open(path, "pt") as f:
        return (f.metadata() or {}).get("protocol")


def measured(case: Case, objective: str, seed: int, work: Path) -> dict[str, Any]:
    """The figures of one encoder, with 95 % intervals over test samples where there are some."""
    network, trained = encoder(case, objective, seed, work)
    auditor = Auditor(network, OBJECTIVES[objective], case.kernel, case.landmarks, Newton(damping="auto"), seed=seed)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        auditor.fit(case.training, case.views)
        fitted = time.perf_counter() - started
        of_landmarks = case.labels[np.asarray(auditor.fit_.indices)]
        table = auditor.evaluate(case.test, case.test_labels, of_landmarks)
    figures = {
        row.figure: {"value": row.value, "low": row.low, "high": row.high, "n": row.n, "note": row.note}
        for row in table.itertuples()
    }
    outcome = auditor.outcome_
    found = {
        "objective": objective, "seed": seed, "figures": figures,
        "precision@1 of others": others(network, case, list(auditor.fit_.indices)),
        "probes on training samples": wide_probes(auditor, network, case),
        "spectral entropy": auditor.spectral_entropy_, "rank": auditor.fit_.nystrom.rank,
        "relative damping": outcome.relative_damping, "gain ratio": outcome.gain_ratio,
        "step length": outcome.step_length, "status": outcome.status.name,
        "training seconds": trained, "audit seconds": fitted, "warnings": sorted({str(w.message) for w in caught}),
    }  # fmt: skip
    if case.groups is not None:
        found["anchoring"] = anchoring(auditor, case)
    return found


def others(network: nn.Module, case: Case, landmarks: list[int]) -> dict[str, float]:
    """Precision@1 of methods that are not krepes', on the first test samples.

    All choose among the landmarks; TRAK's second moment is over these and TRAK_TRAINING random samples.
    """
    few = range(min(BASELINE_TESTS, len(case.test)))
    x, corpus, y = read(case.test, few), read(case.training, landmarks), case.test_labels[: len(few)]
    with torch.no_grad():
        z, z_corpus = network(x), network(corpus)
    scores = {"SimplEx": baselines.simplex(z, z_corpus), "DkNN": baselines.deep_neighbours(network, x, corpus)}
    rest = np.setdiff1d(np.random.default_rng(SPLIT).permutation(len(case.training))[:TRAK_TRAINING], landmarks)
    training = read(case.training, [*landmarks, *rest.tolist()])
    found = baselines.trak(network, x, training, min(TRAK_DIMENSIONS, len(training) // 8))
    if found is not None:
        scores |= {"TRAK": found[:, : len(landmarks)], "|TRAK|": found[:, : len(landmarks)].abs()}
    labels = case.labels[landmarks]
    return {name: float((labels[s.argmax(1).numpy()] == y).mean()) for name, s in scores.items()}


def others_alone(case: Case, objective: str, seed: int, work: Path) -> dict[str, float]:
    """`others` on the landmarks of `measured`, without its step."""
    network, _ = encoder(case, objective, seed, work)
    auditor = Auditor(network, OBJECTIVES[objective], case.kernel, case.landmarks, seed=seed)
    gradients = gradient_map(case.kernel, auditor.encoder, probe_of(case.training))
    memory = planned_memory(auditor.settings, gradients, len(case.training))
    return others(network, case, kept_landmarks(auditor.settings, case.training, gradients, memory, Work()))


def wide_probes(auditor: Auditor, network: nn.Module, case: Case) -> dict[str, float]:
    """τ and accuracy gap of probes on many more labels than `evaluate` spares, and what τ the probes alone would cost.

    Two probes on the network's own representation, on halves of the labels, differ by nothing but their samples.
    """
    drawn = np.random.default_rng(SPLIT + 2).permutation(len(case.training))[:PROBED]
    f, z = representations(auditor, network, case.training, drawn.tolist())
    f_test, z_test = representations(auditor, network, case.test, list(range(len(case.test))))
    f, z = np.concatenate([f, f_test]), np.concatenate([z, z_test])
    y = np.unique(np.concatenate([case.labels[drawn], case.test_labels]), return_inverse=True)[1]
    n = len(drawn)
    test, known = np.arange(n, len(y)), np.arange(n)
    (hit_f, p_f), (hit_z, p_z) = probe(f, y, known, test), probe(z, y, known, test)
    (_, first), (_, second) = (probe(z, y, part, test) for part in (known[: n // 2], known[n // 2 :]))
    return {
        "n": n, "τ": kendall(p_f, p_z), "accuracy gap": float(hit_f.mean() - hit_z.mean()),
        "accuracy, network": float(hit_z.mean()), "τ of two probes on the network": kendall(first, second),
    }  # fmt: skip


def representations(auditor: Auditor, network: nn.Module, source: Source, positions: list[int]) -> tuple[Any, Any]:
    """f (n, h) by the kernel and z (n, d) by the network."""
    f, z = [], []
    for start in range(0, len(positions), 1024):
        batch = source.batch(positions[start : start + 1024])
        f.append(auditor.transform(batch))
        with torch.no_grad():
            z.append(network(batch))
    return torch.cat(f).double().numpy(), torch.cat(z).double().numpy()


def anchoring(auditor: Auditor, case: Case) -> dict[str, Any]:
    """Shares of the groups among the ten most influential landmarks of a group's test samples, and among all."""
    assert case.groups is not None
    groups, of_tests, names = case.groups
    of_landmarks = groups[np.asarray(auditor.fit_.indices)]
    share = lambda g: np.bincount(g, minlength=len(names)) / len(g)  # noqa: E731
    top = influences(auditor, case.test).argsort(1)[:, -10:]
    rows = {names[g]: share(of_landmarks[top[of_tests == g]].ravel()).round(4).tolist() for g in range(len(names))}
    return {"groups": list(names), "landmarks": share(of_landmarks).round(4).tolist(), "anchors": rows}


def influences(auditor: Auditor, test: Source) -> np.ndarray:
    """Sample influence (t, m)."""
    return np.concatenate([auditor.influence(read(test, b)).cpu().numpy() for b in blocks(range(len(test)), 512)])
