"""Samplers and objectives on any features: m distinct landmarks, finite numbers, or a refusal in words."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import krepes
from krepes import landmarks, objectives
from krepes.errors import KrepesError
from krepes.kernel.ntk import LinearColumns
from krepes.objectives import Moments
from krepes.objectives.pairs import Pairs
from tests.properties.samples import arrays, in_words
from tests.properties.test_any_samples import SAMPLERS, network, views

quick = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def features(x) -> torch.Tensor:
    return torch.as_tensor(np.asarray(x).copy()).double().nan_to_num(0.0, 0.0, 0.0)


@quick
@given(x=arrays(), kind=st.sampled_from(SAMPLERS), m=st.integers(1, 20), seed=st.integers(0, 3))
def test_a_sampler_gives_distinct_landmarks_whatever_the_kernel(x, kind, m, seed):
    pool = features(x)
    m = min(m, len(pool))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = landmarks.choose(kind(m), LinearColumns(pool), m, torch.Generator().manual_seed(seed)).tolist()
    assert len(set(chosen)) == m
    assert set(chosen) <= set(range(len(pool)))


@quick
@given(x=arrays(), name=st.sampled_from(sorted(objectives.BY_NAME)), h=st.integers(1, 3), close=st.booleans())
def test_an_objective_is_finite_on_any_finite_features_of_one_scale(x, name, h, close):
    a = features(x)
    a = a / a.abs().max().clamp_min(1e-300)
    b = a if close else a.flip(0)
    B = torch.eye(a.shape[1], h, dtype=torch.float64)
    objective, pairs = objectives.by_name(name), Pairs(a, b, torch.arange(len(a)))
    try:
        problem = objective.problem(
            Moments.of(a, b) if not objective.streaming else pairs, *([B] if name == "byol" else [])
        )
        found = problem.value(B), problem.gradient(B), problem.ggn(B)(B)
    except KrepesError as error:
        in_words(error)
        return
    assert all(bool(torch.isfinite(one).all()) for one in found)


@pytest.mark.parametrize("objective", ["barlow_twins", "vicreg", "spectral_contrastive"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_order_of_the_samples_changes_nothing_at_any_scale(objective, scale):
    x = scale * torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    first = list(range(9))
    net = network(3, "tanh")
    net[1].weight.data /= scale
    noisy = (views(x, torch.Generator().manual_seed(2)), x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        newton = krepes.Newton(damping=0.1, tol=1e-10)
        one = krepes.Auditor(net, objective, landmarks=order[first].tolist(), newton=newton, dtype=torch.float64)
        two = krepes.Auditor(net, objective, landmarks=first, newton=newton, dtype=torch.float64)
        expected = one.fit(x, noisy).contribution(x[order])
        found = two.fit(x[order], (noisy[0][order], noisy[1][order])).contribution(x[order])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))
