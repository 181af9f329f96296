"""Layer contractions equal the explicit float64 Jacobian, and give way where they do not apply."""

import pytest
import torch
from torch import nn

from krepes import NTK
from krepes.encoders import FrozenEncoder
from krepes.kernel import KernelRows
from krepes.kernel.ntk import gradient_map
from tests.oracles import dense

CONVOLUTIONS = {
    "stride": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": (2, 1)},
    "groups": {"groups": 2},
    "same": {"padding": "same"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "no bias": {"bias": False},
}


def raw_kernel(encoder: nn.Module, x: torch.Tensor, variant: str = "trace") -> tuple[torch.Tensor, dict[str, str]]:
    settings = NTK(variant, center=False, cosine=False)
    gradients = gradient_map(settings, FrozenEncoder(encoder.eval(), dtype=torch.float64), x[:3])
    return KernelRows(settings, gradients, x).K_mm, gradients.plan


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution_is_exact(options):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    net, x = net.double(), torch.randn(5, 2, 7, 7, dtype=torch.float64)
    K, plan = raw_kernel(net, x)
    assert plan["0.weight"] == "explicit"
    assert plan["4.weight"] == "factored"
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-10, atol=1e-12)


def test_linear_over_positions_is_exact():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.outer(self.inner(x).tanh().mean(1))

    torch.manual_seed(0)
    net, x = Sequence().double(), torch.randn(4, 5, 4, dtype=torch.float64)
    K, plan = raw_kernel(net, x)
    assert plan["inner.weight"] == "explicit"
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-10, atol=1e-12)


def test_weight_used_a_second_time_outside_its_layer_is_exact():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(torch.nn.functional.linear(self.layer(x).tanh(), self.layer.weight.T))

    torch.manual_seed(0)
    net, x = Tied().double(), torch.randn(4, 4, dtype=torch.float64)
    K, plan = raw_kernel(net, x)
    assert plan["layer.weight"] == "explicit"
    assert plan["out.weight"] == "factored"
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-10, atol=1e-12)


def test_in_place_activation_behind_a_layer_changes_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(raw_kernel(net, x)[0], dense.ntk(net, x, x, "trace"), rtol=1e-10, atol=1e-12)


def test_module_that_vmap_cannot_transform_is_exact_all_the_same():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.layer = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.new_tensor(x.tolist()) * self.scale.cos() ** (2 if x.sum().item() > 1e9 else 1))

    torch.manual_seed(0)
    net, x = Branching().double(), torch.randn(4, 4, dtype=torch.float64)
    settings = NTK(center=False, cosine=False, contractions=False)
    gradients = gradient_map(settings, FrozenEncoder(net.eval(), dtype=torch.float64), x[:3])
    assert set(gradients.plan.values()) == {"generic"}
    with pytest.warns(UserWarning, match="one sample at a time"):
        K = KernelRows(settings, gradients, x).K_mm
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-10, atol=1e-12)


def test_sketch_averages_to_the_trace_kernel():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6)).double(), torch.randn(4, 3, dtype=torch.float64)
    encoder = FrozenEncoder(net.eval(), dtype=torch.float64)
    estimates = []
    for seed in range(300):
        settings = NTK("sketch", center=False, cosine=False, sketch=4, seed=seed)
        estimates.append(KernelRows(settings, gradient_map(settings, encoder, x[:3]), x).K_mm)
    exact = dense.ntk(net, x, x, "trace")
    spread = torch.stack(estimates).std(0) / 300**0.5
    assert ((torch.stack(estimates).mean(0) - exact).abs() <= 5 * spread + 1e-12).all()


def test_rescale_makes_the_mean_landmark_diagonal_one():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2).double().eval(), torch.randn(6, 3, dtype=torch.float64)
    settings = NTK(center=False, cosine=False, rescale="mean")
    rows = KernelRows(settings, gradient_map(settings, FrozenEncoder(net, dtype=torch.float64), x[:3]), x)
    assert rows.K_mm.diagonal().mean() == pytest.approx(1.0)
    assert rows.scale == pytest.approx(float(dense.ntk(net, x, x, "trace").diagonal().mean()))


@pytest.mark.parametrize(
    ("before", "known"),
    [
        (nn.ReLU(inplace=True), True),
        (nn.GELU(), True),
        (nn.Sequential(nn.Dropout(), nn.Tanh()), True),
        (nn.Identity(), True),
        (nn.LayerNorm(6), False),
        (nn.Softmax(1), False),
        (nn.GLU(), False),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("variant", ["trace", "pseudo"])
def test_last_layer_after_a_function_of_single_units_is_exact(before, known, variant):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.before = nn.Linear(4, 6), nn.Linear(6, 6), before
            self.last = nn.Linear(3 if isinstance(before, nn.GLU) else 6, 3)

        def forward(self, x):
            return self.last(self.before(self.second(self.first(x).tanh())))

    torch.manual_seed(0)
    net, x = Net().double().eval(), torch.randn(7, 4, dtype=torch.float64)
    encoder = FrozenEncoder(net, dtype=torch.float64)
    features = gradient_map(NTK(variant), encoder, x[:3])(x)
    assert any(f.axis is not None for f in features.factored) == known
    K, _ = raw_kernel(net, x, variant)
    torch.testing.assert_close(K, dense.ntk(net, x, x, variant), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("where", ["after", "both"])
def test_last_layer_whose_input_has_another_way_in_is_exact(where):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            h = self.first(x)
            z = self.second(h.tanh())
            return self.last(z.relu() + h) if where == "after" else self.last(z.relu() * z.sigmoid())

    torch.manual_seed(0)
    net, x = Residual().double(), torch.randn(7, 4, dtype=torch.float64)
    K, _ = raw_kernel(net, x)
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-10, atol=1e-12)
