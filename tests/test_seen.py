"""A loaded auditor is given its samples and views again, and knows other ones."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import krepes
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import DataError, NotFittedError

N = 150
TABLE = pd.DataFrame({"group": np.where(np.arange(N) % 3, "a", "b"), "size": np.sin(np.arange(N))})
SOURCE = ArraySource(
    torch.randn(N, 6, generator=torch.Generator().manual_seed(0)), ids=[f"s{i}" for i in range(N)], metadata=TABLE
)


def encoder(seed=0):
    torch.manual_seed(seed)
    return MLP(6, [16], 3).eval()


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator)


def louder(batch, generator):
    return batch + 0.4 * torch.randn(batch.shape, generator=generator)


def fitted():
    return krepes.Auditor(encoder(), landmarks=30).fit(SOURCE, noisy)


def loaded(auditor, folder):
    return krepes.load(auditor.save(folder / "run"), encoder=encoder())


def test_with_its_samples_a_loaded_auditor_is_as_after_the_fit(tmp_path):
    auditor = fitted()
    again = loaded(auditor, tmp_path)
    with pytest.raises(NotFittedError, match="with_samples"):
        again.feature_gap()
    whole = again.with_samples(SOURCE, noisy)
    assert whole.fit_.indices == auditor.fit_.indices
    assert whole.training_ids_ == SOURCE.ids
    torch.testing.assert_close(whole.attribute(SOURCE.batch([0, 1])), auditor.attribute(SOURCE.batch([0, 1])))
    pd.testing.assert_frame_equal(whole.feature_gap(refits=2), auditor.feature_gap(refits=2))
    assert whole.trust_.verdict == auditor.trust_.verdict
    with pytest.raises(NotFittedError, match="no samples"):
        again.feature_gap()  # it stays what it was


def test_samples_without_views_are_enough_for_what_draws_none(tmp_path):
    whole = loaded(fitted(), tmp_path).with_samples(SOURCE)
    assert len(whole.feature_gap(refits=0)) == 2
    with pytest.raises(NotFittedError, match="no views"):
        whole.attribute(SOURCE.batch([0]))
    assert whole.with_samples(SOURCE, noisy).attribute(SOURCE.batch([0])).shape == (1, N)


def test_views_stay_where_samples_alone_are_given_again():
    assert fitted().with_samples(SOURCE).attribute(SOURCE.batch([0])).shape == (1, N)


@pytest.mark.parametrize(
    ("source", "views", "message"),
    [
        (ArraySource(SOURCE.batch(range(N)) + 1e-3, ids=SOURCE.ids), noisy, "not those that the auditor was fitted on"),
        (ArraySource(SOURCE.batch(range(N))), noisy, "not those that the auditor was fitted on"),
        (SOURCE, louder, "these views are not those"),
    ],
)
def test_other_samples_and_views_are_refused(tmp_path, source, views, message):
    with pytest.raises(DataError, match=message):
        loaded(fitted(), tmp_path).with_samples(source, views)


def test_fixed_views_are_given_again_as_they_were(tmp_path):
    pair = noisy(SOURCE.batch(range(N)), torch.Generator().manual_seed(1)), SOURCE.batch(range(N))
    auditor = krepes.Auditor(encoder(), landmarks=30).fit(SOURCE, pair)
    direction, x = [1.0, 0.0, 0.0], SOURCE.batch([0, 1])
    again = loaded(auditor, tmp_path).with_samples(SOURCE, pair)
    torch.testing.assert_close(again.attribute(x, direction), auditor.attribute(x, direction))
    with pytest.raises(DataError, match="these views are not those"):
        again.with_samples(SOURCE, (pair[1], pair[0]))


def test_a_saved_counterfactual_is_given_its_rest_again(tmp_path):
    auditor = fitted()
    other = auditor.counterfactual(["s3", "s5"])
    rest, views = other.seen_.given()
    again = loaded(other, tmp_path).with_samples(rest, views)
    removed = other.landmark_ids_[0]
    expected = other.counterfactual([removed], keep_landmarks=True)
    torch.testing.assert_close(again.counterfactual([removed], keep_landmarks=True).dA_, expected.dA_)
    torch.testing.assert_close(expected.with_samples(expected.seen_.training).attribute(SOURCE.batch([0])),
                               expected.attribute(SOURCE.batch([0])))  # fmt: skip


def test_samples_of_a_folder_without_fingerprints_are_known_by_its_landmarks(tmp_path):
    folder = fitted().save(tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["fingerprints"]["data"], manifest["behaviour"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    again = krepes.load(folder, encoder=encoder())
    assert again.with_samples(SOURCE, noisy).fit_.indices == again.fit_.indices
    other = ArraySource(2 * SOURCE.batch(range(N)), ids=SOURCE.ids)
    with pytest.raises(DataError, match=f"landmark {again.landmark_ids_[0]} is another sample than in the fit"):
        again.with_samples(other)


def test_nothing_is_written_of_an_auditor_without_views(tmp_path):
    whole = loaded(fitted(), tmp_path).with_samples(SOURCE)
    assert whole.training_ids_ == SOURCE.ids
    with pytest.raises(NotFittedError, match="with_samples"):
        whole.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_landmarks_that_are_no_samples_any_more_are_named(tmp_path):
    auditor = fitted()
    name = auditor.landmark_ids_[0]
    other = auditor.counterfactual([name], keep_landmarks=True)
    rest = other.seen_.training
    assert rest is not None
    with pytest.raises(DataError, match=f"landmark {name} is none of the {N - 1} samples"):
        loaded(other, tmp_path).with_samples(rest)


def test_without_a_fit_there_are_no_samples_to_give():
    with pytest.raises(NotFittedError, match="not fitted"):
        krepes.Auditor(encoder(), landmarks=30).with_samples(SOURCE)
