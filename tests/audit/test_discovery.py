"""Automatic concepts: planted directions are found again, structureless data has none, and they work as concepts do."""

import pandas as pd
import pytest
import torch

import krepes
from krepes import Auditor, BarlowTwins, Newton
from krepes.audit import discovery
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError, DataError


def noisy(batch, generator):
    return batch + 0.1 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def fitted(x, seed=0) -> Auditor:
    torch.manual_seed(0)
    auditor = Auditor(
        MLP(x.shape[1], (32,), 6).eval(), BarlowTwins(0.05), landmarks=60, newton=Newton(damping=0.1), seed=seed,
        dtype=torch.float64,
    )  # fmt: skip
    kinds = pd.DataFrame({"kind": [i % 4 for i in range(len(x))]})
    return auditor.fit(ArraySource(x, [f"s{i}" for i in range(len(x))], kinds), noisy)


@pytest.fixture(scope="module")
def clustered() -> Auditor:
    """Four kinds of samples, far apart."""
    generator = torch.Generator().manual_seed(3)
    centres = 4 * torch.nn.functional.normalize(torch.randn(4, 8, generator=generator, dtype=torch.float64), dim=1)
    noise = 0.4 * torch.randn(400, 8, generator=generator, dtype=torch.float64)
    return fitted(centres.repeat(100, 1) + noise)


@pytest.fixture(scope="module")
def found(clustered):
    return clustered.automatic_concepts()


def test_planted_kinds_are_recovered(clustered, found):
    usable = [c for c in found if c.usable]
    assert len(usable) >= 4
    f = clustered.transform(clustered.source_.batch(range(400)))
    for kind in range(4):
        mean = torch.nn.functional.normalize(f[kind::4], dim=1).mean(0)
        best = max(usable, key=lambda c: float(c.direction @ mean))
        assert best.direction @ mean / mean.norm() > 0.95
        assert {int(name[1:]) % 4 for name in best.members} == {kind}


def test_order_and_figures(found):
    flags = [c.usable for c in found]
    assert flags == sorted(flags, reverse=True)
    assert sum(c.share for c in found) == pytest.approx(1)
    for c in found:
        assert c.direction.norm() == pytest.approx(1)
        assert c.usable == (c.stability >= 0.9 and c.p <= 0.05)
        assert bool(c.verdict) != c.usable


def false_discoveries(space: str, seeds: range, n: int) -> tuple[int, int]:
    """Usable directions in samples without structure, and all directions."""
    usable = total = 0
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
        torch.manual_seed(seed)
        auditor = Auditor(
            torch.nn.Linear(8, 6).double().eval(), BarlowTwins(0.05), "pseudo", 60, Newton(damping=0.1), seed=seed,
            dtype=torch.float64,
        )  # fmt: skip
        found = auditor.fit(x, noisy).automatic_concepts(space)
        usable, total = usable + sum(c.usable for c in found), total + len(found)
    return usable, total


@pytest.mark.parametrize(("space", "seeds", "n"), [("representation", range(4), 240), ("step", range(100, 110), 240)])
def test_structureless_samples_have_no_more_usable_concepts_than_the_level_says(space, seeds, n):
    """No more than a rate of 5 % exceeds once in a hundred times."""
    from scipy.stats import binom

    usable, total = false_discoveries(space, seeds, n)
    assert total >= 20
    assert usable <= binom.ppf(0.99, total, discovery.LEVEL)


def test_a_surrogate_has_the_covariance_and_lengths_of_the_rows(clustered):
    import numpy as np

    generator = np.random.default_rng(0)
    X, _ = discovery.rows(clustered, "step", generator)
    drawn = discovery.gaussian_like(np.tile(X, (40, 1)), generator)
    lengths = np.linalg.norm(X, axis=1)
    assert np.linalg.norm(drawn, axis=1).mean() == pytest.approx(lengths.mean())
    a, b = np.linalg.eigh(drawn.T @ drawn)[1][:, -1], np.linalg.eigh(X.T @ X)[1][:, -1]
    assert abs(a @ b) > 0.9


def test_a_surrogate_of_long_rows_in_one_direction_keeps_them_there():
    """Lengths in random order would spread them, and the directions of the step would look stabler than chance."""
    import numpy as np

    generator = np.random.default_rng(0)
    X = generator.standard_normal((2000, 6)) * np.array([8.0, 1, 1, 1, 1, 1])
    drawn = discovery.gaussian_like(X, np.random.default_rng(1))
    spread = drawn.std(0) / X.std(0)
    assert spread == pytest.approx(np.ones(6), abs=0.1)
    assert np.sort(np.linalg.norm(drawn, axis=1)) == pytest.approx(np.sort(np.linalg.norm(X, axis=1)))


def test_they_work_wherever_a_concept_does(clustered, found):
    x = clustered.source_.batch(range(40))
    one = found[0]
    torch.testing.assert_close(one.influence(x), clustered.kernel(x) * (clustered.dA_ @ one.direction))
    assert one.score(x).interval.n == 40
    assert len(one.landmarks(5)) == 5
    assert list(one.explain(x[:2], 3)["rank"]) == [1, 2, 3, 1, 2, 3]
    moved = krepes.movement(clustered, clustered, x, concepts=[(one, one)])
    row = moved.summary.set_index("figure").loc[f"concept {one.name}"]
    assert row["difference"] == pytest.approx(0, abs=1e-12)


def test_the_same_seed_gives_the_same_concepts(clustered):
    for a, b in zip(*(clustered.automatic_concepts(k=4) for _ in range(2)), strict=True):
        torch.testing.assert_close(a.direction, b.direction)


def test_directions_of_the_step(clustered):
    concepts = clustered.automatic_concepts("step", k=3)
    assert len(concepts) == 3
    assert set(concepts[0].members) <= set(clustered.landmark_ids_)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"space": "labels"}, "'representation' or 'step'"), ({"k": 1}, "between 2 and 40"), ({"k": 900}, "k=900")],
)
def test_what_cannot_be_factorised_is_named(clustered, arguments, message):
    with pytest.raises(ConfigError, match=message):
        clustered.automatic_concepts(**arguments)


def test_too_few_samples():
    auditor = Auditor(MLP(4, (8,), 3).eval(), BarlowTwins(0.05), landmarks=8, newton=Newton(damping=0.1))
    auditor.fit(torch.randn(15, 4), noisy)
    with pytest.raises(DataError, match="15 samples to find concepts in; expected at least 20"):
        auditor.automatic_concepts()
