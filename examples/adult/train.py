"""Train an encoder of the Adult census table without labels, with SCARF views and any of the five objectives.

KREPES_DATA=/path/to/data python examples/adult/train.py --objective barlow_twins --probe
Without KREPES_DATA the table is downloaded, as `krepes data adult` does.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from krepes import objectives
from krepes.data import Scarf, TableSchema, TableSource, reference
from krepes.encoders import MLP
from krepes.pretrain import TrainConfig, linear_probe, train
from krepes.pretrain.outputs import write_weights

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
    parser.add_argument("--data", type=Path, help="holds adult/adult.data; default KREPES_DATA or a download")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoints")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe", action="store_true", help="print a linear probe on income (evaluation only)")
    args = parser.parse_args()

    frame, label = reference.adult("train", args.data)
    schema = TableSchema.fit(frame, label=label)
    source = TableSource(frame, schema)
    args.out.mkdir(parents=True, exist_ok=True)
    schema.save(args.out / "schema.json")

    started = time.perf_counter()
    torch.manual_seed(args.seed)
    network = MLP(schema.width, (256, 256), 64)
    objective = objectives.by_name(args.objective, **CONSTANTS[args.objective])
    views, settings = Scarf.of_table(source, rate=0.3), TrainConfig(epochs=args.epochs, batch_size=512)
    train(network, source, views, objective, settings, args.seed)
    path = write_weights(network, args.out / f"{args.objective}.safetensors")
    print(f"{args.objective}: {args.epochs} epochs in {time.perf_counter() - started:.0f} s → {path}")
    if args.probe:
        probe(network, schema, frame, label, args.data)


def probe(network: nn.Module, schema: TableSchema, frame, label: str, data: Path | None) -> None:
    """Accuracy of logistic regressions on the embedding and on the input, on Adult's test rows."""
    test = reference.adult("test", data).frame
    x, x_test = schema.transform(frame), schema.transform(test)
    with torch.no_grad():
        pairs = {"embedding": (network(x), network(x_test)), "input": (x, x_test)}
    for what, (a, b) in pairs.items():
        accuracy = linear_probe(a, frame[label], b, test[label])
        print(f"linear probe on the {what}: {accuracy:.4f} accuracy")


if __name__ == "__main__":
    main()
