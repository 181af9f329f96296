"""A TorchScript encoder is audited as the network that it was made from, or refused in words."""

import pytest
import torch
from torch import Tensor, nn

import krepes
from krepes.encoders import FrozenEncoder
from krepes.errors import ConfigError, KrepesWarning
from tests.encoders.small import mlp

# torch.jit itself is deprecated; files and modules of it are still about
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
X = torch.rand(60, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def traced(network: nn.Module) -> nn.Module:
    return torch.jit.trace(network, X[:2])


WAYS = {"trace": traced, "script": torch.jit.script}


def views(batch: Tensor, generator: torch.Generator) -> Tensor:
    return batch + 0.1 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def audited(network: nn.Module) -> krepes.Auditor:
    return krepes.Auditor(network, landmarks=range(0, 60, 5), dtype=torch.float64).fit(X, views)


@pytest.mark.parametrize("way", WAYS)
def test_an_audit_of_torchscript_gives_the_networks_own_numbers(way):
    expected = audited(mlp().double())
    with pytest.warns(KrepesWarning, match="one sample at a time: same result, slower"):
        found = audited(WAYS[way](mlp().double()))
    torch.testing.assert_close(found.kernel(X[:7]), expected.kernel(X[:7]), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.A0_, expected.A0_, rtol=1e-9, atol=1e-11)
    # the step's solver stops at a residual, which rounding moves
    torch.testing.assert_close(found.influence(X[:7]), expected.influence(X[:7]), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("place", ["head", "last_block"])
@pytest.mark.parametrize("way", WAYS)
def test_a_place_that_torchscript_hides_is_refused_with_the_way_out(way, place):
    network = nn.Sequential(WAYS[way](mlp().double()), nn.Linear(5, 5).double()).eval()
    encoder = FrozenEncoder(network, place, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"0 is a ScriptModule. Name the parameters .*1\.weight, 1\.bias"):
        encoder.check(X[:4])


def test_parameters_of_torchscript_can_be_named():
    encoder = FrozenEncoder(torch.jit.script(mlp().double()), "layers.2.*", dtype=torch.float64)
    encoder.check(X[:4])
    assert encoder.param_names == ["layers.2.weight", "layers.2.bias"]
