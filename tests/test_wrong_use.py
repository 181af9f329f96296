"""What users give by mistake is said in words, and what is of an earlier fit is not mixed with a later one."""

import pytest
import torch
from torch import nn

import krepes
from krepes.encoders import MLP
from krepes.encoders.frozen import FrozenEncoder
from krepes.errors import ConfigError, DataError, EncoderError, NotFittedError

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))


def encoder():
    torch.manual_seed(0)
    return MLP(6, [16], 3).eval()


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator)


def auditor(**settings):
    return krepes.Auditor(encoder(), landmarks=20, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": krepes.VICReg}, r"objective=.*expected an objective such as krepes.VICReg\(\), or its name"),
        ({"objective": None}, "objective=None; expected an objective"),
        ({"kernel": 3}, "kernel=3; expected krepes.NTK"),
        ({"newton": "auto"}, r"newton='auto'; expected krepes.Newton\(…\)"),
        ({"newton": {"damping": 1.0}}, r"newton={'damping': 1.0}; expected krepes.Newton"),
        ({"engine": "4GiB"}, "engine='4GiB'; expected krepes.Engine"),
        ({"trust": 1}, "trust=1; expected krepes.Trust"),
    ],
)
def test_settings_of_another_type_are_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        auditor(**settings)


def test_views_that_raise_are_named_with_what_they_were_called_with():
    with pytest.raises(DataError, match=r"views raise TypeError: .*a batch of shape \(120, 6\) \(torch.float32\)"):
        auditor().fit(X, lambda batch: batch)
    with pytest.raises(DataError, match=r"views returned torch.float32 .*samples.float\(\)"):
        auditor().fit(torch.arange(720).reshape(120, 6), lambda batch, generator: batch + 0.5)


def test_lists_of_samples_of_other_calls_are_refused():
    fitted = auditor().fit(X, noisy)
    for top_k in ("5", 5.0, 0):
        with pytest.raises(ConfigError, match="top_k"):
            fitted.explain(X[:2], top_k=top_k)
    with pytest.raises(ConfigError, match=r"plan is a dict; expected krepes.AuditPlan"):
        fitted.findings({"points": 20})
    with pytest.raises(ConfigError, match=r"after is a NoneType; expected a fitted krepes.Auditor"):
        krepes.movement(fitted, None, X)
    with pytest.raises(ConfigError, match=r"run folders, not a Auditor; krepes.movement"):
        krepes.compare(fitted, fitted)


def test_what_needs_a_fit_says_so():
    for name in ("landmark_ids_", "training_ids_", "seen_", "fit_", "outcome_", "source_"):
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(auditor(), name)


def test_an_auditor_prints_what_it_is():
    assert repr(auditor(objective="vicreg")) == "<krepes.Auditor, vicreg: not fitted>"
    fitted = auditor(objective="vicreg").fit(X, noisy)
    assert repr(fitted) == f"<krepes.Auditor, vicreg: 20 landmarks, h = 3. {fitted.outcome_.message}>"


def test_a_concept_of_an_earlier_fit_is_refused():
    fitted = auditor().fit(X, noisy)
    concept = fitted.concept(X[:40], X[40:80], draws=19, name="first")
    assert concept.influence(X[:2]).shape == (2, 20)
    fitted.fit(X + 1, noisy)
    for use in (concept.influence, concept.push, concept.score, concept.explain, concept.coordinate):
        with pytest.raises(NotFittedError, match="'first' is of an earlier fit"):
            use(X[:30])
    with pytest.raises(NotFittedError, match="'first' is of an earlier fit"):
        concept.landmarks()


class OverTheBatch(nn.Module):
    """Takes the batch for time: the first sample's output knows no other."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4)

    def forward(self, x):
        return self.lstm(x[:, None])[0][:, 0]


class FirstAdded(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = encoder()

    def forward(self, x):
        return self.inner(x) + self.inner(x[:1])


class Squeezed(FirstAdded):
    def forward(self, x):
        return self.inner(x).squeeze()


def test_an_encoder_that_drops_the_batch_of_one_is_refused():
    with pytest.raises(EncoderError, match=r"maps one sample to \(3,\); expected \(1, 3\)"):
        FrozenEncoder(Squeezed().eval()).check(X[:3])


@pytest.mark.parametrize("network", [OverTheBatch, FirstAdded])
def test_an_encoder_that_looks_at_other_samples_is_refused(network):
    torch.manual_seed(0)
    with pytest.raises(EncoderError, match="changes with the rest of its batch"):
        FrozenEncoder(network().eval()).check(X[:3])


def test_the_default_step_chooses_its_damping():
    assert krepes.Newton().damping == "auto"
    for objective in ("simclr", "spectral_contrastive", "barlow_twins", "vicreg", "byol"):
        assert auditor(objective=objective).fit(X, noisy).outcome_.lowered
