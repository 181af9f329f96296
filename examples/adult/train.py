"""Train an encoder of the Adult census table without labels, with SCARF views and any of the five objectives.

KREPES_DATA=/path/to/data python examples/adult/train.py --objective barlow_twins --probe
"""

import argparse
import copy
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from krepes import objectives
from krepes.data import Scarf, TableSchema, read_csv
from krepes.encoders import MLP

COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship",
    "race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
CONSTANTS = {
    "barlow_twins": {"weight": 5e-3},
    "vicreg": {},
    "simclr": {"temperature": 0.5, "batch_size": 512},
    "byol": {},
    "spectral_contrastive": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=CONSTANTS, default="barlow_twins")
    parser.add_argument("--data", default=os.environ.get("KREPES_DATA"), help="folder that holds adult/adult.data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoints")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe", action="store_true", help="print a linear probe on income (evaluation only)")
    args = parser.parse_args()
    if args.data is None:
        parser.error(
            "set KREPES_DATA or --data to the folder that holds adult/adult.data (see examples/adult/README.md)"
        )

    torch.manual_seed(args.seed)
    folder = Path(args.data) / "adult"
    train = read_csv(folder / "adult.data", COLUMNS)
    schema = TableSchema.fit(train, label="income")
    x = schema.transform(train)
    args.out.mkdir(parents=True, exist_ok=True)
    schema.save(args.out / "schema.json")

    started = time.perf_counter()
    network = fit(args.objective, x, schema, args.epochs, args.seed)
    path = args.out / f"{args.objective}.safetensors"
    save_file(network.state_dict(), path)
    print(f"{args.objective}: {args.epochs} epochs in {time.perf_counter() - started:.0f} s → {path}")
    if args.probe:
        test = read_csv(folder / "adult.test", COLUMNS, skip_lines=1)
        probe(network, x, train["income"], schema.transform(test), test["income"].str.rstrip("."))


def fit(name: str, x: Tensor, schema: TableSchema, epochs: int, seed: int) -> nn.Module:
    """The trained encoder (p → 256 → 256 → 64) in eval mode."""
    objective = objectives.by_name(name, **CONSTANTS[name])
    views = Scarf(x, list(schema.slices.values()), rate=0.3)
    network = MLP(schema.width, (256, 256), 64)
    predictor = MLP(64, (128,), 64) if name == "byol" else nn.Identity()
    target = copy.deepcopy(network)
    parameters = [*network.parameters(), *predictor.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(512):
            a, b = views(x[batch], generator), views(x[batch], generator)
            if name == "byol":
                with torch.no_grad():
                    t_a, t_b = target(a), target(b)
                loss = (objective.loss(predictor(network(a)), t_b) + objective.loss(predictor(network(b)), t_a)) / 2
            else:
                loss = objective.loss(network(a), network(b))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if name == "byol":
                with torch.no_grad():
                    for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
                        slow.lerp_(fast, 0.01)
    return network.eval()


def probe(network: nn.Module, x: Tensor, y, x_test: Tensor, y_test) -> None:
    """Accuracy of logistic regressions on the embedding and on the input."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with torch.no_grad():
        pairs = {"embedding": (network(x), network(x_test)), "input": (x, x_test)}
    for what, (a, b) in pairs.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(a.numpy(), y)
        print(f"linear probe on the {what}: {model.score(b.numpy(), y_test):.4f} accuracy")


if __name__ == "__main__":
    main()
