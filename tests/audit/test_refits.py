"""Refits on random halves: which samples they see, and what they leave alone."""

import numpy as np
import pytest
import torch

from krepes import Auditor, Newton, SimCLR, VICReg
from krepes.audit.refits import half, refits
from krepes.encoders import MLP
from krepes.errors import LandmarkError
from krepes.pipeline import choose_landmarks


def noisy(batch, generator):
    return batch + 0.2 * torch.randn(batch.shape, generator=generator)


def audited(objective=None, landmarks=25, n: int = 300) -> Auditor:
    torch.manual_seed(0)
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(1))
    auditor = Auditor(MLP(5, (16,), 3).eval(), objective or VICReg(), landmarks=landmarks, newton=Newton(damping=0.3))
    return auditor.fit(x, noisy)


def test_halves_are_halves_seeded_and_different():
    first, second = half(1001, 30, 0, 0), half(1001, 30, 0, 1)
    assert len(first) == len(second) == 500
    assert len(np.unique(first)) == 500
    np.testing.assert_array_equal(first, np.sort(first))
    np.testing.assert_array_equal(first, half(1001, 30, 0, 0))
    assert 150 < len(np.intersect1d(first, second)) < 350


def test_bounded_halves_are_of_whole_view_blocks_of_as_many_samples_as_the_landmarks_need():
    for m, largest in ((30, 4096), (1000, 8192)):
        parts = [half(100_000, m, 0, number) for number in range(2)]
        assert [len(p) for p in parts] == [largest // 2] * 2
        assert len(np.unique(np.concatenate(parts) // 256)) <= largest // 256


@pytest.mark.parametrize("objective", [VICReg(), SimCLR(batch_size=50)])
def test_a_refit_scores_the_points_by_landmarks_of_its_half_and_leaves_the_audit_alone(objective):
    auditor, points = audited(objective), np.arange(0, 300, 7)
    before = auditor.dA_.clone()
    found = refits(auditor, points, 3)
    for number, one in enumerate(found):
        assert np.isin(one.landmarks, half(300, 25, 0, number)).all()
        assert one.influence.shape == (len(points), 25)
        assert one.f.shape == one.step.shape == (len(points), 3)
    assert not np.array_equal(found[0].landmarks, found[1].landmarks)
    torch.testing.assert_close(auditor.dA_, before, rtol=0, atol=0)


def test_landmarks_chosen_by_hand_are_held():
    auditor = audited(landmarks=list(range(0, 300, 12)))
    for one in refits(auditor, np.arange(20), 2):
        assert one.landmarks.tolist() == list(range(0, 300, 12))


def test_halves_whose_landmarks_span_too_little_are_left_out(monkeypatch):
    auditor, chosen = audited(), []

    def refused_first(*arguments):
        chosen.append(arguments)
        if len(chosen) == 1:
            raise LandmarkError("the landmarks do not span 3 dimensions")
        return choose_landmarks(*arguments)

    monkeypatch.setattr("krepes.audit.refits.choose_landmarks", refused_first)
    assert len(refits(auditor, np.arange(20), 3)) == 2
