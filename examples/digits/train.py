"""Train the encoder that ships with krepes: Barlow Twins on scikit-learn's digits.

python examples/digits/train.py --out src/krepes/assets/digits.safetensors
"""

import argparse
import time

import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from krepes.demo import ENCODER, OBJECTIVE, VIEWS, digits
from krepes.encoders import SmallCNN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="digits.safetensors")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = digits()
    network, objective = SmallCNN(**ENCODER), OBJECTIVE
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(args.seed)
    started = time.perf_counter()
    for _ in range(args.epochs):
        for batch in torch.randperm(len(images), generator=generator).split(256):
            x = images[batch]
            loss = objective.loss(network(VIEWS(x, generator)), network(VIEWS(x, generator)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    print(f"{args.epochs} epochs in {time.perf_counter() - started:.0f} s, loss {loss.item():.3f}")

    network.eval()
    with torch.no_grad():
        z = network(images)
        z = ((z - z.mean(0)) / z.std(0)).numpy()
    probe = LogisticRegression(max_iter=5000).fit(z[:900], labels[:900])
    print(f"linear probe on the embedding: {probe.score(z[900:], labels[900:]):.3f} accuracy (evaluation only)")
    save_file(network.state_dict(), args.out)
    print(f"weights: {args.out}")


if __name__ == "__main__":
    main()
