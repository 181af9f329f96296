"""Samplers draw what their definitions say."""

import pytest
import torch

from krepes import KMeansPlusPlus, LeverageScores, RPCholesky, Uniform
from krepes.errors import KrepesWarning
from krepes.kernel.ntk import LinearColumns
from krepes.landmarks import choose

SAMPLERS = [KMeansPlusPlus(), LeverageScores(), RPCholesky(), Uniform()]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_landmarks_are_distinct_and_reproducible(sampler):
    columns = LinearColumns(torch.randn(300, 40, generator=generator(0)))
    first = choose(sampler, columns, 30, generator(1))
    assert first.tolist() == choose(sampler, columns, 30, generator(1)).tolist()
    assert len(set(first.tolist())) == 30


def test_kmeans_plus_plus_covers_far_clusters_that_uniform_misses():
    x = torch.cat([torch.randn(500, 2, generator=generator(0)) * 0.01, torch.tensor([[50.0, 0], [0, 50], [-50, 0]])])
    assert {500, 501, 502} <= set(choose(KMeansPlusPlus(), LinearColumns(x), 4, generator(1)).tolist())


def test_block_rejection_draws_the_serial_rpcholesky_distribution():
    x = torch.tensor([[1.0, 0], [1, 0.1], [0, 1.5], [0.3, 0.3]])
    columns, K = LinearColumns(x), (x @ x.T).double()
    expected = torch.zeros(4, 4)
    for i in range(4):
        residual = (K.diagonal() - K[:, i] ** 2 / K[i, i]).clamp_min(0)
        residual[i] = 0
        expected[i] = K[i, i] / K.trace() * residual / residual.sum()
    counts = torch.zeros(4, 4)
    for seed in range(4000):
        i, j = RPCholesky().choose(columns, 2, generator(seed)).tolist()
        counts[i, j] += 1
    assert (counts / 4000 - expected).abs().max() < 0.03


def test_block_rejection_draws_the_serial_d2_distribution():
    x = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    counts, expected = torch.zeros(4, 4), torch.zeros(4, 4)
    for i in range(4):
        d2 = (x[:, 0] - x[i, 0]).square()
        expected[i] = 0.25 * d2 / d2.sum()
    for seed in range(4000):
        i, j = KMeansPlusPlus().choose(LinearColumns(x), 2, generator(seed)).tolist()
        counts[i, j] += 1
    assert (counts / 4000 - expected).abs().max() < 0.03


@pytest.mark.parametrize("sampler", SAMPLERS[:3:2], ids=lambda s: type(s).__name__)
def test_equal_samples_are_said_and_filled_up(sampler):
    columns = LinearColumns(torch.ones(50, 3))
    with pytest.warns(KrepesWarning, match="already span the kernel"):
        assert len(set(choose(sampler, columns, 5, generator(0)).tolist())) == 5


def test_one_outlier_does_not_make_duplicates_of_the_others():
    x = torch.randn(400, 5, generator=generator(0))
    x[7] *= 3e4
    chosen = choose(KMeansPlusPlus(), LinearColumns(x), 32, generator(1))  # a warning would be an error here
    assert 7 in chosen


def test_an_offset_does_not_make_duplicates():
    x = torch.randn(400, 5, generator=generator(0), dtype=torch.float64)
    x[:, 0] += 5000
    choose(KMeansPlusPlus(), LinearColumns(x), 32, generator(1))
