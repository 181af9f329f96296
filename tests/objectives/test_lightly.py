"""Values of the losses against lightly, the library that many encoders were trained with.

The loss modules of lightly need torch alone, but importing the package runs its web client and needs
torchvision. So its packages are entered here without running their ``__init__``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from krepes import objectives

N, H = 64, 12


@pytest.fixture
def lightly_loss(monkeypatch):
    """A function from ``"module.Class"`` to a class of ``lightly.loss``; skips without lightly."""
    spec = importlib.util.find_spec("lightly")
    if spec is None or spec.origin is None:
        pytest.skip("lightly is not installed: pip install --no-deps lightly")
    root = Path(spec.origin).parent
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, package)
    # lightly.models.utils names this one class of torchvision in annotations and model surgery only.
    ops = types.ModuleType("torchvision.ops")
    ops.StochasticDepth = torch.nn.Identity
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    yield lambda path: getattr(importlib.import_module(f"lightly.loss.{path.split('.')[0]}"), path.split(".")[1])
    for name in [name for name in sys.modules if name.split(".")[0] == "lightly"]:
        del sys.modules[name]  # what was imported through the bare packages must not outlive the test


@pytest.fixture(params=[0.1, 1.0, 3.0], ids=lambda scale: f"scale={scale}")
def views(request):
    """Two correlated views (64, 12), not centred, on both sides of VICReg's hinge."""
    generator = torch.Generator().manual_seed(0)
    mix, base, noise_a, noise_b = (
        torch.randn(rows, H, generator=generator, dtype=torch.float64) for rows in (H, N, N, N)
    )
    z = base @ mix / H**0.5 + 0.5
    return request.param * (z + 0.4 * noise_a), request.param * (z + 0.4 * noise_b)


def assert_same(actual, expected):
    torch.testing.assert_close(torch.as_tensor(actual, dtype=torch.float64), expected.double(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr(lightly_loss, views, temperature):
    expected = lightly_loss("ntx_ent_loss.NTXentLoss")(temperature=temperature)(*views)
    assert_same(objectives.by_name("simclr", temperature=temperature).loss(*views), expected)


def test_simclr_default_temperature(lightly_loss, views):
    expected = lightly_loss("ntx_ent_loss.NTXentLoss")(temperature=0.5)(*views)
    assert_same(objectives.by_name("simclr").loss(*views), expected)


@pytest.mark.parametrize("weight", [5e-3, 0.0051, 1.0])
def test_barlow_twins(lightly_loss, views, weight):
    expected = lightly_loss("barlow_twins_loss.BarlowTwinsLoss")(lambda_param=weight)(*views)
    assert_same(objectives.by_name("barlow_twins", weight=weight).loss(*views), expected)


def test_barlow_twins_default_weight(lightly_loss, views):
    expected = lightly_loss("barlow_twins_loss.BarlowTwinsLoss")()(*views)
    assert_same(objectives.by_name("barlow_twins").loss(*views), expected)


def test_vicreg(lightly_loss, views):
    expected = lightly_loss("vicreg_loss.VICRegLoss")()(*views)
    assert_same(objectives.by_name("vicreg").loss(*views), expected)


def test_byol_is_the_mean_over_directions_of_two_minus_two_cosines(lightly_loss, views):
    """lightly returns −cos of one direction; the constant and the factor are the recipe's."""
    negative_cosine = lightly_loss("negative_cosine_similarity.NegativeCosineSimilarity")()(*views)
    assert_same(objectives.by_name("byol").loss(*views), 2 + 2 * negative_cosine)
