"""Views that say nothing of their samples are not green."""

import numpy as np
import pytest
import torch

import krepes
from krepes.audit.recognition import SAME, recognised
from krepes.data import ArraySource
from krepes.data.stream import make_views
from krepes.encoders import MLP
from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import NonFiniteError

N, D = 600, 8
X = torch.randn(N, D, generator=torch.Generator().manual_seed(1))


def encoder():
    torch.manual_seed(0)
    return MLP(D, (24,), 4).eval()


def near(batch, generator):
    return batch + 0.05 * torch.randn(batch.shape, generator=generator)


def noise(batch, generator):
    return torch.randn(batch.shape, generator=generator)


def others(batch, generator):
    return batch[torch.randperm(len(batch), generator=generator)]


def constant(batch, generator):
    return torch.zeros_like(batch)


def share(views, samples=X, seed=0):
    return recognised(FrozenEncoder(encoder()), ArraySource(samples), views, seed)


def test_views_near_their_samples_are_recognised_and_noise_is_not():
    assert share(near)[0] > 0.5
    assert all(abs(share(views)[0]) < 0.02 for views in (noise, others))


def test_the_share_is_what_a_loop_over_samples_finds():
    beyond, said = share(near)
    network, start = FrozenEncoder(encoder()), 256 * int(np.random.default_rng(0).integers(N // 256))
    z_a, z_b = (network(v).double() for v in make_views(ArraySource(X), near, range(start, start + 256), 0))
    found = sum(int((z_a[i] - z_b).norm(dim=1).argmin()) == i for i in range(256)) / 256
    assert beyond == pytest.approx((found - 1 / 256) / (1 - 1 / 256))
    assert said == f"{found:.0%} of 256 samples (chance 0.4%)"


def test_ties_are_no_recognition():
    twice = X[:64].repeat_interleave(2, 0)
    same = twice.clone()
    same[:, 0] += 1e-3 * torch.arange(128)  # samples that differ, and views that do not
    beyond, said = recognised(FrozenEncoder(encoder()), ArraySource(same), (twice, 1.001 * twice), 0)
    assert beyond == pytest.approx(-1 / 127)
    assert said.startswith("0% of 128")


def test_equal_samples_are_not_held_against_each_other():
    twice = X[:64].repeat_interleave(2, 0)
    beyond, said = recognised(FrozenEncoder(encoder()), ArraySource(twice), (twice, 1.001 * twice), 0)
    assert beyond > 0.9
    assert said.endswith("of 128 samples (chance 0.8%)")
    assert recognised(FrozenEncoder(encoder()), ArraySource(X[:1].repeat(50, 1)), near, 0)[0] == 0


def test_few_columns_of_few_values_are_recognised():
    binary = (X[:256, :6] > 0).float().repeat(1, 2)[:, :8]

    def dropped(batch, generator):
        return batch * (torch.rand(batch.shape, generator=generator) > 0.05)

    assert share(dropped, binary)[0] > 0.1


def test_fewer_samples_than_a_block_are_one():
    assert share(near, X[:20])[1].endswith("of 20 samples (chance 5.0%)")


def test_outputs_that_are_not_finite_name_the_sample():
    def huge(batch, generator):
        return torch.where(torch.arange(len(batch))[:, None] == 3, 3e38, near(batch, generator))

    with pytest.raises(NonFiniteError, match="outputs of views of 1 of 40 samples are not finite: 3"):
        share(huge, X[:40])


@pytest.mark.parametrize(
    ("views", "verdict"),
    [(near, "green"), (noise, "red"), (others, "red"), (constant, "amber"), (lambda batch, generator: batch, "amber")],
)
def test_the_gate_says_so(views, verdict):
    auditor = krepes.Auditor(encoder(), "vicreg", landmarks=40, trust=krepes.Trust(refits=False)).fit(X, views)
    figure = {f.name: f for f in auditor.trust_.figures}["views recognised"]
    assert figure.verdict == verdict
    assert (figure.display == SAME) == (verdict == "amber")
    assert auditor.trust_.verdict != "green" or verdict == "green"
