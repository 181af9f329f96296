"""Every layer type that encoders have: the kernel equals the explicit float64 Jacobian, without the generic path."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krepes import NTK
from krepes.encoders import FrozenEncoder
from krepes.errors import ConfigError, EncoderError
from krepes.kernel import KernelRows
from krepes.kernel.ntk import gradient_map
from tests.networks import Attention, ResNet, TextTransformer, ViT, unsettle
from tests.oracles import dense


class Over(nn.Module):
    """A layer between two others: (B, 5, 8) -> (B, 3)."""

    def __init__(self, layer: nn.Module, before: nn.Module | None = None, channels_first: bool = False):
        super().__init__()
        self.before, self.layer, self.after = before or nn.Linear(8, 8), layer, nn.LazyLinear(3)
        self.channels_first = channels_first
        self(torch.zeros(2, 5, 8))
        unsettle(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).tanh()
        x = self.layer(x.transpose(1, 2) if self.channels_first else x)
        x = x[0] if isinstance(x, tuple) else x
        return self.after(x.flatten(1).tanh())


class PackedAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.attention.batch_first else x.transpose(0, 1)
        out = self.attention(x, x, x, need_weights=False)[0]
        return out if self.attention.batch_first else out.transpose(0, 1)


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x[..., :4], x[..., 4:], need_weights=True)[0]


class KeysAndValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x.flip(1), x.flip(1), need_weights=False)[0]  # splits the packed weight


class TransposedLinear(nn.Module):
    """Hugging Face's Conv1D of GPT-2: the batch is flattened, the weight is (in, out)."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, 8), self.weight).view(*x.shape[:-1], 6)


class MatrixProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Shared(nn.Module):
    """One layer, used three times."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(self.layer(x).tanh()).tanh())


class HandWrittenRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) + self.shift


LAYERS = {
    "linear over positions": lambda: Over(nn.Linear(8, 4)),
    "linear without bias": lambda: Over(nn.Linear(8, 4, bias=False)),
    "conv1d": lambda: Over(nn.Conv1d(8, 4, 3, padding=1), channels_first=True),
    "conv1d strided, dilated": lambda: Over(nn.Conv1d(8, 4, 2, stride=2, dilation=2, padding=1), channels_first=True),
    "conv1d in groups": lambda: Over(nn.Conv1d(8, 4, 3, groups=2), channels_first=True),
    "conv1d depthwise, same": lambda: Over(nn.Conv1d(8, 8, 4, groups=8, padding="same"), channels_first=True),
    "layer norm": lambda: Over(nn.LayerNorm(8)),
    "layer norm over two": lambda: Over(nn.LayerNorm((5, 8))),
    "rms norm": lambda: Over(nn.RMSNorm(8)),
    "rms norm by hand": lambda: Over(HandWrittenRMSNorm()),
    "group norm": lambda: Over(nn.GroupNorm(4, 8), channels_first=True),
    "batch norm": lambda: Over(nn.BatchNorm1d(8), channels_first=True),
    "batch norm without affine": lambda: Over(nn.BatchNorm1d(8, affine=False), channels_first=True),
    "packed attention": lambda: Over(PackedAttention(batch_first=True)),
    "packed attention, positions first": lambda: Over(PackedAttention(batch_first=False)),
    "packed attention with key bias": lambda: Over(PackedAttention(batch_first=True, bias=False)),
    "attention of other widths": lambda: Over(CrossAttention()),
    "attention on other keys": lambda: Over(KeysAndValues()),
    "separate attention": lambda: Over(Attention(8)),
    "transposed linear": lambda: Over(TransposedLinear()),
    "matrix product": lambda: Over(MatrixProduct()),
    "shared": lambda: Over(Shared()),
    "weight norm": lambda: Over(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))),
}


def kernel_of(net: nn.Module, x: Tensor, **settings) -> tuple[Tensor, dict[str, str], KernelRows]:
    ntk = NTK(**({"center": False, "cosine": False} | settings))
    gradients = gradient_map(ntk, FrozenEncoder(net.eval(), ntk.params, dtype=torch.float64), x[:3])
    rows = KernelRows(ntk, gradients, x)
    return rows.K_mm, gradients.plan, rows


def assert_exact(net: nn.Module, x: Tensor, allowed=("factored", "explicit")) -> dict[str, str]:
    net = net.double().eval()
    for variant in ("trace", "pseudo"):
        K, plan, rows = kernel_of(net, x, variant=variant)
        torch.testing.assert_close(K, dense.ntk(net, x, x, variant), rtol=1e-9, atol=1e-11)
        _, diagonal = rows(x)
        torch.testing.assert_close(diagonal, K.diagonal(), rtol=1e-9, atol=1e-11)
        assert set(plan.values()) <= set(allowed), plan
    return plan


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
def test_layer_is_exact(make):
    torch.manual_seed(0)
    assert_exact(make(), torch.randn(5, 5, 8, dtype=torch.float64))


def test_resnet_is_exact():
    torch.manual_seed(0)
    assert_exact(ResNet(), torch.randn(4, 3, 8, 8, dtype=torch.float64))


def test_vision_transformer_is_exact():
    torch.manual_seed(0)
    assert_exact(ViT(), torch.randn(4, 3, 8, 8, dtype=torch.float64))


def test_text_transformer_is_exact():
    torch.manual_seed(0)
    assert_exact(TextTransformer(), torch.randint(0, 13, (5, 6)))


def test_tokens_of_a_large_vocabulary_are_kept_factored():
    torch.manual_seed(0)
    net = TextTransformer(vocabulary=5000, length=4)
    plan = assert_exact(net, torch.randint(0, 40, (5, 4)))
    assert plan["tokens.weight"] == "factored"


def test_few_positions_of_a_wide_layer_are_kept_factored():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.out = nn.Linear(96, 96), nn.Linear(192, 3)

        def forward(self, x):
            return self.out(self.wide(x).tanh().flatten(1))

    torch.manual_seed(0)
    plan = assert_exact(Two(), torch.randn(5, 2, 96, dtype=torch.float64))
    assert plan["wide.weight"] == "factored"


def test_unknown_layers_go_through_the_generic_path():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.mix, self.out = nn.GRU(8, 4, batch_first=True), nn.Bilinear(4, 4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.rnn(x)[0][:, -1]
            return self.out(self.mix(h, h))

    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="one sample at a time"):
        plan = assert_exact(Recurrent(), torch.randn(4, 3, 8, dtype=torch.float64), ("generic", "factored"))
    assert {n for n, way in plan.items() if way == "generic"} == {n for n in plan if not n.startswith("out.")}


def test_scripted_submodule_goes_through_the_generic_path():
    torch.manual_seed(0)
    inner = torch.jit.trace(nn.Linear(6, 6).double(), torch.zeros(2, 6, dtype=torch.float64))
    net = nn.Sequential(inner, nn.Tanh(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    K, plan, _ = kernel_of(net, x)
    assert plan["0.weight"] == "generic"
    assert plan["2.weight"] == "factored"
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-9, atol=1e-11)


def test_parameter_without_influence_is_left_out():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    torch.manual_seed(0)
    plan = assert_exact(Unused(), torch.randn(4, 4, dtype=torch.float64), ("factored", "unused"))
    assert plan["unused.weight"] == "unused"


def test_routing_by_sample_is_refused_with_the_way_out_and_exact_there():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            out = x.new_zeros(len(x), 3)
            for expert, chosen in ((self.left, x[:, 0] > 0), (self.right, x[:, 0] <= 0)):
                if bool(chosen.any()):
                    out[chosen] = expert(x[chosen])
            return out

    torch.manual_seed(0)
    net, x = Routed().double().eval(), torch.randn(6, 4, dtype=torch.float64)
    x[:3, 0] = 1.0
    with pytest.raises(EncoderError, match="contractions=False"):
        kernel_of(net, x)
    with pytest.warns(UserWarning, match="one sample at a time"):
        K = kernel_of(net, x, contractions=False)[0]
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-9, atol=1e-11)


def test_rows_do_not_depend_on_the_tile():
    torch.manual_seed(0)
    net, x = ViT().double().eval(), torch.randn(7, 3, 8, 8, dtype=torch.float64)
    whole = kernel_of(net, x)[2]
    for tile, keep in ((1, True), (3, False)):
        rows = KernelRows(whole.settings, whole.gradients, x, tile=tile, keep=keep)
        torch.testing.assert_close(rows.K_mm, whole.K_mm, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("head", {"head.weight", "head.bias"}),
        ("last_block", {"blocks.1", "norm", "head"}),
        (("blocks.*.norm1.*", "cls"), {"blocks.0.norm1", "blocks.1.norm1", "cls"}),
    ],
)
def test_selection_takes_the_named_parameters(params, expected):
    torch.manual_seed(0)
    net, x = ViT().double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    K, plan, _ = kernel_of(net, x, params=params)
    chosen = {n for n, _ in net.named_parameters() if any(n == e or n.startswith(f"{e}.") for e in expected)}
    assert set(plan) == chosen
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace", sorted(chosen)), rtol=1e-9, atol=1e-11)


def test_last_block_of_a_resnet_is_its_last_residual_block_and_the_head():
    torch.manual_seed(0)
    plan = kernel_of(ResNet().double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64), params="last_block")[1]
    assert {n.rpartition(".")[0].partition(".")[0] for n in plan} == {"layers", "fc"}
    assert all(n.startswith(("layers.1.", "fc.")) for n in plan)


def test_a_chain_without_blocks_has_no_last_block():
    with pytest.raises(ConfigError, match="no blocks"):
        kernel_of(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).double(), torch.randn(4, 4).double(), params="last_block"
        )


def test_dead_unit_is_no_reason_to_lose_a_parameter():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    with torch.no_grad():
        net[0].bias.fill_(-100.0)  # pyright: ignore
    x = torch.randn(5, 4, dtype=torch.float64)
    x[4] = 200.0
    K, _, _ = kernel_of(net, x)
    torch.testing.assert_close(K, dense.ntk(net, x, x, "trace"), rtol=1e-9, atol=1e-11)


def test_functional_calls_inside_a_module_are_seen():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.filters = nn.Parameter(torch.randn(3, 24)), nn.Parameter(torch.randn(4, 2, 3))

        def forward(self, x):
            return F.linear(F.conv1d(x, self.filters, padding=1).tanh().flatten(1), self.w)

    torch.manual_seed(0)
    assert_exact(Functional(), torch.randn(5, 2, 6, dtype=torch.float64))


def test_padding_tokens_before_the_last_layer_have_no_gradient():
    net = nn.Sequential(nn.Embedding(10, 8, padding_idx=0), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    assert_exact(net, torch.tensor([0, 3, 0, 5, 7, 3, 0, 1]))


def test_degenerate_first_samples_hide_nothing():
    """The probe is chosen all over the data: three samples of zeros would agree with any layout."""
    from krepes.data import ArraySource
    from krepes.data.stream import probe_of

    x = torch.randn(50, 5, 8, dtype=torch.float64)
    x[:3] = 0
    probe = probe_of(ArraySource(x))
    assert len(probe) == 3
    assert float(torch.cdist(probe.flatten(1), probe.flatten(1)).add(torch.eye(3) * 9).min()) > 1
    same = probe_of(ArraySource(torch.ones(50, 4)))
    assert same.shape == (3, 4)


@pytest.mark.parametrize("last", [nn.ReLU6(inplace=True), nn.Hardtanh(inplace=True), nn.ReLU(inplace=True)])
def test_a_function_in_place_on_the_output_is_seen(last):
    """It returns the last layer's own tensor object, at another place in the graph."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5), last).double().eval()
    assert_exact(net, torch.randn(12, 6, dtype=torch.float64) * 2)


def test_checkpointed_segments_go_through_the_generic_path():
    from torch.utils.checkpoint import checkpoint

    from krepes.errors import KrepesWarning

    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.two(checkpoint(lambda y: self.one(y).tanh(), x, use_reentrant=False))

    net = Saving().double().eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    with pytest.warns(KrepesWarning, match="one sample at a time"):
        K, _, _ = kernel_of(net, x)
    exact, _, _ = kernel_of(nn.Sequential(net.one, nn.Tanh(), net.two), x)
    torch.testing.assert_close(K, exact)


def test_sparse_embeddings_are_exact():
    net = nn.Sequential(nn.Embedding(10, 8, sparse=True), nn.Flatten(), nn.Linear(16, 3)).double().eval()
    ids = torch.randint(10, (6, 2), generator=torch.Generator().manual_seed(0))
    K, _, _ = kernel_of(net, ids)
    net[0].sparse = False
    torch.testing.assert_close(K, kernel_of(net, ids)[0])


def test_a_layout_that_the_probe_does_not_decide_is_not_taken():
    """The branch is silent on most samples; its layer sees positions first."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            flag = (x[:, 0, 0] > 2).to(x.dtype)[:, None, None]
            turned = x.transpose(0, 1)  # (T, B, D)
            y = self.layer(turned.reshape(-1, 4)).view(turned.shape).transpose(0, 1)
            return self.out((x + flag * y.tanh()).sum(1).tanh())

    torch.manual_seed(0)
    x = torch.randn(20, 5, 4, dtype=torch.float64).clamp(-1, 1)
    x[15:, 0, 0] = 3.0
    net = Gate().double().eval()
    gradients = gradient_map(NTK(), FrozenEncoder(net, dtype=torch.float64), x[:3])
    found = gradients(x).inner(gradients(x))
    exact = gradient_map(NTK(contractions=False), FrozenEncoder(net, dtype=torch.float64), x[:3])
    torch.testing.assert_close(found, exact(x).inner(exact(x)))


def test_a_number_as_a_parameter_is_exact():
    class Temperature(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(6, 3), nn.Parameter(torch.tensor(0.3))

        def forward(self, x):
            return self.layer(x) / self.scale.exp()

    assert_exact(
        Temperature().double().eval(), torch.randn(8, 6, dtype=torch.float64), ("factored", "explicit", "generic")
    )
