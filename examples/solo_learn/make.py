"""A checkpoint as solo-learn leaves it, args.json beside it, and images as CIFAR's; solo-learn itself is not needed.

python examples/solo_learn/make.py   → checkpoints/barlow-cifar10.ckpt, checkpoints/args.json, checkpoints/images.npy

The network is a whole ResNet-18 with solo-learn's CIFAR stem, too large to train here: its weights are RANDOM, and only
its normalisation has seen data. What the audit says of it shows the form and is no finding.
"""

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from krepes.data import Preprocess, load_array
from krepes.encoders import ResNet18

OUT = Path(__file__).parent / "checkpoints"
N, SIDE = 80, 8  # CIFAR has 32; less is quicker
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
ARGS = {
    "method": "barlow_twins",
    "backbone": {"name": "resnet18", "kwargs": {}},
    "method_kwargs": {"proj_hidden_dim": 64, "proj_output_dim": 16, "lamb": 0.0051, "scale_loss": 0.1},
    "data": {"dataset": "cifar10"},  # which stem, and which normalisation
    "augmentations": [{"crop_size": SIDE, "num_crops": 2}],
}


class Model(nn.Module):
    """The attributes of solo-learn's BarlowTwins."""

    def __init__(self):
        super().__init__()
        self.backbone = ResNet18(stem="cifar", stem_padding=2)
        self.classifier = nn.Linear(512, 10)
        self.projector = nn.Sequential(
            nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
            nn.Linear(64, 16),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.backbone(x))


def main() -> None:
    OUT.mkdir(exist_ok=True)
    digits = load_digits()
    grey = np.rint(digits.images[:N] * 255 / 16).astype(np.uint8)
    np.save(OUT / "images.npy", np.repeat(grey[..., None], 3, axis=3))  # (n, 8, 8, 3), uint8
    np.save(OUT / "labels.npy", digits.target[:N])
    torch.manual_seed(0)
    model = Model()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0  # the running statistics are those of one batch
    source = load_array(OUT / "images.npy", layout="NHWC", preprocess=Preprocess(mean=MEAN, std=STD))
    with torch.no_grad():
        model(source.batch(range(N)))
    torch.save({"epoch": 0, "state_dict": model.state_dict()}, OUT / "barlow-cifar10.ckpt")
    (OUT / "args.json").write_text(json.dumps(ARGS, indent=2), encoding="utf-8")
    print(f"written: {OUT / 'barlow-cifar10.ckpt'}, {OUT / 'args.json'}")


if __name__ == "__main__":
    main()
