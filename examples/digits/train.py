"""Train the encoder that ships with krepes: Barlow Twins on scikit-learn's digits.

python examples/digits/train.py --out src/krepes/assets/digits.safetensors
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from krepes.data import ArraySource
from krepes.demo import ENCODER, OBJECTIVE, VIEWS, digits
from krepes.encoders import SmallCNN
from krepes.pretrain import TrainConfig, probe, train
from krepes.pretrain.outputs import write_weights
from krepes.progress import Progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits.safetensors"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = digits()
    source, network = ArraySource(images), SmallCNN(**ENCODER)
    settings = TrainConfig(epochs=args.epochs, batch_size=256, lr=2e-3)
    started = time.perf_counter()
    trained = train(network, source, VIEWS, OBJECTIVE, settings, args.seed, progress=Progress(Console()))
    print(f"{args.epochs} epochs in {time.perf_counter() - started:.0f} s, loss {trained.losses[-1]:.3f}")
    for what, accuracy in probe(network, source, np.array(labels), args.seed).items():
        print(f"linear probe on the {what}: {accuracy:.3f} accuracy (evaluation only)")
    print(f"weights: {write_weights(network, args.out)}")


if __name__ == "__main__":
    main()
