"""What users rely on beside the numbers themselves."""

import numpy as np
import pytest
import torch
from torch import nn

import krepes
from krepes.errors import NotFittedError, RunFolderError
from krepes.results import read_manifest

X = torch.randn(150, 6, generator=torch.Generator().manual_seed(0))


def views(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator)


def encoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5)).eval()


def fitted(**settings) -> krepes.Auditor:
    settings = {"landmarks": 30, "newton": krepes.Newton(damping="auto")} | settings
    return krepes.Auditor(encoder(), **settings).fit(X, views)


def test_unfitted_auditor_says_so():
    with pytest.raises(NotFittedError, match="call fit"):
        krepes.Auditor(encoder()).transform(X)


def test_explain_gives_the_largest_scores_in_order():
    auditor = fitted()
    table, scores = auditor.explain(X[:4], top_k=3), auditor.influence(X[:4])
    expected = torch.topk(scores, 3).values.flatten().numpy()
    np.testing.assert_allclose(table["influence"], expected)
    assert table["rank"].tolist() == [1, 2, 3] * 4
    column = auditor.landmark_ids_.index(table["landmark"][0])
    assert table["contribution"][0] == pytest.approx(float(auditor.contribution(X[:1])[0, column]))


def test_contributions_add_up_to_the_steps_share_of_the_representation():
    auditor = fitted()
    f = auditor.transform(X[:9])
    step = auditor.kernel(X[:9]) @ auditor.dA_
    expected = (step * f).sum(1) / f.norm(dim=1)
    torch.testing.assert_close(auditor.contribution(X[:9]).sum(1), expected)


@pytest.mark.parametrize("objective", ["barlow_twins", "vicreg", "simclr", "byol", "spectral_contrastive"])
def test_automatic_damping_lowers_the_loss_of_every_objective(objective):
    outcome = fitted(objective=objective).outcome_
    assert outcome.lowered
    assert 0.25 <= outcome.gain_ratio <= 1.75
    assert outcome.relative_damping == pytest.approx([t.damping for t in outcome.trials if t.accepted][-1])


def test_nothing_reported_depends_on_the_eigenvectors_signs(monkeypatch):
    before = fitted()
    eigh = torch.linalg.eigh

    def flipped(K):
        values, vectors = eigh(K)
        return values, vectors * (1 - 2 * (torch.arange(vectors.shape[1]) % 2))

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    after = fitted()
    torch.testing.assert_close(before.influence(X[:5]), after.influence(X[:5]))
    torch.testing.assert_close(before.contribution(X[:5]), after.contribution(X[:5]))
    assert before.outcome_.loss_after == pytest.approx(after.outcome_.loss_after)


def test_a_step_that_raises_the_loss_says_so_first():
    outcome = fitted(objective="simclr", newton=krepes.Newton(damping=1e-8, max_iter=2000)).outcome_
    bad = fitted(
        objective=krepes.SpectralContrastive(), kernel=krepes.NTK(center=False, cosine=False),
        newton=krepes.Newton(damping=1e-9),
    )  # fmt: skip
    for o in (outcome, bad.outcome_):
        assert o.message.startswith("The step did NOT lower the loss") == (not o.lowered)
    assert not bad.outcome_.lowered
    assert bad.trust_.verdict == "red"


def test_line_search_and_more_steps_never_raise_the_loss():
    one = fitted(newton=krepes.Newton(damping=1e-6, line_search=True)).outcome_
    three = fitted(newton=krepes.Newton(damping=1e-1, line_search=True, steps=3)).outcome_
    assert one.loss_after <= one.loss_before
    assert three.loss_after < fitted(newton=krepes.Newton(damping=1e-1, line_search=True)).outcome_.loss_after


def test_saved_auditor_scores_like_the_fitted_one(tmp_path):
    auditor = fitted(landmarks=krepes.RPCholesky(m=30))
    auditor.save(tmp_path / "run")
    loaded = krepes.load(tmp_path / "run", encoder=encoder())
    torch.testing.assert_close(loaded.contribution(X[:7]), auditor.contribution(X[:7]))
    assert loaded.landmark_ids_ == auditor.landmark_ids_
    assert loaded.outcome_ == auditor.outcome_


def test_folder_of_another_encoder_is_refused(tmp_path):
    fitted().save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="another encoder"):
        krepes.load(tmp_path / "run", encoder=encoder(seed=1))
    other = krepes.Auditor(encoder(seed=1), landmarks=30).fit(X, views)
    with pytest.raises(RunFolderError, match="another encoder"):
        other.save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="another data set"):
        krepes.Auditor(encoder(), landmarks=30).fit(X + 1, views).save(tmp_path / "run")


def test_damaged_model_file_is_detected(tmp_path):
    fitted().save(tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        krepes.load(tmp_path / "run", encoder=encoder())


def test_moments_are_saved_and_additive(tmp_path):
    auditor = fitted()
    auditor.save(tmp_path / "run")
    moments = krepes.load(tmp_path / "run", encoder=encoder()).fit_.moments
    assert moments is not None
    assert moments.n == 150
    torch.testing.assert_close((moments + moments - moments).ab, moments.ab)
    assert read_manifest(tmp_path / "run")["status"] == "complete"


def test_given_landmarks_keep_their_order():
    assert fitted(landmarks=[9, 2, 77, 31, 5, 60, 100]).landmark_ids_ == ["9", "2", "77", "31", "5", "60", "100"]
