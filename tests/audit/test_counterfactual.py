"""A counterfactual equals a fresh fit on the samples that remain."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import krepes
from krepes import BYOL, Auditor, BarlowTwins, Newton, SimCLR, SpectralContrastive, VICReg
from krepes.data import ArraySource
from krepes.encoders import MLP
from krepes.errors import ConfigError

N = 700  # three view blocks
# one batch of all: a smaller one has its own negatives, which a fresh division would change
OBJECTIVES = [BarlowTwins(weight=0.05), VICReg(), SpectralContrastive(), SimCLR(batch_size=None), BYOL(batch_size=128)]


def noisy(batch, generator):
    return batch + 0.3 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def data(dtype=torch.float64) -> tuple[ArraySource, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, 5, generator=generator, dtype=dtype)
    table = pd.DataFrame({"group": np.where(np.arange(N) % 7 < 2, "a", "b"), "size": x[:, 0].numpy()})
    views = tuple(x + 0.3 * torch.randn(N, 5, generator=generator, dtype=dtype) for _ in range(2))
    return ArraySource(x, [f"s{i}" for i in range(N)], table), (views[0], views[1])


def auditor(objective, landmarks, dtype=torch.float64, damping=0.1, **newton) -> Auditor:
    torch.manual_seed(0)
    newton = Newton(damping=damping, tol=1e-11, max_iter=2000, **newton)
    return Auditor(MLP(5, (8,), 4).eval(), objective, landmarks=landmarks, n_components=3, newton=newton, dtype=dtype)


def fresh(objective, source, views, remaining, landmarks, dtype=torch.float64, **newton) -> Auditor:
    """A fit that has never seen the removed samples."""
    rest = ArraySource(source.batch(remaining.tolist()), [source.ids[i] for i in remaining])
    places = [int(np.flatnonzero(remaining == i)[0]) for i in landmarks]
    return auditor(objective, places, dtype, **newton).fit(rest, (views[0][remaining], views[1][remaining]))


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
@pytest.mark.parametrize("landmarks_go", [False, True])
def test_equals_a_fresh_fit_without_the_samples(objective, landmarks_go):
    source, views = data()
    landmarks = list(range(1, 601, 20))
    full = auditor(objective, landmarks).fit(source, views)
    wanted = (lambda i: i % 7 < 2) if landmarks_go else (lambda i: i % 7 < 2 and i not in landmarks)
    removed = np.array([i for i in range(N) if wanted(i)])
    remaining = np.setdiff1d(np.arange(N), removed)
    left = [i for i in landmarks if i in remaining]
    assert (len(left) < len(landmarks)) == landmarks_go
    other = full.counterfactual([f"s{i}" for i in removed])
    again = fresh(objective, source, views, remaining, left)
    assert relative(other.dA_, again.dA_) < 1e-5
    assert relative(other.A0_, again.A0_) < 1e-5
    assert relative(other.dA_, full.dA_) > 1e-3 if not landmarks_go else len(other.dA_) < len(full.dA_)
    assert other.landmark_ids_ == [f"s{i}" for i in left]
    assert list(other.training_ids_) == [f"s{i}" for i in remaining]
    x = source.batch([0, 1, 2])
    scores = [one.attribute(x, direction=[1.0, 0.0, 0.0], draws=1, at="step") for one in (other, again)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("objective", "landmarks_go", "goes"),
    [
        (OBJECTIVES[0], False, lambda x: x[:, 0] > 0),
        (OBJECTIVES[1], False, lambda x: x[:, 0] > 0),
        (OBJECTIVES[0], True, lambda x: x[:, 1] < 0),
        (OBJECTIVES[1], True, lambda x: x.norm(dim=1) < 2),
    ],
)
def test_an_automatic_damping_is_that_of_the_audit(objective, landmarks_go, goes):
    """The samples that remain would choose another one, and all would move by that."""
    source, views = data()
    landmarks, gone = list(range(1, 601, 20)), goes(source.batch(range(N)))
    removed = [i for i in range(N) if gone[i] and (landmarks_go or i not in landmarks)]
    remaining = np.setdiff1d(np.arange(N), removed)
    left = [i for i in landmarks if i in remaining]
    full = auditor(objective, landmarks, damping="auto").fit(source, views)
    other = full.counterfactual([f"s{i}" for i in removed])
    found = full.outcome_.relative_damping
    assert other.outcome_.relative_damping == pytest.approx(found)
    chosen = fresh(objective, source, views, remaining, left, damping="auto")
    assert chosen.outcome_.relative_damping != pytest.approx(found)
    again = fresh(objective, source, views, remaining, left, damping=found, line_search=True)
    assert relative(other.dA_, again.dA_) < 1e-5


@pytest.mark.parametrize("objective", OBJECTIVES[:2], ids=lambda o: o.name)
def test_several_steps_choose_their_damping_anew(objective):
    """Each step of the audit found its own; the last one's may be the end of the grid, where nothing is left to do."""
    source, views = data()
    landmarks = list(range(1, 601, 20))
    full = auditor(objective, landmarks, damping="auto", steps=3).fit(source, views)
    remaining = np.setdiff1d(np.arange(N), [300])
    again = fresh(objective, source, views, remaining, landmarks, damping="auto", steps=3)
    other = full.counterfactual(["s300"])
    assert relative(other.dA_, again.dA_) < 1e-5
    assert relative(other.dA_, full.dA_) < 0.5


@pytest.mark.parametrize("objective", OBJECTIVES[:2], ids=lambda o: o.name)
def test_float32_down_dating_keeps_five_digits(objective):
    source, views = data(torch.float32)
    landmarks = list(range(1, 601, 20))
    full = auditor(objective, landmarks, torch.float32).fit(source, views)
    removed = np.array([i for i in range(N) if i % 7 < 5 and i not in landmarks])  # most of the samples
    remaining = np.setdiff1d(np.arange(N), removed)
    again = fresh(objective, source, views, remaining, landmarks, torch.float32)
    assert relative(full.counterfactual([f"s{i}" for i in removed]).dA_, again.dA_) < 1e-5


def test_other_samples_keep_their_drawn_views():
    """With a callable, removing samples shifts every block; the views must not be drawn anew."""
    source, _ = data()
    full = auditor(BarlowTwins(weight=0.05), list(range(0, 600, 20))).fit(source, noisy)
    pieces = [noisy_block(source, i) for i in range(0, N, 256)]
    drawn = tuple(torch.cat([p[which] for p in pieces]) for which in (0, 1))
    remaining = np.array([i for i in range(N) if i % 7 >= 2 or i in range(0, 600, 20)])
    again = fresh(BarlowTwins(weight=0.05), source, drawn, remaining, list(range(0, 600, 20)))
    other = full.counterfactual([f"s{i}" for i in np.setdiff1d(np.arange(N), remaining)])
    assert relative(other.dA_, again.dA_) < 1e-9


def noisy_block(source, start):
    from krepes.data.stream import make_views

    return make_views(source, noisy, range(start, min(start + 256, N)), 0)


@pytest.mark.parametrize("objective", [BarlowTwins(weight=0.05), SimCLR(batch_size=128)], ids=lambda o: o.name)
def test_removing_one_sample_is_what_its_attribution_says(objective):
    """The other samples keep their batches: a new division would move f more than the sample does."""
    source, views = data()
    full = auditor(objective, list(range(0, 600, 20))).fit(source, views)
    x = source.batch(range(40))
    scores = full.attribute(x, direction=[1.0, 0.0, 0.0], draws=1, at="step")
    held = replace(full.settings.newton, damping=full.outcome_.damping, relative=False)
    full.settings = replace(full.settings, newton=held)
    for i in (1, 333):
        moved = (full.counterfactual([f"s{i}"]).transform(x) - full.transform(x))[:, 0]
        assert float((moved + scores[:, i]).norm() / moved.norm()) < 0.05


def test_counterfactuals_of_counterfactuals_name_their_landmarks(tmp_path):
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), list(range(10, 70))).fit(source, views)
    one = full.counterfactual([f"s{i}" for i in (5, 7, 11, 300)], keep_landmarks=True)
    two = one.counterfactual(["s400", "s12"], keep_landmarks=True)
    assert two.landmark_ids_ == full.landmark_ids_
    both = full.counterfactual([f"s{i}" for i in (5, 7, 11, 300, 400, 12)], keep_landmarks=True)
    assert relative(two.dA_, both.dA_) < 1e-9
    fewer = one.counterfactual(["s400"])
    assert fewer.landmark_ids_ == [i for i in full.landmark_ids_ if i != "s11"]
    rest = one.seen_.training
    loaded = krepes.load(one.save(tmp_path / "run"), encoder=full.encoder.module)
    assert loaded.landmark_ids_ == one.landmark_ids_
    places = loaded.fit_.indices
    assert [rest.ids[p] if p >= 0 else "s11" for p in places] == one.landmark_ids_


def test_a_query_and_a_mask_name_the_same_samples():
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), 30).fit(source, views)
    by_query = full.counterfactual("group == 'a' and size > 0", keep_landmarks=True)
    table = source.metadata()
    mask = ((table["group"] == "a") & (table["size"] > 0)).to_numpy()
    by_mask = full.counterfactual(mask, keep_landmarks=True)
    assert torch.equal(by_query.dA_, by_mask.dA_)
    assert len(by_query.training_ids_) == N - mask.sum()


def test_kept_landmarks_keep_the_coordinates_and_their_names():
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), 30).fit(source, views)
    other = full.counterfactual(full.landmark_ids_[:5], keep_landmarks=True)
    assert torch.equal(other.A0_, full.A0_)
    assert other.landmark_ids_ == full.landmark_ids_
    assert relative(other.dA_, full.dA_) > 1e-5
    assert other.trust_.verdict in ("green", "amber", "red")


def test_counterfactuals_add_up():
    """Removing two groups one after the other is removing both."""
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), list(range(0, 600, 20))).fit(source, views)
    one, two = [f"s{i}" for i in range(1, 300, 20)], [f"s{i}" for i in range(305, 600, 20)]
    assert relative(full.counterfactual(one).counterfactual(two).dA_, full.counterfactual(one + two).dA_) < 1e-9


def test_after_loading_the_samples_are_given_again(tmp_path):
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), 30).fit(source, views)
    gone = [i for i in source.ids if i not in full.landmark_ids_][:100]
    expected = full.counterfactual(gone).dA_
    loaded = krepes.load(full.save(tmp_path / "run"), encoder=full.encoder.module)
    with pytest.raises(krepes.errors.NotFittedError, match="source"):
        loaded.counterfactual(gone)
    assert relative(loaded.counterfactual(gone, source=source, views=views).dA_, expected) < 1e-9


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["s1", "nobody"], "1 ids in remove do not exist: nobody"),
        ([], "remove is empty"),
        ("group == 'c'", "selects no sample"),
        ("weight > 3", "Its columns: group, size"),
        ("size + 1", "expected a condition"),
        (np.ones(N, bool), "leaves 0"),
        (np.ones(3, bool), "3 values for 700 samples"),
    ],
)
def test_what_cannot_be_removed_is_named(remove, message):
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), 30).fit(source, views)
    with pytest.raises(ConfigError, match=message):
        full.counterfactual(remove)


def test_too_few_landmarks_left():
    source, views = data()
    full = auditor(BarlowTwins(weight=0.05), 30).fit(source, views)
    with pytest.raises(ConfigError, match="leaves 2, too few for 3 dimensions"):
        full.counterfactual(full.landmark_ids_[:28])
