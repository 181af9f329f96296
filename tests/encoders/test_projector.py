"""Networks of linear layers, read off their weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from krepes.encoders.projector import infer
from krepes.errors import EncoderError
from tests.networks import unsettle


def rebuilt(network: nn.Module, **options) -> nn.Module:
    state = network.state_dict()
    found = infer(dict(state), "head.", **options)
    found.module.load_state_dict({found.names[k]: v for k, v in state.items()}, strict=True)
    return found.module.eval()


layer = st.tuples(st.integers(1, 9), st.booleans(), st.sampled_from(["", "batchnorm", "plain batchnorm"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(layer, min_size=1, max_size=4), st.booleans(), st.sampled_from(["relu", "gelu", "tanh"]))
def test_any_plain_projector_is_rebuilt_exactly(layers, dropout, activation):
    kinds = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    n_in = 5
    for i, (width, bias, norm) in enumerate(layers):
        modules.append(nn.Linear(n_in, width, bias=bias))
        modules += {
            "": [], "batchnorm": [nn.BatchNorm1d(width)], "plain batchnorm": [nn.BatchNorm1d(width, affine=False)],
        }[norm]  # fmt: skip
        if i + 1 < len(layers):
            modules += [kinds[activation](), *([nn.Dropout()] if dropout else [])]
        n_in = width
    network = nn.Sequential(*modules)
    unsettle(network)
    x = torch.randn(4, 5)
    torch.testing.assert_close(rebuilt(network, activation=activation)(x), network.eval()(x))


def test_layers_next_to_each_other_have_nothing_between_them():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    x = torch.randn(2, 3)
    torch.testing.assert_close(rebuilt(network)(x), network(x))


def test_position_ten_comes_after_two():
    network = nn.Sequential(*[nn.Linear(3, 3) for _ in range(12)])
    x = torch.randn(2, 3)
    torch.testing.assert_close(rebuilt(network)(x), network(x))


def test_names_without_numbers_need_the_layers_said():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc2(torch.tanh(self.fc1(x)))

    network = Named()
    with pytest.raises(EncoderError, match=r"'head\.' are not numbered \(fc1, fc2\)"):
        rebuilt(network)
    x = torch.randn(2, 3)
    torch.testing.assert_close(rebuilt(network, layers=["linear", "tanh", "linear"])(x), network(x))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["linear", "relu"], "holds linear, linear; the recipe says linear"),
        (["linear", "swish", "linear"], "'swish' is no layer"),
        (["linear", "batchnorm"], "holds linear, linear; the recipe says linear, batchnorm"),
    ],
)
def test_layers_that_are_not_those_of_the_file_are_refused(layers, message):
    with pytest.raises(EncoderError, match=message):
        rebuilt(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), layers=layers)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.Linear(2, 2)), r"before 'head\.1' cannot be told"),
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(2, 2)), "3 layers without weights"),
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(5, 2)), "takes 5 numbers, the layer before gives 2"),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), "neither linear nor a normalisation"),
    ],
)
def test_what_cannot_be_told_is_asked_for(network, message):
    with pytest.raises(EncoderError, match=message):
        rebuilt(network)


def test_the_words_say_what_was_assumed():
    words = infer(dict(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()), "h.").words
    assert words.startswith("linear 3→4, relu, linear 4→2 (relu where there are no weights")
