"""Small networks really trained again on random halves of their samples: the truth that attributions are held against.

A case is 1,000 training samples, test samples, and augmentations of these, the same ones for every network. A network
is trained on all samples, and networks of other seeds on random halves; the halves' seeds are the same for every half.
Everything is kept in a folder, so that a stopped run goes on.
"""

import argparse
import copy
import hashlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from krepes import SimCLR, VICReg, demo
from krepes.data import Scarf, TableSchema, TableSource, reference
from krepes.encoders import MLP

OBJECTIVES = {"barlow_twins": demo.OBJECTIVE, "vicreg": VICReg(), "simclr": SimCLR(temperature=0.5)}
N, TEST, AUGMENTATIONS = 1000, 200, 16
WIDTHS, D, STEPS, BATCH, RATE, DECAY = (1024,), 32, 150, 500, 2e-3, 1e-4
AUDITED, RETRAINED = 0, (1, 2)  # seeds of initialisation, batches and views
SPLIT, AUGMENT, DRAW = 0, 7, 100  # seeds; DRAW + i makes half i
LOOKED_AT = 64  # digits after the training ones that methods were chosen on; the test samples come after them


@dataclass(frozen=True)
class Case:
    """Samples (n, …), test samples (t, …), augmentations of these (t, v, …), and the views of training."""

    name: str
    training: Tensor
    test: Tensor
    augmented: Tensor
    views: Any

    def network(self) -> nn.Module:
        """Not trained; seeded by torch's global generator."""
        return MLP(self.training[0].numel(), WIDTHS, D)

    def half(self, i: int) -> Tensor:
        """Positions of random half i, (n/2,)."""
        n = len(self.training)
        return torch.randperm(n, generator=torch.Generator().manual_seed(DRAW + i))[: n // 2]


def digits() -> Case:
    """scikit-learn's 8 × 8 images with shifts, noise and contrast."""
    images, _ = demo.digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT))
    test = order[N + LOOKED_AT :][:TEST]
    return _case("digits", images[order[:N]], images[test], demo.VIEWS)


def adult() -> Case:
    """Rows of the census with SCARF views, which keep the marginal distribution of all rows."""
    frame, label = reference.adult("train")
    source = TableSource(frame, TableSchema.fit(frame, label=label))
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(SPLIT))[: N + TEST].tolist()
    rows = source.batch(order)
    return _case("adult", rows[:N], rows[N:], Scarf.of_table(source, rate=0.3))


def _case(name: str, training: Tensor, test: Tensor, views: Any) -> Case:
    generator = torch.Generator().manual_seed(AUGMENT)
    augmented = torch.stack([views(test, generator) for _ in range(AUGMENTATIONS)], 1)
    return Case(name, training, test, augmented, views)


CASES: dict[str, Callable[[], Case]] = {"digits": digits, "adult": adult}


def arguments(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that measurements against retraining share, open for more; `quick` says what --quick does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--objectives", default=",".join(OBJECTIVES))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "krepes-lds")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def train(
    case: Case, objective: Any, seed: int, members: Tensor | None = None, start: nn.Module | None = None,
    rate: float = 1.0,
) -> nn.Module:  # fmt: skip
    """A network trained on some of the case's samples, default all, in eval mode.

    From random weights or a copy of `start`; `rate` is in units of `RATE`.
    """
    x = case.training if members is None else case.training[members]
    torch.manual_seed(seed)
    network = case.network() if start is None else copy.deepcopy(start).train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate * RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        batch = x[torch.randperm(len(x), generator=generator)[:BATCH]]
        loss = objective.loss(network(case.views(batch, generator)), network(case.views(batch, generator)))
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"{case.name}: the loss is {loss.item()}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def invariance(network: Callable[[Tensor], Tensor], x: Tensor, augmented: Tensor, mean: Any = 0) -> Tensor:
    """Mean cosine between f − mean of samples (t, …) and of their augmentations (t, v, …), (t,)."""
    views = network(augmented.flatten(0, 1)).unflatten(0, augmented.shape[:2])
    return cosine_similarity((network(x) - mean)[:, None], views - mean, dim=2).mean(1)


@torch.no_grad()
def targets(network: nn.Module, case: Case) -> Tensor:
    """Invariance of the network's own embedding and of the centred one, (2, t)."""
    return torch.stack([invariance(network, case.test, case.augmented, m) for m in (0, network(case.training).mean(0))])


def protocol(case: Case, objective: str) -> str:
    """A digest of everything that retraining depends on."""
    parts = (OBJECTIVES[objective], case.name, repr(case.views), N, TEST, AUGMENTATIONS, WIDTHS, D, STEPS, BATCH, RATE,
             DECAY, AUDITED, RETRAINED, SPLIT, AUGMENT, DRAW, LOOKED_AT, torch.__version__)  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def folder(work: Path, case: Case, objective: str) -> Path:
    """Where the networks of a case and objective are kept."""
    place = work / f"{case.name}-{objective}-{protocol(case, objective)}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, or what it returned before."""
    if not path.is_file():
        value, draft = make(), path.with_suffix(".tmp")
        torch.save(value, draft)
        draft.replace(path)
    return torch.load(path)


def audited(case: Case, objective: str, place: Path, seed: int = AUDITED) -> nn.Module:
    """The network trained on all samples."""
    network = case.network()
    weights = cached(place / f"all-{seed}.pt", lambda: train(case, OBJECTIVES[objective], seed).state_dict())
    network.load_state_dict(weights)
    return network.eval()


def retrained(case: Case, objective: str, place: Path, i: int) -> Tensor:
    """Targets of the networks trained on half i, (2, seeds, t)."""
    networks = (train(case, OBJECTIVES[objective], seed, case.half(i)) for seed in RETRAINED)
    return cached(place / f"half-{i}.pt", lambda: torch.stack([targets(n, case) for n in networks], 1))
