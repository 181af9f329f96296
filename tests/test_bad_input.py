"""Bad input gets a clear error."""

import pytest
import torch
from torch import nn

import krepes
from krepes.errors import ConfigError, DataError, EncoderError, LandmarkError, NonFiniteError

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))


def net(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), *more, nn.Linear(8, 3)).eval()


def fit(encoder=None, x=X, views=None, **settings):
    settings = {"landmarks": 12, "n_components": 3} | settings
    return krepes.Auditor(encoder or net(), **settings).fit(x, views or (lambda b, g: b + 0.1))


class Random(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class BatchMean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (net().train(), r"in train mode: .*encoder\.eval"),
        (net(Random()), "not deterministic.*layer '2' \\(Random\\)"),
        (net(BatchMean()), "changes with the rest of its batch"),
        (nn.Flatten().eval(), "no parameters"),
        (nn.Sequential(nn.Linear(5, 3), nn.Unflatten(1, (3, 1))).eval(), "expected \\(B, d\\)"),
    ],
)
def test_unsuitable_encoder(encoder, message):
    with pytest.raises(EncoderError, match=message):
        fit(encoder)


def test_non_finite_sample_is_named():
    x = X.clone()
    x[17, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="17"):
        fit(x=x)


def test_non_finite_gradient_is_named():
    class Root(nn.Module):
        def forward(self, x):
            return x.abs().sqrt()

    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(5, 8, bias=False), Root(), nn.Linear(8, 3)).eval()
    x = X.clone()
    x[23] = 0.0  # the embedding is finite there, its gradient is not
    with pytest.raises(NonFiniteError, match="23"):
        fit(encoder, x)


def test_fewer_samples_than_landmarks():
    with pytest.raises(LandmarkError, match=r"60 landmarks.*only 40 samples"):
        fit(landmarks=60)


def test_more_components_than_the_kernel_has_rank():
    with pytest.raises(LandmarkError, match=r"has rank .* below the 30 dimensions"):
        fit(n_components=30)


def test_duplicate_landmarks():
    with pytest.raises(LandmarkError, match="duplicate landmarks: positions \\[3\\]"):
        fit(landmarks=[1, 3, 3])


def test_collapsed_encoder():
    encoder = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    encoder[0].bias.data.fill_(-1e6)
    with pytest.warns(krepes.errors.KrepesWarning), pytest.raises(LandmarkError, match="collapsed"):
        fit(encoder)
    with pytest.warns(krepes.errors.KrepesWarning), pytest.raises(LandmarkError, match=r"rank 1.*collapsed"):
        fit(encoder, kernel=krepes.NTK(center=False, cosine=False))


def test_views_of_another_shape():
    with pytest.raises(DataError, match="expected the same shape"):
        fit(views=lambda b, g: b[:, :2])
    with pytest.raises(DataError, match="view b has shape"):
        fit(views=(X, X[:5]))


def test_labels_beside_the_samples():
    with pytest.raises(DataError, match="labels are not wanted"):
        fit(x=(X, torch.arange(40)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: krepes.NTK("tracee"),
        lambda: krepes.Newton(damping="best"),
        lambda: krepes.Newton(damping=-1.0),
        lambda: krepes.Auditor(net(), "simclrr"),
        lambda: krepes.Auditor(net(), landmarks="many"),
        lambda: krepes.NTK("trace", sketch=4),
    ],
)
def test_unknown_settings(make):
    with pytest.raises(ConfigError, match="expected"):
        make()
