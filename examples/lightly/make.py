"""A checkpoint as lightly's SimCLR example leaves it, and image files to audit it on; lightly itself is not needed.

python examples/lightly/make.py   → checkpoints/last.ckpt, checkpoints/digits/<digit>/<number>.png
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from krepes import SimCLR
from krepes.data import ImageFolder, Preprocess
from krepes.data.views import SimCLRViews
from krepes.encoders import ResNet18
from krepes.pretrain import TrainConfig, train

OUT = Path(__file__).parent / "checkpoints"
N, SIDE = 240, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Projection(nn.Module):
    """The keys of lightly.models.modules.SimCLRProjectionHead."""

    def __init__(self, n_in: int, hidden: int, n_out: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, n_out, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Model(nn.Module):
    """The attributes of lightly's example, whose backbone is the ResNet's children without the last: names by position.

    A quarter of ResNet-18's channels, so that it trains in seconds.
    """

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(*list(ResNet18(width=16).children())[:-1])
        self.projection_head = Projection(128, 128, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(1))


def write_images() -> None:
    """Handwritten digits, a folder per digit."""
    digits = load_digits()
    for i, (pixels, digit) in enumerate(zip(digits.images[:N], digits.target[:N], strict=True)):
        folder = OUT / "digits" / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8))
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(folder / f"{i:03d}.png")


def main() -> None:
    write_images()
    torch.manual_seed(0)
    model = Model()
    source = ImageFolder(OUT / "digits", Preprocess(size=SIDE, mean=MEAN, std=STD), hide=["folder"])
    # SimCLRTransform(input_size=32, min_scale=0.5, hf_prob=0, cj_strength=0.5, gaussian_blur=0) of lightly, whose crops
    # are torchvision's: bilinear, where SimCLR's own code resizes bicubically
    views = SimCLRViews(
        mean=MEAN, std=STD, interpolation="bilinear", scale=(0.5, 1.0), flip=0.0, strength=0.5, blur=0.0
    )
    trained = train(
        model, source, views, SimCLR(temperature=0.5, batch_size=120), TrainConfig(epochs=10, batch_size=120)
    )
    state = {**model.state_dict(), "criterion.unused": torch.zeros(1)}
    torch.save({"epoch": 9, "global_step": 20, "pytorch-lightning_version": "2.5.0", "state_dict": state},
               OUT / "last.ckpt")  # fmt: skip
    print(f"loss {trained.losses[0]:.2f} → {trained.losses[-1]:.2f}; written: {OUT / 'last.ckpt'}")


if __name__ == "__main__":
    main()
