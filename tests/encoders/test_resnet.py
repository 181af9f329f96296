"""The built-in residual networks."""

import pytest
import torch
from torch import nn

from krepes.encoders import ResNet18, ResNet34, ResNet50
from krepes.encoders.recognition import recognised
from krepes.errors import ConfigError

# numbers of parameters without a classifier, as published for torchvision's networks less 1000 (d + 1)
PUBLISHED = {ResNet18: 11_689_512 - 513_000, ResNet34: 21_797_672 - 513_000, ResNet50: 25_557_032 - 2_049_000}


@pytest.mark.parametrize("kind", PUBLISHED, ids=lambda k: k.__name__)
def test_they_have_as_many_parameters_as_torchvisions(kind):
    with torch.device("meta"):
        assert sum(p.numel() for p in kind().parameters()) == PUBLISHED[kind]


def test_names_are_torchvisions():
    names = set(ResNet18(width=4, n_out=3).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
            "layer4.1.bn2.bias", "fc.weight", "fc.bias"} <= names  # fmt: skip
    assert "layer1.0.downsample.0.weight" not in names
    assert "layer1.0.downsample.0.weight" in ResNet50(width=4).state_dict()


def test_the_block_is_the_published_equation():
    torch.manual_seed(0)
    block = ResNet18(width=4).eval().layer2[0]
    x = torch.randn(2, 4, 8, 8)
    f = torch.nn.functional
    y = block.bn2(f.conv2d(f.relu(block.bn1(f.conv2d(x, block.conv1.weight, stride=2, padding=1))), block.conv2.weight,
                           padding=1))  # fmt: skip
    short = block.downsample[1](f.conv2d(x, block.downsample[0].weight, stride=2))
    torch.testing.assert_close(block(x), f.relu(y + short))


def test_bottlenecks_have_their_stride_in_the_middle():
    block = ResNet50(width=4).layer2[0]
    assert [m.stride[0] for m in (block.conv1, block.conv2, block.conv3)] == [1, 2, 1]


def test_paddings_of_the_small_stem_give_other_outputs_with_the_same_weights():
    torch.manual_seed(0)
    one = ResNet18(stem="cifar", stem_padding=1, width=4).eval()
    two = ResNet18(stem="cifar", stem_padding=2, width=4).eval()
    two.load_state_dict(one.state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    assert one.maxpool(one.conv1(x)).shape[2:] == (32, 32)
    assert two.maxpool(two.conv1(x)).shape[2:] == (34, 34)
    assert (one(x) - two(x)).norm() > 0.01 * one(x).norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stem": "cifar"}, "stem_padding=None"), ({"stem": "cifar", "stem_padding": 3}, "1 .* or 2"),
     ({"stem": "tiny"}, "'tiny' is unknown"), ({"stem_padding": 1}, "for the 3 × 3 stem")],
)  # fmt: skip
def test_a_stem_must_be_said(options, message):
    with pytest.raises(ConfigError, match=message):
        ResNet18(**options)


@pytest.mark.parametrize("kind", [ResNet18, ResNet34, ResNet50], ids=lambda k: k.__name__)
@pytest.mark.parametrize("options", [{}, {"in_channels": 1}, {"n_out": 7}, {"stem": "cifar", "stem_padding": 2}])
def test_they_are_recognised_by_their_weights(kind, options):
    network = kind(width=8, **options)
    found, _ = recognised(dict(network.state_dict()), "", [], 2)
    assert found == {"name": f"krepes:{kind.__name__}", "args": {"width": 8, **options}}


def test_they_are_recognised_by_position_too():
    numbered = nn.Sequential(*list(ResNet18(width=8).children())[:-1])
    assert recognised(dict(numbered.state_dict()), "", [], None)[0] == {"name": "krepes:ResNet18", "args": {"width": 8}}


@pytest.mark.parametrize(
    ("network", "why"),
    [(nn.Linear(2, 2), "not those of a ResNet"), (ResNet18(stem="cifar", stem_padding=1, width=4), "padding"),
     (nn.Sequential(nn.Linear(1, 1)), "not those of a ResNet")],
)  # fmt: skip
def test_others_are_not_guessed(network, why):
    found, reason = recognised(dict(network.state_dict()), "", [], None)
    assert found is None
    assert why in reason
