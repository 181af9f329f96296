"""A table with an encoder of one's own, trained without labels: a CSV file, its schema, and weights.

python examples/own_table/train.py   → checkpoints/people.csv, checkpoints/schema.yaml, checkpoints/weights.safetensors
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from krepes import VICReg
from krepes.data import Scarf, TableSource, infer_schema, read_table
from krepes.pretrain import TrainConfig, train
from krepes.pretrain.outputs import write_weights

OUT = Path(__file__).parent / "checkpoints"


class Network(nn.Module):
    """Yours; (B, n_in) -> (B, n_out)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.first, self.last = nn.Linear(n_in, 64), nn.Linear(64, n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def people(n: int = 600, seed: int = 0) -> pd.DataFrame:
    """Numbers, categories, a flag and missing cells, of which some go together."""
    rng = np.random.default_rng(seed)
    job = rng.choice(["clerk", "driver", "nurse"], n)
    age = rng.integers(18, 70, n)
    hours = np.round(38 + 6 * (job == "driver") - 8 * (age > 62) + rng.normal(0, 3, n), 1)
    frame = pd.DataFrame({
        "name": [f"p{i:03d}" for i in range(n)], "age": age, "job": job, "hours": hours,
        "children": rng.integers(0, 4, n), "member": rng.random(n) < 0.3 + 0.4 * (job == "nurse"),
        "income": np.where(hours + age / 4 + rng.normal(0, 3, n) > 50, "high", "low"),
    })  # fmt: skip
    frame.loc[rng.choice(n, 30, replace=False), "hours"] = np.nan
    return frame


def main() -> None:
    OUT.mkdir(exist_ok=True)
    people().to_csv(OUT / "people.csv", index=False)
    frame = read_table(OUT / "people.csv")
    schema = infer_schema(frame, features=["age", "job", "hours", "children", "member"], label="income")
    schema.save(OUT / "schema.yaml")  # read it: kinds and ranges can be corrected by hand
    source = TableSource(frame, schema)
    torch.manual_seed(0)
    network = Network(schema.width, 16)
    trained = train(network, source, Scarf.of_table(source, 0.3), VICReg(), TrainConfig(epochs=30, batch_size=200))
    write_weights(network, OUT / "weights.safetensors")
    print(f"loss {trained.losses[0]:.2f} → {trained.losses[-1]:.2f}; Network has n_in {schema.width}, n_out 16")


if __name__ == "__main__":
    main()
