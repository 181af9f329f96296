"""Memory plan, feature store, work folder: what does not fit is said, what is damaged is redone."""

import pytest
import torch
from torch import nn

from krepes import Auditor, BarlowTwins, Engine, Newton, SimCLR, VICReg
from krepes.encoders import MLP
from krepes.engine import in_words, parse_bytes
from krepes.errors import ConfigError, RunFolderError
from krepes.features import FeatureStore
from krepes.work import Work


def noisy(batch, generator):
    return batch + 0.1 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


def auditor(objective=None, engine=None, **options) -> Auditor:
    torch.manual_seed(0)
    return Auditor(
        MLP(6, (16,), 4).eval(), objective or BarlowTwins(), landmarks=20, newton=Newton(damping=1.0),
        engine=engine, **options,
    )  # fmt: skip


def samples(n: int = 700) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("text", "expected"), [("4GiB", 4 * 2**30), ("500 MB", 500 * 10**6), (1000, 1000), ("1.5kib", 1536), (None, 2**31)]
)
def test_amounts_of_memory(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["much", "-3GB", "4 GX", 0, "", True])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ConfigError, match="no amount of memory"):
        Engine(memory=text)


def smallest_budget(objective=None) -> str:
    with pytest.raises(ConfigError, match="smallest budget that works is") as caught:
        auditor(objective, engine=Engine(memory=2000), dtype=torch.float64).fit(samples(), noisy)
    return str(caught.value).partition("works is ")[2].split(". ")[0]


def test_too_small_a_budget_says_the_smallest_that_works_and_that_one_works():
    fitted = auditor(engine=Engine(memory=smallest_budget())).fit(samples(), noisy)
    assert fitted.fit_.memory is not None
    assert fitted.fit_.memory.tile >= 1
    torch.testing.assert_close(fitted.dA_, auditor().fit(samples(), noisy).dA_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("objective", [BarlowTwins(), VICReg(), SimCLR(batch_size=256)], ids=lambda o: o.name)
def test_block_sizes_change_nothing_beyond_rounding(objective):
    whole = auditor(objective, dtype=torch.float64).fit(samples(), noisy)
    small = auditor(objective, dtype=torch.float64, engine=Engine(memory=smallest_budget(objective))).fit(
        samples(), noisy
    )
    assert small.fit_.memory is not None
    assert whole.fit_.memory is not None
    assert small.fit_.memory.tile < whole.fit_.memory.tile
    torch.testing.assert_close(small.dA_, whole.dA_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("store", "tolerance"), [("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 0.15), ("recompute", 1e-4)]
)
def test_features_of_pairs_on_disk_or_recomputed_give_the_step_in_memory(tmp_path, store, tolerance):
    exact = auditor(SimCLR(batch_size=256)).fit(samples(), noisy)
    kept = auditor(SimCLR(batch_size=256), Engine(store=store)).fit(samples(), noisy, work=tmp_path / store)
    assert (tmp_path / store / "features-a-000.bin").exists() == (store != "recompute")
    error = (kept.dA_ - exact.dA_).norm() / exact.dA_.norm()
    assert error < tolerance
    torch.testing.assert_close(kept.transform(samples(9)), exact.transform(samples(9)), rtol=0, atol=20 * tolerance)


def test_finished_blocks_are_used_again_and_another_run_s_are_not(tmp_path):
    first = auditor().fit(samples(9000), noisy, work=tmp_path, work_key="noisy")
    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert {"landmarks.safetensors", "moments-000.safetensors", "moments-002.safetensors"} <= stamps.keys()
    again = auditor().fit(samples(9000), noisy, work=tmp_path, work_key="noisy")
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == stamps
    assert torch.equal(again.dA_, first.dA_)
    other = auditor(seed=1).fit(samples(9000), noisy, work=tmp_path, work_key="noisy")
    assert not torch.equal(other.dA_, first.dA_)
    assert torch.equal(other.dA_, auditor(seed=1).fit(samples(9000), noisy).dA_)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_block_is_found_and_redone(tmp_path, damage):
    first = auditor().fit(samples(9000), noisy, work=tmp_path, work_key="noisy")
    path = tmp_path / "moments-001.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-50]), "empty": b""}[damage])
    again = auditor().fit(samples(9000), noisy, work=tmp_path, work_key="noisy")
    assert torch.equal(again.dA_, first.dA_)
    assert Work(tmp_path, "another key").load("moments-001") is None


def test_a_damaged_feature_store_is_found_and_redone(tmp_path):
    objective = SimCLR(batch_size=256)
    first = auditor(objective).fit(samples(9000), noisy, work=tmp_path, work_key="noisy")
    path = tmp_path / "features-a-001.bin"
    with path.open("r+b") as f:
        f.seek(path.stat().st_size // 2)
        f.write(b"damage")
    assert torch.equal(auditor(objective).fit(samples(9000), noisy, work=tmp_path, work_key="noisy").dA_, first.dA_)


def test_views_without_a_name_of_their_own_are_never_taken_for_others(tmp_path):
    x = samples(300)
    views = lambda batch, generator: batch  # noqa: E731  its repr is an address, which another function may have later
    auditor().fit(x, views, work=tmp_path)
    stamp = (tmp_path / "landmarks.safetensors").stat().st_mtime_ns
    auditor().fit(x, views, work=tmp_path)
    assert (tmp_path / "landmarks.safetensors").stat().st_mtime_ns > stamp
    other = auditor().fit(x, noisy, work=tmp_path)
    assert torch.equal(other.dA_, auditor().fit(x, noisy).dA_)


def test_a_full_disk_stops_with_a_message(tmp_path):
    with pytest.raises(RunFolderError, match="Free space"):
        FeatureStore(tmp_path / "f.bin", 2**40, 2**10, torch.float32)


def test_store_keeps_the_bits_of_each_type(tmp_path):
    x = torch.randn(10, 3)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        store = FeatureStore(tmp_path / str(dtype), 10, 3, dtype)
        store.write(0, x)
        store.flush()
        index = torch.tensor([1, 4, 9])
        assert torch.equal(store[index], x.to(dtype)[index])


def test_bytes_in_words():
    assert [in_words(n) for n in (10, 2048, 3 * 2**30, 5 * 2**40)] == ["10 B", "2.0 KiB", "3.0 GiB", "5.0 TiB"]


def test_trust_shows_what_a_curvature_subset_leaves():
    x = samples(600)
    whole, part = (
        Auditor(MLP(6, (16,), 4).eval(), SimCLR(batch_size=50), landmarks=20,
                newton=Newton(damping=1.0, curvature_samples=k)).fit(x, noisy)
        for k in (None, 100)
    )  # fmt: skip
    names = [[f.name for f in a.trust_.figures] for a in (whole, part)]
    assert "curvature subset" not in names[0]
    figure = next(f for f in part.trust_.figures if f.name == "curvature subset")
    assert figure.value == part.outcome_.full_residual > 0
    assert "100 pairs" in figure.display


def test_kernel_plan_counts_what_is_kept():
    plan, memory = auditor().inspect(samples(100))
    assert plan["way"].tolist() == ["factored"] * 2
    assert plan["entries"].sum() == sum(p.numel() for p in MLP(6, (16,), 4).parameters())
    assert plan["numbers"].tolist() == [7 + 4 * 16, 17]  # the last layer's output gradient is the same for all samples
    assert "planned" in memory
    assert isinstance(nn.Linear(2, 2), nn.Module)
