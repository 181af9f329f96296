"""What stands in the kernel for a landmark: its sample, or the first view that the fit draws of it."""

import numpy as np
import pandas as pd
import pytest
import torch

import krepes
from krepes.data.stream import VIEW_BLOCK, blocks, make_views, subset
from krepes.errors import ConfigError

N, M = 3 * VIEW_BLOCK - 20, 40  # the last block is shorter


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator)


@pytest.fixture(scope="module")
def samples():
    return torch.randn(N, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).eval()


def made(network, landmarks=M, **settings):
    settings = {"objective": "vicreg", "newton": krepes.Newton(damping=1.0), "landmark_rows": "views"} | settings
    return krepes.Auditor(network, landmarks=landmarks, **settings)


def first_views(auditor, samples, views=noisy):
    source = krepes.data.ArraySource(samples)
    return torch.cat([make_views(source, views, b, auditor.settings.seed)[0] for b in blocks(range(N), VIEW_BLOCK)])


@pytest.fixture(scope="module")
def auditor(network, samples):
    return made(network).fit(samples, noisy)


def test_the_fit_s_own_views_stand_for_the_landmarks(auditor, samples):
    indices = auditor.fit_.indices
    assert torch.equal(auditor.fit_.rows.landmarks, first_views(auditor, samples)[indices])
    assert torch.equal(auditor.fit_.landmarks, samples[indices])


def test_the_landmarks_are_those_of_their_samples(auditor, network, samples):
    plain = made(network, landmark_rows="samples").fit(samples, noisy)
    assert plain.landmark_ids_ == auditor.landmark_ids_
    assert torch.equal(plain.fit_.rows.landmarks, plain.fit_.landmarks)
    assert not torch.allclose(plain.influence(samples[:5]), auditor.influence(samples[:5]), rtol=1e-2)


def test_given_landmarks_keep_their_order(network, samples):
    order = [700, 3, 300, 299, 12, 511, 256, 90]
    auditor = made(network, order).fit(samples, noisy)
    assert torch.equal(auditor.fit_.rows.landmarks, first_views(auditor, samples)[order])


def test_views_that_are_two_tensors(network, samples):
    a, b = (samples + 0.1 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    auditor = made(network).fit(samples, (a, b))
    assert torch.equal(auditor.fit_.rows.landmarks, a[auditor.fit_.indices])


def test_a_counterfactual_keeps_the_views_of_the_landmarks_that_remain(auditor, samples):
    other = auditor.counterfactual([*auditor.landmark_ids_[:3], "5", "600"])
    remaining = auditor.fit_.rows.landmarks[3:]
    assert torch.equal(other.fit_.rows.landmarks, remaining)
    rest = np.setdiff1d(np.arange(N), [*auditor.fit_.indices[:3], 5, 600])
    part, part_views = subset(krepes.data.ArraySource(samples), noisy, rest)
    places = [int(np.flatnonzero(rest == i)[0]) for i in auditor.fit_.indices[3:]]
    fresh = made(auditor.encoder.module, places).fit(part, part_views)
    torch.testing.assert_close(other.influence(samples[:9]), fresh.influence(samples[:9]), rtol=1e-4, atol=1e-7)


def test_a_saved_auditor_has_both(auditor, network, samples, tmp_path):
    auditor.save(tmp_path / "run")
    again = krepes.load(tmp_path / "run", encoder=network)
    assert again.settings.landmark_rows == "views"
    assert torch.equal(again.fit_.landmarks, auditor.fit_.landmarks)
    assert torch.equal(again.fit_.rows.landmarks, auditor.fit_.rows.landmarks)
    torch.testing.assert_close(again.influence(samples[:5]), auditor.influence(samples[:5]))


def test_refits_and_trust_and_evaluation(auditor, samples):
    labels = (samples[:, 0] > 0).numpy()
    found = auditor.evaluate(samples[:400], labels[:400], labels[auditor.fit_.indices]).set_index("figure")
    among = np.isin(np.arange(400), auditor.fit_.indices).sum()
    assert found.loc["precision@1, influence", "n"] == 400 - among  # a landmark's own sample is left out
    assert auditor.trust_.verdict in ("green", "amber", "red")
    table = pd.DataFrame(samples.numpy(), columns=[f"c{i}" for i in range(6)])
    assert len(auditor.feature_gap(table, ["c0", "c1"], refits=3)) == 2


def test_an_unknown_kind_of_rows_is_refused(network):
    with pytest.raises(ConfigError, match="landmark_rows='view'; expected 'samples' or 'views'"):
        made(network, landmark_rows="view")
