"""What is planted in the data surfaces in the audit; benchmarks/planted.py measures how well, over many seeds."""

import numpy as np
import pytest
import torch
from torch import Tensor

from krepes import Auditor, BarlowTwins, Newton, VICReg, movement
from krepes.encoders import MLP

N, INPUTS, KEPT = 500, 8, 4


def rows(n: int, seed: int) -> Tensor:
    """Three groups and a number that the views keep, and as much that they destroy, (n, 8)."""
    generator = np.random.default_rng(seed)
    groups, numbers = generator.integers(3, size=(2, n)), generator.normal(size=(2, n, 1))
    parts = [2 * np.eye(3)[g] + 0.3 * generator.normal(size=(n, 3)) for g in groups]
    return torch.as_tensor(np.concatenate([parts[0], numbers[0], parts[1], numbers[1]], 1), dtype=torch.float32)


def destroying(batch: Tensor, generator: torch.Generator) -> Tensor:
    other = batch[torch.randperm(len(batch), generator=generator)]
    mixed = torch.cat([batch[:, :KEPT], other[:, KEPT:]], 1)
    return mixed + 0.2 * torch.randn(batch.shape, generator=generator)


def trained(x: Tensor, objective, steps: int = 200) -> torch.nn.Module:
    torch.manual_seed(0)
    network, generator = MLP(INPUTS, (32,), 8), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = x[torch.randperm(len(x), generator=generator)[:256]]
        loss = objective.loss(network(destroying(batch, generator)), network(destroying(batch, generator)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def audited(x: Tensor, encoder: torch.nn.Module, objective, seed: int = 0, damping: float = 10.0) -> Auditor:
    auditor = Auditor(encoder, objective, landmarks=80, newton=Newton(damping=damping), seed=seed)
    return auditor.fit(x, destroying)


def auc(size: np.ndarray, planted: np.ndarray) -> float:
    """Mean over queries of the chance that a planted sample's score is above another's."""
    inside, outside = size[:, planted], size[:, ~planted]
    return float((inside[:, :, None] > outside[:, None]).mean())


@pytest.fixture(scope="module")
def foreign() -> tuple[Auditor, np.ndarray, Tensor]:
    """Ten of 500 rows, and some queries, combine two kept groups, as no other row does."""

    def combined(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :3] = torch.tensor([2.0, 2.0, 0.0]) + 0.2 * x[:, :3]
        return x

    x, planted = rows(N, 0), np.zeros(N, bool)
    planted[np.random.default_rng(1).permutation(N)[:10]] = True
    x[planted] = combined(x[planted])
    return audited(x, trained(x, VICReg()), VICReg()), planted, combined(rows(12, 99))


def test_foreign_training_samples_surface_for_queries_of_their_kind(foreign):
    auditor, planted, queries = foreign
    size = auditor.attribute(queries).abs().numpy()
    others = auditor.attribute(rows(12, 98)).abs().numpy()
    assert auc(size, planted) > 0.7
    assert auc(size, planted) > auc(others, planted) + 0.1


def test_a_repeated_sample_surfaces_for_itself():
    x, planted = rows(N, 0), np.zeros(N, bool)
    planted[np.random.default_rng(1).permutation(N)[:20]] = True
    x[planted] = x[planted][:1].clone()
    auditor = audited(x, trained(x, VICReg()), VICReg())
    assert auc(auditor.attribute(x[planted][:1]).abs().numpy(), planted) > 0.7


def test_fresh_weights_destroy_the_rankings():
    x = rows(N, 0)
    encoder = trained(x, BarlowTwins(0.05))
    torch.manual_seed(1)
    fresh = MLP(INPUTS, (32,), 8).eval()
    first = audited(x, encoder, BarlowTwins(0.05), damping=100.0)
    landmarks = [int(i) for i in first.fit_.indices]
    scores = []
    for network, seed in ((encoder, 1), (fresh, 0)):
        again = Auditor(network, BarlowTwins(0.05), landmarks=landmarks, newton=Newton(damping=100.0), seed=seed)
        scores.append(again.fit(x, destroying).influence(rows(30, 97)))

    def agreement(one: Tensor, other: Tensor) -> float:
        ranks = (s.argsort(1).argsort(1).double() for s in (one, other))
        a, b = (r - r.mean(1, keepdim=True) for r in ranks)
        return float(torch.cosine_similarity(a, b, dim=1).mean())

    views, weights = (agreement(first.influence(rows(30, 97)), s) for s in scores)
    assert views > weights + 0.2


def test_removing_the_top_attributed_group_moves_more_than_random_groups():
    x = rows(N, 0)
    auditor = Auditor(
        trained(x, VICReg()), VICReg(), landmarks=80, newton=Newton(damping=300.0, relative=False), seed=0
    ).fit(x, destroying)
    query = rows(1, 96)
    own = torch.nn.functional.normalize(auditor.transform(query), dim=1)
    scores, size = auditor.attribute(query, own, draws=1, at="step")[0], N // 20

    def fall(group: np.ndarray) -> tuple[float, float]:
        after = auditor.counterfactual([auditor.source_.ids[int(i)] for i in group], keep_landmarks=True)
        moved = float(movement(auditor, after, query).samples["shift"][0])
        return float(((auditor.transform(query) - after.transform(query)) * own).sum()), moved

    generator = np.random.default_rng(0)
    top = fall(scores.topk(size).indices.numpy())
    random = np.array([fall(generator.permutation(N)[:size]) for _ in range(12)])
    assert top[0] > 2 * np.abs(random[:, 0]).mean()
    assert top[0] > np.abs(random[:, 0]).max()
    assert top[1] > random[:, 1].mean()
    assert top[0] == pytest.approx(float(scores.topk(size).values.sum()), rel=0.5)  # as its attribution says
