"""Figures that need labels. Labels come in here and nowhere else; nothing here reaches a fit.

Landmarks without a label are left out of the figures that need theirs, and their number is said.

Protocols (docs/method.md): k-NN over the landmarks in the space of f, probes by logistic regression on standardised
representations, Kendall's τ of the true class's probability over test points.
"""

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from krepes.audit.statistics import bootstrap_mean, check_enough, resampled_means
from krepes.audit.trust import fidelity_parts
from krepes.errors import DataError, NonFiniteError, warn

if TYPE_CHECKING:
    from krepes.auditor import Auditor

NEIGHBOURS = 50
REMOVED = 10
RANDOM_DRAWS = 20
RANDOM_ORDERS = 1000  # of the landmarks, that κ is compared with
SEEN = "the labels are column "  # in a note: then other figures have seen them


@dataclass(frozen=True)
class Labelled:
    """Test samples as every figure needs them.

    Attributes:
        f, z: representations by the kernel (t, h) and by the network (t, d).
        f_landmarks, z_landmarks: those of the m landmarks that have a label (m, ·).
        influence, contribution, K: scores and kernel rows (t, m).
        dA: ΔÃ (m, h).
        y, y_landmarks: class numbers.
        unlabelled: landmarks without a label, which are left out.
        column: of the samples' table, if it holds the labels.
        fitted: the network's representation as the landmarks' kernel gives it by least squares over training samples
            (t, d); None without these.
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
    unlabelled: int = 0
    column: str | None = None
    fitted: np.ndarray | None = None


def labelled(auditor: "Auditor", x: Any, labels: Any, landmark_labels: Any) -> Labelled:
    """The test samples without those that are landmarks themselves.

    Raises:
        DataError: a number of labels that does not fit, a missing label of a test sample, classes of different kinds,
            or too few test samples.
    """
    from krepes.data.source import as_source
    from krepes.data.stream import blocks, read
    from krepes.influence import sample_influence, signed_contribution

    source = as_source(x)
    check_enough(len(source), "test samples")
    y, y_landmarks = class_numbers(labels, landmark_labels, len(source), len(auditor.landmark_ids_))
    landmarks = auditor.fit_.samples
    # a landmark explains itself: it would raise every figure
    other, known = ~_among(source, landmarks), y_landmarks >= 0
    check_enough(int(other.sum()), "test samples that are no landmarks")
    A = auditor.A0_ + auditor.dA_
    K = auditor.kernel(source)
    f = K @ A
    z = torch.cat([auditor.encoder(read(source, b)) for b in blocks(range(len(source)), 256)])
    f_landmarks = auditor.transform(landmarks)
    z_landmarks = torch.cat([auditor.encoder(part) for part in landmarks.split(256)])
    influence, signed = sample_influence(K, auditor.dA_), signed_contribution(K, auditor.dA_, f)
    fitted = by_least_squares(auditor, K)
    f, z, influence, signed, K = (a.double().cpu().numpy()[other] for a in (f, z, influence, signed, K))
    fl, zl, dA = (a.double().cpu().numpy()[known] for a in (f_landmarks, z_landmarks, auditor.dA_))
    return Labelled(
        f, z, fl, zl, influence[:, known], signed[:, known], K[:, known], dA, y[other], y_landmarks[known],
        int((~known).sum()), column_of(source.metadata(), y), None if fitted is None else fitted.cpu().numpy()[other],
    )  # fmt: skip


def by_least_squares(auditor: "Auditor", K: Tensor) -> Tensor | None:
    """The network's representation of samples with kernel rows K (t, M), fitted on training samples, (t, d).

    None for an auditor that holds none, and for a network whose outputs do not vary.
    """
    from krepes.audit.places import DAMPING, at_encoder

    if auditor.seen_.training is None:
        return None
    try:
        place = at_encoder(auditor.fit_, auditor.settings, auditor.seen_.training, DAMPING)
    except NonFiniteError:
        return None
    return K @ auditor.fit_.nystrom.dual(place.B)


def class_numbers(labels: Any, landmark_labels: Any, t: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes as numbers from 0, (t,) and (m,); −1 where a landmark has none. 1 and 1.0 are one class, 1 and "1" none.

    Raises:
        DataError: another number of labels, a missing one of a test sample, or classes of different kinds.
    """
    found, kinds = [], {}
    for name, given, wanted in (("labels", labels, t), ("landmark_labels", landmark_labels, m)):
        values = np.array(given.cpu().numpy() if isinstance(given, Tensor) else given, dtype=object)
        if values.shape != (wanted,):
            raise DataError(f"{name} has shape {values.shape}; expected ({wanted},), one class each")
        missing = np.asarray(pd.isna(values), dtype=bool)
        if name == "labels" and missing.any():
            raise DataError(f"{int(missing.sum())} of {wanted} {name} are missing")
        values[missing] = None
        plain = [v.item() if isinstance(v, np.generic) else v for v in values]
        for value in plain:
            if value is not None:
                kinds.setdefault(_kind(value, name), f"{value!r} in {name}")
        found.append(plain)
    if len(kinds) > 1:
        both = " and ".join(f"{kind} (such as {example})" for kind, example in kinds.items())
        raise DataError(f"the classes are {both}; expected one kind, or equal classes would not meet. Convert them.")
    names = sorted({v for plain in found for v in plain if v is not None})
    if len(names) < 2:
        raise DataError(f"all labels are {str(names[0])!r}; expected at least two classes")
    place = {v: i for i, v in enumerate(names)} | {None: -1}
    y, y_landmarks = (np.array([place[v] for v in plain], dtype=int) for plain in found)
    return y, y_landmarks


def _kind(value: Any, name: str) -> str:
    """What a class is written as."""
    kinds = (("truth values", bool), ("numbers", Real), ("text", str), ("bytes", bytes))
    for kind, types in kinds:
        if isinstance(value, types):
            return kind
    raise DataError(f"{name} holds the {type(value).__name__} {value!r}; expected numbers, text or truth values")


def column_of(table: pd.DataFrame | None, y: np.ndarray) -> str | None:
    """The first column of the samples' table that divides them as the class numbers y (t,) do, under any names."""
    if table is None:
        return None
    n = len(np.unique(y))
    for place, name in enumerate(table.columns):
        try:
            codes = pd.factorize(table.iloc[:, place], use_na_sentinel=False)[0]
        except TypeError:  # lists and the like are no classes
            continue
        if n > 1 and codes.max() + 1 == n == len(np.unique(y * n + codes)):
            return str(name)
    return None


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
    if data.column is not None:
        warn(f"{SEEN}'{data.column}' of the samples' table: alignment gaps and queries see them")
    rows = landmark_figures(data, seed) + probe_fidelity(data, seed) + aligned_fidelity(data, seed)
    return pd.DataFrame(rows, columns=pd.Index(["figure", "value", "low", "high", "n", "note"]))


def landmark_figures(data: Labelled, seed: int) -> list[tuple]:
    """κ, precision@1 and confidence drop: what needs labels of landmarks, over those that have one."""
    m = len(data.y_landmarks)
    if m == 0:
        warn("no landmark has a label: class coverage κ, precision@1 and confidence drop are left out")
        return []
    without = f"{data.unlabelled} landmarks without a label left out" if data.unlabelled else ""
    norms = np.linalg.norm(data.dA, axis=1)
    low, high = random_coverage(data.y_landmarks, seed)
    about = f"of {len(np.unique(data.y_landmarks))} classes among the landmarks", f"random orders: {low}–{high}"
    kappa = class_coverage(norms, data.y_landmarks)
    rows = [("class coverage κ", kappa, np.nan, np.nan, m, _note(*about, without))]
    rows += [_row(f"precision@1, {name}", hits, seed, without) for name, hits in precision_at_1(data).items()]
    k, removed = pool(m)
    if removed == 0:
        warn(f"{m} landmarks have a label: too few to remove some, confidence drop is left out")
        return rows
    note = _note(f"{removed} of {m} landmarks, {k} neighbours", without)
    drops = confidence_drop(data, k, removed, seed)
    return rows + [_row(f"confidence drop, {name}", d, seed, note) for name, d in drops.items()]


def pool(m: int) -> tuple[int, int]:
    """Neighbours of k-NN among m landmarks, and landmarks that are removed from them."""
    return min(NEIGHBOURS, m // 2), min(REMOVED, m // 4)


def _note(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _row(name: str, values: np.ndarray, seed: int, note: str) -> tuple:
    interval = bootstrap_mean(values.astype(float), seed)
    return name, interval.estimate, interval.low, interval.high, interval.n, note


def class_coverage(norms: np.ndarray, classes: np.ndarray) -> int:
    """κ: landmarks, by falling norm, until every class that is among them was seen. Source: the paper, §3."""
    order = np.argsort(-norms, kind="stable")
    _, first = np.unique(classes[order], return_index=True)
    return int(first.max()) + 1


def random_coverage(classes: np.ndarray, seed: int) -> tuple[int, int]:
    """The central 95 % of κ when the landmarks (m,) are in random orders."""
    generator = np.random.default_rng(seed)
    found = [class_coverage(generator.random(len(classes)), classes) for _ in range(RANDOM_ORDERS)]
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    return int(low), int(high)


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


@dataclass(frozen=True)
class Vote:
    """k-NN over the landmarks by the cosine of f; the class that it predicts for a test sample is held fixed.

    Attributes:
        order: landmarks by falling similarity (t, m).
        agrees: whether they have the predicted class, in that order (t, m).
        predicted: class numbers (t,).
        k: neighbours that vote.
    """

    order: np.ndarray
    agrees: np.ndarray
    predicted: np.ndarray
    k: int

    @classmethod
    def over(cls, data: Labelled, k: int) -> "Vote":
        """Of the labelled landmarks."""
        order = np.argsort(-_unit(data.f) @ _unit(data.f_landmarks).T, axis=1, kind="stable")
        classes = data.y_landmarks[order]
        counts = [(classes[:, :k] == c).sum(1) for c in range(data.y_landmarks.max() + 1)]
        predicted = np.stack(counts, 1).argmax(1)
        return cls(order, classes == predicted[:, None], predicted, k)

    @property
    def confidence(self) -> np.ndarray:
        """Share of the votes for the predicted class (t,)."""
        return self.agrees[:, : self.k].mean(1)

    def drop(self, scores: np.ndarray, removed: int) -> np.ndarray:
        """Confidence lost without the landmarks of the highest scores (t, m), `removed` of each test sample."""
        gone = np.argsort(-scores, axis=1)[:, :removed]
        keep = np.ones(self.order.shape, dtype=bool)
        np.put_along_axis(keep, gone, False, 1)
        kept = np.take_along_axis(keep, self.order, 1)
        near = kept & (np.cumsum(kept, 1) <= self.k)
        return self.confidence - (near & self.agrees).sum(1) / near.sum(1)


def confidence_drop(data: Labelled, k: int, removed: int, seed: int) -> dict[str, np.ndarray]:
    """Loss of k-NN confidence in the predicted class when landmarks are removed (t,), by rule.

    Rules: by influence; by signed contribution; by influence toward the predicted class's mean direction; random ones,
    mean over draws.
    """
    vote = Vote.over(data, k)
    toward = np.zeros((data.y_landmarks.max() + 1, data.f.shape[1]))
    for c in np.unique(data.y_landmarks):  # one of these is predicted
        toward[c] = data.f_landmarks[data.y_landmarks == c].mean(0)
    pull = data.K * (_unit(toward)[vote.predicted] @ data.dA.T)
    generator = np.random.default_rng(seed)
    random = [vote.drop(-generator.random(vote.order.shape), removed) for _ in range(RANDOM_DRAWS)]
    return {
        "top by influence": vote.drop(data.influence, removed),
        "top by contribution": vote.drop(data.contribution, removed),
        "top toward the predicted class": vote.drop(pull, removed),
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
    dropped, test = int((~known).sum()), test[known]
    check_enough(len(test), "test samples of classes that the probes' training half holds")
    note = _note(
        f"probes on {len(train)} samples",
        f"{dropped} test samples of classes that these lack left out" if dropped else "",
        f"{SEEN}'{data.column}' of the samples' table" if data.column is not None else "",
    )
    of_network, of_kernel = (probe(rep, data.y, train, test) for rep in (data.z, data.f))
    rows = [
        _row("probe accuracy, network", of_network[0], seed, note),
        _row("probe accuracy, kernel", of_kernel[0], seed, note),
        *agreement("", of_network, of_kernel, seed, note),
    ]
    if data.fitted is not None:
        note = _note(note, "the network's outputs by least squares in the landmarks' kernel")
        rows += agreement(", network in the kernel", of_network, probe(data.fitted, data.y, train, test), seed, note)
    return rows


def agreement(name: str, network: tuple, other: tuple, seed: int, note: str) -> list[tuple]:
    """Accuracy gap and Kendall's τ of a probe's hits and probabilities (t,) against the network's."""
    (right, p), (its_right, its_p) = network, other
    draws = np.random.default_rng(seed).integers(len(p), size=(200, len(p)))
    taus = [kendall(p[i], its_p[i]) for i in draws]
    gap = its_right.astype(float) - right
    gaps = resampled_means(gap, seed)
    return [
        (f"accuracy gap{name}", float(gap.mean()), *map(float, np.quantile(gaps, [0.025, 0.975])), len(p), note),
        (f"Kendall τ{name}", kendall(p, its_p), *map(float, np.quantile(taus, [0.025, 0.975])), len(p), note),
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


def probe(rep: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits (t,) and the true class's probability (t,) of a logistic regression on standardised representations."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = rep[train].mean(0), rep[train].std(0)
    scale = np.where(scale > 1e-12 * scale.max(), scale, np.inf)
    model = LogisticRegression(max_iter=1000).fit((rep[train] - mean) / scale, y[train])
    probability = model.predict_proba((rep[test] - mean) / scale)
    column = np.searchsorted(model.classes_, y[test])
    return model.classes_[probability.argmax(1)] == y[test], probability[np.arange(len(test)), column]


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's rank correlation of two (t,)."""
    return float(pd.Series(a).corr(pd.Series(b), method="kendall"))


def _unit(a: np.ndarray) -> np.ndarray:
    return a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-300)
