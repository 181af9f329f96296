"""The kernel of a landmark search: exact where a pool's gradients are few, folded where they are many."""

from collections.abc import Iterator

import pytest
import torch

from krepes import NTK, KMeansPlusPlus
from krepes.encoders import FrozenEncoder, SmallCNN
from krepes.kernel import ntk
from krepes.kernel.gradients import GradientMap
from krepes.kernel.ntk import KernelColumns, gradient_map
from krepes.landmarks import choose

POOL = 120


@pytest.fixture(scope="module")
def gradients() -> GradientMap:
    torch.manual_seed(0)
    samples = pool()
    return gradient_map(NTK("sketch", sketch=3), FrozenEncoder(SmallCNN(1, (8, 16), 8).eval()), samples[:3])


@pytest.fixture
def folds(monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(ntk, "SEARCH_NUMBERS", 1)
    monkeypatch.setattr(ntk, "FOLDED", 301)
    return 301


def pool() -> torch.Tensor:
    x = torch.randn(POOL, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    x[77] = x[5]  # a duplicate in another tile
    return x


def searched(gradients: GradientMap, **more) -> KernelColumns:
    kernel = NTK("sketch", sketch=3, **more.pop("kernel", {}))
    return KernelColumns(kernel, gradients, pool(), torch.arange(0, POOL, 2), tile=16, **more)


def test_folding_keeps_squared_distances(gradients, folds):
    raw = {"center": False, "cosine": False}
    folded, features = searched(gradients, kernel=raw), gradients(pool())
    apart = lambda K: (K.diagonal()[:, None] + K.diagonal() - 2 * K).clamp_min(0)  # noqa: E731
    found, exact = apart(folded.columns(torch.arange(POOL))), apart(features.inner(features))
    other = exact > 1e-6 * exact.max()
    ratio = found[other] / exact[other]
    spread = (2 / folds) ** 0.5
    assert abs(ratio.mean() - 1) < spread / 2
    assert spread / 8 < ratio.std() < 2 * spread  # it was folded, and no worse than its number says
    assert found[77, 5] <= 1e-5 * exact.max()


def test_folding_forms_the_pools_gradients_once(gradients, folds, monkeypatch):
    seen, plain = [], GradientMap.__call__
    monkeypatch.setattr(GradientMap, "__call__", lambda self, batch: (seen.append(len(batch)), plain(self, batch))[1])
    limit = 4 * POOL * 3 * folds  # too little for what was not folded
    assert limit < 4 * POOL * gradients.features_per_sample()
    columns = searched(gradients, limit=limit)
    first = sum(seen)
    assert first <= POOL + 1 + POOL // 2  # the pool, one sample to count its numbers, the centring's reference
    columns.columns(torch.arange(30))
    assert sum(seen) == first + 30


def test_landmarks_do_not_depend_on_memory(gradients, folds):
    chosen = [choose(KMeansPlusPlus(), c, 12, torch.Generator().manual_seed(3)).tolist()
              for c in (searched(gradients), searched(gradients, limit=0))]  # fmt: skip
    assert chosen[0] == chosen[1]
    assert not {5, 77} <= set(chosen[0])  # a duplicate of a landmark has no distance


def test_few_gradients_are_not_folded(gradients):
    columns, features = searched(gradients, kernel={"center": False, "cosine": False}), gradients(pool())
    assert torch.allclose(columns.columns(torch.arange(POOL)), features.inner(features), rtol=1e-5)
