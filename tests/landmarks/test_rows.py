"""What stands in the kernel for a landmark: its sample, or the first view that the fit draws of it."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

import krepes
from krepes.audit.stability import jaccard, stability
from krepes.comparison import _notes
from krepes.data.stream import VIEW_BLOCK, blocks, make_views, subset
from krepes.errors import ConfigError, NonFiniteError, RunFolderError
from krepes.report.notebook import landmark_pictures
from krepes.run_folder import RunFolder
from krepes.shown import Pictures

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
    assert torch.equal(auditor.fit_.samples, samples[indices])


def test_the_landmarks_are_those_of_their_samples(auditor, network, samples):
    plain = made(network, landmark_rows="samples").fit(samples, noisy)
    assert plain.landmark_ids_ == auditor.landmark_ids_
    assert torch.equal(plain.fit_.rows.landmarks, plain.fit_.samples)
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
    assert torch.equal(again.fit_.samples, auditor.fit_.samples)
    assert torch.equal(again.fit_.rows.landmarks, auditor.fit_.rows.landmarks)
    torch.testing.assert_close(again.influence(samples[:5]), auditor.influence(samples[:5]))


def test_a_loaded_auditor_goes_on_as_the_fitted_one(auditor, network, samples, tmp_path):
    auditor.save(tmp_path / "run")
    again = krepes.load(tmp_path / "run", encoder=network)
    mine = auditor.attribute(samples[:2], draws=1)
    torch.testing.assert_close(again.attribute(samples[:2], draws=1, source=samples, views=noisy), mine)
    mine, theirs = (
        a.counterfactual(["3", "4"], source=samples, views=noisy).transform(samples[:4]) for a in (auditor, again)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_landmarks_that_are_kept_keep_their_views(auditor, samples):
    first = auditor.counterfactual(auditor.landmark_ids_[:2], keep_landmarks=True)
    others = [str(i) for i in range(9) if i not in auditor.fit_.indices]
    second = first.counterfactual(others, keep_landmarks=True)
    for other in (first, second):
        assert torch.equal(other.fit_.rows.landmarks, auditor.fit_.rows.landmarks)
        assert torch.equal(other.fit_.samples, auditor.fit_.samples)
    assert second.trust_.verdict != "unknown"


def test_a_run_from_before_the_setting_is_one_of_samples(network, samples, tmp_path):
    views_, plain, old = (tmp_path / name for name in ("views", "plain", "old"))
    made(network).fit(samples, noisy).save(views_)
    for folder in (plain, old):
        made(network, landmark_rows="samples").fit(samples, noisy).save(folder)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["settings"]["landmark_rows"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    again = krepes.load(old, encoder=network)
    assert again.settings.landmark_rows == "samples"
    made(network, landmark_rows="samples").fit(samples, noisy).save(old)
    said = [settings_differ(one, two) for one, two in ((old, views_), (views_, old), (plain, old), (old, plain))]
    assert said == ["landmark_rows", "landmark_rows", None, None]


def test_a_folder_from_before_the_setting_is_gone_on_with(tmp_path):
    def config(**rows):
        return {"title": "one", "landmarks": {"sampler": "kmeans++", "m": 40} | rows}

    manifest = {
        "config": config(),
        "fingerprints": {},
        "versions": {"krepes": krepes.__version__},
        "status": "complete",
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    identity = {"fingerprints": {}, "behaviour": {}}
    assert RunFolder.open(tmp_path, identity | {"config": config(rows="samples")}).complete
    with pytest.raises(RunFolderError, match="these settings differ: landmarks"):
        RunFolder.open(tmp_path, identity | {"config": config(rows="views")})


def settings_differ(one, two):
    notes = _notes(*(json.loads((folder / "manifest.json").read_text()) for folder in (one, two)), True, [])
    return next((re.search("differ: (.*)[.]", note)[1] for note in notes if "settings differ" in note), None)


@pytest.mark.parametrize("rows", [None, "samples", ["views"]])
def test_a_manifest_that_does_not_fit_the_model_is_refused(auditor, network, tmp_path, rows):
    auditor.save(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["settings"]["landmark_rows"] = rows
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunFolderError, match="holds views of landmarks"):
        krepes.load(tmp_path / "run", encoder=network)


def test_samples_of_another_kind_than_their_views(network):
    whole = torch.randint(0, 9, (60, 6), dtype=torch.uint8)
    floats = tuple(whole.float() / 9 + 0.1 * torch.randn(60, 6) for _ in range(2))

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner(x if x.is_floating_point() else x.float() / 9)

    auditor = made(Scaled().eval(), 20).fit(whole, floats)
    assert len(auditor.explain(whole[:3], top_k=2)) == 6


def test_views_that_learn_leave_no_graph(network, samples):
    scale = torch.nn.Parameter(torch.ones(6))
    auditor = made(network).fit(samples, lambda batch, generator: noisy(batch, generator) * scale)
    assert not auditor.fit_.rows.landmarks.requires_grad


def test_a_work_folder_holds_the_views_of_one_setting(network, samples, tmp_path):
    fits = [
        made(network, landmark_rows=rows).fit(samples, noisy, work=tmp_path, work_key="noisy").influence(samples[:4])
        for rows in ("views", "samples", "views")
    ]
    assert torch.equal(fits[0], fits[2])
    assert not torch.allclose(fits[0], fits[1], rtol=1e-2)


def test_a_landmark_whose_view_has_no_finite_gradient_is_named_by_it(network, samples):
    a = samples.clone()
    a[7] = 3e38
    with pytest.raises(NonFiniteError, match=r"\(view a\)"):
        made(network, [1, 2, 3, 4, 5, 6, 7]).fit(samples, (a, samples + 0.1))


@pytest.mark.parametrize("rows", ["samples", "views"])
def test_the_gate_s_other_seed_draws_the_landmarks_views_anew(network, samples, rows):
    def loud(batch, generator):
        return batch + torch.randn(batch.shape, generator=generator)

    one = made(network, landmark_rows=rows).fit(samples, loud)
    two = made(network, one.fit_.indices, seed=1, landmark_rows=rows).fit(samples, loud)
    x = samples[:200]
    truth = jaccard(one.influence(x), two.influence(x), 10)
    found = stability(one.fit_, one.settings, one.encoder, krepes.data.ArraySource(samples), loud, x).jaccard
    assert abs(found - truth) < 0.08


def test_pictures_are_of_samples(auditor, samples):
    fit = auditor.fit_
    assert torch.equal(fit.samples, samples[fit.indices])
    assert not torch.equal(fit.samples, fit.rows.landmarks)
    images = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)).eval()
    shown = made(net, 20).fit(
        images, lambda batch, generator: batch * torch.rand(len(batch), 1, 1, 1, generator=generator)
    )
    name = shown.landmark_ids_[0]
    place = shown.fit_.indices[0]
    assert landmark_pictures(shown, [name])[name] == Pictures.of(shown).encode(images[place].numpy())


def test_refits_and_trust_and_evaluation(auditor, samples):
    labels = (samples[:, 0] > 0).numpy()
    found = auditor.evaluate(samples[:400], labels[:400], labels[auditor.fit_.indices]).set_index("figure")
    among = np.isin(np.arange(400), auditor.fit_.indices).sum()
    assert found.loc["precision@1, influence", "n"] == 400 - among  # a landmark's own sample is left out
    table = pd.DataFrame(samples.numpy(), columns=[f"c{i}" for i in range(6)])
    gaps = auditor.feature_gap(table, ["c0", "c1"], refits=3)
    assert (gaps["refits"] == 3).all()


def test_an_unknown_kind_of_rows_is_refused(network):
    with pytest.raises(ConfigError, match="landmark_rows='view'; expected 'samples' or 'views'"):
        made(network, landmark_rows="view")
