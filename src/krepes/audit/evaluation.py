"""Figures that need labels. Labels come in here and nowhere else; nothing here reaches a fit.

Protocols (docs/method.md): k-NN over the landmarks in the space of f, probes by logistic regression on standardised
representations, Kendall's τ of the true class's probability over test points.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.audit.statistics import bootstrap_mean, check_enough, resampled_means
from krepes.audit.trust import fidelity_parts
from krepes.errors import DataError

if TYPE_CHECKING:
    from krepes.auditor import Auditor

NEIGHBOURS = 50
REMOVED = 10
RANDOM_DRAWS = 20


@dataclass(frozen=True)
class Labelled:
    """Test samples as every figure needs them.

    Attributes:
        f, z: representations by the kernel (t, h) and by the network (t, d).
        f_landmarks, z_landmarks: those of the landmarks (m, ·).
        influence, contribution, K: scores and kernel rows (t, m).
        dA: ΔÃ (m, h).
        y, y_landmarks: class numbers.
    """

    f: np.ndarray
    z: np.ndarray
    f_landmarks: np.ndarray
    z_landmarks: np.ndarray
    influence: np.ndarray
    contribution: np.ndarray
    K: np.ndarray
    dA: np.ndarray
    y: np.ndarray
    y_landmarks: np.ndarray


def labelled(auditor: "Auditor", x: Any, labels: Any, landmark_labels: Any) -> Labelled:
    """The test samples without those that are landmarks themselves.

    Raises:
        DataError: a number of labels that does not fit, a missing label, or too few test samples.
    """
    from krepes.data.source import as_source
    from krepes.data.stream import blocks, read
    from krepes.influence import sample_influence, signed_contribution

    source = as_source(x)
    check_enough(len(source), "test samples")
    K, f = auditor._scores(source)
    y, y_landmarks = np.asarray(labels), np.asarray(landmark_labels)
    for name, values, wanted in (("labels", y, len(K)), ("landmark_labels", y_landmarks, K.shape[1])):
        if values.shape != (wanted,):
            raise DataError(f"{name} has shape {values.shape}; expected ({wanted},), one class each")
        if pd.isna(values).any():
            raise DataError(f"{int(pd.isna(values).sum())} of {len(values)} {name} are missing")
    names = np.unique(np.concatenate([y.astype(str), y_landmarks.astype(str)]))
    if len(names) < 2:
        raise DataError(f"all labels are {str(names[0])!r}; expected at least two classes")
    z = torch.cat([auditor.encoder(read(source, b)) for b in blocks(range(len(source)), 256)])
    landmarks = auditor.fit_.rows.landmarks
    _, f_landmarks = auditor._scores(landmarks)
    z_landmarks = torch.cat([auditor.encoder(part) for part in landmarks.split(256)])
    influence = sample_influence(K, auditor.dA_)
    # a landmark explains itself: it would raise every figure
    other = ~_among(source, landmarks)
    check_enough(int(other.sum()), "test samples that are no landmarks")
    signed = signed_contribution(K, auditor.dA_, f)
    parts = [a.double().cpu().numpy() for a in (f, z, f_landmarks, z_landmarks, influence, signed, K, auditor.dA_)]
    f, z, fl, zl, influence, signed, K, dA = parts
    place = {name: i for i, name in enumerate(names)}
    codes = [np.array([place[v] for v in values.astype(str)]) for values in (y, y_landmarks)]
    return Labelled(
        f[other], z[other], fl, zl, influence[other], signed[other], K[other], dA, codes[0][other], codes[1]
    )


def _among(source: Any, landmarks: Tensor) -> np.ndarray:
    """Which samples equal a landmark (t,)."""
    from krepes.data.stream import blocks

    known = {row.numpy().tobytes() for row in landmarks.cpu()}
    found = [
        row.to(landmarks.dtype).numpy().tobytes() in known
        for block in blocks(range(len(source)), 1024)
        for row in source.batch(block).cpu()
    ]
    return np.array(found)


def evaluate(auditor: "Auditor", x: Any, labels: Any, landmark_labels: Any, seed: int) -> pd.DataFrame:
    """All label-based figures; see `Auditor.evaluate`."""
    data = labelled(auditor, x, labels, landmark_labels)
    rows = [("class coverage κ", class_coverage(np.linalg.norm(data.dA, axis=1), data.y_landmarks), np.nan, np.nan,
             len(data.y_landmarks), f"of {len(np.unique(data.y_landmarks))} classes among the landmarks")]  # fmt: skip
    for name, hits in precision_at_1(data).items():
        rows.append(_row(f"precision@1, {name}", hits, seed, ""))
    pool = f"{REMOVED} of {len(data.y_landmarks)} landmarks, {min(NEIGHBOURS, len(data.y_landmarks) // 2)} neighbours"
    for name, drops in confidence_drop(data, seed).items():
        rows.append(_row(f"confidence drop, {name}", drops, seed, pool))
    rows += probe_fidelity(data, seed)
    rows += aligned_fidelity(data, seed)
    return pd.DataFrame(rows, columns=pd.Index(["figure", "value", "low", "high", "n", "note"]))


def _row(name: str, values: np.ndarray, seed: int, note: str) -> tuple:
    interval = bootstrap_mean(values.astype(float), seed)
    return name, interval.estimate, interval.low, interval.high, interval.n, note


def class_coverage(norms: np.ndarray, classes: np.ndarray) -> int:
    """κ: landmarks, by falling norm, until every class that is among them was seen. Source: the paper, §3."""
    order = np.argsort(-norms, kind="stable")
    _, first = np.unique(classes[order], return_index=True)
    return int(first.max()) + 1


def precision_at_1(data: Labelled) -> dict[str, np.ndarray]:
    """Whether the top landmark has the test sample's class (t,), by influence and by the baselines."""
    tops = {
        "influence": data.influence.argmax(1),
        "contribution": data.contribution.argmax(1),
        "cosine of the network": (_unit(data.z) @ _unit(data.z_landmarks).T).argmax(1),
        "gradient cosine": data.K.argmax(1),
    }
    hits = {name: data.y_landmarks[top] == data.y for name, top in tops.items()}
    share = np.bincount(data.y_landmarks, minlength=int(data.y.max()) + 1) / len(data.y_landmarks)
    return hits | {"a random landmark": share[data.y]}


def confidence_drop(data: Labelled, seed: int) -> dict[str, np.ndarray]:
    """Loss of k-NN confidence in the predicted class when ten landmarks are removed (t,), by rule.

    Rules: by influence; by signed contribution; by influence toward the predicted class's mean direction; ten random
    ones, mean over draws.
    """
    m = len(data.y_landmarks)
    k, removed = min(NEIGHBOURS, m // 2), min(REMOVED, m // 4)
    order = np.argsort(-_unit(data.f) @ _unit(data.f_landmarks).T, axis=1, kind="stable")
    n_classes = int(max(data.y.max(), data.y_landmarks.max())) + 1
    votes = np.stack([(data.y_landmarks[order[:, :k]] == c).mean(1) for c in range(n_classes)], 1)
    predicted = votes.argmax(1)
    before = votes.max(1)

    def drop(gone: np.ndarray) -> np.ndarray:
        """Without the landmarks `gone` (t, removed) of each test sample."""
        keep = np.ones((len(order), m), dtype=bool)
        np.put_along_axis(keep, gone, False, 1)
        kept = np.take_along_axis(keep, order, 1)
        rank = np.cumsum(kept, 1)
        near = kept & (rank <= k)
        agree = data.y_landmarks[order] == predicted[:, None]
        return before - (near & agree).sum(1) / near.sum(1)

    toward = np.stack([
        data.f_landmarks[data.y_landmarks == c].mean(0) if (data.y_landmarks == c).any() else np.zeros(data.f.shape[1])
        for c in range(n_classes)
    ])  # fmt: skip
    pull = data.K * (_unit(toward)[predicted] @ data.dA.T)
    generator = np.random.default_rng(seed)
    random = [drop(np.argsort(generator.random((len(order), m)), axis=1)[:, :removed]) for _ in range(RANDOM_DRAWS)]
    return {
        "top by influence": drop(np.argsort(-data.influence, axis=1)[:, :removed]),
        "top by contribution": drop(np.argsort(-data.contribution, axis=1)[:, :removed]),
        "top toward the predicted class": drop(np.argsort(-pull, axis=1)[:, :removed]),
        "random": np.mean(random, 0),
    }


def probe_fidelity(data: Labelled, seed: int) -> list[tuple]:
    """Accuracy of probes on the network's and on the kernel's representation, their gap, and Kendall's τ.

    Both probes see the same half of the samples; τ is of the true class's probability over the other half.
    """
    half = np.random.default_rng(seed).permutation(len(data.y))
    train, test = half[: len(half) // 2], half[len(half) // 2 :]
    check_enough(len(test), "test samples for the probes")
    if len(np.unique(data.y[train])) < 2:
        raise DataError("the probes' training half holds one class; give more labelled samples")
    known = np.isin(data.y[test], np.unique(data.y[train]))
    test = test[known]
    check_enough(len(test), "test samples of classes that the probes' training half holds")
    p = {name: _probe(rep, data.y, train, test) for name, rep in (("network", data.z), ("kernel", data.f))}
    right = {name: hit for name, (hit, _) in p.items()}
    true = {name: probability for name, (_, probability) in p.items()}
    draws = np.random.default_rng(seed).integers(len(test), size=(200, len(test)))
    taus = [_tau(true["network"][i], true["kernel"][i]) for i in draws]
    tau = _tau(true["network"], true["kernel"])
    gap = right["kernel"].astype(float) - right["network"]
    gaps = resampled_means(gap, seed)
    note = f"probes on {len(train)} samples"
    return [
        _row("probe accuracy, network", right["network"], seed, note),
        _row("probe accuracy, kernel", right["kernel"], seed, note),
        ("accuracy gap", float(gap.mean()), *map(float, np.quantile(gaps, [0.025, 0.975])), len(test), note),
        ("Kendall τ", tau, *map(float, np.quantile(taus, [0.025, 0.975])), len(test), note),
    ]


def aligned_fidelity(data: Labelled, seed: int) -> list[tuple]:
    """R² of the network's representation predicted linearly from the kernel's, on held-out samples."""
    order = np.random.default_rng(seed).permutation(len(data.y))
    parts = fidelity_parts(data.f[order], data.z[order])
    if parts is None or parts[1].sum() <= 0:
        return []
    residual, spread = parts
    draws = 1 - resampled_means(residual, seed) / resampled_means(spread, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    note = "needs no labels"
    return [("R² of aligned representations", 1 - residual.sum() / spread.sum(), low, high, len(residual), note)]


def _probe(rep: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits (t,) and the true class's probability (t,)."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = rep[train].mean(0), rep[train].std(0)
    scale = np.where(scale > 1e-12 * scale.max(), scale, np.inf)
    model = LogisticRegression(max_iter=1000).fit((rep[train] - mean) / scale, y[train])
    probability = model.predict_proba((rep[test] - mean) / scale)
    column = np.searchsorted(model.classes_, y[test])
    return model.classes_[probability.argmax(1)] == y[test], probability[np.arange(len(test)), column]


def _tau(a: np.ndarray, b: np.ndarray) -> float:
    return float(pd.Series(a).corr(pd.Series(b), method="kendall"))


def _unit(a: np.ndarray) -> np.ndarray:
    return a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-300)
