"""The networks that the benchmarks measure, seeded and in eval mode."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from krepes.encoders import MLP


class Block(nn.Module):
    """Two 3 × 3 convolutions with BatchNorm and a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        same = stride == 1 and n_in == n_out
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, n_out, H/stride, W/stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network with the 3 × 3 stem of small images.

    Args:
        widths: channels of the stages; all but the first halve the resolution.
        blocks: residual blocks per stage.
        n_out: d.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, n_out: int):
        super().__init__()
        self.conv = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        stages, n_in = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stages.append(Block(n_in, width, 2 if stage and not block else 1))
                n_in = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, n_out)."""
        return self.head(self.stages(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention and a feed-forward layer, both behind LayerNorm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        B, T, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(3)  # (B, heads, T, T)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(B, T, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """A small vision transformer on 32 × 32 images, mean pooling over the patches."""

    def __init__(self, width: int = 96, depth: int = 3, heads: int = 4, patch: int = 4, n_out: int = 128):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (32 // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Attention(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, n_out)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position  # (B, T, width)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def build(name: str, seed: int = 0) -> nn.Module:
    """mlp, resnet, vit or resnet18, in eval mode; BatchNorm knows the inputs' statistics, as after training."""
    torch.manual_seed(seed)
    if name == "mlp":
        network: nn.Module = MLP(108, (256, 256), 128)
    elif name == "resnet":
        network = ResNet((32, 64, 128), 1, 128)
    elif name == "resnet18":
        network = ResNet((64, 128, 256, 512), 2, 128)
    else:
        network = ViT()
    normalisations = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in normalisations:
        layer.momentum = None  # a plain average over the batches below
    with torch.no_grad():
        for batch in samples(name, 96, seed + 100).split(32) if normalisations else ():
            network.train()(batch)
    return network.eval().requires_grad_(False)


def samples(name: str, count: int, seed: int) -> Tensor:
    """Seeded inputs (count, ...) of the network: normal vectors, or images of noise around smooth random fields."""
    generator = torch.Generator().manual_seed(seed)
    if name == "mlp":
        return torch.randn(count, 108, generator=generator)
    coarse = torch.randn(count, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(32, 32), mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(count, 3, 32, 32, generator=generator)
