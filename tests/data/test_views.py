"""Views change what they say, and nothing depends on global random state."""

import torch

from krepes.data import GaussianNoise, Scarf, ShiftNoise


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def test_scarf_replaces_whole_features_at_its_rate():
    reference = torch.arange(2000.0).reshape(500, 4)
    view = Scarf(reference, [slice(0, 1), slice(1, 4)], rate=0.3)(torch.full((4000, 4), -1.0), g())
    changed = view != -1
    assert (changed[:, 1] == changed[:, 2]).all()
    assert (changed[:, 2] == changed[:, 3]).all()
    assert abs(changed[:, 0].float().mean() - 0.3) < 0.03
    assert (view[changed[:, 1]][:, 2] - view[changed[:, 1]][:, 1] == 1).all()


def test_shift_moves_pixels_without_wrapping():
    x = torch.zeros(200, 1, 5, 5)
    x[:, :, 2, 2] = 1
    view = ShiftNoise(max_shift=2, std=0.0, contrast=0.0)(x, g())
    assert view.sum((1, 2, 3)).eq(1).all()
    assert len({tuple(v.nonzero()[0].tolist()) for v in view}) > 15


def test_views_depend_on_their_generator_only():
    x = torch.randn(6, 4)
    torch.manual_seed(1)
    first = GaussianNoise(0.5)(x, g(3))
    torch.manual_seed(2)
    assert torch.equal(first, GaussianNoise(0.5)(x, g(3)))
