"""The embedded default: a small convolutional encoder trained with Barlow Twins on scikit-learn's digits."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from krepes.audit.findings import AuditPlan
from krepes.auditor import Auditor
from krepes.data import ArraySource, ShiftNoise
from krepes.encoders import SmallCNN
from krepes.kernel.ntk import NTK
from krepes.landmarks import KMeansPlusPlus
from krepes.objectives import BarlowTwins
from krepes.progress import Progress
from krepes.solver import Newton

ENCODER = {"in_channels": 1, "widths": (16, 32), "n_out": 16}
VIEWS = ShiftNoise(max_shift=1, std=0.15, contrast=0.3)
OBJECTIVE = BarlowTwins(weight=5e-2)
PLAN = AuditPlan(refits=4, attribution=4 * 1797)  # fewer refits and draws than by default: it is to be seen quickly
# where `krepes.load` finds the encoder of a demo run
RECIPE = {
    "encoder": {
        "factory": "krepes.encoders:SmallCNN",
        "args": ENCODER,
        "weights": "assets/digits.safetensors",
    },
    "config_folder": str(files("krepes")),
}


def digits() -> tuple[Tensor, list[int]]:
    """The 1,797 images (n, 1, 8, 8) in [0, 1], and their classes, which the audit never sees."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(bunch["images"]).float()[:, None] / 16
    return images, bunch["target"].tolist()


def encoder() -> SmallCNN:
    """The shipped encoder (examples/digits/train.py made it), in eval mode."""
    network = SmallCNN(**ENCODER)
    network.load_state_dict(load_file(Path(str(files("krepes") / "assets" / "digits.safetensors"))))
    return network.eval()


def auditor(landmarks: int = 200, seed: int = 0, progress: Progress | None = None) -> tuple[Auditor, ArraySource]:
    """The demo's auditor, not fitted, and its samples."""
    images, _ = digits()
    source = ArraySource(images, ids=[f"digit-{i:04d}" for i in range(len(images))])
    return Auditor(
        encoder(),
        OBJECTIVE,
        NTK("trace"),
        KMeansPlusPlus(m=landmarks),
        Newton(damping="auto"),
        seed=seed,
        progress=progress,
    ), source
