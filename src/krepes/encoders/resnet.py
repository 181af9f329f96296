"""Residual networks (He et al., arXiv 1512.03385) with torchvision's parameter names."""

from collections.abc import Sequence

from torch import Tensor, nn

from krepes.errors import ConfigError


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, width, H/stride, W/stride)."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (which has the stride) and 1 × 1 convolutions around a shortcut."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample = shortcut(n_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, 4 width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def shortcut(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    """A 1 × 1 convolution where the shape changes."""
    if stride == 1 and n_in == n_out:
        return None
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class ResNet(nn.Module):
    """Stem, four stages, the mean over positions, and a linear layer if asked for.

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks per stage.
        stem: "imagenet" (7 × 7, stride 2, max pooling) or "cifar" (3 × 3, stride 1, no pooling).
        stem_padding: of the 3 × 3 stem, 1 (lightly) or 2 (solo-learn): the same shapes, another function, so that it
            has to be said.
        n_out: width of the linear layer `fc`; none: (B, 512) or (B, 2048).
        in_channels: of the images.
        width: channels of the first stage.
        maxpool: after the stem; default with the 7 × 7 stem alone.

    Raises:
        ConfigError: an unknown stem, or one without its padding.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        stem: str = "imagenet",
        stem_padding: int | None = None,
        n_out: int | None = None,
        in_channels: int = 3,
        width: int = 64,
        maxpool: bool | None = None,
    ):
        super().__init__()
        if stem not in ("imagenet", "cifar"):
            raise ConfigError(f"stem={stem!r} is unknown; expected 'imagenet' (7 × 7) or 'cifar' (3 × 3)")
        if stem == "cifar" and stem_padding not in (1, 2):
            raise ConfigError(
                f"stem_padding={stem_padding!r}; a 3 × 3 stem needs 1 (lightly and most others) or 2 (solo-learn): the "
                "weights have the same shapes, the outputs differ"
            )
        if stem == "imagenet" and stem_padding not in (None, 3):
            raise ConfigError(f"stem_padding={stem_padding!r} is for the 3 × 3 stem, stem='cifar'; the 7 × 7 one has 3")
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(
            in_channels, width, 7 if large else 3, 2 if large else 1, 3 if large else int(stem_padding or 0), bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if (large if maxpool is None else maxpool) else nn.Identity()
        widths = [width, *(width * 2**i * block.expansion for i in range(4))]

        def stage(i: int) -> nn.Sequential:
            first = block(widths[i], width * 2**i, 2 if i else 1)
            return nn.Sequential(first, *(block(widths[i + 1], width * 2**i, 1) for _ in range(layers[i] - 1)))

        self.layer1, self.layer2, self.layer3, self.layer4 = stage(0), stage(1), stage(2), stage(3)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Identity() if n_out is None else nn.Linear(widths[-1], n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, d)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class ResNet18(ResNet):
    """18 layers; see `ResNet` for the arguments."""

    def __init__(
        self, stem: str = "imagenet", stem_padding: int | None = None, n_out: int | None = None, in_channels: int = 3,
        width: int = 64, maxpool: bool | None = None,
    ):  # fmt: skip
        super().__init__(BasicBlock, (2, 2, 2, 2), stem, stem_padding, n_out, in_channels, width, maxpool)


class ResNet34(ResNet):
    """34 layers; see `ResNet` for the arguments."""

    def __init__(
        self, stem: str = "imagenet", stem_padding: int | None = None, n_out: int | None = None, in_channels: int = 3,
        width: int = 64, maxpool: bool | None = None,
    ):  # fmt: skip
        super().__init__(BasicBlock, (3, 4, 6, 3), stem, stem_padding, n_out, in_channels, width, maxpool)


class ResNet50(ResNet):
    """50 layers; see `ResNet` for the arguments."""

    def __init__(
        self, stem: str = "imagenet", stem_padding: int | None = None, n_out: int | None = None, in_channels: int = 3,
        width: int = 64, maxpool: bool | None = None,
    ):  # fmt: skip
        super().__init__(Bottleneck, (3, 4, 6, 3), stem, stem_padding, n_out, in_channels, width, maxpool)
