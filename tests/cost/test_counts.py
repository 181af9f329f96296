"""What is counted against what a fit really does."""

from contextlib import contextmanager

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from krepes import BYOL, NTK, Auditor, BarlowTwins, Engine, Newton, SimCLR, SpectralContrastive, VICReg
from krepes.audit import descent
from krepes.audit.findings import AuditPlan
from krepes.config.audit import SAMPLERS
from krepes.cost import Cost, Machine, cost_of, counts
from krepes.cost.counts import KINDS, Stage, added
from krepes.data import as_source
from krepes.data.stream import SMALLEST_SHARD
from krepes.encoders import MLP
from krepes.errors import ConfigError, LandmarkError
from krepes.progress import Progress

N, M = 6000, 150
UNIT = Machine("unit", dict.fromkeys(KINDS, 1.0), None, 1.0, 0.0)


class CountingProgress(Progress):
    """Operations of the products that every stage makes."""

    def __init__(self):
        super().__init__()
        self.operations: dict[str, float] = {}

    @contextmanager
    def stage(self, name, total=None):
        with FlopCounterMode(display=False) as counter, super().stage(name, total) as note:
            yield note
        self.operations[name] = float(counter.get_total_flops())


def samples():
    return torch.randn(N, 20, generator=torch.Generator().manual_seed(0))


def noisy(batch, generator):
    return batch + 0.1 * torch.randn(batch.shape, generator=generator)


def auditor_of(objective, sampler="kmeans++", network=None, **newton):
    torch.manual_seed(0)
    network = network or MLP(20, (64,), 16)
    return Auditor(network.eval(), objective, landmarks=SAMPLERS[sampler](m=M), newton=Newton(damping=1.0, **newton))


def cost(auditor, workers=1, n=None, machine=UNIT) -> Cost:
    return cost_of(auditor, as_source(samples()), noisy, AuditPlan(), 4, machine, workers, n)


def stage(found: Cost, name: str) -> Stage:
    return next(s for s in found.stages if s.name == name)


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [(BarlowTwins(), "kmeans++"), (BarlowTwins(), "leverage"), (BarlowTwins(), "rpcholesky"), (VICReg(), "kmeans++"),
     (SpectralContrastive(), "uniform"), (SimCLR(batch_size=512), "kmeans++"), (BYOL(), "kmeans++")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_operations_are_those_that_a_fit_makes(objective, sampler):
    auditor = auditor_of(objective, sampler)
    auditor.progress = progress = CountingProgress()
    auditor.fit(samples(), noisy)
    bounded = auditor_of(objective, sampler, max_iter=auditor.outcome_.products)
    found = cost(bounded)

    def ratio(*names: str) -> float:
        counted = sum(stage(found, name).operations - stage(found, name).counts.get("eigen", 0.0) for name in names)
        return counted / sum(progress.operations[name] for name in names)

    assert 0.8 < ratio("views") < 1.3
    assert 0.8 < ratio("newton") < 2.1  # the spectral loss needs one of the three Gram matrices
    assert 0.8 < ratio("landmarks", "nystrom") < 2.0


@pytest.mark.parametrize("objective", [BarlowTwins(), VICReg(), SimCLR(batch_size=512)], ids=lambda o: o.name)
def test_operations_are_those_that_a_training_makes(objective, monkeypatch):
    for where in (descent, counts):
        monkeypatch.setattr(where, "STEPS", 5)
    auditor = auditor_of(objective)
    auditor.fit(samples(), noisy)
    auditor.progress = progress = CountingProgress()
    auditor.attribute(samples()[:4], at="training")
    plan = AuditPlan(attribution_at="training")
    found = cost_of(auditor, as_source(samples()), noisy, plan, 4, UNIT, 1, None)
    names = {"moments", "training", "forms", "attribution"} & {s.name for s in found.stages}
    counted = sum(stage(found, name).operations for name in names)
    assert 0.7 < counted / sum(progress.operations.values()) < 1.5


def test_views_of_landmarks_are_drawn_in_whole_blocks():
    drawn = []

    def counting(batch, generator):
        drawn.append(len(batch))
        return noisy(batch, generator)

    found = {}
    for rows in ("samples", "views"):
        torch.manual_seed(0)
        auditor = Auditor(MLP(20, (64,), 16).eval(), "vicreg", landmarks=SAMPLERS["uniform"](m=8), n_components=2,
                          newton=Newton(damping=1.0), landmark_rows=rows)  # fmt: skip
        drawn.clear()
        auditor.fit(samples(), counting)
        found[rows] = sum(drawn) / 2, stage(cost(auditor), "nystrom").counts.get("pairs", 0.0)
    more = found["views"][0] - found["samples"][0]
    assert found["samples"][1] == 0
    assert 0.7 < found["views"][1] / more < 1.4


def test_operations_of_a_convolutional_network_are_those_that_a_fit_makes():
    network = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4, 5)), torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(96, 16),
    )  # fmt: skip
    auditor = Auditor(network.eval(), BarlowTwins(), NTK("pseudo"), landmarks=M, newton=Newton(damping=1.0))
    auditor.progress = progress = CountingProgress()
    auditor.fit(samples(), noisy)
    assert 0.8 < stage(cost(auditor), "views").operations / progress.operations["views"] < 1.3


def test_what_grows_with_the_samples_grows_as_they_do():
    few, many = (cost(auditor_of(BarlowTwins()), n=n) for n in (10**6, 10**9))
    for name in ("views", "scores"):
        assert stage(many, name).operations == pytest.approx(1000 * stage(few, name).operations)
    for name in ("landmarks", "nystrom", "newton", "refits", "trust"):
        assert stage(many, name).operations == pytest.approx(stage(few, name).operations)


def test_a_worker_has_whole_shards():
    n = 5 * SMALLEST_SHARD
    one, two, many = (cost(auditor_of(BarlowTwins()), workers=w, n=n) for w in (1, 2, 7))
    views = stage(one, "views")
    assert [views.share(c.workers) for c in (one, two, many)] == [1.0, 3 / 5, 1 / 5]
    assert two.seconds(views) > one.seconds(views) * 3 / 5  # and the sums
    assert stage(one, "nystrom").share(7) == 1.0


def test_seconds_are_counts_over_rates_and_sums_over_the_network():
    machine = Machine("m", {**UNIT.rates, "network": 10.0, "disk": 5.0}, None, bandwidth=100.0, latency=2.0)
    found = Cost(cost(auditor_of(BarlowTwins())).sizes, (), 4, machine, None, 0.0)  # type: ignore[arg-type]
    assert machine.seconds({"network": 20.0, "disk": 10.0, "double": 3.0}) == 2 + 2 + 3
    # a ring of four: 2·3 messages of a quarter of 100 numbers of 8 bytes each, for each of 5 sums
    assert found.seconds(Stage("s", {"double": 8.0}, 4, 100.0, 5.0)) == pytest.approx(2 + 6 * (200 / 100 + 5 * 2.0))


@pytest.mark.parametrize("objective", [SimCLR(batch_size=512), BYOL()], ids=["SimCLR", "BYOL"])
def test_streaming_objectives_exchange_r_times_h_numbers_per_product(objective):
    assert cost(auditor_of(objective), workers=3).product_sum == M * 16
    assert cost(auditor_of(BarlowTwins()), workers=3).product_sum == 0


def test_features_that_are_not_stored_are_computed_for_every_product():
    kept, anew = (
        Auditor(MLP(20, (64,), 16).eval(), SimCLR(batch_size=512), landmarks=M, engine=Engine(store=store))
        for store in ("float32", "recompute")
    )
    assert stage(cost(kept), "newton").counts["disk"] > 0
    assert "network" not in stage(cost(kept), "newton").counts
    assert stage(cost(anew), "newton").counts.get("disk", 0) == 0
    assert stage(cost(anew), "newton").counts["network"] > 100 * stage(cost(kept), "views").counts["network"]


def test_landmarks_that_do_not_fit_are_computed_for_every_tile():
    network = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4, 5)), torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(640, 16),
    )  # fmt: skip
    roomy, tight = (
        Auditor(network.eval(), BarlowTwins(), NTK("pseudo"), landmarks=M, engine=Engine(memory=memory))
        for memory in ("1GiB", "6MiB")
    )
    assert cost(roomy).sizes.kept
    assert not cost(tight).sizes.kept
    assert stage(cost(tight), "views").counts["network"] > 2 * stage(cost(roomy), "views").counts["network"]


def test_added_counts():
    assert added({"network": 1.0}, {"network": 2.0, "disk": 3.0}, times=2.0) == {"network": 6.0, "disk": 6.0}


def test_wrong_numbers_are_refused():
    auditor = auditor_of(BarlowTwins())
    with pytest.raises(ConfigError, match="0 workers"):
        cost(auditor, workers=0)
    with pytest.raises(ConfigError, match="0 samples"):
        cost(auditor, n=0)
    with pytest.raises(LandmarkError, match="only 10 samples"):
        cost(auditor, n=10)
