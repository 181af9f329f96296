"""An auditor on any samples: finite scores that satisfy what is said of them, or a refusal in words."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import krepes
from krepes import landmarks, objectives
from krepes.errors import KrepesError
from tests.properties.samples import arrays, in_words

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "none": nn.Identity, "norm": lambda: nn.LayerNorm(5)}
SAMPLERS = [landmarks.KMeansPlusPlus, landmarks.LeverageScores, landmarks.RPCholesky, landmarks.Uniform]


class AsNumbers(nn.Module):
    """Whole numbers and truth values as the layers take them."""

    def forward(self, x):
        return x if x.is_floating_point() else x.float()


def network(p: int, activation: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(AsNumbers(), nn.Linear(p, 5), ACTIVATIONS[activation](), nn.Linear(5, 3)).eval()


def views(batch, generator):
    noise = torch.randn(batch.shape, generator=generator).to(batch.dtype)
    return batch + 0.1 * noise if batch.is_floating_point() else batch


choices = {
    "x": arrays(),
    "activation": st.sampled_from(sorted(ACTIVATIONS)),
    "objective": st.sampled_from(sorted(objectives.BY_NAME)),
    "kernel": st.builds(krepes.NTK, st.sampled_from(["trace", "pseudo", "sketch"]), center=st.booleans(),
                        cosine=st.booleans(), rescale=st.sampled_from([None, "mean"])),
    "sampler": st.builds(lambda kind, m, space: kind(m, space), st.sampled_from(SAMPLERS),
                         st.sampled_from([None, 6, 6, 6, 2, 1, 30]), st.sampled_from(["kernel", "input"])),
    "newton": st.builds(krepes.Newton, st.sampled_from(["coefficients", "rkhs"]), st.sampled_from(["auto", 0.1, 1e-8]),
                        steps=st.sampled_from([1, 2])),
    "h": st.sampled_from([None, 1, 1, 2, 4]),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
}  # fmt: skip


def fitted(x, activation, objective, kernel, sampler, newton, h, dtype) -> krepes.Auditor | None:
    """The auditor, or None where it is refused in words."""
    p = np.shape(x)[1] if np.ndim(x) > 1 else 1
    try:
        auditor = krepes.Auditor(
            network(p, activation), objective, kernel, sampler, newton, n_components=h, dtype=dtype,
            trust=krepes.Trust(refits=False),
        )  # fmt: skip
        return auditor.fit(x, views)
    except KrepesError as error:
        in_words(error)
        return None


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(**choices)
def test_scores_of_any_samples_are_finite_and_consistent_or_refused(x, **chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor = fitted(x, **chosen)
        if auditor is None:
            return
        K, f, dA = auditor.kernel(x), auditor.transform(x), auditor.dA_
        influence, contribution = auditor.influence(x), auditor.contribution(x)
        for name, values in {"K": K, "f": f, "dA": dA, "influence": influence, "contribution": contribution}.items():
            assert torch.isfinite(values).all(), name
        torch.testing.assert_close(f, K @ (auditor.A0_ + dA))
        torch.testing.assert_close(influence, K.abs() * dA.norm(dim=1))
        unit = f / f.norm(dim=1, keepdim=True).clamp_min(1e-300)
        share, size = (K @ dA * unit).sum(1), (K.abs() * dA.norm(dim=1)).sum(1)
        assert ((contribution.sum(1) - share).abs() <= 1e-9 * size + 1e-300).all()
        assert (contribution.abs() <= influence * (1 + 1e-9)).all()
        table = auditor.explain(x, top_k=3)
        assert set(table["landmark"]) <= set(auditor.landmark_ids_)
        assert np.isfinite(table[["influence", "contribution"]]).all(axis=None)
        assert auditor.trust_.verdict in ("green", "amber", "red")


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(**choices)
def test_an_auditor_of_any_samples_is_the_same_after_save_and_load(tmp_path_factory, x, activation, **chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor = fitted(x, activation, **chosen)
        if auditor is None:
            return
        folder = tmp_path_factory.mktemp("saved") / "run"
        again = krepes.load(auditor.save(folder), encoder=network(np.shape(x)[1], activation))
        assert torch.equal(again.transform(x), auditor.transform(x))
        assert again.landmark_ids_ == auditor.landmark_ids_
        assert again.outcome_ == auditor.outcome_ or "nan" in repr(again.outcome_)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(**choices, at=st.sampled_from(["encoder", "training", "step"]))
def test_attribution_to_any_samples_is_finite_or_refused(x, at, **chosen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auditor = fitted(x, **chosen)
        if auditor is None:
            return
        try:
            scores = auditor.attribute(x[:2], at=at)
        except KrepesError as error:
            in_words(error)
            return
        assert scores.shape == (len(x[:2]), len(x))
        assert torch.isfinite(scores).all()


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((0, 3)),
        np.zeros((5, 0)),
        torch.empty(0),
        [],
        np.ones((4, 3)) * 1j,
        np.array([["a"]]),
        [object()],
        None,
        np.zeros((3, 3), "M8[s]"),
        "x",
        {},
    ],
)
def test_what_are_no_numbers_is_refused(x):
    with pytest.raises(KrepesError, match=r".{20}"):
        krepes.Auditor(network(3, "tanh")).fit(x, views)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("rescale", [None, "mean"])
def test_samples_that_are_all_alike_are_refused_by_the_landmarks_rank(cosine, rescale):
    kernel = krepes.NTK(cosine=cosine, rescale=rescale)
    with pytest.warns(krepes.errors.KrepesWarning), pytest.raises(krepes.errors.LandmarkError, match="collapsed"):
        krepes.Auditor(network(3, "tanh"), kernel=kernel, landmarks=4).fit(np.ones((20, 3)), lambda b, g: b)


def test_a_reversed_array_is_the_samples_it_shows():
    x = np.random.default_rng(0).normal(size=(20, 3))
    source = krepes.data.ArraySource(x[::-1])
    assert torch.equal(source.batch([0, 19]), torch.as_tensor(x[[19, 0]]))


def test_one_sample_is_refused_where_a_covariance_needs_two():
    auditor = krepes.Auditor(network(3, "tanh"), "vicreg", krepes.NTK(center=False), landmarks=1, n_components=1)
    with pytest.raises(krepes.errors.DataError, match=r"1 samples have no covariance with ddof=1.*ddof=0"):
        auditor.fit(torch.ones(1, 3), views)
