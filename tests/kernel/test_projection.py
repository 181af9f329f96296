"""Random projections: unbiased, independent of the batch, with an error that is measured and falls with k."""

import pytest
import torch
from torch import nn

from krepes import NTK, Auditor, Engine
from krepes.encoders import FrozenEncoder
from krepes.errors import ConfigError
from krepes.kernel import KernelRows
from krepes.kernel.ntk import gradient_map, kernel_error
from tests.networks import ResNet, TextTransformer
from tests.oracles import dense


def rows_of(net: nn.Module, x: torch.Tensor, dtype=torch.float64, precision="float32", **settings) -> KernelRows:
    ntk = NTK(**({"center": False, "cosine": False} | settings))
    gradients = gradient_map(ntk, FrozenEncoder(net.eval(), dtype=dtype), x[:3])
    return KernelRows(ntk, gradients, x, precision=precision)


def wide_resnet() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return ResNet(widths=(8, 12)).double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)


def test_projection_is_unbiased():
    net, x = wide_resnet()
    exact = dense.ntk(net, x, x, "pseudo")
    found = torch.stack([rows_of(net, x, variant="pseudo", project=64, seed=s).K_mm for s in range(300)])
    assert "projected" in rows_of(net, x, variant="pseudo", project=64).gradients.plan.values()
    error = found.std(0) / 300**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error).all()
    assert (error > 0).any()


def test_projection_of_tokens_and_of_formed_gradients_is_unbiased():
    torch.manual_seed(0)
    net, x = TextTransformer(vocabulary=40, length=6, width=8).double().eval(), torch.randint(1, 40, (4, 6))
    exact = dense.ntk(net, x, x, "pseudo")
    found = torch.stack([rows_of(net, x, variant="pseudo", project=16, seed=s).K_mm for s in range(300)])
    assert ((found.mean(0) - exact).abs() <= 4.5 * found.std(0) / 300**0.5 + 1e-12).all()


def test_projection_does_not_depend_on_the_batch():
    net, x = wide_resnet()
    rows = rows_of(net, x, project=64)
    single = torch.cat([rows(sample[None])[0] for sample in x])
    torch.testing.assert_close(single, rows(x)[0], rtol=1e-10, atol=1e-12)


def test_more_numbers_mean_a_smaller_error_and_enough_mean_none():
    net, x = wide_resnet()
    exact = dense.ntk(net, x, x, "pseudo")

    def error(k: int, seeds: int) -> float:
        found = [rows_of(net, x, variant="pseudo", project=k, seed=s).K_mm for s in range(seeds)]
        return sum(float((K - exact).norm() / exact.norm()) for K in found) / seeds

    assert error(16, 20) > 1.3 * error(64, 20) > 1e-3
    assert error(10_000, 1) < 1e-10


def test_measured_error_is_the_error():
    net, x = wide_resnet()
    measured = kernel_error(rows_of(net, x, project=64))
    found, exact = rows_of(net, x, project=64).K_mm, dense.ntk(net, x, x, "trace")
    assert measured is not None
    assert measured.raw == pytest.approx(float((found - exact).norm() / exact.norm()), rel=1e-6)
    assert measured.centred > measured.raw
    assert kernel_error(rows_of(net, x)) is None


def test_factored_layers_are_not_projected_where_exact_is_cheaper():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8)).double()
    x = torch.randn(4, 64, dtype=torch.float64)
    plan = rows_of(net, x, variant="pseudo", project=256).gradients.plan
    assert set(plan.values()) == {"factored"}


def test_lower_precision_is_measured_and_small():
    torch.manual_seed(0)
    net, x = ResNet(widths=(8, 16)).eval(), torch.randn(40, 3, 8, 8)
    rows = rows_of(net, x, torch.float32, "bfloat16", center=True)
    error = kernel_error(rows)
    assert error is not None
    assert 1e-6 < error.centred < 5e-3
    exact = rows_of(net, x, torch.float32, center=True)
    drift = float((rows(x)[0] - exact.K_mm).norm() / exact.K_mm.norm())
    assert drift == pytest.approx(error.centred, rel=0.5)
    assert float((rows.K_mm - exact.K_mm).norm() / exact.K_mm.norm()) < drift
    values = torch.linalg.eigvalsh(rows.K_mm)
    assert values.min() > -1e-6 * values.max()


def test_precision_reaches_the_auditor_and_is_reported():
    torch.manual_seed(0)
    net, x = ResNet(widths=(4, 6)).eval(), torch.randn(40, 3, 8, 8)
    views = (x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x))
    auditor = Auditor(net, landmarks=12, engine=Engine(precision="bfloat16")).fit(x, views)
    assert auditor.kernel_error_ is not None
    assert 0 < auditor.kernel_error_.centred < 2e-2
    figure = next(f for f in auditor.trust_.figures if f.name == "kernel error")
    assert figure.value == auditor.kernel_error_.centred
    assert Auditor(net, landmarks=12).fit(x, views).kernel_error_ is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": Engine(precision="bfloat16"), "dtype": torch.float64}, r"needs dtype=torch\.float32"),
    ],
)
def test_precision_that_does_not_apply_is_refused(settings, message):
    torch.manual_seed(0)
    x = torch.randn(10, 4)
    with pytest.raises(ConfigError, match=message):
        Auditor(nn.Linear(4, 2).eval(), landmarks=4, **settings).fit(x, (x, x))
