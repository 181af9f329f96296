"""Figures from labels: on planted classes they are what they must be, and labels reach nothing else."""

import math

import numpy as np
import pytest
import torch

from krepes import Auditor, BarlowTwins, Newton, SimCLR
from krepes.audit.evaluation import Labelled, aligned_fidelity, class_coverage, confidence_drop, precision_at_1
from krepes.audit.spectrum import spectral_entropy
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError

N = 600


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def classes(seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (N,), generator=generator)
    x = 3 * torch.eye(8, dtype=torch.float64)[y] + torch.randn(N, 8, generator=generator, dtype=torch.float64)
    return x, np.array(["red", "green", "blue"])[y.numpy()]


def fitted(objective=None, **newton) -> Auditor:
    torch.manual_seed(0)
    settings = Newton(**({"damping": 0.03} | newton))
    encoder = MLP(8, (24,), 6).eval()
    auditor = Auditor(encoder, objective or BarlowTwins(0.05), landmarks=80, newton=settings, dtype=torch.float64)
    return auditor.fit(classes()[0], noisy)


def test_figures_on_separated_classes():
    auditor = fitted()
    x, y = classes()
    landmark_labels = y[auditor.fit_.indices]
    table = auditor.evaluate(x, y, landmark_labels).set_index("figure")
    value = table["value"]
    assert 3 <= value["class coverage κ"] < 30
    assert value["precision@1, influence"] > value["precision@1, a random landmark"] + 0.1
    assert value["confidence drop, top toward the predicted class"] > value["confidence drop, random"]
    assert value["probe accuracy, kernel"] > 0.6
    assert table.at["Kendall τ", "low"] > 0
    assert value["accuracy gap"] == pytest.approx(value["probe accuracy, kernel"] - value["probe accuracy, network"])
    assert table.at["precision@1, influence", "n"] == N - 80  # landmarks do not explain themselves
    with_interval = table.drop(index="class coverage κ")
    assert (with_interval["low"] <= with_interval["value"]).all()
    assert (with_interval["value"] <= with_interval["high"]).all()


def test_random_labels_give_chance():
    auditor = fitted()
    y = np.random.default_rng(0).permutation(classes()[1])
    table = auditor.evaluate(classes()[0], y, y[auditor.fit_.indices]).set_index("figure")
    low, high = table.loc["precision@1, influence", ["low", "high"]]
    assert low < table.at["precision@1, a random landmark", "value"] < high


def test_labels_change_nothing_but_their_figures():
    """The wall: a fit, its trust and its scores are the same whatever labels were shown in between."""
    one, other = fitted(), fitted()
    x, y = classes()
    for seed in range(2):
        other.evaluate(x, np.random.default_rng(seed).permutation(y), y[other.fit_.indices])
    assert torch.equal(one.dA_, other.dA_)
    assert one.trust_ == other.trust_
    assert torch.equal(one.influence(x[:5]), other.influence(x[:5]))
    import inspect

    from krepes import pipeline

    assert "label" not in inspect.getsource(pipeline)
    for method in ("fit", "explain", "attribute", "concept", "feature_gap", "counterfactual"):
        assert not any("label" in name for name in inspect.signature(getattr(Auditor, method)).parameters)


def test_coverage_counts_the_prefix():
    assert class_coverage(np.array([5.0, 4, 3, 2, 1]), np.array([0, 0, 1, 0, 2])) == 5
    assert class_coverage(np.array([1.0, 4, 3, 2, 5]), np.array([0, 0, 1, 0, 2])) == 3


def tiny() -> Labelled:
    """Two test samples, four landmarks in one dimension of direction."""
    f = np.array([[1.0, 0], [0, 1.0]])
    fl = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    influence = np.array([[4.0, 1, 0, 0], [0, 0, 1, 4.0]])
    return Labelled(f, f, fl, fl, influence, influence, f @ fl.T, np.ones((4, 2)), np.array([0, 1]),
                    np.array([0, 0, 1, 1]))  # fmt: skip


def test_precision_and_drop_by_hand():
    hits = precision_at_1(tiny())
    assert hits["influence"].tolist() == [True, True]
    assert hits["a random landmark"].tolist() == [0.5, 0.5]
    drops = confidence_drop(tiny(), 0)  # two neighbours, one landmark removed
    assert drops["top by influence"].tolist() == [0.5, 0.5]
    assert (drops["random"] <= 0.5).all()


def test_entropy_is_that_of_the_spectrum():
    assert spectral_entropy(torch.eye(7, 4)) == pytest.approx(1)
    assert spectral_entropy(torch.ones(7, 4)) == pytest.approx(0, abs=1e-6)
    A = torch.diag(torch.tensor([2.0, 1.0, 1.0]).sqrt())
    assert spectral_entropy(A) == pytest.approx(1.5 * math.log(2) / math.log(3), rel=1e-6)


@pytest.mark.parametrize("objective", [BarlowTwins(0.05), SimCLR(batch_size=128)], ids=lambda o: o.name)
def test_entropy_path_passes_through_the_fit(objective):
    auditor = fitted(objective, tol=1e-9, max_iter=2000)
    path = auditor.entropy_path([1.0, 0.03, 0.1])
    assert path["damping"].tolist() == pytest.approx([1.0, 0.1, 0.03])
    assert path["entropy"].iloc[-1] == pytest.approx(auditor.spectral_entropy_, rel=1e-5)
    assert path["loss"].iloc[-1] == pytest.approx(auditor.outcome_.loss_after, rel=1e-6)


def test_entropy_over_landmarks_and_checkpoints():
    auditor = fitted()
    table = auditor.entropy_over(landmarks=[30, 80])
    assert table["landmarks"].tolist() == [30, 80]
    assert table["entropy"].iloc[1] == pytest.approx(auditor.spectral_entropy_)
    assert table["entropy"].iloc[0] != pytest.approx(auditor.spectral_entropy_)
    torch.manual_seed(1)
    over = auditor.entropy_over(encoders={"same": auditor.encoder.module, "fresh": MLP(8, (24,), 6).eval()})
    assert over["encoder"].tolist() == ["same", "fresh"]
    assert over["entropy"].iloc[0] == pytest.approx(auditor.spectral_entropy_)
    assert over["entropy"].iloc[1] != pytest.approx(auditor.spectral_entropy_)
    for wrong in ({}, {"landmarks": [30], "encoders": {"a": auditor.encoder.module}}, {"landmarks": [1]}):
        with pytest.raises(ConfigError):
            auditor.entropy_over(**wrong)


def test_aligned_representations_are_those_of_the_trust_figure():
    """On the same samples; and an unrelated representation predicts nothing."""
    generator = np.random.default_rng(0)
    f = generator.normal(size=(200, 4))
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    labels = generator.integers(2, size=200)
    empty = np.zeros((0, 4))

    def r2(z):
        data = Labelled(f, z, empty, empty, empty, empty, empty, empty, labels, labels[:0])
        ((_, value, low, high, n, _),) = aligned_fidelity(data, 0)
        assert low <= value <= high
        assert n == 100
        return value

    assert r2(f @ turn + 3) == pytest.approx(1, abs=1e-6)
    assert r2(generator.normal(size=(200, 4))) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, m: (x, y[:-1], m), r"labels has shape \(599,\)"),
        (lambda x, y, m: (x, y, m[:-1]), r"landmark_labels has shape \(79,\)"),
        (lambda x, y, m: (x, np.where(np.arange(N) == 3, None, y), m), "1 of 600 labels are missing"),
        (lambda x, y, m: (x, np.full(N, "red"), np.full(80, "red")), "expected at least two classes"),
        (lambda x, y, m: (x[:12], y[:12], m), "needs at least 20"),
    ],
)
def test_labels_that_do_not_fit_are_named(change, message):
    auditor = fitted()
    x, y = classes()
    with pytest.raises(DataError, match=message):
        auditor.evaluate(*change(x, y, y[auditor.fit_.indices]))
